"""Tasks: everything in which the training of motion and pose networks differs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from jdance import models
from jdance.data.loader import Batch
from jdance.data.records import Dataset
from jdance.errors import UserError
from jdance.models.baselines import qes as qes_networks
from jdance.train.init_from import Flat
from jdance.train.motion import MotionTask
from jdance.train.pose import PoseTask
from jdance.train.qes import PostureTask
from jdance.train.state import LrMultipliers
from jdance.train.steps import Loss


class Task(Protocol):
    """Interface between the training loop and one task with its configuration.

    Attributes:
        config: the experiment, completed from the data set.
        loss: minimized by `steps.train_step`.
        lr_multipliers: see `state.make_optimizer`.
        main_metrics: keys of the evaluation result to log; the first is the checkpoints' score.
    """

    config: ConfigDict
    loss: Loss
    lr_multipliers: LrMultipliers | None
    main_metrics: tuple[str, ...]

    def setup(self, dataset: Dataset) -> None:
        """Completes `config` from the data set.

        Raises:
            UserError: the data set does not fit the task.
        """

    def check(self) -> None:
        """Raises UserError, naming the key, for values that are invalid for this task."""

    def model(
        self,
        axis_name: str | None = None,
        freeze_backbone: bool = False,
        platform: str | None = None,
    ) -> nn.Module:
        """Builds the network.

        Args:
            axis_name: mapped axis over which batch-norm statistics are averaged.
            freeze_backbone: use the backbone's running statistics in training, too.
            platform: for which a training step is compiled, by default JAX's.

        Raises:
            ValueError, UserError: the configuration is invalid.
        """

    def input_shapes(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Shapes and dtypes of the inputs with which the network is initialized."""

    def initial_variables(self, variables: Any) -> Flat:
        """Pretrained values of variables by path, such as those from `config.init_from`.

        Args:
            variables: abstract, with the network's shapes.

        Raises:
            UserError: nothing fits.
        """

    def train_batches(
        self, source: Any, start_step: int, fractions: np.ndarray | None = None
    ) -> Iterator[Batch]:
        """Yields endless training batches of host arrays [B, ...] from `start_step` on.

        `fractions` [M] is the fraction drawn of each class; None: every example once per epoch.
        """

    def cached_images(self, source: Any) -> np.ndarray | None:
        """Images to cache on the devices, see `jdance.data.device_cache`, or None."""

    def evaluate(self, variables: Any, dataset: Dataset, split: str) -> dict[str, Any]:
        """Evaluates the network on a split; `variables` are replicated."""

    def export_artifacts(self, variables: Any, workdir: Path) -> None:
        """Writes further files of a finished run for other programs."""


_DATA_KINDS = {"motion": "persons", "pose": "people"}


def data_kind(config: ConfigDict) -> str:
    """The kind of data set for a configuration, see `records.Dataset`.

    Raises:
        UserError: there is no such task.
    """
    if config.task not in _DATA_KINDS:
        raise UserError(f"--config.task={config.task}: expected {' or '.join(_DATA_KINDS)}")
    return _DATA_KINDS[config.task]


def make(config: ConfigDict, classes: list[str]) -> Task:
    """Makes the task of a configuration for a data set's classes.

    Raises:
        UserError: an unknown network.
    """
    if config.task == "pose":
        return PoseTask(config)
    try:
        posture = models.network(config.model) is qes_networks
    except ValueError as error:
        raise UserError(f"--config.{error}") from error
    return PostureTask(config, classes) if posture else MotionTask(config, classes)
