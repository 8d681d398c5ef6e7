"""QES's posture model: a score and a correction for each body part of a motion.

Wu et al., Sensors 19(23):5129, 2019, in two dimensions. For each motion, a linear-Gaussian Bayesian
network follows the kinematic tree: the direction of a body part is normally distributed around a
linear function of its parent's direction. It is fitted in closed form, in NumPy.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jdance import features, npz
from jdance.errors import UserError

PARTS = tuple(features.SEGMENTS)  # in the order of the features
# Kinematic tree, with the trunk as the root: all directions are relative to it.
_PARENTS = {
    "right upper arm": "shoulders", "left upper arm": "shoulders",
    "right forearm": "right upper arm", "left forearm": "left upper arm",
    "right thigh": "hips", "left thigh": "hips",
    "right shin": "right thigh", "left shin": "left thigh",
}  # fmt: skip
_MIN_STD = 0.05  # of a direction, about 3 degrees
_MIN_EXAMPLES = 8  # per motion and body part


class BodyPart(NamedTuple):
    """Score and correction of one body part.

    Attributes:
        name: in `PARTS`.
        score: exp(-d^2 / 2) with the Mahalanobis distance d: 1 in the expected direction, 0.5 on
            average over the training examples, near 0 if unusual.
        angle: rotation in degrees to the expected direction, given the parent's; positive is
            clockwise in the image.
    """

    name: str
    score: float
    angle: float


@dataclass(frozen=True)
class PostureModel:
    """Linear-Gaussian models of the 11 body parts for each of M motions.

    Attributes:
        classes: names of the motions.
        slopes: float64 [M, 11, 2, 2], applied to the parent's direction (0 without a parent).
        offsets: float64 [M, 11, 2].
        covariances: float64 [M, 11, 2, 2] of the residuals.
        counts: int [M, 11], number of training examples; parts with fewer than 8 are not scored.
    """

    classes: tuple[str, ...]
    slopes: np.ndarray
    offsets: np.ndarray
    covariances: np.ndarray
    counts: np.ndarray

    def check(self, motion: str) -> None:
        """Raises UserError for an unknown motion."""
        if motion not in self.classes:
            raise UserError(f"no posture model of {motion!r}: trained on {', '.join(self.classes)}")

    def score_parts(self, keypoints: np.ndarray, motion: str) -> list[BodyPart]:
        """Scores the body parts of a person.

        Args:
            keypoints: float32 [18, 3] of the person.
            motion: one of the classes.

        Returns:
            The parts that are visible together with their parents.

        Raises:
            UserError: an unknown motion.
        """
        self.check(motion)
        label = self.classes.index(motion)
        segments = features.compute("segments22", keypoints).reshape(len(PARTS), 2)
        result = []
        for i, name in enumerate(PARTS):
            parent = _parent(segments, i)
            trained = self.counts[label, i] >= _MIN_EXAMPLES
            if not (trained and segments[i].any() and (parent is None or parent.any())):
                continue
            mean = self.offsets[label, i]
            if parent is not None:
                mean = mean + self.slopes[label, i] @ parent
            residual = segments[i] - mean
            square = float(residual @ np.linalg.solve(self.covariances[label, i], residual))
            turn = np.arctan2(mean[1], mean[0]) - np.arctan2(segments[i, 1], segments[i, 0])
            degrees = float(np.degrees((turn + np.pi) % (2 * np.pi) - np.pi))
            result.append(BodyPart(name, float(np.exp(-square / 2)), degrees))
        return result

    def save(self, path: Path) -> None:
        np.savez(path, **(vars(self) | {"classes": json.dumps(self.classes)}))

    @classmethod
    def load(cls, path: Path) -> "PostureModel":
        """Reads what `save` wrote.

        Raises:
            UserError: the file is missing or not a posture model.
        """
        if not path.exists():
            raise UserError(f"{path}: no such file; train with --config=configs/qes.py first")
        arrays = npz.read(path)
        try:
            classes = tuple(json.loads(str(arrays.pop("classes"))))
            if not all(isinstance(name, str) for name in classes):
                raise ValueError("classes are not names")
            shapes = {"slopes": (2, 2), "offsets": (2,), "covariances": (2, 2), "counts": ()}
            for name, shape in shapes.items():
                array, expected = arrays[name], (len(classes), len(PARTS), *shape)
                if array.shape != expected or array.dtype.kind not in "fi":
                    raise ValueError(f"{name} is {array.dtype} {array.shape}")
                if not np.isfinite(array).all():
                    raise ValueError(f"{name} is not finite")
            np.linalg.cholesky(arrays["covariances"])  # raises unless positive definite
            return cls(classes, **{name: arrays[name] for name in shapes})
        except (ValueError, KeyError, TypeError, RecursionError, np.linalg.LinAlgError) as error:
            raise UserError(f"{path}: not a posture model ({error!r})") from error


def fit(segments: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> PostureModel:
    """Fits a posture model.

    Args:
        segments: float32 [N, 22], the feature set "segments22"; missing parts are 0.
        labels: int [N].
        classes: names of the M motions.
    """
    count, parts = len(classes), len(PARTS)
    slopes, offsets = np.zeros((count, parts, 2, 2)), np.zeros((count, parts, 2))
    covariances = np.tile(np.eye(2), (count, parts, 1, 1))
    counts = np.zeros((count, parts), int)
    for label in range(count):
        directions = segments[labels == label].reshape(-1, parts, 2).astype(np.float64)
        for i in range(parts):
            parent = _parent(directions, i)
            visible = directions[:, i].any(-1)
            if parent is not None:
                visible &= parent.any(-1)
            counts[label, i] = visible.sum()
            if visible.sum() < _MIN_EXAMPLES:
                continue
            y = directions[visible, i]
            design = np.ones((len(y), 1))
            if parent is not None:
                design = np.hstack([parent[visible], design])
            # Ridge regression: slopes stay small where the parent hardly moves.
            gram = design.T @ design + np.diag([1e-2] * (design.shape[1] - 1) + [0])
            weights = np.linalg.solve(gram, design.T @ y)
            residual = y - design @ weights
            slopes[label, i] = weights[:-1].T if parent is not None else 0
            offsets[label, i] = weights[-1]
            covariances[label, i] = residual.T @ residual / len(y) + _MIN_STD**2 * np.eye(2)
    return PostureModel(classes, slopes, offsets, covariances, counts)


def _parent(segments: np.ndarray, part: int) -> np.ndarray | None:
    """The direction [..., 2] of a part's parent, from segments [..., 11, 2]; None for the root."""
    parent = _PARENTS.get(PARTS[part])
    return None if parent is None else segments[..., PARTS.index(parent), :]
