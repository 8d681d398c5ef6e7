"""How states and batches are laid over the devices."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jdance.errors import UserError
from jdance.training.steps import AXIS


def _mesh() -> Mesh:
    return Mesh(np.array(jax.devices()), (AXIS,))


def replicate(tree: Any) -> Any:
    """Puts a whole pytree on every device."""
    return jax.device_put(tree, NamedSharding(_mesh(), PartitionSpec()))


def replicated_like(tree: Any) -> Any:
    """Shapes and dtypes of a pytree (of arrays or of their shapes), to be on every device."""
    sharding = NamedSharding(_mesh(), PartitionSpec())
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


def shard(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Divides a host batch [B, ...] over the devices: [devices, B / devices, ...]."""
    sharding = NamedSharding(_mesh(), PartitionSpec(AXIS))
    devices = jax.local_device_count()
    split = {k: v.reshape(devices, -1, *v.shape[1:]) for k, v in batch.items()}
    return jax.device_put(split, sharding)


def check_batch_size(batch_size: int) -> None:
    """Raises UserError where the devices cannot share a batch equally."""
    if batch_size < 1 or batch_size % jax.device_count():
        raise UserError(
            f"--config.batch_size={batch_size}: cannot be shared equally by {jax.device_count()} "
            "devices; choose a multiple"
        )
