"""QES's judgement of how well a motion is done: for each body part a score and a correction.

Wu et al., Sensors 19(23):5129, 2019, in two dimensions. For each motion a linear-Gaussian Bayesian
network follows the kinematic tree: the direction of a body part, given that of the part before it,
is normal around a linear function of it. All in NumPy: it is fitted in closed form.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jdance import features, npz
from jdance.errors import UserError

PARTS = tuple(features.SEGMENTS)  # in the order of the features
# The part before each in the kinematic tree; the trunk, to which all directions are relative, is
# the root.
_PARENTS = {
    "right upper arm": "shoulders", "left upper arm": "shoulders",
    "right forearm": "right upper arm", "left forearm": "left upper arm",
    "right thigh": "hips", "left thigh": "hips",
    "right shin": "right thigh", "left shin": "left thigh",
}  # fmt: skip
_SPREAD = 0.05  # least standard deviation of a direction, about 3 degrees
_FEWEST = 8  # examples that a body part of a motion is learned from


class BodyPart(NamedTuple):
    """One body part of a person.

    Fields:
        name: in `PARTS`.
        score: 1 is as most do it, towards 0 the more unusual; exp(-d^2 / 2) with the Mahalanobis
            distance d.
        angle: degrees by which to turn the part for the usual direction, given the part before it:
            positive is clockwise in the image.
    """

    name: str
    score: float
    angle: float


@dataclass(frozen=True)
class PostureModel:
    """What is usual for each of M motions and each of the 11 parts.

    Attributes:
        classes: names of the motions.
        slopes: float64 [M, 11, 2, 2], the linear function of the part before (0 for the first).
        offsets: float64 [M, 11, 2].
        covariances: float64 [M, 11, 2, 2] of what is left.
        counts: int [M, 11], examples from which each was learned; with fewer than 8 there is no
            judgement.
    """

    classes: tuple[str, ...]
    slopes: np.ndarray
    offsets: np.ndarray
    covariances: np.ndarray
    counts: np.ndarray

    def check(self, motion: str) -> None:
        """Raises UserError if the model knows no such motion."""
        if motion not in self.classes:
            raise UserError(f"no judgement of {motion!r}: learned from {', '.join(self.classes)}")

    def score_parts(self, keypoints: np.ndarray, motion: str) -> list[BodyPart]:
        """Judges how a person does a motion.

        Args:
            keypoints: float32 [18, 3] of the person.
            motion: one of the classes.

        Returns:
            The parts that can be judged; none whose joints (or those of the part before) are
            missing.

        Raises:
            UserError: the model knows no such motion.
        """
        self.check(motion)
        number = self.classes.index(motion)
        segments = features.compute("segments22", keypoints).reshape(len(PARTS), 2)
        result = []
        for i, name in enumerate(PARTS):
            parent = _before(segments, i)
            enough = self.counts[number, i] >= _FEWEST
            if not (enough and segments[i].any() and (parent is None or parent.any())):
                continue
            usual = self.offsets[number, i]
            if parent is not None:
                usual = usual + self.slopes[number, i] @ parent
            off = segments[i] - usual
            square = float(off @ np.linalg.solve(self.covariances[number, i], off))
            turn = np.arctan2(usual[1], usual[0]) - np.arctan2(segments[i, 1], segments[i, 0])
            degrees = float(np.degrees((turn + np.pi) % (2 * np.pi) - np.pi))
            result.append(BodyPart(name, float(np.exp(-square / 2)), degrees))
        return result

    def save(self, path: Path) -> None:
        np.savez(
            path,
            classes=json.dumps(self.classes),
            slopes=self.slopes,
            offsets=self.offsets,
            covariances=self.covariances,
            counts=self.counts,
        )

    @classmethod
    def load(cls, path: Path) -> "PostureModel":
        """Reads what `save` wrote.

        Raises:
            UserError: there is no such file, or it holds something else.
        """
        if not path.exists():
            raise UserError(f"{path}: no such file; train with --config=configs/qes.py first")
        arrays = npz.read(path)
        try:
            classes = tuple(json.loads(str(arrays.pop("classes"))))
            if not all(isinstance(name, str) for name in classes):
                raise ValueError("classes without names")
            shapes = {"slopes": (2, 2), "offsets": (2,), "covariances": (2, 2), "counts": ()}
            for name, shape in shapes.items():
                array = arrays[name]
                if (
                    array.shape != (len(classes), len(PARTS), *shape)
                    or array.dtype.kind not in "fi"
                ):
                    raise ValueError(f"{name} is {array.dtype} {array.shape}")
                if not np.isfinite(array).all():
                    raise ValueError(f"{name} is not finite")
            np.linalg.cholesky(arrays["covariances"])  # else nothing can be judged by them
            return cls(classes, **{name: arrays[name] for name in shapes})
        except (ValueError, KeyError, TypeError, RecursionError, np.linalg.LinAlgError) as error:
            raise UserError(f"{path}: not a posture model ({error!r})") from error


def fit(segments: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> PostureModel:
    """Learns what is usual.

    Args:
        segments: float32 [N, 22], the feature set "segments22"; missing parts are 0.
        labels: int [N].
        classes: names of the M motions.
    """
    count, parts = len(classes), len(PARTS)
    slopes, offsets = np.zeros((count, parts, 2, 2)), np.zeros((count, parts, 2))
    covariances = np.tile(np.eye(2), (count, parts, 1, 1))
    counts = np.zeros((count, parts), int)
    for number in range(count):
        own = segments[labels == number].reshape(-1, parts, 2).astype(np.float64)
        for i in range(parts):
            parent = _before(own, i)
            there = own[:, i].any(-1)
            if parent is not None:
                there &= parent.any(-1)
            counts[number, i] = there.sum()
            if there.sum() < _FEWEST:
                continue
            y = own[there, i]
            design = np.ones((len(y), 1))
            if parent is not None:
                design = np.hstack([parent[there], design])
            # A slight pull towards 0 where the part before hardly moves.
            gram = design.T @ design + np.diag([1e-2] * (design.shape[1] - 1) + [0])
            weights = np.linalg.solve(gram, design.T @ y)
            left = y - design @ weights
            slopes[number, i] = weights[:-1].T if parent is not None else 0
            offsets[number, i] = weights[-1]
            covariances[number, i] = left.T @ left / len(y) + _SPREAD**2 * np.eye(2)
    return PostureModel(classes, slopes, offsets, covariances, counts)


def _before(segments: np.ndarray, part: int) -> np.ndarray | None:
    """Of segments [..., 11, 2] the one [..., 2] before `part` in the tree; None for the first."""
    parent = _PARENTS.get(PARTS[part])
    return None if parent is None else segments[..., PARTS.index(parent), :]
