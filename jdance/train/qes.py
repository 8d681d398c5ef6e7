"""Training of QES: categories and prototypes from the data set, stage 1 by gradient descent."""

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
    """Task of the branches "qes" and "qes_flat"; see `tasks.Task`.

    `setup` finds the categories unless the configuration has them, `initial_variables` adds the
    prototypes of stage 2, which training does not change, and `export_artifacts` writes
    DIR/posture.npz, which scores body parts.
    """

    def __init__(self, config: ConfigDict, classes: list[str]):
        super().__init__(config, classes)
        self._train: tuple[np.ndarray, np.ndarray] | None = None

    def setup(self, dataset: records.Dataset) -> None:
        super().setup(dataset)
        qes, layout = self.config.model.qes, skeleton.LAYOUTS[self.config.model.layout]
        source = dataset.source("train")
        examples = [records.unpack(source[i]) for i in range(len(source))]
        keypoints = np.stack([example.keypoints for example in examples])
        labels = np.array([example.label for example in examples])
        groups = [example.group for example in examples]
        if self.config.augment.flip > 0:  # stage 1 trains on them, too
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
                min_categories=qes.min_categories,
                threshold=qes.confusion,
                seed=self.config.seed,
            )
            print("categories:", self._describe_categories())
        if len(qes.categories) == len(self._classes):
            self.loss = partial(
                category_loss,
                categories=tuple(qes.categories),
                smoothing=self.config.optimizer.label_smoothing,
            )

    def initial_variables(self, variables: Any) -> init_from.Flat:
        loaded = super().initial_variables(variables)
        if self.config.model.branches == "qes_flat":
            return loaded
        assert self._train is not None, "setup has not been called"
        features, labels = self._train
        qes = self.config.model.qes
        counts = np.bincount(labels, minlength=len(self._classes))
        if self.config.augment.flip > 0:
            counts //= 2  # without the mirrored copies
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
        assert self._train is not None, "setup has not been called"
        features, labels = self._train
        posture.fit(features, labels, tuple(self._classes)).save(workdir / POSTURE_FILE)

    def _describe_categories(self) -> str:
        """The classes by category: "wave + walk, stand"."""
        members: dict[int, list[str]] = {}
        for name, category in zip(self._classes, self.config.model.qes.categories, strict=True):
            members.setdefault(category, []).append(name)
        return ", ".join(" + ".join(members[category]) for category in sorted(members))


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
    category = jnp.array(categories)
    labels, partners = category[batch["label"]], steps.partners(batch)
    if partners is not None:
        partners = category[partners[0]], partners[1]
    logits = model.apply(variables, batch["features"], method="category_logits")
    loss = steps.cross_entropy(jnp.asarray(logits), labels, smoothing, partners).mean()
    accuracy = (jnp.asarray(logits).argmax(-1) == labels).mean()
    return loss, ({"category_accuracy": accuracy}, variables["batch_stats"])
