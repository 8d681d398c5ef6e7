"""A light pose network for real time on a CPU; see `openpose` for how pose networks are called."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jdance.models.layers import batch_norm
from jdance.models.pose_mobilenet import (
    NUM_HEAT_CHANNELS,
    NUM_PAF_CHANNELS,
    DepthwiseConv,
    Maps,
    upsample2,
)


class SeparableBlock(nn.Module):
    """3x3 depthwise, 1x1, batch norm, ReLU: [B, h, w, C] -> [B, h, w, C], added to the input."""

    dilation: int
    norm: Any
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = DepthwiseConv(dilation=self.dilation, dtype=self.dtype, name="depthwise")(x)
        y = nn.Dense(x.shape[-1], use_bias=False, dtype=self.dtype, name="pointwise")(y)
        return x + nn.relu(self.norm(name="bn")(y))


class LightPose(nn.Module):
    """Separable convolutions at strides 4, 8 and 16, then stages that refine the maps.

    Images are cut into patches of 4x4 pixels and every halving joins 2x2 cells, so that nothing
    but matrix products and 3x3 depthwise convolutions remains. Each stage gives both maps, and
    the later ones see far with dilated convolutions.

    Attributes:
        width: channels at stride 4; three times as many at stride 8, five times at stride 16.
        stages: 1, or more to refine.
        momentum: of the running averages while training.
        axis_name: of `pmap`'s axis, to share the batch's statistics among devices in training.
        dtype: of the computation. Parameters, statistics and outputs stay float32.
    """

    width: int = 32
    stages: int = 2
    momentum: float = 0.98
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, all_stages: bool = False
    ) -> Maps | list[Maps]:
        norm = batch_norm(train, self.axis_name, self.dtype, self.momentum)

        def project(x: jax.Array, features: int, name: str) -> jax.Array:
            x = nn.Dense(features, use_bias=False, dtype=self.dtype, name=name)(x)
            return nn.relu(norm(name=f"{name}_bn")(x))

        def blocks(x: jax.Array, name: str, *dilations: int) -> jax.Array:
            for i, dilation in enumerate(dilations):
                x = SeparableBlock(dilation, norm, self.dtype, name=f"{name}_block{i}")(x)
            return x

        x = images.astype(self.dtype) / 128 - 1
        x = project(join_cells(x, 4), self.width, "stride4")
        x = blocks(x, "stride4", 1, 1)
        x = project(join_cells(x, 2), 3 * self.width, "stride8")
        fine = blocks(x, "stride8", 1, 1, 1)
        x = project(join_cells(fine, 2), 5 * self.width, "stride16")
        x = blocks(x, "stride16", 1, 2, 1, 2, 1)
        x = project(x, 3 * self.width, "context")
        features = blocks(fine + upsample2(x), "features", 1, 1)

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
                kernel_init=nn.initializers.normal(1e-3),  # maps are nearly 0 nearly everywhere
                name=f"stage{stage}_maps",
            )(x)
            paf, heat = jnp.split(x.astype(jnp.float32), [NUM_PAF_CHANNELS], axis=-1)
            stages.append((heat, paf))
        return stages if all_stages else stages[-1]


def join_cells(x: jax.Array, size: int) -> jax.Array:
    """Makes each square of cells one: [B, H, W, C] -> [B, H/size, W/size, size * size * C]."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // size, size, width // size, size, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height // size, width // size, size * size * channels)
