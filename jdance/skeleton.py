"""Skeleton layouts: joints, limbs, mirroring, and conversion from other layouts.

Key points in jdance are float32 `[..., J, 3]`: x and y in pixels (x to the right, y down) and a
score. Missing joints have score, x and y 0. Pose networks detect the J = 18 joints of `COCO18`;
networks trained on key points alone can use any `Layout`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

# COCO-18 in OpenPose's order. Left and right are from the person's view.
NAMES = (
    "nose", "neck",
    "right_shoulder", "right_elbow", "right_wrist",
    "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle",
    "left_hip", "left_knee", "left_ankle",
    "right_eye", "left_eye", "right_ear", "left_ear",
)  # fmt: skip
NUM_JOINTS = len(NAMES)
MAX_FRACTION = 2.0  # maximum coordinate as a fraction of the image's size; larger ones are pixels
(
    NOSE, NECK,
    R_SHOULDER, R_ELBOW, R_WRIST,
    L_SHOULDER, L_ELBOW, L_WRIST,
    R_HIP, R_KNEE, R_ANKLE,
    L_HIP, L_KNEE, L_ANKLE,
    R_EYE, L_EYE, R_EAR, L_EAR,
) = range(NUM_JOINTS)  # fmt: skip

# Limbs [19, 2] as (from, to). The first 17 form a tree rooted at the neck, parents before children;
# the last two (shoulder to ear) only extend a person.
LIMBS = np.array([
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12),
    (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17), (2, 16), (5, 17),
], np.int32)  # fmt: skip
NUM_TREE_LIMBS = 17

# Part-affinity channels [19, 2] of the x and y components of each limb's direction.
PAF_CHANNELS = np.array([
    (12, 13), (20, 21), (14, 15), (16, 17), (22, 23), (24, 25), (0, 1), (2, 3), (4, 5), (6, 7),
    (8, 9), (10, 11), (28, 29), (30, 31), (34, 35), (32, 33), (36, 37), (18, 19), (26, 27),
], np.int32)  # fmt: skip

# COCO's constants k_i = 2 sigma_i for OKS, with sigma_i the standard deviation of annotations
# relative to the person's size. The neck has the value of the shoulders.
FALLOFF = 2 * np.array(
    [26, 79, 79, 72, 62, 79, 72, 62, 107, 87, 89, 107, 87, 89, 25, 25, 35, 35]
) / 1000  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """A skeleton layout.

    Key-point features require a neck, a nose, and both shoulders, elbows, wrists, hips, knees and
    ankles under these names.

    Attributes:
        name: in data sets.
        joints: names of the J joints in order; sides are prefixes "right_" and "left_".
        limbs: pairs of joints.
    """

    name: str
    joints: tuple[str, ...]
    limbs: tuple[tuple[str, str], ...]

    def __len__(self) -> int:
        return len(self.joints)

    def at(self, names: tuple[str, ...]) -> list[int]:
        """The indices of joints by name."""
        return [self.joints.index(name) for name in names]

    @cached_property
    def flip(self) -> np.ndarray:
        """int32 [J]: flip[i] is the mirror image of joint i."""
        swap = {"right": "left", "left": "right"}
        parts = [name.partition("_") for name in self.joints]
        mirrored = tuple(swap.get(side, side) + bar + rest for side, bar, rest in parts)
        return np.array(self.at(mirrored), np.int32)


COCO18 = Layout("coco18", NAMES, tuple((NAMES[a], NAMES[b]) for a, b in LIMBS[:13].tolist()))

# The skeleton of the JHMDB data set; its "face" is renamed to "nose".
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

_MAX_COORDINATE = 1e6  # pixels; joints beyond are invalid

# Index in COCO's 17 joints of each COCO-18 joint; -1 for the neck, which COCO lacks.
COCO17_TO_COCO18 = (0, -1, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)

# By the number of joints: index in this layout of each COCO-18 joint; -1 without a neck.
_FROM_LAYOUT = {
    17: COCO17_TO_COCO18,
    18: tuple(range(18)),  # OpenPose's COCO model
    25: (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18),  # OpenPose BODY_25
    33: (0, -1, 12, 14, 16, 11, 13, 15, 24, 26, 28, 23, 25, 27, 5, 2, 8, 7),  # MediaPipe
}


def to_coco18(keypoints: np.ndarray) -> np.ndarray:
    """Converts key points of another layout, identified by its number of joints.

    Args:
        keypoints: float [..., J, 3] with J = 17 (COCO), 18 (COCO-18), 25 (BODY_25) or 33
            (MediaPipe).

    Returns:
        float32 [..., 18, 3]. Without a neck in the layout, it is the midpoint of the shoulders with
        the minimum of their scores. Missing joints are zero.

    Raises:
        ValueError: unsupported J.
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


# Synonyms for parts of the body, and parts that are not used.
_PARTS = {
    "nose": ("nose", "face", "neck_nose"),
    "eye": ("eye",), "ear": ("ear",),
    "shoulder": ("shoulder", "sho", "shldr"), "elbow": ("elbow", "elb"), "wrist": ("wrist", "wri"),
    "hip": ("hip",), "knee": ("knee", "kne"), "ankle": ("ankle", "ank"), "foot": ("foot",),
    "belly": ("belly",),
    # Positions of the neck, best first.
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
# Without separators, for names such as SPINEMID and HANDTIP_LEFT.
_PART_OF = {word.replace("_", ""): part for part, words in _PARTS.items() for word in words}
_UNUSED = {word.replace("_", "") for word in _OTHER_PARTS}
_MIDDLE_OF_SPINE = {"middlespine", "midspine", "spinemid", "spinemiddle"}
_NECKS = ("spine_shoulder", "neck", "upper_neck")
_PAIRED = {"eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle", "foot"}
_REQUIRED = tuple(NAMES[i] for i in range(R_SHOULDER, L_ANKLE + 1))


def _part_and_sides(text: str) -> tuple[str, list[str]]:
    """Splits a joint's name into the body part, without separators, and the sides."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", text)
    words = [word for word in re.split(r"[^a-z]+", spaced.lower()) if word not in _FILLERS]
    sides = [_SIDES[word] for word in words if word in _SIDES]
    part = "".join(word for word in words if word not in _SIDES)
    if part not in _PART_OF and part not in _UNUSED and not sides:  # rsho, LEFTEYE, kneer
        for word, side in _SIDES.items():
            for rest in (part.removeprefix(word), part.removesuffix(word)):
                if rest != part and (rest in _PART_OF or rest in _UNUSED) and not sides:
                    part, sides = rest, [side]
    return part, sides


def parse_joint(text: str) -> str | None:
    """Parses a joint's name in any common spelling.

    Sides are a prefix or suffix ("left" or "l"), in any case and with any or no separators.

    Returns:
        A name such as "left_wrist" or "neck"; "" for an unused part of the body; None for an
        unknown name.
    """
    part, sides = _part_and_sides(text)
    joint = _PART_OF.get(part)
    if part == "face" and re.search("[0-9]", text):  # a face landmark
        return ""
    if len(sides) > 1 or (joint is None and part not in _UNUSED):
        return None
    if joint in _PAIRED:
        return f"{sides[0]}_{joint}" if sides else ("" if joint == "hip" else None)
    return joint if joint is not None and not sides else ""


def from_names(keypoints: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, Layout]:
    """Converts key points with named joints in any order.

    Args:
        keypoints: float [..., J, 3].
        names: of the J joints, as in COCO (with feet, hands and face), OpenPose, Human3.6M, NTU,
            Kinect, MediaPipe, MPII, JHMDB and similar layouts; see `parse_joint`.

    Returns:
        float32 [..., 15, 3] in `JHMDB15` if these are its joints, else [..., 18, 3] in `COCO18`;
        and the layout. A missing neck is the midpoint of the shoulders. Nose, eyes and ears are
        optional.

    Raises:
        ValueError: an unknown or duplicate name, or a missing joint of an arm or leg.
    """
    if len(names) != keypoints.shape[-2]:
        raise ValueError(f"{len(names)} names for {keypoints.shape[-2]} joints")
    joints = [parse_joint(name) for name in names]
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
    index: dict[str, int] = {}
    for i, joint in enumerate(joints):
        if joint and index.setdefault(joint, i) != i:
            raise ValueError(f"{names[index[joint]]} and {names[i]} are the same joint")
    if set(index) == set(JHMDB15.joints) and len(names) == len(JHMDB15):
        return clean(keypoints[..., [index[joint] for joint in JHMDB15.joints], :]), JHMDB15
    for side in ("left", "right"):  # Human3.6M calls its ankles feet
        if f"{side}_ankle" not in index and f"{side}_foot" in index:
            index[f"{side}_ankle"] = index[f"{side}_foot"]
    if missing := [joint for joint in _REQUIRED if joint not in index]:
        raise ValueError(f"no joint is called {', '.join(missing)}")
    result = np.zeros((*keypoints.shape[:-2], NUM_JOINTS, 3), np.float32)
    for i, joint in enumerate(NAMES):
        if joint in index:
            result[..., i, :] = keypoints[..., index[joint], :]
    neck = next((index[joint] for joint in _NECKS if joint in index), None)
    if neck is None:
        _add_neck(result)
    else:
        result[..., NECK, :] = keypoints[..., neck, :]
    return clean(result), COCO18


def _add_neck(keypoints: np.ndarray) -> None:
    """Sets the neck of [..., 18, 3] to the midpoint of the shoulders, with their minimum score."""
    right, left = keypoints[..., R_SHOULDER, :], keypoints[..., L_SHOULDER, :]
    keypoints[..., NECK, :2] = (right[..., :2] + left[..., :2]) / 2
    keypoints[..., NECK, 2] = np.minimum(right[..., 2], left[..., 2])


def to_coco17(keypoints: np.ndarray) -> np.ndarray:
    """COCO's 17 joints [..., 17, 3] from [..., 18, 3]: all but the neck."""
    order = _FROM_LAYOUT[17]
    return keypoints[..., [order.index(joint) for joint in range(17)], :]


def clean(keypoints: np.ndarray) -> np.ndarray:
    """Zeroes missing joints of [..., 3] and casts to float32.

    These are joints without a positive score, or with a coordinate that is not finite or too large.
    """
    keypoints = np.asarray(keypoints)
    if keypoints.dtype != np.float32:
        with np.errstate(over="ignore"):  # overflow gives inf, which is a missing joint
            keypoints = keypoints.astype(np.float32)
    # In few passes, because this runs on every record.
    distance, score = abs(keypoints[..., :2]), keypoints[..., 2]
    valid = (distance[..., 0] <= _MAX_COORDINATE) & (distance[..., 1] <= _MAX_COORDINATE)
    valid &= (score > 0) & (score < np.inf)
    return np.where(valid[..., None], keypoints, np.float32(0))


def is_present(keypoints: Any) -> Any:
    """Whether each joint of [..., J, 3] is present: bool [..., J]. For NumPy and JAX arrays."""
    xp = keypoints.__array_namespace__()
    return (keypoints[..., 2] > 0) & xp.isfinite(keypoints).all(axis=-1)


def flip(keypoints: np.ndarray, width: float, layout: Layout = COCO18) -> np.ndarray:
    """Mirrors key points [..., J, 3] of an image with a width in pixels: x -> width - 1 - x."""
    mirrored = keypoints[..., layout.flip, :].copy()
    mirrored[..., 0] = width - 1 - mirrored[..., 0]
    return clean(mirrored)
