"""Interleaved timing of candidates, so that other load on the machine affects all alike."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np


class Times(NamedTuple):
    """Wall-clock and CPU seconds (over all threads of this process) of each repetition.

    CPU time is the more reliable of the two on a machine with other load.
    """

    wall: list[float]
    cpu: list[float]

    def summary(self) -> dict[str, float]:
        """Returns median, min, half of the interquartile range ("spread"), min CPU time, count."""
        low, median, high = np.percentile(self.wall, [25, 50, 75])
        return {
            "median_s": float(median),
            "least_s": min(self.wall),
            "spread_s": float(high - low) / 2,
            "cpu_least_s": min(self.cpu),
            "repetitions": len(self.wall),
        }


def interleave(
    candidates: Mapping[str, Callable[[], Any]], rounds: int, warmup: int = 2
) -> dict[str, Times]:
    """Times every candidate once per round.

    Args:
        candidates: functions by name, timed until their result is ready.
        rounds: number of timed rounds.
        warmup: number of rounds before, for compilation and warm-up.
    """
    times = {name: Times([], []) for name in candidates}
    for i in range(warmup + rounds):
        for name, candidate in candidates.items():
            start, cpu = time.perf_counter(), time.process_time()
            jax.block_until_ready(candidate())
            if i >= warmup:
                times[name].wall.append(time.perf_counter() - start)
                times[name].cpu.append(time.process_time() - cpu)
    return times
