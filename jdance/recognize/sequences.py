"""Classifies the motion of a track by a sequence network."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from jdance import features, models, skeleton
from jdance.data import augment, crop, temporal
from jdance.errors import UserError
from jdance.train import calibration, loop


class SequenceClassifier:
    """Classifies a person's motion from a few seconds of a track.

    Attributes:
        classes: names of the motions.
    """

    def __init__(self, config: Any, classes: list[str], variables: Any, temperature: float = 1.0):
        inputs = models.inputs(config.model)
        if inputs.stills or not inputs.sequences:
            raise UserError("not a sequence network; give it as --model")
        if config.model.layout != skeleton.COCO18.name:
            raise UserError(
                f"the sequence network was trained on the layout {config.model.layout}; tracks "
                f"have {skeleton.COCO18.name}"
            )
        self.classes, self._config = classes, config
        net = models.build(config.model)
        self._variables = jax.device_put(variables, jax.devices()[0])

        def probabilities(variables: Any, inputs: jax.Array, valid: jax.Array) -> jax.Array:
            logits = net.apply(variables, None, inputs, valid)
            return jax.nn.softmax(logits / temperature)  # type: ignore[operator]

        self._probabilities = jax.jit(probabilities)

    @classmethod
    def load(cls, folder: str | Path) -> "SequenceClassifier":
        """Loads the newest checkpoint of a run, with its calibration.

        Raises:
            UserError: the run cannot be loaded, or is not of a sequence network for tracks.
        """
        config, classes, variables = loop.load(Path(folder))
        try:
            return cls(
                config,
                classes,
                jax.device_get(variables),
                calibration.load_temperature(Path(folder)),
            )
        except UserError as error:
            raise UserError(f"{folder}: {error}") from None

    def __call__(self, keypoints: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Computes probabilities float32 [M].

        Args:
            keypoints: float32 [T, 18, 3] of one person, in any unit.
            times: float [T] in seconds, increasing, not necessarily evenly spaced.
        """
        model = self._config.model
        smoothed = temporal.median_filter(crop.fit_keypoints(keypoints))
        even = np.linspace(times[0], times[-1], model.sequence.frames)
        resampled = temporal.resample(smoothed, np.interp(even, times, np.arange(len(times))))
        affine = augment.center_affine(self._config.data.image_size)
        clip = augment.warp_keypoints(resampled[None], affine[None])
        inputs = features.sequence(model.features, clip), features.valid(clip).any(-1)
        inputs = jax.device_put(inputs, jax.devices()[0])
        return jax.device_get(self._probabilities(self._variables, *inputs))[0]
