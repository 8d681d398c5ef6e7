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


def _pays(conv: fast.Conv) -> bool:
    """Whether folding saves more traffic at the outputs than its small matrices cost."""
    return conv.positions >= 8 * conv.kernel.shape[-1]


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
    fold: bool = False

    @nn.compact
    def __call__(
        self, x: Array | fast.Conv, residual: Array | None = None, act: bool = False
    ) -> Array:
        """Normalizes an array, or the result of a convolution; adds `residual`; ReLU if `act`."""
        size = x.kernel.shape[-1:] if isinstance(x, fast.Conv) else x.shape[-1:]
        mean = self.variable("batch_stats", "mean", jnp.zeros, size, jnp.float32)
        variance = self.variable("batch_stats", "var", jnp.ones, size, jnp.float32)
        scale = self.param("scale", self.scale_init, size, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), size, jnp.float32)
        if self.use_running_average:
            factor = jax.lax.rsqrt(variance.value + self.epsilon) * scale
            offset = bias - mean.value * factor
            if isinstance(x, fast.Conv):
                return x.affine(factor, offset, residual, act)
            y = (x * factor + offset).astype(self.dtype)
            y = y if residual is None else y + residual
            return fast.relu(y) if act else y
        first = self.is_initializing()
        axis_name = None if first else self.axis_name
        if isinstance(x, fast.Conv) and self.fold and x.expands and _pays(x):
            y, new_mean, new_variance = fast.conv_norm(
                x, scale, bias, self.epsilon, axis_name, residual, act
            )
        else:
            x = x() if isinstance(x, fast.Conv) else x.astype(self.dtype)
            y, new_mean, new_variance = fast.batch_norm(
                x, scale, bias, self.epsilon, axis_name, act and residual is None
            )
            if residual is not None:
                y = fast.relu(y + residual) if act else y + residual
        if not first:
            for kept, new in ((mean, new_mean), (variance, new_variance)):
                kept.value = self.momentum * kept.value + (1 - self.momentum) * new
        return y


def batch_norm(
    train: bool,
    axis_name: str | None,
    dtype: DTypeLike,
    momentum: float = 0.9,
    fold: bool = False,
) -> Norm:
    """Makes batch-norm modules, given their `name`.

    Args:
        train: use the batch's statistics, not the running ones.
        axis_name: the mapped axis over which the batch's statistics are synchronised.
        dtype: of the result; statistics are float32.
        momentum: share of the running statistics that a step keeps.
        fold: fold the batch's statistics into convolutions that expand, see `fast.conv_norm`:
            less memory traffic for more FLOP, which pays on a GPU.
    """
    return partial(
        BatchNorm,
        use_running_average=not train,
        momentum=momentum,
        dtype=dtype,
        axis_name=axis_name,
        fold=fold,
    )
