"""The sequence network on a part of a track."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from jdance import features, models, skeleton
from jdance.data import augment, crop, temporal
from jdance.errors import UserError
from jdance.train import calibration, loop


class SequenceClassifier:
    """Names the motion of a person in a few seconds of a track.

    Attributes:
        classes: the motions' names.
    """

    def __init__(self, config: Any, classes: list[str], variables: Any, temperature: float = 1.0):
        inputs = models.inputs(config.model)
        if inputs.stills or not inputs.sequences:
            raise UserError("not a sequence network; name it with --model")
        if config.model.layout != skeleton.COCO18.name:
            raise UserError(
                f"the sequence network was trained on skeletons of the layout "
                f"{config.model.layout}; tracks have {skeleton.COCO18.name}"
            )
        self.classes, self._config = classes, config
        net = models.build(config.model)
        self._variables = jax.device_put(variables, jax.devices()[0])

        def probabilities(variables: Any, numbers: jax.Array, valid: jax.Array) -> jax.Array:
            logits = net.apply(variables, None, numbers, valid)
            return jax.nn.softmax(logits / temperature)  # type: ignore[operator]

        self._probabilities = jax.jit(probabilities)

    @classmethod
    def load(cls, folder: str | Path) -> "SequenceNamer":
        """Loads the newest checkpoint of a run of a sequence network.

        Raises:
            UserError: the folder holds none that tracks can be given to.
        """
        config, classes, variables = loop.load(Path(folder))
        try:
            return cls(
                config, classes, jax.device_get(variables), calibration.temperature_of(Path(folder))
            )
        except UserError as error:
            raise UserError(f"{folder}: {error}") from None

    def __call__(self, keypoints: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Probabilities float32 [M].

        Args:
            keypoints: float32 [T, 18, 3] of one person, in whatever unit.
            times: float [T] in seconds, growing; frames need not be evenly spaced.
        """
        model = self._config.model
        frames = model.sequence.frames
        seen = temporal.smooth(crop.fit(keypoints))
        even = np.linspace(times[0], times[-1], frames)
        seen = temporal.resample(seen, np.interp(even, times, np.arange(len(times))))
        affine = augment.plain(self._config.data.image_size)
        seen = augment.warp_keypoints(seen[None], affine[None])
        numbers = features.sequence(model.features, seen)
        valid = features.valid(seen).any(-1)
        inputs = jax.device_put((numbers, valid), jax.devices()[0])
        return jax.device_get(self._probabilities(self._variables, *inputs))[0]
