"""MoveNet MultiPose: people by their centers, and joints by offsets from these.

A CenterNet (Zhou et al., "Objects as Points", 2019) on a feature pyramid over MobileNetV2 (Sandler
et al., 2018) of width 1.5.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jdance.models.pose_mobilenet import ConvUnit

JOINTS = 17  # those of COCO

# Channels and stride of the blocks; the first one does not expand.
_BLOCKS = (
    (24, 1), (40, 2), (40, 1), (48, 2), (48, 1), (48, 1), (96, 2), (96, 1), (96, 1), (96, 1),
    (144, 1), (144, 1), (144, 1), (240, 2), (240, 1), (240, 1), (480, 1),
)  # fmt: skip
# Blocks that the pyramid sees beside the last layer, coarse to fine, and its channels: of the sum
# with what comes from above, and after it.
_LEVELS = ((9, 64, 32), (5, 32, 24), (2, 24, 24))


class Heads(NamedTuple):
    """The outputs of B images, h = H / 4 and w = W / 4 cells, all float32.

    Attributes:
        center: [B, h, w, 1], logits of a person's center.
        heat: [B, h, w, 17], logits of a joint.
        regress: [B, h, w, 34], (y, x) of each joint from the center's cell, in cells.
        offset: [B, h, w, 34], (y, x) of each joint from its own cell, in cells.
    """

    center: jax.Array
    heat: jax.Array
    regress: jax.Array
    offset: jax.Array


class MoveNetMultiPose(nn.Module):
    """MoveNet MultiPose, with the batch norm folded into the convolutions (4.7 M parameters).

    Call: images float32 [B, H, W, 3], RGB from -1 to 1, H and W multiples of 32 -> `Heads`.

    Attributes:
        dtype: of the computation. Parameters and outputs are float32.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> Heads:
        unit = partial(ConvUnit, symmetric=False, dtype=self.dtype)
        inverted = partial(unit, act=nn.relu6)
        linear = partial(unit, size=1, act=None)

        x = inverted(48, stride=2, name="stem")(images.astype(self.dtype))
        outputs = []
        for i, (channels, stride) in enumerate(_BLOCKS):
            y = inverted(6 * x.shape[-1], 1, name=f"block{i}_expand")(x) if i else x
            y = inverted(None, stride=stride, name=f"block{i}_depthwise")(y)
            y = linear(channels, name=f"block{i}_project")(y)
            x = x + y if x.shape == y.shape else y
            outputs.append(x)
        x = inverted(1280, 1, name="last")(x)

        x = linear(64, name="top")(x)
        for i, (block, channels, after) in enumerate(_LEVELS):
            x = upsample2(x) + linear(channels, name=f"lateral{i}")(outputs[block])
            x = unit(None, act=None, use_bias=False, name=f"merge{i}_depthwise")(x)
            x = unit(after, 1, name=f"merge{i}")(x)

        def head(name: str, channels: int) -> jax.Array:
            y = unit(None, act=None, use_bias=False, name=f"{name}_depthwise")(x)
            y = unit(96, 1, name=f"{name}_hidden")(y)
            return linear(channels, name=name)(y).astype(jnp.float32)

        return Heads(
            head("center", 1),
            head("heat", JOINTS),
            head("regress", 2 * JOINTS),
            head("offset", 2 * JOINTS),
        )


def upsample2(x: jax.Array) -> jax.Array:
    """Doubles height and width of [B, h, w, C]: bilinear with half-pixel centers.

    As `jax.image.resize`, but sums of shifted arrays instead of matrix products.
    """
    for axis in (1, 2):
        first, last = (jax.lax.slice_in_dim(x, i, i + 1, axis=axis) for i in (0, x.shape[axis] - 1))
        before = jnp.concatenate([first, jax.lax.slice_in_dim(x, 0, -1, axis=axis)], axis)
        after = jnp.concatenate([jax.lax.slice_in_dim(x, 1, None, axis=axis), last], axis)
        shape = list(x.shape)
        shape[axis] *= 2
        parts = [0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after]
        x = jnp.stack(parts, axis + 1).reshape(shape)
    return x
