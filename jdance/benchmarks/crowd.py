"""Pictures with a certain number of people, for what is timed."""

import numpy as np

from jdance.data import stage
from jdance.pose.letterbox import INPUT_SIZE


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
