"""Batch norm as every network but the published pose networks has it."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from jdance.models import fast

Norm = Callable[..., nn.Module]


class BatchNorm(nn.Module):
    """`nn.BatchNorm` with its variables, for the last axis, computed by `fast.batch_norm`.

    Fields: see `batch_norm`; `scale_init` makes the first scale.
    """

    use_running_average: bool
    momentum: float = 0.9
    epsilon: float = 1e-5
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32
    scale_init: nn.initializers.Initializer = nn.initializers.ones_init()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        size = x.shape[-1:]
        mean = self.variable("batch_stats", "mean", jnp.zeros, size, jnp.float32)
        variance = self.variable("batch_stats", "var", jnp.ones, size, jnp.float32)
        scale = self.param("scale", self.scale_init, size, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), size, jnp.float32)
        if self.use_running_average:
            factor = jax.lax.rsqrt(variance.value + self.epsilon) * scale
            y = x * factor + (bias - mean.value * factor)
            return y.astype(self.dtype)
        first = self.is_initializing()
        y, new_mean, new_variance = fast.batch_norm(
            x.astype(self.dtype), scale, bias, self.epsilon, None if first else self.axis_name
        )
        if not first:
            for kept, new in ((mean, new_mean), (variance, new_variance)):
                kept.value = self.momentum * kept.value + (1 - self.momentum) * new
        return y


def batch_norm(train: bool, axis_name: str | None, dtype: DTypeLike, momentum: float = 0.9) -> Norm:
    """Makes batch-norm modules, given their `name`.

    Args:
        train: use the batch's statistics, not the running ones.
        axis_name: the mapped axis over which the batch's statistics are synchronised.
        dtype: of the result; statistics are float32.
        momentum: share of the running statistics that a step keeps.
    """
    return partial(
        BatchNorm,
        use_running_average=not train,
        momentum=momentum,
        dtype=dtype,
        axis_name=axis_name,
    )
