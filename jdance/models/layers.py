"""Dropout with one mask per example on any number of devices, MLPs, and batch norm."""

from collections.abc import Callable, Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from jdance.models import fast_ops

# `nn.Conv`, without groups, whose backward pass is fast inside loops, too.
Conv = partial(nn.Conv, conv_general_dilated=fast_ops.conv_general_dilated)


class BranchDropout(nn.Module):
    """Drops at most one of two branches per example, so that neither relies on the other.

    Called with the examples' index int32 [B], returns two masks bool [B, 1]: where to keep the
    first branch (dropped with probability `first`) and the second (`second`). first + second must
    be at most 1.
    """

    first: float
    second: float

    @nn.compact
    def __call__(self, index: Array, train: bool) -> tuple[Array, Array]:
        if not train or self.first + self.second == 0:
            keep = jnp.ones((len(index), 1), bool)
            return keep, keep
        keys = jax.vmap(jax.random.fold_in, (None, 0))(self.make_rng("dropout"), index)
        uniform = jax.vmap(jax.random.uniform)(keys)[:, None]
        return uniform >= self.first, uniform < 1 - self.second


class Dropout(nn.Module):
    """Zeroes elements of [B, ...] with probability `rate` and scales the rest by 1 / (1 - rate).

    An example's mask depends on the "dropout" key, the module's path and the example's `index`
    (int32 [B]), not on the number of devices.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, index: Array, train: bool) -> Array:
        if not train or self.rate == 0:
            return x
        keys = jax.vmap(jax.random.fold_in, (None, 0))(self.make_rng("dropout"), index)
        mask = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - self.rate, x.shape[1:]))(keys)
        return jnp.where(mask, x / (1 - self.rate), 0)


class MLP(nn.Module):
    """Hidden dense layers, each with ReLU and dropout: [B, D] -> [B, widths[-1]].

    Attributes:
        widths: of the layers.
        dropout, input_dropout: rates after each layer, and before the first one.
        norm: makes a normalization module, given its `name`, after each layer; None: no
            normalization.
    """

    widths: Sequence[int]
    dropout: float = 0.5
    dtype: DTypeLike = jnp.float32
    input_dropout: float = 0.0
    norm: Callable[..., nn.Module] | None = None

    @nn.compact
    def __call__(self, x: Array, index: Array, train: bool) -> Array:
        if self.input_dropout:
            x = Dropout(self.input_dropout)(x, index, train)
        for number, width in enumerate(self.widths):
            x = nn.Dense(width, dtype=self.dtype)(x)
            if self.norm is not None:
                x = self.norm(name=f"norm_{number}")(x)
            x = nn.relu(x)
            x = Dropout(self.dropout)(x, index, train)
        return x


Norm = Callable[..., nn.Module]


class BatchNorm(nn.Module):
    """`nn.BatchNorm` over the last axis, computed by `fast_ops.batch_norm`.

    Attributes: see `batch_norm`; `scale_init` initializes the scale.
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
        self, x: Array | fast_ops.Conv, residual: Array | None = None, act: bool = False
    ) -> Array:
        """Normalizes an array or a deferred convolution, then `fast_ops.add_relu`."""
        shape = x.kernel.shape[-1:] if isinstance(x, fast_ops.Conv) else x.shape[-1:]
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        variance = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        scale = self.param("scale", self.scale_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), shape, jnp.float32)
        if self.use_running_average:
            factor = jax.lax.rsqrt(variance.value + self.epsilon) * scale
            offset = bias - mean.value * factor
            if isinstance(x, fast_ops.Conv):
                return x.affine(factor, offset, residual, act)
            return fast_ops.add_relu((x * factor + offset).astype(self.dtype), residual, act)
        axis_name = None if self.is_initializing() else self.axis_name
        if isinstance(x, fast_ops.Conv) and self.fold and _is_worth_folding(x):
            y, new_mean, new_variance = fast_ops.conv_norm(
                x, scale, bias, self.epsilon, axis_name, residual, act
            )
        else:
            x = x() if isinstance(x, fast_ops.Conv) else x.astype(self.dtype)
            y, new_mean, new_variance = fast_ops.batch_norm(
                x, scale, bias, self.epsilon, axis_name, act and residual is None
            )
            if residual is not None:
                y = fast_ops.add_relu(y, residual, act)
        if not self.is_initializing():
            for running, new in ((mean, new_mean), (variance, new_variance)):
                running.value = self.momentum * running.value + (1 - self.momentum) * new
        return y


def _is_worth_folding(conv: fast_ops.Conv) -> bool:
    """Whether folding saves more memory traffic at the outputs than its small matrices cost."""
    return conv.expands and conv.positions >= 8 * conv.kernel.shape[-1]


def batch_norm(
    train: bool,
    axis_name: str | None,
    dtype: DTypeLike,
    momentum: float = 0.9,
    fold: bool = False,
) -> Norm:
    """A constructor of batch-norm modules, called with their `name`.

    Args:
        train: use batch statistics, not the running ones.
        axis_name: the mapped axis over which batch statistics are synchronized.
        dtype: of the result; statistics are float32.
        momentum: of the running statistics.
        fold: fold batch norm into 1x1 convolutions that expand, see `fast_ops.conv_norm`: less
            memory traffic for more FLOPs, which is faster on GPUs.
    """
    return partial(
        BatchNorm,
        use_running_average=not train,
        momentum=momentum,
        dtype=dtype,
        axis_name=axis_name,
        fold=fold,
    )
