"""What the programs that time things share: fair rounds, and pictures with certain people."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jdance.data import stage
from jdance.pose.letterbox import INPUT_SIZE


def rounds(
    candidates: Mapping[str, Callable[[], Any]],
    count: int,
    warm: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, np.ndarray]:
    """Times candidates in turn, round after round.

    Whatever else the machine does meets all of them alike.

    Args:
        candidates: what is timed, by name; a result on the device is waited for.
        count: rounds.
        warm: rounds before, which compile and do not count.
        clock: in seconds. time.process_time counts what the process's threads computed, all cores
            taken together: on one core the time that a machine without other work would need.

    Returns:
        Seconds float64 [count] of each.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(warm + count):
        for name, candidate in candidates.items():
            start = clock()
            jax.block_until_ready(candidate())
            if number >= warm:
                seconds[name].append(clock() - start)
    return {name: np.array(values) for name, values in seconds.items()}


def crowd(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Dancers on four stages, a quarter of the picture each.

    Returns:
        The picture uint8 RGB [368, 368, 3] and its people float32 [count, 18, 3], at most 24;
        quarters without people stay black.
    """
    side = INPUT_SIZE // 2
    picture = np.zeros((INPUT_SIZE, INPUT_SIZE, 3), np.uint8)
    people: list[np.ndarray] = []
    for quarter in range(4):
        take = min(stage.MAX_DANCERS, count - len(people))
        if take < 1:
            break
        scene = stage.scene(1, quarter, 0, motions=range(take), width=side, height=side)
        y, x = quarter // 2 * side, quarter % 2 * side
        picture[y : y + side, x : x + side] = scene.image
        corner = np.array([x, y, 0])
        people += [d.keypoints + corner * (d.keypoints[:, 2:] > 0) for d in scene.dancers]
    return picture, np.array(people, np.float32).reshape(-1, 18, 3)
