"""Training of motion networks, which classify the motion of one person."""

from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jdance import features, models
from jdance.data import device_cache, loader, records, sampling
from jdance.data.records import Dataset
from jdance.errors import UserError
from jdance.train import init_from, steps
from jdance.train.evaluation import EvalStep, make_eval_step, predict, summarize
from jdance.train.state import LrMultipliers


def check_fits(dataset: Dataset, model: ConfigDict) -> None:
    """Checks that a data set holds the key points that a network takes.

    Raises:
        UserError: it holds stills, sequences or a skeleton layout that the network does not take.
    """
    inputs = models.inputs(model)
    if not (inputs.sequences if dataset.sequences else inputs.stills):
        kind, fitting, other = "stills", "fused", "sequences"
        if dataset.sequences:
            kind, fitting, other = "sequences", "sequence", "stills"
        raise UserError(
            f"{dataset.name}: holds {kind}; train with --config.model.branches={fitting}, or give "
            f"a data set of {other}"
        )
    if dataset.layout != model.layout:
        raise UserError(
            f"{dataset.name}: holds skeletons of {dataset.layout}, but the network takes "
            f"{model.layout}; give a data set of that layout, or train a network on this one"
        )


class MotionTask:
    """See `tasks.Task`."""

    main_metrics: tuple[str, ...] = ("accuracy", "loss")
    lr_multipliers: LrMultipliers | None = None

    def __init__(self, config: ConfigDict, classes: list[str]):
        self.config, self._classes = config.copy_and_resolve_references(), classes
        self.config.model.classes = len(classes)
        self._groups: dict[tuple[str, str], np.ndarray] = {}  # of a split's examples
        self.loss: steps.Loss = partial(
            steps.motion_loss, smoothing=config.optimizer.label_smoothing
        )

    def setup(self, dataset: Dataset) -> None:
        self.check()  # the inputs depend on valid names
        self.config.model.layout = dataset.layout
        check_fits(dataset, self.config.model)

    def check(self) -> None:
        config = self.config
        if config.model.features not in features.NAMES:
            raise UserError(
                f"--config.model.features={config.model.features}: expected one of "
                f"{', '.join(features.NAMES)}"
            )
        if config.data.sampling not in sampling.SAMPLINGS:
            raise UserError(
                f"--config.data.sampling={config.data.sampling}: expected one of "
                f"{', '.join(sampling.SAMPLINGS)}"
            )
        for key in ("color", "erase"):
            if config.data.resident and config.augment[key]:
                raise UserError(
                    f"--config.augment.{key}={config.augment[key]}: not available with "
                    "data.resident; disable one of them"
                )
        if config.freeze_epochs and not models.inputs(config.model).image:
            raise UserError(
                f"--config.freeze_epochs={config.freeze_epochs}: model.branches="
                f"{config.model.branches} has no backbone to freeze; set it to 0"
            )

    def model(
        self,
        axis_name: str | None = None,
        freeze_backbone: bool = False,
        platform: str | None = None,
    ) -> nn.Module:
        return models.build(self.config.model, axis_name, freeze_backbone, platform)

    def input_shapes(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        size = self.config.data.image_size
        return (
            jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8),
            jax.ShapeDtypeStruct((1, *models.inputs(self.config.model).shape), jnp.float32),
        )

    def initial_variables(self, variables: Any) -> init_from.Flat:
        if not self.config.init_from:
            return {}
        config = self.config
        loaded, message = init_from.read(config.init_from, variables, config.model, self._classes)
        if jax.process_index() == 0:
            print(message)
        return loaded

    def train_batches(
        self, source: Any, start_step: int, fractions: np.ndarray | None = None
    ) -> Iterator[loader.Batch]:
        return loader.train_batches(
            source,
            self.config,
            models.inputs(self.config.model),
            start_step,
            jax.process_index(),
            jax.process_count(),
            fractions,
        )

    def cached_images(self, source: Any) -> np.ndarray | None:
        config = self.config
        if not (config.data.resident and models.inputs(config.model).image):
            return None
        return device_cache.decode_images(source, config.data.image_size)

    def evaluate(self, variables: Any, dataset: Dataset, split: str) -> dict[str, Any]:
        batches = loader.eval_batches(
            dataset.source(split),
            self.config,
            models.inputs(self.config.model),
            jax.process_index(),
            jax.process_count(),
        )
        predictions = predict(self._eval_step, variables, batches)
        key = dataset.name, split
        if key not in self._groups:
            self._groups[key] = records.read_groups(dataset.source(split))
        return summarize(predictions, self._classes, *key, self._groups[key])

    def export_artifacts(self, variables: Any, workdir: Path) -> None:
        pass

    @cached_property
    def _eval_step(self) -> EvalStep:
        return make_eval_step(self.config)
