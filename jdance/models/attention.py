"""The convolutional attention module (CBAM) of the paper, section 2.3, equations (1) to (7).

The modules take features [B, *space, C] with any number of spatial axes: two for images, one (time)
for sequences.
"""

import importlib
import runpy
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from jdance.models.layers import Conv, batch_norm

# Makes an attention module, given its `name`; the module is called with (x, train).
Attention = Callable[..., nn.Module]


def from_config(config: ConfigDict, axis_name: str | None, reduction: int = 16) -> Attention | None:
    """The attention of a configuration's `model` part.

    Args:
        config: its `attention` is the order of `CBAM`, or -1 for no attention. `attention_block`
            names another Flax module as "FILE.py:CLASS" or "package.module:CLASS", which is made
            without arguments and maps (x [B, *space, C], train) to the same shape.
        axis_name, reduction: see `CBAM`.

    Raises:
        ValueError: an invalid order or module.
    """
    if config.attention_block:
        return _import_block(config.attention_block)
    order = config.attention
    if order not in (-1, 0, 1, 2):
        raise ValueError(f"model.attention={order}: expected 0, 1, 2, or -1 for none")
    if order < 0:
        return None
    return partial(
        CBAM,
        order,
        reduction,
        gate_norm=config.gate_norm,
        axis_name=axis_name,
        dtype=jnp.dtype(config.dtype),
    )


def _import_block(block: str) -> Attention:
    module, _, name = block.rpartition(":")
    try:
        if module.endswith(".py"):
            found: Any = runpy.run_path(module)[name]
        else:
            found = getattr(importlib.import_module(module), name)
    except (ImportError, OSError, SyntaxError, LookupError, AttributeError, ValueError) as error:
        raise ValueError(
            f"model.attention_block={block!r}: expected FILE.py:CLASS or package.module:CLASS "
            f"({error!r})"
        ) from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(f"model.attention_block={block!r}: not a Flax module")
    return found


@jax.custom_vjp
def _max(x: Array) -> Array:
    """Maximum of [B, N, C] over N, [B, 1, C]; the first of equal maxima gets the gradient.

    JAX's own gradient compares x with its maximum and divides by the number of matches. If XLA
    recomputes x with different rounding, nothing matches and the gradient is NaN.
    """
    return x.max(1, keepdims=True)


def _max_forward(x: Array) -> tuple[Array, tuple[Array, Array]]:
    index = jnp.argmax(x, axis=1, keepdims=True)
    return x.max(1, keepdims=True), (index, x)


def _max_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array]:
    index, x = saved
    is_max = jax.lax.broadcasted_iota(index.dtype, x.shape, 1) == index
    return (jnp.where(is_max, gradient, 0),)


_max.defvjp(_max_forward, _max_backward)


class ChannelAttention(nn.Module):
    """Mc(F) = sigmoid(MLP(mean over space) + MLP(max over space)) with one MLP C -> C/r -> C.

    Maps [B, *space, C] to the gate [B, 1, ..., C].
    """

    reduction: int = 16
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        squeeze = nn.Dense(max(channels // self.reduction, 1), dtype=self.dtype, name="squeeze")
        expand = nn.Dense(channels, dtype=self.dtype, name="expand")
        flat = x.reshape(x.shape[0], -1, channels)
        mean, maximum = flat.mean(1, keepdims=True), _max(flat)
        gate = nn.sigmoid(expand(nn.relu(squeeze(mean))) + expand(nn.relu(squeeze(maximum))))
        return gate.reshape(x.shape[0], *(1,) * (x.ndim - 2), channels)


class SpatialAttention(nn.Module):
    """Mh(F) = sigmoid(conv([mean over channels; max over channels])), one filter with a bias.

    Maps [B, *space, C] to the gate [B, *space, 1]; in sequence networks this is attention over
    time. `norm` replaces the bias by batch norm with momentum 0.99, as in the code of CBAM's
    authors.
    """

    kernel: int = 7
    norm: bool = False
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        across = x.reshape(-1, x.shape[-1], 1)
        summary = jnp.stack([x.mean(-1), _max(across).reshape(x.shape[:-1])], axis=-1)
        window = (self.kernel,) * (x.ndim - 2)
        conv = Conv(1, window, use_bias=not self.norm, dtype=self.dtype, name="conv")
        y = conv(summary)
        if self.norm:
            y = batch_norm(train, self.axis_name, self.dtype, momentum=0.99)(name="norm")(y)
        return nn.sigmoid(y)


class CBAM(nn.Module):
    """Channel and spatial attention in one of the paper's three arrangements.

    Maps [B, *space, C] to the same shape.

    Attributes:
        order: 0 channel, then spatial (CBAM0); 1 spatial, then channel (CBAM1, the paper's choice);
            2 both gates from the input: Mc(F) * Mh(F) * F (CBAM2; F1 in equation (7) is a typo).
        reduction: r of the channel attention.
        kernel: size of the spatial attention's filter.
        gate_norm: batch norm in the spatial attention, the only part that depends on `train`.
        axis_name: the mapped axis over which its statistics are synchronized.
    """

    order: int = 1
    reduction: int = 16
    kernel: int = 7
    gate_norm: bool = False
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        channel = ChannelAttention(self.reduction, self.dtype, name="channel")
        spatial = SpatialAttention(
            self.kernel, self.gate_norm, self.axis_name, self.dtype, name="spatial"
        )
        if self.order == 0:
            x = channel(x) * x
            return spatial(x, train) * x
        if self.order == 1:
            x = spatial(x, train) * x
            return channel(x) * x
        if self.order == 2:
            return channel(x) * spatial(x, train) * x
        raise ValueError(f"CBAM order {self.order}: expected 0, 1 or 2")
