"""The convolutional attention module (CBAM) of the paper, section 2.3, equations (1) to (7).

Every module takes features [B, *space, C] with any number of spatial axes: one source for images
(two axes) and for sequences (one: time).
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

from jdance.models.layers import batch_norm

# Makes an attention module with a given `name`; the module is called as (x, train).
Attention = Callable[..., nn.Module]


def make(
    order: int,
    block: str,
    *,
    reduction: int = 16,
    gate_norm: bool = False,
    axis_name: str | None = None,
    dtype: DTypeLike = jnp.float32,
) -> Attention | None:
    """What a configuration's `attention` (0, 1, 2 or -1) and `attention_block` ask for.

    Args:
        order: of CBAM; -1: no attention.
        block: "FILE.py:CLASS" or "package.module:CLASS", a Flax module that is made without
            arguments, instead of CBAM; it takes (x [B, *space, C], train) and returns the same
            shape. Empty: CBAM.
        reduction, gate_norm, axis_name, dtype: see `CBAM`.

    Raises:
        ValueError: there is no such order, or no such module.
    """
    if block:
        return _imported(block)
    if order not in (-1, 0, 1, 2):
        raise ValueError(f"model.attention={order}: expected 0, 1, 2, or -1 for none")
    if order < 0:
        return None
    return partial(CBAM, order, reduction, gate_norm=gate_norm, axis_name=axis_name, dtype=dtype)


def from_config(config: ConfigDict, axis_name: str | None, reduction: int = 16) -> Attention | None:
    """The attention of a configuration's `model` part, see `make`."""
    return make(
        config.attention,
        config.attention_block,
        reduction=reduction,
        gate_norm=config.gate_norm,
        axis_name=axis_name,
        dtype=jnp.dtype(config.dtype),
    )


def _imported(block: str) -> Attention:
    place, _, name = block.rpartition(":")
    try:
        if place.endswith(".py"):
            found: Any = runpy.run_path(place)[name]
        else:
            found = getattr(importlib.import_module(place), name)
    except (ImportError, OSError, SyntaxError, LookupError, AttributeError, ValueError) as error:
        raise ValueError(
            f"model.attention_block={block!r}: expected FILE.py:CLASS or package.module:CLASS "
            f"({error!r})"
        ) from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(f"model.attention_block={block!r}: not a Flax module")
    return found


def _space(x: Array) -> tuple[int, ...]:
    return tuple(range(1, x.ndim - 1))


@jax.custom_vjp
def _max(x: Array) -> Array:
    """The maximum of [B, N, C] over N, [B, 1, C]; its gradient goes to the first largest value.

    JAX's own gradient compares x with its maximum again and divides by the number of matches. A
    compiler that computes x twice, rounded differently, may find none, and the result is NaN.
    """
    return x.max(1, keepdims=True)


def _max_forward(x: Array) -> tuple[Array, tuple[Array, Array]]:
    place = jnp.argmax(x, axis=1, keepdims=True)
    return x.max(1, keepdims=True), (place, x)


def _max_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array]:
    place, x = saved
    here = jax.lax.broadcasted_iota(place.dtype, x.shape, 1) == place
    return (jnp.where(here, gradient, 0),)


_max.defvjp(_max_forward, _max_backward)


class ChannelAttention(nn.Module):
    """Mc(F) = sigmoid(MLP(mean over space) + MLP(max over space)), one MLP C -> C/r -> C.

    Called with [B, *space, C], returns the gate [B, 1..., C].
    """

    reduction: int = 16
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        squeeze = nn.Dense(max(channels // self.reduction, 1), dtype=self.dtype, name="squeeze")
        expand = nn.Dense(channels, dtype=self.dtype, name="expand")
        flat = x.reshape(x.shape[0], -1, channels)
        mean, peak = flat.mean(1, keepdims=True), _max(flat)
        gate = nn.sigmoid(expand(nn.relu(squeeze(mean))) + expand(nn.relu(squeeze(peak))))
        return gate.reshape(x.shape[0], *(1,) * len(_space(x)), channels)


class SpatialAttention(nn.Module):
    """Mh(F) = sigmoid(conv([mean over channels; max over channels])), one filter with a bias.

    Called with [B, *space, C], returns the gate [B, *space, 1]. In a sequence network this is the
    attention over time. With `norm`, a batch norm takes the bias's place, as in the code that
    CBAM's authors released: it keeps 0.99 of its running statistics at each step.
    """

    kernel: int = 7
    norm: bool = False
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        across = x.reshape(-1, x.shape[-1], 1)
        summary = jnp.stack([x.mean(-1), _max(across).reshape(x.shape[:-1])], axis=-1)
        window = (self.kernel,) * len(_space(x))
        conv = nn.Conv(1, window, use_bias=not self.norm, dtype=self.dtype, name="conv")
        y = conv(summary)
        if self.norm:
            y = batch_norm(train, self.axis_name, self.dtype, momentum=0.99)(name="norm")(y)
        return nn.sigmoid(y)


class CBAM(nn.Module):
    """Channel and spatial attention in one of the paper's three arrangements.

    order: 0 channel, then spatial (CBAM0); 1 spatial, then channel (CBAM1, the paper's choice);
    2 both gates from the input, multiplied: Mc(F) * Mh(F) * F (CBAM2; the F1 of equation (7) is
    a slip). gate_norm: batch norm in the spatial gate, the one part for which `train` matters.
    Takes and returns [B, *space, C].
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
