"""Training of pose networks: images in, heat maps and part-affinity fields out."""

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
from jdance.train.state import Factors
from jdance.train.steps import Loss


class PoseTask:
    """See `tasks.Task`."""

    main_metrics: tuple[str, ...] = ("AP", "AP50", "AP75", "AR")

    def __init__(self, config: ConfigDict):
        self.config = config.copy_and_resolve_references()
        self.loss: Loss = partial(pose_loss, heat_weight=config.heat_weight)
        self.lr_multipliers: Factors | None = partial(
            stage_factors, later=config.optimizer.later_stages
        )

    def check(self) -> None:
        name, size = self.config.model.network, self.config.data.image_size
        network = weights.find_network(name)
        if not network.trainable:
            raise UserError(f"--config.model.network={name}: can be used, but not trained here")
        if size % network.multiple:
            raise UserError(
                f"--config.data.image_size={size}: must be a multiple of {network.multiple}"
            )
        if self.config.data.resident:
            raise UserError("--config.data.resident=True: only for motion networks")
        if self.config.data.sampling != "shuffled":
            raise UserError(
                f"--config.data.sampling={self.config.data.sampling}: pose networks know no "
                "classes; only shuffled"
            )

    def setup(self, dataset: Dataset) -> None:
        pass

    def model(
        self,
        axis_name: str | None = None,
        freeze_backbone: bool = False,
        platform: str | None = None,
    ) -> nn.Module:
        if freeze_backbone and self.config.freeze_epochs:
            raise ValueError("freeze_epochs: pose networks train as a whole")
        return weights.build({**self.config.model, "axis_name": axis_name})

    def inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        size = self.config.data.image_size
        return (jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32),)

    def initial(self, variables: Any) -> init_from.Flat:
        if not self.config.init_from:
            return {}
        source = PoseEstimator.load(self.config.init_from)
        loaded = jax.device_get(source.variables)
        config = self.config.model.to_dict()
        if "stages" in config:  # those beyond the source's stay as they were initialized
            config["stages"] = min(config["stages"], source.config.get("stages", config["stages"]))
        weights.check(weights.build(config), loaded, self.config.init_from)
        return flatten_dict(loaded)

    def train_batches(
        self, source: Any, start_step: int, shares: np.ndarray | None = None
    ) -> Iterator[Batch]:
        return pose_loader.train_batches(
            source, self.config, start_step, jax.process_index(), jax.process_count()
        )

    def resident(self, source: Any) -> np.ndarray | None:
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
    """The masked squared error of all stages' maps, halved, an image (Cao et al., 2017).

    The batch is that of `pose_loader.train_batches`; pose networks use no dropout `key`.
    """
    bgr = batch["image"][..., ::-1].astype(jnp.float32)
    stages, updates = model.apply(
        variables, bgr, train=True, all_stages=True, mutable=["batch_stats"]
    )
    mask = batch["mask"]
    true_heat, true_paf = targets.encode(batch["keypoints"], (mask.shape[1], mask.shape[2]))

    def error(maps: Array, true: Array) -> Array:
        return (mask * jnp.square(maps - true).sum(-1)).sum() / (2 * len(mask))

    heat = jnp.stack([error(maps, true_heat) for maps, _ in stages])
    paf = jnp.stack([error(maps, true_paf) for _, maps in stages])
    metrics = {"heat_loss": heat[-1], "paf_loss": paf[-1]}  # of the last stage
    return (heat_weight * heat + paf).sum(), (metrics, updates.get("batch_stats", {}))


def stage_factors(params: Any, later: float) -> Any:
    """A tree like `params`: `later` for everything of stage 2 and on, by its name, else 1."""

    def factor(path: Any, _: Any) -> float:
        stage = re.match(r"stage(\d+)_", path[0].key)
        return later if stage and int(stage[1]) > 1 else 1.0

    return jax.tree_util.tree_map_with_path(factor, params)
