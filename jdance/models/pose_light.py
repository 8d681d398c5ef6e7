"""A light pose network for real-time use on CPUs; see `pose_layers` for the call."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jdance.models.layers import batch_norm
from jdance.models.pose_layers import (
    NUM_HEAT_CHANNELS,
    NUM_PAF_CHANNELS,
    DepthwiseConv,
    Maps,
    upsample_corner,
)


class SeparableBlock(nn.Module):
    """Residual block: 3x3 depthwise, 1x1, batch norm, ReLU, for [B, h, w, C]."""

    dilation: int
    norm: Any
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = DepthwiseConv(dilation=self.dilation, dtype=self.dtype, name="depthwise")(x)
        y = nn.Dense(x.shape[-1], use_bias=False, dtype=self.dtype, name="pointwise")(y)
        return x + nn.relu(self.norm(name="bn")(y))


class LightPose(nn.Module):
    """Separable convolutions at strides 4, 8 and 16, then stages that refine the maps.

    Space-to-depth replaces strided convolutions, so that only matrix products and 3x3 depthwise
    convolutions remain. Stages after the first have large receptive fields by dilation.

    Attributes:
        width: channels at stride 4; three times as many at stride 8, five times at stride 16.
        stages: number of stages, 1 or more.
        momentum: of the running averages.
        axis_name: the mapped axis over which batch statistics are synchronized.
        dtype: of the computation; parameters, statistics and outputs are float32.
    """

    width: int = 32
    stages: int = 2
    momentum: float = 0.98
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: Array, *, train: bool = False, all_stages: bool = False
    ) -> Maps | list[Maps]:
        norm = batch_norm(train, self.axis_name, self.dtype, self.momentum)

        def project(x: Array, features: int, name: str) -> Array:
            x = nn.Dense(features, use_bias=False, dtype=self.dtype, name=name)(x)
            return nn.relu(norm(name=f"{name}_bn")(x))

        def blocks(x: Array, name: str, *dilations: int) -> Array:
            for i, dilation in enumerate(dilations):
                x = SeparableBlock(dilation, norm, self.dtype, name=f"{name}_block{i}")(x)
            return x

        x = images.astype(self.dtype) / 128 - 1
        x = project(space_to_depth(x, 4), self.width, "stride4")
        x = blocks(x, "stride4", 1, 1)
        x = project(space_to_depth(x, 2), 3 * self.width, "stride8")
        fine = blocks(x, "stride8", 1, 1, 1)
        x = project(space_to_depth(fine, 2), 5 * self.width, "stride16")
        x = blocks(x, "stride16", 1, 2, 1, 2, 1)
        x = project(x, 3 * self.width, "context")
        features = blocks(fine + upsample_corner(x), "features", 1, 1)

        stages: list[Maps] = []
        x = features
        for stage in range(1, self.stages + 1):
            if stage > 1:
                x = project(
                    jnp.concatenate([x, features], axis=-1), 3 * self.width, f"stage{stage}"
                )
                x = blocks(x, f"stage{stage}", 1, 2, 4, 1)
            x = nn.Dense(
                NUM_PAF_CHANNELS + NUM_HEAT_CHANNELS,
                dtype=self.dtype,
                kernel_init=nn.initializers.normal(1e-3),  # maps are close to 0 almost everywhere
                name=f"stage{stage}_maps",
            )(x)
            paf, heat = jnp.split(x.astype(jnp.float32), [NUM_PAF_CHANNELS], axis=-1)
            stages.append((heat, paf))
        return stages if all_stages else stages[-1]


def space_to_depth(x: Array, size: int) -> Array:
    """[B, H, W, C] -> [B, H/size, W/size, size * size * C]."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // size, size, width // size, size, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height // size, width // size, size * size * channels)
