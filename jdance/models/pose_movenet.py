"""MoveNet MultiPose: detects people by their centers, and joints by offsets from the center.

A CenterNet (Zhou et al., "Objects as Points", 2019) on a feature pyramid over MobileNetV2 (Sandler
et al., 2018) of width 1.5.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jdance.models.pose_layers import ConvUnit, upsample_half_pixel

JOINTS = 17  # of COCO

# Channels and stride of the blocks; the first one does not expand.
_BLOCKS = (
    (24, 1), (40, 2), (40, 1), (48, 2), (48, 1), (48, 1), (96, 2), (96, 1), (96, 1), (96, 1),
    (144, 1), (144, 1), (144, 1), (240, 2), (240, 1), (240, 1), (480, 1),
)  # fmt: skip
# Lateral connections of the pyramid, coarse to fine: block, channels of the sum with the upsampled
# features, and channels of the output.
_LEVELS = ((9, 64, 32), (5, 32, 24), (2, 24, 24))


class Heads(NamedTuple):
    """Outputs for B images with h = H / 4 and w = W / 4 cells, all float32.

    Attributes:
        center: [B, h, w, 1], logits of a person's center.
        heat: [B, h, w, 17], logits of the joints.
        regress: [B, h, w, 34], (y, x) of each joint relative to the center's cell, in cells.
        offset: [B, h, w, 34], (y, x) of each joint relative to its own cell, in cells.
    """

    center: jax.Array
    heat: jax.Array
    regress: jax.Array
    offset: jax.Array


class MoveNetMultiPose(nn.Module):
    """MoveNet MultiPose with batch norm folded into the convolutions (4.7 M parameters).

    Maps images float32 [B, H, W, 3], RGB in -1 to 1, H and W multiples of 32, to `Heads`.

    Attributes:
        dtype: of the computation; parameters and outputs are float32.
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
        for i, (block, channels, out_channels) in enumerate(_LEVELS):
            x = upsample_half_pixel(x) + linear(channels, name=f"lateral{i}")(outputs[block])
            x = unit(None, act=None, use_bias=False, name=f"merge{i}_depthwise")(x)
            x = unit(out_channels, 1, name=f"merge{i}")(x)

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
