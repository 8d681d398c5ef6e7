"""Joints, limbs, mirror images: the one place that knows how a skeleton is laid out.

Key points everywhere in jdance are float32 `[..., J, 3]`: x and y in pixels (x to the right, y
down) and a score. A joint with score 0 is missing, and its x and y are 0. Pose networks find the
J = 18 joints of `COCO18`; what is trained on key points alone may have any other `Layout`.
"""

import re
from collections.abc import Sequence
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

# COCO's constants of the 18 joints: twice the standard deviation of where annotators put a joint,
# as a share of the person's size. The neck is taken for a shoulder.
FALLOFF = 2 * np.array(
    [26, 79, 79, 72, 62, 79, 72, 62, 107, 87, 89, 107, 87, 89, 25, 25, 35, 35]
) / 1000  # fmt: skip


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

# For each COCO-18 joint its index in COCO's 17; -1 marks the neck, which they lack.
COCO17_TO_COCO18 = (0, -1, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)

# For each COCO-18 joint its place in another layout; -1 marks the neck where the layout has none.
_FROM_LAYOUT = {
    17: COCO17_TO_COCO18,
    18: tuple(range(18)),  # OpenPose's COCO model
    25: (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18),  # OpenPose BODY_25
    33: (0, -1, 12, 14, 16, 11, 13, 15, 24, 26, 28, 23, 25, 27, 5, 2, 8, 7),  # MediaPipe
}


def to_coco18(keypoints: np.ndarray) -> np.ndarray:
    """Converts key points of another layout, told by its number of joints; see `from_names`, too.

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
        _add_neck(result)
    return clean(result)


# Other words for parts of the body, and what of it no layout here has.
_PARTS = {
    "nose": ("nose", "face", "neck_nose"),
    "eye": ("eye",), "ear": ("ear",),
    "shoulder": ("shoulder", "sho", "shldr"), "elbow": ("elbow", "elb"), "wrist": ("wrist", "wri"),
    "hip": ("hip",), "knee": ("knee", "kne"), "ankle": ("ankle", "ank"), "foot": ("foot",),
    "belly": ("belly",),
    # Where the neck is between the shoulders, the best first.
    "spine_shoulder": ("spine_shoulder", "shoulder_center", "shoulder_centre", "center_shoulder",
                       "mid_shoulder", "shoulder_mid", "thorax"),
    "neck": ("neck",),
    "upper_neck": ("upper_neck", "neck_base", "head_bottom"),
}  # fmt: skip
_OTHER_PARTS = {
    "head", "head_top", "top_head", "head_tip", "top", "jaw", "chin", "forehead", "mouth",
    "eye_inner", "inner_eye", "eye_outer", "outer_eye", "eyebrow", "lip", "pelvis", "root", "hips",
    "mid_hip", "hip_mid", "center_hip", "hip_center", "hip_centre", "spine", "base_spine",
    "spine_base", "middle_spine", "mid_spine", "spine_mid", "spine_middle", "spine_naval",
    "spine_navel", "spine_chest", "chest", "upper_chest", "torso", "stomach", "abdomen",
    "body_center", "clavicle", "collar", "hand", "hand_tip", "tip_hand", "hand_root", "palm",
    "thumb", "index", "pinky", "index_finger", "pinky_finger", "forefinger", "middle_finger",
    "ring_finger", "foot_index", "heel", "toe", "toes", "big_toe", "small_toe", "toe_base",
    "background",
}  # fmt: skip
_SIDES = {"left": "left", "right": "right", "l": "left", "r": "right"}
_FILLERS = {"of", "the", "pose", "landmark", "joint", "type", "keypoint"}
# Without what separates the words: SPINEMID, HANDTIP_LEFT.
_PART_OF = {word.replace("_", ""): part for part, words in _PARTS.items() for word in words}
_UNUSED = {word.replace("_", "") for word in _OTHER_PARTS}
_MIDDLE_OF_SPINE = {"middlespine", "midspine", "spinemid", "spinemiddle"}
_NECKS = ("spine_shoulder", "neck", "upper_neck")
_BOTH_SIDES = {"eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle", "foot"}
_NEEDED = tuple(NAMES[i] for i in range(R_SHOULDER, L_ANKLE + 1))


def _part_and_sides(text: str) -> tuple[str, list[str]]:
    """The part of the body in a joint's name, without separators, and the sides in it."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", text)
    words = [word for word in re.split(r"[^a-z]+", spaced.lower()) if word not in _FILLERS]
    sides = [_SIDES[word] for word in words if word in _SIDES]
    part = "".join(word for word in words if word not in _SIDES)
    if part not in _PART_OF and part not in _UNUSED and not sides:  # such as rsho, LEFTEYE, kneer
        for word, side in _SIDES.items():
            for rest in (part.removeprefix(word), part.removesuffix(word)):
                if rest != part and (rest in _PART_OF or rest in _UNUSED) and not sides:
                    part, sides = rest, [side]
    return part, sides


def joint_of(text: str) -> str | None:
    """The joint that a name means, in any common spelling.

    Sides come first or last, as "left" or "l"; words in any case, with anything or nothing between
    them.

    Returns:
        A name such as "left_wrist" or "neck"; "" for a part of the body that is not used here; None
        for a name that is not known.
    """
    part, sides = _part_and_sides(text)
    joint = _PART_OF.get(part)
    if part == "face" and re.search("[0-9]", text):  # one of many points of a face
        return ""
    if len(sides) > 1 or (joint is None and part not in _UNUSED):
        return None
    if joint in _BOTH_SIDES:
        return f"{sides[0]}_{joint}" if sides else ("" if joint == "hip" else None)
    return joint if joint is not None and not sides else ""


def from_names(keypoints: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, Layout]:
    """Converts key points whose joints have names, in any order.

    Args:
        keypoints: float [..., J, 3].
        names: of the J joints: those of COCO (with feet, hands and face), OpenPose, Human3.6M, NTU,
            Kinect, MediaPipe, MPII, JHMDB and others alike; see `joint_of`.

    Returns:
        float32 [..., 15, 3] of `JHMDB15` if it is these joints, else [..., 18, 3] of `COCO18`, and
        the layout. Where there is no neck, it is the middle of the shoulders; nose, eyes and ears
        may be missing.

    Raises:
        ValueError: a name is not known, or there twice, or a joint of an arm or a leg is missing.
    """
    if len(names) != keypoints.shape[-2]:
        raise ValueError(f"{len(names)} names for {keypoints.shape[-2]} joints")
    joints = [joint_of(name) for name in names]
    parts = [_part_and_sides(name)[0] for name in names]
    if _MIDDLE_OF_SPINE & set(parts) and "spine_shoulder" not in joints:
        # NTU's "spine" is between the shoulders.
        joints = [
            "spine_shoulder" if part == "spine" else joint
            for part, joint in zip(parts, joints, strict=True)
        ]
    unknown = [name for name, joint in zip(names, joints, strict=True) if joint is None]
    if unknown:
        raise ValueError(f"unknown names of joints: {', '.join(unknown[:5])}")
    place: dict[str, int] = {}
    for i, joint in enumerate(joints):
        if joint and place.setdefault(joint, i) != i:
            raise ValueError(f"{names[place[joint]]} and {names[i]} are the same joint")
    if set(place) == set(JHMDB15.joints) and len(names) == len(JHMDB15):
        return clean(keypoints[..., [place[joint] for joint in JHMDB15.joints], :]), JHMDB15
    for side in ("left", "right"):  # Human3.6M calls its ankles feet
        if f"{side}_ankle" not in place and f"{side}_foot" in place:
            place[f"{side}_ankle"] = place[f"{side}_foot"]
    if lacking := [joint for joint in _NEEDED if joint not in place]:
        raise ValueError(f"no joint is called {', '.join(lacking)}")
    result = np.zeros((*keypoints.shape[:-2], NUM_JOINTS, 3), np.float32)
    for i, joint in enumerate(NAMES):
        if joint in place:
            result[..., i, :] = keypoints[..., place[joint], :]
    neck = next((place[joint] for joint in _NECKS if joint in place), None)
    if neck is None:
        _add_neck(result)
    else:
        result[..., NECK, :] = keypoints[..., neck, :]
    return clean(result), COCO18


def _add_neck(keypoints: np.ndarray) -> None:
    """Makes the neck of [..., 18, 3] the middle of the shoulders, with their lower score."""
    right, left = keypoints[..., R_SHOULDER, :], keypoints[..., L_SHOULDER, :]
    keypoints[..., NECK, :2] = (right[..., :2] + left[..., :2]) / 2
    keypoints[..., NECK, 2] = np.minimum(right[..., 2], left[..., 2])


def to_coco17(keypoints: np.ndarray) -> np.ndarray:
    """The 17 joints [..., 17, 3] of COCO's annotations from [..., 18, 3]: all but the neck."""
    order = _FROM_LAYOUT[17]
    return keypoints[..., [order.index(joint) for joint in range(17)], :]


def clean(keypoints: np.ndarray) -> np.ndarray:
    """Zeroes every joint of [..., 3] that is not there: float32.

    It has no positive score, or a coordinate that is not finite or beyond any image.
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
    """Mirrors key points [..., J, 3] of an image of the given width: x becomes width - 1 - x."""
    mirrored = keypoints[..., layout.flip, :].copy()
    mirrored[..., 0] = width - 1 - mirrored[..., 0]
    return clean(mirrored)
