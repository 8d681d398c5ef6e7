"""Batch norm as every network but the published pose networks has it."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
from jax.typing import DTypeLike

Norm = Callable[..., nn.BatchNorm]


def batch_norm(train: bool, axis_name: str | None, dtype: DTypeLike, momentum: float = 0.9) -> Norm:
    """Makes batch-norm modules, given their `name`.

    Args:
        train: use the batch's statistics, not the running ones.
        axis_name: the mapped axis over which the batch's statistics are synchronised.
        dtype: of the result; statistics are float32.
        momentum: share of the running statistics that a step keeps.
    """
    return partial(
        nn.BatchNorm,
        use_running_average=not train,
        momentum=momentum,
        epsilon=1e-5,
        dtype=dtype,
        axis_name=axis_name,
    )
