"""Timing of several candidates in turn, so that whatever else the machine does meets them alike."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np


class Times(NamedTuple):
    """Seconds of repetitions: by the clock, and of the CPU over all threads of this process.

    Where other programs use the machine, the CPU's time tells more than the clock's.
    """

    wall: list[float]
    cpu: list[float]

    def summary(self) -> dict[str, float]:
        """Median, least, half the distance of the quartiles ("spread"), least CPU time, number."""
        low, median, high = np.percentile(self.wall, [25, 50, 75])
        return {
            "median_s": float(median),
            "least_s": min(self.wall),
            "spread_s": float(high - low) / 2,
            "cpu_least_s": min(self.cpu),
            "repetitions": len(self.wall),
        }


def in_turn(
    candidates: Mapping[str, Callable[[], Any]], rounds: int, warmup: int = 2
) -> dict[str, Times]:
    """Times candidates one after the other, round after round.

    Args:
        candidates: by name; a result on the device is waited for.
        rounds: how often each is timed.
        warmup: rounds before that, which compile and warm up.
    """
    times = {name: Times([], []) for name in candidates}
    for number in range(warmup + rounds):
        for name, candidate in candidates.items():
            start, cpu = time.perf_counter(), time.process_time()
            jax.block_until_ready(candidate())
            if number >= warmup:
                times[name].wall.append(time.perf_counter() - start)
                times[name].cpu.append(time.process_time() - cpu)
    return times
