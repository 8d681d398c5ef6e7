"""Dropout whose masks belong to the examples, not to the devices that hold them."""

from collections.abc import Callable, Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from jdance.models import fast_ops


class BranchDropout(nn.Module):
    """Silences one of two branches at random, never both, so that neither leans on the other.

    Called with int32 [B], returns bool [B, 1] twice: whether the first branch (silenced with
    probability `first`) and the second (`second`) are kept. The sum of both must be at most 1.
    """

    first: float
    second: float

    @nn.compact
    def __call__(self, index: Array, train: bool) -> tuple[Array, Array]:
        if not train or self.first + self.second == 0:
            kept = jnp.ones((len(index), 1), bool)
            return kept, kept
        keys = jax.vmap(jax.random.fold_in, (None, 0))(self.make_rng("dropout"), index)
        draw = jax.vmap(jax.random.uniform)(keys)[:, None]
        return draw >= self.first, draw < 1 - self.second


class Dropout(nn.Module):
    """Zeroes values of [B, ...] with probability `rate` and scales the rest by 1 / (1 - rate).

    Each example's mask comes from the "dropout" key, the module's place in the network, and the
    example's `index` (int32 [B]): the same numbers on one device or on many.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, index: Array, train: bool) -> Array:
        if not train or self.rate == 0:
            return x
        keys = jax.vmap(jax.random.fold_in, (None, 0))(self.make_rng("dropout"), index)
        draw = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - self.rate, x.shape[1:]))
        return jnp.where(draw(keys), x / (1 - self.rate), 0)


class MLP(nn.Module):
    """Hidden dense layers, each with ReLU and dropout: [B, D] -> [B, widths[-1]].

    With `norm`, a function that makes a normalising module, given its `name`, each dense layer is
    followed by one. `input_dropout` is the rate before the first one.
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


def _pays(conv: fast_ops.Conv) -> bool:
    """Whether folding saves more traffic at the outputs than its small matrices cost."""
    return conv.positions >= 8 * conv.kernel.shape[-1]


class BatchNorm(nn.Module):
    """`nn.BatchNorm` with its variables, for the last axis, computed by `fast_ops.batch_norm`.

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
        self, x: Array | fast_ops.Conv, residual: Array | None = None, act: bool = False
    ) -> Array:
        """Normalizes an array, or the result of a convolution; adds `residual`; ReLU if `act`."""
        size = x.kernel.shape[-1:] if isinstance(x, fast_ops.Conv) else x.shape[-1:]
        mean = self.variable("batch_stats", "mean", jnp.zeros, size, jnp.float32)
        variance = self.variable("batch_stats", "var", jnp.ones, size, jnp.float32)
        scale = self.param("scale", self.scale_init, size, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), size, jnp.float32)
        if self.use_running_average:
            factor = jax.lax.rsqrt(variance.value + self.epsilon) * scale
            offset = bias - mean.value * factor
            if isinstance(x, fast_ops.Conv):
                return x.affine(factor, offset, residual, act)
            y = (x * factor + offset).astype(self.dtype)
            y = y if residual is None else y + residual
            return fast_ops.relu(y) if act else y
        first = self.is_initializing()
        axis_name = None if first else self.axis_name
        if isinstance(x, fast_ops.Conv) and self.fold and x.expands and _pays(x):
            y, new_mean, new_variance = fast_ops.conv_norm(
                x, scale, bias, self.epsilon, axis_name, residual, act
            )
        else:
            x = x() if isinstance(x, fast_ops.Conv) else x.astype(self.dtype)
            y, new_mean, new_variance = fast_ops.batch_norm(
                x, scale, bias, self.epsilon, axis_name, act and residual is None
            )
            if residual is not None:
                y = fast_ops.relu(y + residual) if act else y + residual
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
        fold: fold the batch's statistics into convolutions that expand, see `fast_ops.conv_norm`:
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
