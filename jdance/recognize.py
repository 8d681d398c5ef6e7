"""From a picture to a motion for everybody in it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jdance import draw, features, models, skeleton
from jdance.data import augment, crop
from jdance.errors import UserError
from jdance.pose import DecodeConfig, PoseEstimator
from jdance.training import loop, steps

_BUCKETS = (1, 2, 4, 8, 16, 32)  # numbers of people for which a program is compiled


@dataclass(frozen=True)
class Person:
    """A recognised person.

    Attributes:
        keypoints: float32 [18, 3] in pixels of the picture, or None for a whole picture.
        box: x, y, width, height of the key points, in pixels.
        motion: the most probable motion.
        probabilities: float32 [M], in the order of the classes.
    """

    keypoints: np.ndarray | None
    box: tuple[float, float, float, float]
    motion: str
    probabilities: np.ndarray

    def to_json(self, track: int) -> dict[str, Any]:
        """The person's entry in the result file."""
        keypoints = self.keypoints
        return {
            "track": track,
            "box": [round(value, 2) for value in self.box],
            "keypoints": None if keypoints is None else np.round(keypoints, 3).tolist(),
            "motion": self.motion,
            "probabilities": [round(float(p), 5) for p in self.probabilities],
        }


class Recognizer:
    """A pose network and a trained motion network.

    Args:
        config: the experiment of the motion network.
        classes: the motions' names.
        variables: the motion network's variables.
        estimator: finds people; None: key points always come with the picture.
        min_joints: people with fewer joints do not count as found.
    """

    def __init__(
        self,
        config: ConfigDict,
        classes: list[str],
        variables: Any,
        estimator: PoseEstimator | None = None,
        min_joints: int = 1,
    ):
        self.config, self.classes, self.estimator = config, classes, estimator
        self._min_joints = min_joints
        self._variables = jax.device_put(variables, jax.devices()[0])
        model = models.build(config.model)
        self._classify = jax.jit(
            lambda variables, batch: steps.eval_step(variables, batch, model=model)
        )

    @classmethod
    def load(cls, model: str | Path, pose: str | None = None, min_joints: int = 4) -> "Recognizer":
        """Loads the newest checkpoint of a run, and the pose network `pose` if one is named.

        People with fewer than `min_joints` joints do not count as found.

        Raises:
            UserError: either of them cannot be used.
        """
        config, classes, variables = loop.load(Path(model))
        estimator = None
        if pose:
            estimator = PoseEstimator.load(pose, DecodeConfig(min_joints=min_joints))
        return cls(config, classes, variables, estimator, min_joints)

    def __call__(
        self,
        image: np.ndarray,
        keypoints: np.ndarray | None = None,
        *,
        whole_picture: bool = False,
    ) -> list[Person]:
        """Recognises everybody in a picture.

        Args:
            image: uint8 RGB [H, W, 3].
            keypoints: float32 [N, 18, 3] of the people, if they are known; else they are sought.
            whole_picture: if nobody is found, judge the picture as a whole.

        Returns:
            The people from left to right (known ones: in their order); maybe none.
        """
        height, width = image.shape[:2]
        if keypoints is None:
            if self.estimator is None:
                raise UserError("key points are not known; choose a pose network with --pose")
            keypoints = self.estimator.people(image)
        keypoints = keypoints[skeleton.is_present(keypoints).sum(-1) >= self._min_joints]
        people: list[np.ndarray | None] = list(keypoints)
        boxes = [crop.tight_box(person) for person in keypoints]
        squares = [crop.around(person) for person in keypoints]
        if not people and whole_picture:
            people, boxes = [None], [(0.0, 0.0, float(width), float(height))]
            squares = [crop.whole(height, width)]
        if not people:
            return []
        probabilities = self._probabilities(image, people, squares)
        return [
            Person(person, box, self.classes[int(p.argmax())], p)
            for person, box, p in zip(people, boxes, probabilities, strict=True)
        ]

    def _probabilities(
        self, image: np.ndarray, people: list[np.ndarray | None], squares: list[crop.Square]
    ) -> np.ndarray:
        """Probabilities float32 [N, M], computed in batches of a few fixed sizes."""
        size = self.config.data.image_size
        nobody = np.zeros((skeleton.NUM_JOINTS, 3), np.float32)
        affine, _ = augment.matrix(size, None, self.config.augment)
        seen = np.stack(
            [
                nobody
                if person is None
                else augment.warp_keypoints(crop.into(person, square), affine, False)
                for person, square in zip(people, squares, strict=True)
            ]
        )
        batch = {
            "features": models.compute_features(self.config.model, seen, skeleton.COCO18),
            "valid": features.valid(seen),
        }
        if models.uses_image(self.config.model):
            views = [augment.view(crop.cut(image, square), size) for square in squares]
            batch["image"] = np.stack(views)
        rows = []
        for start in range(0, len(people), _BUCKETS[-1]):
            part = {name: value[start : start + _BUCKETS[-1]] for name, value in batch.items()}
            count = len(part["valid"])
            missing = next(size for size in _BUCKETS if size >= count) - count
            padded = {
                name: np.pad(value, [(0, missing)] + [(0, 0)] * (value.ndim - 1))
                for name, value in part.items()
            }
            rows.append(jax.device_get(self._classify(self._variables, padded))[:count])
        return np.concatenate(rows)


def annotate(image: np.ndarray, people: list[Person], classes: list[str]) -> np.ndarray:
    """Draws skeleton, box, motion and probability of every person: uint8 RGB [H, W, 3]."""
    return draw.people(
        image,
        [person.keypoints for person in people],
        [person.box for person in people],
        [f"{person.motion} {person.probabilities.max():.2f}" for person in people],
        [classes.index(person.motion) for person in people],
    )
