"""Key points -> fused key-point features: relative positions, angles, limb-length ratios.

The paper (Shen et al., 2021, section 3.1) names the three kinds and their number, 18; the list
below is ours. Everything works on NumPy and on JAX arrays, of any leading shape: NumPy in loader
processes, `jax.numpy` inside compiled programs, one source.

All features are free of the position and size of the person: the origin is the neck, the unit is
the length of the trunk. A feature that needs a missing joint is 0.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jdance import skeleton as sk

SIZES = {"fused18": 18, "pos18": 18, "full": 99}

# How fused18 changes in a mirror: new[i] = FUSED18_SIGN[i] * old[FUSED18_FLIP[i]].
FUSED18_FLIP = np.array([4, 5, 6, 7, 0, 1, 2, 3, 9, 8, 11, 10, 13, 12, 15, 14, 17, 16], np.int32)
FUSED18_SIGN = np.ones(18, np.float32)
FUSED18_SIGN[[0, 2, 4, 6, 8, 9]] = -1

_ARM_JOINTS = (sk.R_ELBOW, sk.R_WRIST, sk.L_ELBOW, sk.L_WRIST)
_POS18_JOINTS = (*_ARM_JOINTS, sk.R_KNEE, sk.R_ANKLE, sk.L_KNEE, sk.L_ANKLE, sk.NOSE)
_ELBOWS = ((2, 3, 4), (5, 6, 7))
_HIPS = ((1, 8, 9), (1, 11, 12))
_KNEES = ((8, 9, 10), (11, 12, 13))
_SHOULDERS = ((1, 2, 3), (1, 5, 6))
_ARMPITS = ((8, 2, 3), (11, 5, 6))
_CHAINS = ((2, 3, 4), (5, 6, 7), (8, 9, 10), (11, 12, 13))
_LIMB_BONES = ((2, 3), (3, 4), (5, 6), (6, 7), (8, 9), (9, 10), (11, 12), (12, 13))
_BODY_BONES = tuple((int(a), int(b)) for a, b in sk.LIMBS[:13])

_FARTHEST = 1e9  # pixels; keeps squares finite in float32
_LARGEST = 3.0  # trunk lengths; the clip of positions and lengths


def compute(name: str, keypoints: Any) -> Any:
    """Computes a named feature set.

    Args:
        name: "fused18" (the paper's 18 numbers), "pos18" (positions of the eight limb joints and
            the nose only) or "full" (99: positions, limb directions, lengths, angles, extensions,
            widths, visibility).
        keypoints: float32 [..., 18, 3], x and y in any unit and a score; score 0 = missing.

    Returns:
        float32 [..., SIZES[name]]; all 0 where `valid(keypoints)` is False.

    Raises:
        ValueError: unknown name.
    """
    if name not in SIZES:
        raise ValueError(f"unknown feature set {name!r}: expected one of {sorted(SIZES)}")
    body = _Body(keypoints)
    if name == "fused18":
        ankles = body.positions((sk.R_ANKLE, sk.L_ANKLE))[..., 0]
        groups = [
            body.flat_positions(_ARM_JOINTS),
            ankles,
            body.angles(_ELBOWS + _HIPS),
            body.extensions(_CHAINS),
        ]
    elif name == "pos18":
        groups = [body.flat_positions(_POS18_JOINTS)]
    else:
        stance = abs(body.offsets(((sk.R_ANKLE, sk.L_ANKLE),))[..., 0])
        groups = [
            body.flat_positions(range(sk.NUM_JOINTS)),
            body.directions(_LIMB_BONES),
            body.lengths(_BODY_BONES),
            body.angles(_ELBOWS + _HIPS + _KNEES + _SHOULDERS + _ARMPITS),
            body.extensions(_CHAINS),
            body.clipped(stance),
            body.lengths(((sk.R_WRIST, sk.L_WRIST),)),
            body.present.astype(np.float32),
        ]
    result = body.xp.concatenate(groups, axis=-1)
    return body.xp.where(body.valid[..., None], result, 0).astype(np.float32)


def valid(keypoints: Any) -> Any:
    """Whether a skeleton can be placed (it has a neck or both shoulders): bool [...]."""
    return _Body(keypoints).valid


class _Body:
    """A skeleton [..., 18, 3] with its origin and unit; a missing neck is the shoulder middle."""

    def __init__(self, keypoints: Any):
        xp = self.xp = keypoints.__array_namespace__()
        present = sk.is_present(keypoints)
        xy = xp.where(present[..., None], keypoints[..., :2], 0)
        xy = xp.clip(xy, -_FARTHEST, _FARTHEST).astype(np.float32)

        shoulders = present[..., sk.R_SHOULDER] & present[..., sk.L_SHOULDER]
        middle = (xy[..., sk.R_SHOULDER, :] + xy[..., sk.L_SHOULDER, :]) / 2
        neck = xp.where(present[..., sk.NECK, None], xy[..., sk.NECK, :], middle)
        self.valid = present[..., sk.NECK] | shoulders
        is_neck = np.arange(sk.NUM_JOINTS) == sk.NECK
        self.present = xp.where(is_neck, self.valid[..., None], present)
        self.xy = xp.where(is_neck[:, None], neck[..., None, :], xy)
        self.neck = neck
        self.unit = self._unit(shoulders)

    def _unit(self, shoulders: Any) -> Any:
        """s of the feature table [...]: the trunk's length, or the next best guess of it."""
        xp = self.xp
        right, left = self.present[..., sk.R_HIP], self.present[..., sk.L_HIP]
        weights = xp.stack([right, left], axis=-1).astype(np.float32)
        hips = self.xy[..., [sk.R_HIP, sk.L_HIP], :]
        hip = (hips * weights[..., None]).sum(-2) / xp.clip(weights.sum(-1), 1, None)[..., None]
        trunk = self._norm(self.neck - hip)
        width = 1.3 * self._norm(self.xy[..., sk.R_SHOULDER, :] - self.xy[..., sk.L_SHOULDER, :])
        y = self.xy[..., 1]
        top = xp.where(self.present, y, xp.inf).min(-1)
        bottom = xp.where(self.present, y, -xp.inf).max(-1)
        height = 0.35 * xp.where(bottom > top, bottom - top, 0)
        unit = xp.where(height > 0, height, 1)
        unit = xp.where(shoulders & (width > 0), width, unit)
        return xp.where((right | left) & (trunk > 0), trunk, unit)

    def _norm(self, vectors: Any) -> Any:
        """Lengths [...] of vectors [..., 2], with a gradient of 0 at 0."""
        square = (vectors * vectors).sum(-1)
        root = self.xp.sqrt(self.xp.where(square > 0, square, 1))
        return self.xp.where(square > 0, root, 0)

    def _have(self, *joints: Sequence[int]) -> Any:
        """bool [..., N]: whether all of the N tuples' joints are present."""
        result = self.present[..., list(joints[0])]
        for other in joints[1:]:
            result = result & self.present[..., list(other)]
        return result

    def clipped(self, values: Any) -> Any:
        return self.xp.clip(values, -_LARGEST, _LARGEST)

    def positions(self, joints: Sequence[int]) -> Any:
        """(p - neck) / s of N joints: [..., N, 2]."""
        joints = list(joints)
        relative = (self.xy[..., joints, :] - self.neck[..., None, :]) / self.unit[..., None, None]
        return self.xp.where(self.present[..., joints, None], self.clipped(relative), 0)

    def flat_positions(self, joints: Sequence[int]) -> Any:
        """`positions` as x, y, x, y, ...: [..., 2 N]."""
        relative = self.positions(joints)
        return relative.reshape(*relative.shape[:-2], -1)

    def offsets(self, pairs: Sequence[tuple[int, int]]) -> Any:
        """(b - a) / s of N pairs of joints: [..., N, 2]."""
        a, b = zip(*pairs, strict=True)
        vectors = (self.xy[..., list(b), :] - self.xy[..., list(a), :]) / self.unit[..., None, None]
        return self.xp.where(self._have(a, b)[..., None], vectors, 0)

    def lengths(self, pairs: Sequence[tuple[int, int]]) -> Any:
        """|b - a| / s of N pairs of joints: [..., N]."""
        return self.clipped(self._norm(self.offsets(pairs)))

    def directions(self, pairs: Sequence[tuple[int, int]]) -> Any:
        """Unit vectors from a to b of N pairs of joints, flat: [..., 2 N]."""
        vectors = self.offsets(pairs)
        length = self._norm(vectors)
        unit = vectors / self.xp.where(length > 0, length, 1)[..., None]
        return unit.reshape(*unit.shape[:-2], -1)

    def angles(self, triples: Sequence[tuple[int, int, int]]) -> Any:
        """The angle at b between a and c of N triples, divided by pi: [..., N] in 0 to 1."""
        xp = self.xp
        a, b, c = zip(*triples, strict=True)
        first = self.offsets(tuple(zip(b, a, strict=True)))
        second = self.offsets(tuple(zip(b, c, strict=True)))
        dot = (first * second).sum(-1)
        cross = abs(first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0])
        defined = self._have(a, b, c) & (self._norm(first) > 0) & (self._norm(second) > 0)
        angle = xp.arctan2(cross, xp.where(defined & ((dot != 0) | (cross != 0)), dot, 1))
        return xp.where(defined, angle / np.float32(np.pi), 0)

    def extensions(self, chains: Sequence[tuple[int, int, int]]) -> Any:
        """|a - c| / (|a - b| + |b - c|) of N chains of two bones: [..., N] in 0 to 1."""
        a, b, c = zip(*chains, strict=True)
        reach = self._norm(self.offsets(tuple(zip(a, c, strict=True))))
        bones = self._norm(self.offsets(tuple(zip(a, b, strict=True)))) + self._norm(
            self.offsets(tuple(zip(b, c, strict=True)))
        )
        ratio = reach / self.xp.where(bones > 0, bones, 1)
        return self.xp.where(self._have(a, b, c), ratio, 0)
