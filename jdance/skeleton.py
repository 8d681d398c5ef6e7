"""Joints, limbs, mirror images: the one place that knows how a skeleton is laid out.

Key points everywhere in jdance are float32 `[..., J, 3]`: x and y in pixels (x to the right, y
down) and a score. A joint with score 0 is missing, and its x and y are 0. Pose networks find the
J = 18 joints of `COCO18`; what is trained on key points alone may have any other `Layout`.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

# COCO-18 in the order of OpenPose. Right and left are the person's own.
NAMES = (
    "nose", "neck",
    "right_shoulder", "right_elbow", "right_wrist",
    "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle",
    "left_hip", "left_knee", "left_ankle",
    "right_eye", "left_eye", "right_ear", "left_ear",
)  # fmt: skip
NUM_JOINTS = len(NAMES)
(
    NOSE, NECK,
    R_SHOULDER, R_ELBOW, R_WRIST,
    L_SHOULDER, L_ELBOW, L_WRIST,
    R_HIP, R_KNEE, R_ANKLE,
    L_HIP, L_KNEE, L_ANKLE,
    R_EYE, L_EYE, R_EAR, L_EAR,
) = range(NUM_JOINTS)  # fmt: skip

# Limbs [19, 2] as (from, to), in the order in which people are put together: the first 17 are a
# tree rooted at the neck (a parent is always reached before its children), the last two
# (shoulder to ear) only extend a person.
LIMBS = np.array([
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12),
    (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17), (2, 16), (5, 17),
], np.int32)  # fmt: skip
NUM_TREE_LIMBS = 17

# The part-affinity channels [19, 2] that hold the x and y component of each limb's direction.
PAF_CHANNELS = np.array([
    (12, 13), (20, 21), (14, 15), (16, 17), (22, 23), (24, 25), (0, 1), (2, 3), (4, 5), (6, 7),
    (8, 9), (10, 11), (28, 29), (30, 31), (34, 35), (32, 33), (36, 37), (18, 19), (26, 27),
], np.int32)  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """What is known of one kind of skeleton.

    Every layout has a neck, a nose, and both shoulders, elbows, wrists, hips, knees and ankles by
    these names, on which the key-point features are built.

    Fields:
        name: how data sets call it.
        joints: names of the J joints in their order; a side starts with "right_" or "left_".
        limbs: pairs of joints, the bones of the body.
    """

    name: str
    joints: tuple[str, ...]
    limbs: tuple[tuple[str, str], ...]

    def __len__(self) -> int:
        return len(self.joints)

    def at(self, names: tuple[str, ...]) -> list[int]:
        """The indices of joints by their names."""
        return [self.joints.index(name) for name in names]

    @cached_property
    def flip(self) -> np.ndarray:
        """int32 [J]: flip[i] is the joint that joint i becomes in a mirror."""
        swap = {"right": "left", "left": "right"}
        parts = [name.partition("_") for name in self.joints]
        mirrored = tuple(swap.get(side, side) + bar + rest for side, bar, rest in parts)
        return np.array(self.at(mirrored), np.int32)


COCO18 = Layout("coco18", NAMES, tuple((NAMES[a], NAMES[b]) for a, b in LIMBS[:13].tolist()))

# The skeleton of the JHMDB data set; its "face" is called nose here, as its place in the body is.
JHMDB15 = Layout(
    "jhmdb15",
    (
        "neck", "belly", "nose", "right_shoulder", "left_shoulder", "right_hip", "left_hip",
        "right_elbow", "left_elbow", "right_knee", "left_knee", "right_wrist", "left_wrist",
        "right_ankle", "left_ankle",
    ),
    (
        ("neck", "right_shoulder"), ("neck", "left_shoulder"), ("right_shoulder", "right_elbow"),
        ("right_elbow", "right_wrist"), ("left_shoulder", "left_elbow"),
        ("left_elbow", "left_wrist"), ("neck", "belly"), ("belly", "right_hip"),
        ("right_hip", "right_knee"), ("right_knee", "right_ankle"), ("belly", "left_hip"),
        ("left_hip", "left_knee"), ("left_knee", "left_ankle"), ("neck", "nose"),
    ),
)  # fmt: skip

LAYOUTS = {layout.name: layout for layout in (COCO18, JHMDB15)}

FARTHEST = 1e6  # pixels; a coordinate beyond is none

# For each COCO-18 joint its place in another layout; -1 marks the neck where the layout has none.
_FROM_LAYOUT = {
    17: (0, -1, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3),  # COCO
    18: tuple(range(18)),  # OpenPose's COCO model
    25: (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18),  # OpenPose BODY_25
    33: (0, -1, 12, 14, 16, 11, 13, 15, 24, 26, 28, 23, 25, 27, 5, 2, 8, 7),  # MediaPipe
}


def to_coco18(keypoints: np.ndarray) -> np.ndarray:
    """Converts key points of another layout, told by its number of joints.

    Args:
        keypoints: float [..., J, 3] with J = 17 (COCO), 18 (COCO-18), 25 (BODY_25) or 33
            (MediaPipe).

    Returns:
        float32 [..., 18, 3]. A neck that the layout lacks is the middle of the shoulders, with the
        lower of their scores. Missing joints are all zeros.

    Raises:
        ValueError: no layout has J joints.
    """
    keypoints = np.asarray(keypoints, np.float32)
    joints = keypoints.shape[-2]
    if joints not in _FROM_LAYOUT or keypoints.shape[-1] != 3:
        raise ValueError(
            f"key points of shape {keypoints.shape}: expected [..., J, 3] with J in "
            f"{sorted(_FROM_LAYOUT)}"
        )
    order = np.array(_FROM_LAYOUT[joints])
    result = keypoints[..., np.maximum(order, 0), :].copy()
    if -1 in order:
        right, left = result[..., R_SHOULDER, :], result[..., L_SHOULDER, :]
        result[..., NECK, :2] = (right[..., :2] + left[..., :2]) / 2
        result[..., NECK, 2] = np.minimum(right[..., 2], left[..., 2])
    return clean(result)


def to_coco17(keypoints: np.ndarray) -> np.ndarray:
    """The 17 joints [..., 17, 3] of COCO's annotations from [..., 18, 3]: all but the neck."""
    order = _FROM_LAYOUT[17]
    return keypoints[..., [order.index(joint) for joint in range(17)], :]


def clean(keypoints: np.ndarray) -> np.ndarray:
    """Zeroes every joint of [..., 3] that is not there: float32.

    It has no positive score, or a coordinate that is not finite or beyond any picture.
    """
    keypoints = np.asarray(keypoints)
    if keypoints.dtype != np.float32:
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, hence not there
            keypoints = keypoints.astype(np.float32)
    # As `is_present`, in fewer passes: every record that is read comes by here.
    far, score = abs(keypoints[..., :2]), keypoints[..., 2]
    there = (far[..., 0] <= FARTHEST) & (far[..., 1] <= FARTHEST) & (score > 0) & (score < np.inf)
    return np.where(there[..., None], keypoints, np.float32(0))


def is_present(keypoints: Any) -> Any:
    """Whether each joint of [..., J, 3] is there: bool [..., J], for NumPy and JAX arrays alike."""
    xp = keypoints.__array_namespace__()
    return (keypoints[..., 2] > 0) & xp.isfinite(keypoints).all(axis=-1)


def flip(keypoints: np.ndarray, width: float, layout: Layout = COCO18) -> np.ndarray:
    """Mirrors key points [..., J, 3] of a picture of the given width: x becomes width - 1 - x."""
    mirrored = keypoints[..., layout.flip, :].copy()
    mirrored[..., 0] = width - 1 - mirrored[..., 0]
    return clean(mirrored)
