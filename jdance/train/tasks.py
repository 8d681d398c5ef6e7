"""What a run trains: everything in which one kind of network differs from another.

The loop, the steps and the checkpoints know nothing of motions or maps; they ask a task.
"""

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
from jdance.train.state import Factors
from jdance.train.steps import Loss


class Task(Protocol):
    """One kind of training, for one configuration.

    Attributes:
        config: the experiment, completed with what the data set tells.
        loss: what `steps.train_step` minimises.
        rate_factors: from parameters to a tree like them of factors of the learning rate, or None.
        headline: keys of an evaluation's result that are logged; the first sums it up.
    """

    config: ConfigDict
    loss: Loss
    lr_multipliers: Factors | None
    main_metrics: tuple[str, ...]

    def setup(self, dataset: Dataset) -> None:
        """Completes `config` with what the data set tells.

        Raises:
            UserError: nothing can be trained with this data set.
        """

    def check(self) -> None:
        """Raises UserError, naming the key, for values that mean nothing to this task."""

    def model(
        self,
        axis_name: str | None = None,
        freeze_backbone: bool = False,
        platform: str | None = None,
    ) -> nn.Module:
        """The network; `axis_name` is the mapped axis that shares batch-norm statistics.

        With `freeze_backbone` the backbone's statistics stay as they are in training, too. A
        training step will run on `platform`, or on the default one.

        Raises:
            ValueError, UserError: the configuration describes none.
        """

    def inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Shapes and dtypes with which the network is initialised."""

    def initial(self, variables: Any) -> Flat:
        """What variables with these shapes start from, if not from random numbers, by path.

        That is what `config.init_from` gives, if it names anything.

        Raises:
            UserError: nothing fits.
        """

    def train_batches(
        self, source: Any, start_step: int, shares: np.ndarray | None = None
    ) -> Iterator[Batch]:
        """Endless training batches of host arrays [B, ...] from `start_step` on.

        `shares` [M] says how often each class is drawn; None: every example once in an epoch.
        """

    def resident(self, source: Any) -> np.ndarray | None:
        """Images that stay on the devices, see `jdance.data.device_cache`, or None."""

    def evaluate(self, variables: Any, dataset: Dataset, split: str) -> dict[str, Any]:
        """Judges the network on a split; `variables` are on every device."""

    def export_artifacts(self, variables: Any, workdir: Path) -> None:
        """Writes what else of a finished run other programs use."""


_DATA_KINDS = {"motion": "persons", "pose": "people"}


def data_kind(config: ConfigDict) -> str:
    """The kind of data set that a configuration trains on, see `records.Dataset`.

    Raises:
        UserError: there is no such task.
    """
    if config.task not in _DATA_KINDS:
        raise UserError(f"--config.task={config.task}: expected {' or '.join(_DATA_KINDS)}")
    return _DATA_KINDS[config.task]


def make(config: ConfigDict, classes: list[str]) -> Task:
    """The task of a configuration, for a data set's classes."""
    if config.task == "pose":
        return PoseTask(config)
    posture = models.network(config.model) is qes_networks
    return PostureTask(config, classes) if posture else MotionTask(config, classes)
