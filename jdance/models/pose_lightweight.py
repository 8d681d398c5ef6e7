"""Lightweight OpenPose (Osokin, 2018); see `pose_layers` for the call.

https://arxiv.org/abs/1811.12004. Intel's human-pose-estimation-0001 is this network.
"""

from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jdance.models.layers import batch_norm
from jdance.models.pose_layers import NUM_HEAT_CHANNELS, NUM_PAF_CHANNELS, ConvUnit, Maps

# MobileNet v1 (Howard et al., 2017) up to conv5_5: name, channels, stride and dilation of the
# separable convolutions. Dilation replaces the last two strides, so that maps have stride 8.
_TRUNK = (
    ("conv2_1", 64, 1, 1), ("conv2_2", 128, 2, 1), ("conv3_1", 128, 1, 1), ("conv3_2", 256, 2, 1),
    ("conv4_1", 256, 1, 1), ("conv4_2", 512, 1, 1), ("conv5_1", 512, 1, 2), ("conv5_2", 512, 1, 1),
    ("conv5_3", 512, 1, 1), ("conv5_4", 512, 1, 1), ("conv5_5", 512, 1, 1),
)  # fmt: skip
_WIDTH = 128  # channels of the features and of the stages


class LightweightOpenPose(nn.Module):
    """A dilated MobileNet v1, then stages that refine the maps (4.1 M parameters).

    Attributes:
        stages: number of stages, 1 or more.
        batch_norm: batch norm after the convolutions of trunk and refinement blocks, for training
            from scratch. In the published weights it is folded into kernels and biases.
        momentum: of the running averages.
        axis_name: the mapped axis over which batch statistics are synchronized.
        dtype: of the computation; parameters, statistics and outputs are float32.
    """

    stages: int = 2
    batch_norm: bool = False
    momentum: float = 0.9
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: Array, *, train: bool = False, all_stages: bool = False
    ) -> Maps | list[Maps]:
        norm = None
        if self.batch_norm:
            norm = batch_norm(train, self.axis_name, self.dtype, self.momentum)
        plain = partial(ConvUnit, dtype=self.dtype)
        normed = partial(plain, norm=norm)

        x = (images.astype(self.dtype) - 128) / 255
        x = normed(32, stride=2, name="conv1")(x)
        for name, channels, stride, dilation in _TRUNK:
            x = normed(None, stride=stride, dilation=dilation, name=f"{name}_depthwise")(x)
            x = normed(channels, 1, name=f"{name}_pointwise")(x)
        features = self._context(x)

        stages: list[Maps] = []
        x = features
        for stage in range(1, self.stages + 1):
            if stage == 1:
                for i in range(1, 4):
                    x = plain(_WIDTH, name=f"stage1_conv{i}")(x)
            else:
                heat, paf = (m.astype(self.dtype) for m in stages[-1])
                x = jnp.concatenate([paf, heat, features], axis=-1)
                for i in range(1, 6):
                    block = f"stage{stage}_block{i}"
                    start = plain(_WIDTH, 1, name=f"{block}_squeeze")(x)
                    x = normed(_WIDTH, name=f"{block}_conv1")(start)
                    x = start + normed(_WIDTH, dilation=2, name=f"{block}_conv2")(x)
            wide = 4 * _WIDTH if stage == 1 else _WIDTH
            paf, heat = (
                plain(channels, 1, act=None, name=f"stage{stage}_{name}")(
                    plain(wide, 1, name=f"stage{stage}_{name}_hidden")(x)
                )
                for name, channels in (("paf", NUM_PAF_CHANNELS), ("heat", NUM_HEAT_CHANNELS))
            )
            stages.append((heat.astype(jnp.float32), paf.astype(jnp.float32)))
        return stages if all_stages else stages[-1]

    def _context(self, x: Array) -> Array:
        """The input [B, h, w, 128] of all stages, from the trunk's features [B, h, w, 512]."""
        elu = partial(ConvUnit, act=nn.elu, dtype=self.dtype)
        start = elu(_WIDTH, 1, name="context_align")(x)
        x = elu(_WIDTH, 1, name="context_reduce")(start)
        for i in range(1, 4):
            x = elu(None, name=f"context_depthwise{i}")(x)
            x = elu(_WIDTH, 1, name=f"context_pointwise{i}")(x)
        return ConvUnit(_WIDTH, dtype=self.dtype, name="context")(start + x)
