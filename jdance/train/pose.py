"""Training of pose networks, which map images to heat maps and part-affinity fields."""

import re
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array
from ml_collections import ConfigDict

from jdance.data import pose_loader
from jdance.data.loader import Batch
from jdance.data.records import Dataset
from jdance.errors import UserError
from jdance.pose import PoseEstimator, targets, weights
from jdance.pose.evaluation import average_precision
from jdance.train import distributed, init_from
from jdance.train.state import LrMultipliers
from jdance.train.steps import Loss


class PoseTask:
    """See `tasks.Task`."""

    main_metrics: tuple[str, ...] = ("AP", "AP50", "AP75", "AR")

    def __init__(self, config: ConfigDict):
        self.config = config.copy_and_resolve_references()
        self.loss: Loss = partial(pose_loss, heat_weight=config.heat_weight)
        self.lr_multipliers: LrMultipliers | None = partial(
            stage_multipliers, later=config.optimizer.later_stages
        )

    def check(self) -> None:
        name, size = self.config.model.network, self.config.data.image_size
        network = weights.find_network(name)
        if not network.trainable:
            raise UserError(
                f"--config.model.network={name}: can be used, but not trained; choose another"
            )
        if self.config.freeze_epochs:
            raise UserError(
                f"--config.freeze_epochs={self.config.freeze_epochs:g}: pose networks cannot be "
                "frozen; set it to 0"
            )
        if size % network.multiple:
            raise UserError(
                f"--config.data.image_size={size}: must be a multiple of {network.multiple}"
            )
        if self.config.data.resident:
            raise UserError("--config.data.resident=True: only for motion networks")
        if self.config.data.sampling != "shuffled":
            raise UserError(
                f"--config.data.sampling={self.config.data.sampling}: pose networks have "
                "no classes; use shuffled"
            )

    def setup(self, dataset: Dataset) -> None:
        pass

    def model(
        self,
        axis_name: str | None = None,
        freeze_backbone: bool = False,
        platform: str | None = None,
    ) -> nn.Module:
        return weights.build({**self.config.model, "axis_name": axis_name})

    def input_shapes(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        size = self.config.data.image_size
        return (jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32),)

    def initial_variables(self, variables: Any) -> init_from.Flat:
        if not self.config.init_from:
            return {}
        source = PoseEstimator.load(self.config.init_from)
        loaded = jax.device_get(source.variables)
        config = self.config.model.to_dict()
        if "stages" in config:  # stages beyond the source's stay random
            config["stages"] = min(config["stages"], source.config.get("stages", config["stages"]))
        weights.check(weights.build(config), loaded, self.config.init_from)
        return flatten_dict(loaded)

    def train_batches(
        self, source: Any, start_step: int, fractions: np.ndarray | None = None
    ) -> Iterator[Batch]:
        return pose_loader.train_batches(
            source, self.config, start_step, jax.process_index(), jax.process_count()
        )

    def cached_images(self, source: Any) -> np.ndarray | None:
        return None

    def evaluate(self, variables: Any, dataset: Dataset, split: str) -> dict[str, Any]:
        self._estimator.variables = variables
        return average_precision(
            self._estimator.on_all_devices(),
            dataset.source(split),
            jax.process_index(),
            jax.process_count(),
            distributed.interleave,
        )

    def export_artifacts(self, variables: Any, workdir: Path) -> None:
        """Writes DIR/pose.npz, a pose checkpoint for any program's --pose."""
        weights.pack(workdir / "pose.npz", self.config.model.to_dict(), jax.device_get(variables))

    @cached_property
    def _estimator(self) -> PoseEstimator:
        abstract = weights.abstract_variables(weights.build(self.config.model))
        zeros = {path: np.zeros(leaf.shape, leaf.dtype) for path, leaf in abstract.items()}
        return PoseEstimator(self.config.model.to_dict(), unflatten_dict(zeros))


def pose_loss(
    model: nn.Module,
    variables: dict[str, Any],
    batch: dict[str, Array],
    key: Array,
    *,
    heat_weight: float = 1.0,
) -> tuple[Array, tuple[dict[str, Array], Any]]:
    """Half the masked squared error per image, summed over all stages' maps (Cao et al., 2017).

    Args:
        model: the network.
        variables: its params and batch_stats.
        batch: see `pose_loader.train_batches`.
        key: unused, for lack of dropout.
        heat_weight: of the heat maps' loss relative to that of the PAFs.
    """
    bgr = batch["image"][..., ::-1].astype(jnp.float32)
    stages, updates = model.apply(
        variables, bgr, train=True, all_stages=True, mutable=["batch_stats"]
    )
    mask = batch["mask"]
    true_heat, true_paf = targets.encode(batch["keypoints"], (mask.shape[1], mask.shape[2]))

    def error(predicted: Array, true: Array) -> Array:
        return (mask * jnp.square(predicted - true).sum(-1)).sum() / (2 * len(mask))

    heat = jnp.stack([error(maps, true_heat) for maps, _ in stages])
    paf = jnp.stack([error(maps, true_paf) for _, maps in stages])
    metrics = {"heat_loss": heat[-1], "paf_loss": paf[-1]}  # of the last stage
    return (heat_weight * heat + paf).sum(), (metrics, updates.get("batch_stats", {}))


def stage_multipliers(params: Any, later: float) -> Any:
    """Learning-rate multipliers: `later` for the modules of stage 2 and on, else 1."""

    def multiplier(path: Any, _: Any) -> float:
        stage = re.match(r"stage(\d+)_", path[0].key)
        return later if stage and int(stage[1]) > 1 else 1.0

    return jax.tree_util.tree_map_with_path(multiplier, params)
