"""Classifies the motion of a track by a sequence network."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from jdance import features, models, skeleton
from jdance.data import augment, crop, temporal
from jdance.errors import UserError
from jdance.recognize import packed
from jdance.recognize.ledger import digest
from jdance.recognize.packed import MotionModel

_MIN_FPS = 6.0  # at which sequence forms can follow a step


class SequenceClassifier:
    """Classifies a person's motion from a few seconds of a track.

    Attributes:
        classes: names of the motions.
        min_confidence: probability below which a motion is unknown.
        source: what its data set was prepared from, see `experiment.source`.
        min_fps: at lower frame rates, frames are classified one by one instead.
    """

    def __init__(self, model: MotionModel, min_fps: float = 0.0):
        config, self.min_fps = model.config, min_fps
        inputs = models.inputs(config.model)
        if inputs.stills or not inputs.sequences:
            raise UserError("not a sequence network; give it as --model")
        if config.model.layout != skeleton.COCO18.name:
            raise UserError(
                f"the sequence network was trained on the layout {config.model.layout}; tracks "
                f"have {skeleton.COCO18.name}"
            )
        self.classes, self._config = model.classes, config
        self.min_confidence, self.source = model.min_confidence, model.source
        self._temperature = model.temperature
        net = models.build(config.model)
        self._variables = jax.device_put(model.variables, jax.devices()[0])

        # With the features, which take longer in NumPy than the network.
        def probabilities(variables: Any, clip: jax.Array) -> jax.Array:
            inputs = features.sequence(config.model.features, clip)
            logits = net.apply(variables, None, inputs, features.valid(clip).any(-1))
            return jax.nn.softmax(logits / model.temperature)  # type: ignore[operator]

        self._probabilities = jax.jit(probabilities)

    @classmethod
    def load(cls, model: str | Path, min_fps: float = 0.0) -> "SequenceClassifier":
        """Loads a sequence network, with its calibration; `model` as for `packed.load`.

        Raises:
            UserError: it cannot be loaded, or is not a sequence network for tracks.
        """
        loaded = packed.load(model)
        try:
            return cls(loaded, min_fps)
        except UserError as error:
            raise UserError(f"{model}: {error}") from None

    @classmethod
    def form_of(cls, model: str) -> "SequenceClassifier | None":
        """The sequence form of a motion network that ships; None if `model` has none."""
        name = packed.SEQUENCE_FORMS.get(model)
        return cls.load(name, _MIN_FPS) if name and not Path(model).exists() else None

    @classmethod
    def choose(cls, name: str | None, model: str) -> "SequenceClassifier | None":
        """Returns the classifier that --sequence_model names.

        Args:
            name: the flag; "" or "none": no classifier; None: the sequence form of `model`.
            model: the motion network.

        Raises:
            UserError: see `load`.
        """
        if name is None:
            return cls.form_of(model)
        return None if name in ("", "none") else cls.load(name)

    def digest(self) -> str:
        """SHA-256 of the network and of everything else that results depend on."""
        return digest(
            jax.device_get(self._variables),
            self._config.model.to_dict(),
            self.classes,
            [self._temperature, self.min_confidence, self.min_fps],
        )

    def __call__(
        self, keypoints: np.ndarray, times: np.ndarray, ends: tuple[float, float]
    ) -> np.ndarray:
        """Computes probabilities float32 [M].

        Args:
            keypoints: float32 [T, 18, 3] of one person, in any unit.
            times: float [T] in seconds, increasing, not necessarily evenly spaced.
            ends: of the window to classify, in seconds; beyond `times`, the first and last skeleton
                are repeated.
        """
        model = self._config.model
        smoothed = temporal.median_filter(crop.fit_keypoints(keypoints))
        even = np.linspace(*ends, model.sequence.frames)
        resampled = temporal.resample_times(smoothed, times, even)
        affine = augment.center_affine(self._config.data.image_size)
        clip = augment.warp_keypoints(resampled[None], affine[None])
        clip = jax.device_put(clip, jax.devices()[0])
        return jax.device_get(self._probabilities(self._variables, clip))[0]
