"""Fused key-point features: relative positions, angles and limb-length ratios.

The paper (Shen et al., 2021, section 3.1) names these three types and their number, 18, but not the
features themselves. All functions take NumPy arrays (in data loaders) and JAX arrays (in compiled
programs) with any leading shape.

Features are invariant to the position and size of the person: the origin is the neck, the unit is
the length of the trunk. Features of missing joints are 0.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from jdance.skeleton import COCO18, Layout, is_present

_Tuples = tuple[tuple[str, ...], ...]  # pairs, triples, ... of joints

NAMES = ("fused18", "pos18", "full", "segments22")

# Mirroring of fused18: new[i] = FUSED18_SIGN[i] * old[FUSED18_FLIP[i]].
FUSED18_FLIP = np.array([4, 5, 6, 7, 0, 1, 2, 3, 9, 8, 11, 10, 13, 12, 15, 14, 17, 16], np.int32)
FUSED18_SIGN = np.ones(18, np.float32)
FUSED18_SIGN[[0, 2, 4, 6, 8, 9]] = -1


def _both(*joints: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The joints on the right side and on the left side; the neck has no side."""

    def on(side: str) -> tuple[str, ...]:
        return tuple(j if j == "neck" else f"{side}_{j}" for j in joints)

    return on("right"), on("left")


_ARM_JOINTS = ("right_elbow", "right_wrist", "left_elbow", "left_wrist")
_ANKLES = ("right_ankle", "left_ankle")
_POS18_JOINTS = (*_ARM_JOINTS, "right_knee", "right_ankle", "left_knee", "left_ankle", "nose")
_ARMS = _both("shoulder", "elbow", "wrist")
_LEGS = _both("hip", "knee", "ankle")
_HIPS = _both("neck", "hip", "knee")
_SHOULDERS = _both("neck", "shoulder", "elbow")
_ARMPITS = _both("hip", "shoulder", "elbow")
_LIMB_BONES = tuple(bone for a, b, c in _ARMS + _LEGS for bone in ((a, b), (b, c)))

# The segments of segments22 in order: display names, and the joints (from, to).
SEGMENTS: dict[str, tuple[str, str]] = {
    "head": ("neck", "nose"),
    "shoulders": ("right_shoulder", "left_shoulder"),
    "hips": ("right_hip", "left_hip"),
    "right upper arm": ("right_shoulder", "right_elbow"),
    "right forearm": ("right_elbow", "right_wrist"),
    "left upper arm": ("left_shoulder", "left_elbow"),
    "left forearm": ("left_elbow", "left_wrist"),
    "right thigh": ("right_hip", "right_knee"),
    "right shin": ("right_knee", "right_ankle"),
    "left thigh": ("left_hip", "left_knee"),
    "left shin": ("left_knee", "left_ankle"),
}

_MAX_COORDINATE = 1e9  # pixels; keeps squares finite in float32
_MIN_LENGTH = 1e-6  # pixels or trunk lengths; shorter vectors count as zero
_MAX_LENGTH = 3.0  # trunk lengths; positions and lengths are clipped


def compute(name: str, keypoints: Any, layout: Layout = COCO18) -> Any:
    """Computes a named feature set.

    Args:
        name: "fused18" (the paper's 18 features), "pos18" (positions of the eight limb joints and
            the nose), "full" (positions, limb directions, lengths, angles, extensions, widths,
            visibility: 99 features for COCO-18) or "segments22" (cosine and sine of the angles
            between the trunk and each of `SEGMENTS`).
        keypoints: float32 [..., J, 3], x and y in any unit and a score; 0 = missing.
        layout: of the J joints.

    Returns:
        float32 [..., size(name, layout)]; all 0 where `valid(keypoints, layout)` is False.

    Raises:
        ValueError: unknown name.
    """
    if name not in NAMES:
        raise ValueError(f"unknown feature set {name!r}: expected one of {', '.join(NAMES)}")
    body = _Body(keypoints, layout)
    if name == "fused18":
        groups = [
            body.flat_positions(_ARM_JOINTS),
            body.positions(_ANKLES)[..., 0],
            body.angles(_ARMS + _HIPS),
            body.extensions(_ARMS + _LEGS),
        ]
    elif name == "pos18":
        groups = [body.flat_positions(_POS18_JOINTS)]
    elif name == "segments22":
        groups = [body.turns(tuple(SEGMENTS.values()))]
    else:
        groups = [
            body.flat_positions(layout.joints),
            body.directions(_LIMB_BONES),
            body.lengths(layout.limbs),
            body.angles(_ARMS + _HIPS + _LEGS + _SHOULDERS + _ARMPITS),
            body.extensions(_ARMS + _LEGS),
            body.clipped(abs(body.offsets((_ANKLES,))[..., 0])),  # stance width
            body.lengths((("right_wrist", "left_wrist"),)),
            body.present.astype(np.float32),
        ]
    result = body.xp.concatenate(groups, axis=-1)
    return body.xp.where(body.valid[..., None], result, 0).astype(np.float32)


def sequence(name: str, keypoints: Any, layout: Layout = COCO18) -> Any:
    """Computes the features of each frame and the displacements of the joints.

    Args:
        name, layout: as for `compute`.
        keypoints: float32 [..., T, J, 3] of evenly spaced frames.

    Returns:
        float32 [..., T, size(name, layout) + 4 J]: the frame's features, then the displacement
        (x, y) of each joint to the next frame and to the one after it (the paper's motion at two
        speeds, section 2.1), in mean trunk lengths of the sequence. Displacements of missing joints
        and beyond the last frame are 0.
    """
    body = _Body(keypoints, layout)
    xp, frames = body.xp, keypoints.shape[-3]
    weight = body.valid.astype(np.float32)
    unit = (body.unit * weight).sum(-1) / xp.clip(weight.sum(-1), 1, None)
    unit = xp.where(unit > 0, unit, 1)[..., None, None, None]
    groups = [compute(name, keypoints, layout)]
    for step in (1, 2):
        before, after = slice(None, max(frames - step, 0)), slice(step, None)
        shift = (body.xy[..., after, :, :] - body.xy[..., before, :, :]) / unit
        both = body.present[..., after, :] & body.present[..., before, :]
        shift = xp.where(both[..., None], body.clipped(shift), 0)
        padding = [(0, 0)] * (shift.ndim - 3) + [(0, frames - shift.shape[-3]), (0, 0), (0, 0)]
        groups.append(_flatten(xp.pad(shift, padding)))
    return xp.concatenate(groups, axis=-1).astype(np.float32)


def centered(keypoints: Any, layout: Layout = COCO18) -> tuple[Any, Any]:
    """Positions relative to the neck, in trunk lengths.

    Args:
        keypoints: float32 [..., J, 3], score 0 = missing.
        layout: of the J joints.

    Returns:
        Positions float32 [..., J, 2], 0 for missing joints; and bool [..., J], which joints are
        present (none where `valid` is False).
    """
    body = _Body(keypoints, layout)
    present = body.present & body.valid[..., None]
    relative = (body.xy - body.neck[..., None, :]) / body.unit[..., None, None]
    return body.xp.where(present[..., None], relative, 0).astype(np.float32), present


@cache
def size(name: str, layout: Layout = COCO18) -> int:
    """The number of features in a set."""
    return compute(name, np.zeros((len(layout), 3), np.float32), layout).shape[-1]


def valid(keypoints: Any, layout: Layout = COCO18) -> Any:
    """Whether a skeleton has an origin (a neck or both shoulders): bool [...]."""
    return _Body(keypoints, layout).valid


def _flatten(x: Any) -> Any:
    """[..., N, 2] -> [..., 2 N]."""
    return x.reshape(*x.shape[:-2], -1)


class _Body:
    """A skeleton [..., J, 3]; a missing neck is the midpoint of the shoulders."""

    def __init__(self, keypoints: Any, layout: Layout):
        xp = self.xp = keypoints.__array_namespace__()
        self._layout = layout
        present = is_present(keypoints)
        xy = xp.where(present[..., None], keypoints[..., :2], 0)
        xy = xp.clip(xy, -_MAX_COORDINATE, _MAX_COORDINATE).astype(np.float32)

        right, left, at_neck = layout.at(("right_shoulder", "left_shoulder", "neck"))
        shoulders = present[..., right] & present[..., left]
        middle = (xy[..., right, :] + xy[..., left, :]) / 2
        neck = xp.where(present[..., at_neck, None], xy[..., at_neck, :], middle)
        self.valid = present[..., at_neck] | shoulders
        is_neck = np.arange(len(layout)) == at_neck
        self.present = xp.where(is_neck, self.valid[..., None], present)
        self.xy = xp.where(is_neck[:, None], neck[..., None, :], xy)
        self.neck = neck
        self.unit = self._unit(shoulders, xy[..., right, :] - xy[..., left, :])

    def _unit(self, shoulders: Any, across: Any) -> Any:
        """The unit s [...]: the trunk's length, else an estimate from other lengths.

        `shoulders` bool [...]: whether both are present. `across` [..., 2]: between the shoulders.
        """
        xp = self.xp
        hip, has_hip = self._hip()
        trunk = self._norm(self.neck - hip)
        width = 1.3 * self._norm(across)
        y = self.xy[..., 1]
        top = xp.where(self.present, y, xp.inf).min(-1)
        bottom = xp.where(self.present, y, -xp.inf).max(-1)
        height = 0.35 * xp.where(bottom - top > _MIN_LENGTH / 0.35, bottom - top, 0)
        unit = xp.where(height > 0, height, 1)
        unit = xp.where(shoulders & (width > 0), width, unit)
        return xp.where(has_hip & (trunk > 0), trunk, unit)

    def _hip(self) -> tuple[Any, Any]:
        """Midpoint [..., 2] of the present hips, and whether there is one: bool [...]."""
        xp = self.xp
        indices = self._layout.at(("right_hip", "left_hip"))
        right, left = (self.present[..., i] for i in indices)
        weights = xp.stack([right, left], axis=-1).astype(np.float32)
        hips = self.xy[..., indices, :]
        middle = (hips * weights[..., None]).sum(-2) / xp.clip(weights.sum(-1), 1, None)[..., None]
        return middle, right | left

    def _norm(self, vectors: Any) -> Any:
        """Lengths [...] of vectors [..., 2]; below _MIN_LENGTH, length and gradient are 0.

        This keeps gradients of divisions by a length finite.
        """
        square = (vectors * vectors).sum(-1)
        nonzero = square > _MIN_LENGTH**2
        return self.xp.where(nonzero, self.xp.sqrt(self.xp.where(nonzero, square, 1)), 0)

    def _indices(self, tuples: _Tuples) -> list[list[int]]:
        """The indices of the first joints of N tuples, of the second joints, and so on."""
        return [self._layout.at(joints) for joints in zip(*tuples, strict=True)]

    def _have(self, tuples: _Tuples) -> Any:
        """Whether all joints of each of the N tuples are present: bool [..., N]."""
        first, *others = self._indices(tuples)
        result = self.present[..., first]
        for other in others:
            result = result & self.present[..., other]
        return result

    def clipped(self, values: Any) -> Any:
        return self.xp.clip(values, -_MAX_LENGTH, _MAX_LENGTH)

    def positions(self, joints: tuple[str, ...]) -> Any:
        """(p - neck) / s of N joints: [..., N, 2]."""
        indices = self._layout.at(joints)
        relative = (self.xy[..., indices, :] - self.neck[..., None, :]) / self.unit[..., None, None]
        return self.xp.where(self.present[..., indices, None], self.clipped(relative), 0)

    def flat_positions(self, joints: tuple[str, ...]) -> Any:
        """`positions` as x, y, x, y, ...: [..., 2 N]."""
        return _flatten(self.positions(joints))

    def offsets(self, pairs: _Tuples) -> Any:
        """(b - a) / s of N pairs of joints: [..., N, 2]."""
        a, b = self._indices(pairs)
        vectors = (self.xy[..., b, :] - self.xy[..., a, :]) / self.unit[..., None, None]
        return self.xp.where(self._have(pairs)[..., None], vectors, 0)

    def lengths(self, pairs: _Tuples) -> Any:
        """|b - a| / s of N pairs of joints: [..., N]."""
        return self.clipped(self._norm(self.offsets(pairs)))

    def directions(self, pairs: _Tuples) -> Any:
        """Unit vectors from a to b of N pairs of joints, flat: [..., 2 N]."""
        return _flatten(self._units(self.offsets(pairs)))

    def _units(self, vectors: Any) -> Any:
        """Vectors [..., 2] normalized to length 1; zero vectors stay 0."""
        length = self._norm(vectors)[..., None]
        return self.xp.where(length > 0, vectors / self.xp.where(length > 0, length, 1), 0)

    def turns(self, pairs: _Tuples) -> Any:
        """Cosine and sine of the angles from the trunk (neck to hips) to the bones a to b.

        [..., 2 N]; angles increase from x to y, clockwise in the image. Without hips, the trunk is
        assumed to be upright.
        """
        xp = self.xp
        hip, has_hip = self._hip()
        trunk = hip - self.neck
        length = self._norm(trunk)
        known = (has_hip & (length > 0))[..., None]
        upright = np.array([0, 1], np.float32)
        trunk = xp.where(known, trunk / xp.where(length > 0, length, 1)[..., None], upright)
        bones = self.directions(pairs).reshape(*length.shape, len(pairs), 2)
        x, y = trunk[..., None, 0], trunk[..., None, 1]
        cosine = x * bones[..., 0] + y * bones[..., 1]
        sine = x * bones[..., 1] - y * bones[..., 0]
        return xp.stack([cosine, sine], axis=-1).reshape(*length.shape, -1)

    def angles(self, triples: _Tuples) -> Any:
        """The angle at b between a and c of N triples, divided by pi: [..., N] in 0 to 1."""
        xp = self.xp
        pairs = (
            tuple((b, a) for a, b, _ in triples),
            tuple((b, c) for _, b, c in triples),
        )
        # Unit vectors prevent overflow and underflow in dot and cross.
        first, second = (self._units(self.offsets(each)) for each in pairs)
        dot = (first * second).sum(-1)
        cross = abs(first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0])
        defined = self._have(triples) & first.any(-1) & second.any(-1)
        angle = xp.arctan2(cross, xp.where(defined, dot, 1))
        return xp.where(defined, angle / np.float32(np.pi), 0)

    def extensions(self, chains: _Tuples) -> Any:
        """|a - c| / (|a - b| + |b - c|) of N chains of two bones: [..., N] in 0 to 1."""
        reach = self._norm(self.offsets(tuple((a, c) for a, _, c in chains)))
        upper = self._norm(self.offsets(tuple((a, b) for a, b, _ in chains)))
        lower = self._norm(self.offsets(tuple((b, c) for _, b, c in chains)))
        bones = upper + lower
        ratio = reach / self.xp.where(bones > 0, bones, 1)
        return self.xp.where(self._have(chains), ratio, 0)


class Inputs(NamedTuple):
    """Inputs that a motion network takes for each example.

    Attributes:
        compute: (key points float32 [B, J, 3] or [B, T, J, 3], layout) -> features [B, *shape].
        shape: shape of one example's features.
        feature_set: name in `NAMES`; empty for features of the network's own.
        image: whether the network takes the image crop.
        stills, sequences: which kinds of key points the network takes.
        frames: number of frames T that sequences are resampled to.
        smooth: whether sequences are smoothed before they are resampled.
        dtype: of the features.
    """

    compute: Callable[[np.ndarray, Layout], np.ndarray]
    shape: tuple[int, ...]
    feature_set: str = ""
    image: bool = False
    stills: bool = True
    sequences: bool = False
    frames: int = 0
    smooth: bool = False
    dtype: type = np.float32
