"""Training of QES: categories and prototypes from the data set, stage 1 by gradient."""

from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from jdance import models, skeleton
from jdance.data import records
from jdance.errors import UserError
from jdance.models.baselines import fuzzy_c_means
from jdance.train import categories, init_from, posture, steps
from jdance.train.motion import MotionTask

POSTURE_FILE = "posture.npz"


class PostureTask(MotionTask):
    """See `tasks.Task`; for branches "qes" and "qes_flat".

    `suit` finds the categories, if the configuration names none; `initial` gives the prototypes of
    stage 2, which do not change in training; `finish` writes DIR/posture.npz, the judgement of
    body parts.
    """

    def __init__(self, config: ConfigDict, classes: list[str]):
        super().__init__(config, classes)
        self._train: tuple[np.ndarray, np.ndarray] | None = None

    def setup(self, dataset: records.Dataset) -> None:
        super().setup(dataset)
        qes, layout = self.config.model.qes, skeleton.LAYOUTS[self.config.model.layout]
        examples = [records.unpack(data) for data in _all(dataset.source("train"))]
        keypoints = np.stack([example.keypoints for example in examples])
        labels = np.array([example.label for example in examples])
        groups = [example.group for example in examples]
        if self.config.augment.flip > 0:  # as stage 1 sees them, too
            keypoints = np.concatenate([keypoints, skeleton.flip(keypoints, 0, layout)])
            labels, groups = np.tile(labels, 2), groups * 2
        self._train = models.inputs(self.config.model).compute(keypoints, layout), labels
        if self.config.model.branches == "qes_flat":
            return
        if not qes.categories:
            qes.categories = categories.find(
                self._train[0],
                labels,
                groups,
                len(self._classes),
                hidden=qes.hidden,
                least=qes.least_categories,
                threshold=qes.confusion,
                seed=self.config.seed,
            )
            print("categories:", self._described())
        if len(qes.categories) == len(self._classes):
            self.loss = partial(
                category_loss,
                categories=tuple(qes.categories),
                smoothing=self.config.optimizer.label_smoothing,
            )

    def initial(self, variables: Any) -> init_from.Flat:
        loaded = super().initial(variables)
        if self.config.model.branches == "qes_flat":
            return loaded
        assert self._train is not None, "the data set has not been seen"
        features, labels = self._train
        qes = self.config.model.qes
        counts = np.bincount(labels, minlength=len(self._classes))
        if self.config.augment.flip > 0:
            counts //= 2  # mirrored ones are no examples of their own
        if counts.min() < qes.prototypes:
            name = self._classes[int(counts.argmin())]
            raise UserError(
                f"--config.model.qes.prototypes={qes.prototypes}: only {counts.min()} training "
                f"examples of class {name!r}; choose no more than that"
            )
        weights = (labels == np.arange(len(counts))[:, None]).astype(np.float32)
        fit = partial(fuzzy_c_means.fit, count=qes.prototypes, fuzziness=qes.fuzziness)
        keys = jax.random.split(jax.random.key(self.config.seed), len(counts))
        prototypes = jax.vmap(fit, (None, 0, 0))(jnp.asarray(features), jnp.asarray(weights), keys)
        return loaded | {("batch_stats", "prototypes"): np.asarray(jax.device_get(prototypes))}

    def export_artifacts(self, variables: Any, workdir: Path) -> None:
        assert self._train is not None, "the data set has not been seen"
        features, labels = self._train
        posture.fit(features, labels, tuple(self._classes)).save(workdir / POSTURE_FILE)

    def _described(self) -> str:
        numbers = self.config.model.qes.categories
        parts = [
            " + ".join(n for n, c in zip(self._classes, numbers, strict=True) if c == category)
            for category in range(max(numbers) + 1)
        ]
        return ", ".join(parts)


def category_loss(
    model: nn.Module,
    variables: dict[str, Any],
    batch: dict[str, Array],
    key: Array,
    *,
    categories: tuple[int, ...],
    smoothing: float = 0.0,
) -> tuple[Array, tuple[dict[str, Array], Any]]:
    """Mean cross-entropy and accuracy of stage 1; see `steps.motion_loss`."""
    labels = jnp.array(categories)[batch["label"]]
    logits = model.apply(variables, batch["features"], method="category_logits")
    loss = steps.cross_entropy(jnp.asarray(logits), labels, smoothing).mean()
    accuracy = (jnp.asarray(logits).argmax(-1) == labels).mean()
    return loss, ({"category_accuracy": accuracy}, variables["batch_stats"])


def _all(source: Any) -> list[bytes]:
    return [source[i] for i in range(len(source))]
