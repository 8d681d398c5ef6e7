"""How states and batches are laid over the devices.

pmap sees what one process holds: its part of a batch, and a state that is on each of its devices.
Checkpoints see arrays over all processes. With one process the two are the same.
"""

from collections import Counter
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jdance.errors import UserError
from jdance.training import cluster
from jdance.training.steps import AXIS


def _local_mesh() -> Mesh:
    return Mesh(np.array(jax.local_devices()), (AXIS,))


def _mesh() -> Mesh:
    return Mesh(np.array(jax.devices()), (AXIS,))


def replicate(tree: Any) -> Any:
    """Puts a whole pytree on every device; the first process's values, where there are several."""
    return everywhere(cluster.same(tree))


def everywhere(tree: Any) -> Any:
    """Puts a whole pytree, which all processes have alike, on every device of this process."""
    return jax.device_put(tree, NamedSharding(_local_mesh(), PartitionSpec()))


def replicated_like(tree: Any) -> Any:
    """Shapes and dtypes of a pytree (of arrays or of their shapes), to be on every device."""
    sharding = NamedSharding(_mesh(), PartitionSpec())
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


def over_processes(tree: Any) -> Any:
    """A replicated pytree as arrays over all processes, which is what checkpoints are made of."""
    if jax.process_count() == 1:
        return tree
    return multihost_utils.host_local_array_to_global_array(tree, _mesh(), PartitionSpec())


def of_this_process(tree: Any) -> Any:
    """The inverse of `over_processes`."""
    if jax.process_count() == 1:
        return tree
    return multihost_utils.global_array_to_host_local_array(tree, _mesh(), PartitionSpec())


def shard(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Divides this process's batch [B, ...] over its devices: [devices, B / devices, ...]."""
    sharding = NamedSharding(_local_mesh(), PartitionSpec(AXIS))
    devices = jax.local_device_count()
    split = {k: v.reshape(devices, -1, *v.shape[1:]) for k, v in batch.items()}
    return jax.device_put(split, sharding)


def shard_several(batches: list[dict[str, np.ndarray]]) -> dict[str, jax.Array]:
    """Several batches, each divided as by `shard`: [devices, N, B / devices, ...]."""
    sharding = NamedSharding(_local_mesh(), PartitionSpec(AXIS))
    devices = jax.local_device_count()
    parts = {
        name: np.stack([b[name].reshape(devices, -1, *b[name].shape[1:]) for b in batches], 1)
        for name in batches[0]
    }
    return jax.device_put(parts, sharding)


def check_batch_size(batch_size: int, accumulate: int = 1) -> None:
    """Raises UserError where the devices cannot share a batch equally.

    `accumulate` is the number of parts in which each device works through its share.
    """
    devices = Counter(device.process_index for device in jax.devices())
    if len(set(devices.values())) > 1:
        number, least = min(devices.items(), key=lambda item: item[1])
        raise UserError(
            f"process {number} has {least} devices and others have {max(devices.values())}; "
            "give every process equally many"
        )
    if batch_size < 1 or batch_size % jax.device_count():
        raise UserError(
            f"--config.batch_size={batch_size}: cannot be shared equally by {jax.device_count()} "
            "devices; choose a multiple"
        )
    if batch_size % (jax.device_count() * accumulate):
        raise UserError(
            f"--config.accumulate={accumulate}: each device's {batch_size // jax.device_count()} "
            "examples cannot be divided into so many equal parts"
        )
