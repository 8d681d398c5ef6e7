"""The pose network "mobilenet_v2_small"; see `pose_layers` for the call."""

from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jdance.models.layers import Conv
from jdance.models.pose_layers import (
    NUM_HEAT_CHANNELS,
    NUM_PAF_CHANNELS,
    DepthwiseConv,
    Maps,
    upsample_corner,
)

_EPSILON = 1e-3  # of batch norm; matters, as some published variances are as small as 1e-6


class InvertedResidual(nn.Module):
    """MobileNetV2's block: 1x1 expand, 3x3 depthwise, 1x1 project, residual if shapes match."""

    features: int
    expansion: int
    stride: int
    norm: Any
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        # XLA is faster with matrix products than with 1x1 convolutions.
        pointwise = partial(nn.Dense, use_bias=False, dtype=self.dtype)
        y = x
        if self.expansion > 1:
            y = pointwise(self.expansion * x.shape[-1], name="expand")(y)
            y = nn.relu6(self.norm(name="expand_bn")(y))
        y = DepthwiseConv(stride=self.stride, dtype=self.dtype, name="depthwise")(y)
        y = nn.relu6(self.norm(name="depthwise_bn")(y))
        y = pointwise(self.features, name="project")(y)
        y = self.norm(name="project_bn")(y)
        return x + y if x.shape == y.shape else y


class MobileNetV2Features(nn.Module):
    """The backbone of `MobileNetV2Small`: MobileNetV2 of half width, 13 blocks.

    Maps images [B, H, W, 3] to features [B, H/8, W/8, 64]: block 5 and the upsampled block 12.
    """

    norm: Any
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Array) -> Array:
        x = images.astype(self.dtype)
        x = Conv(16, (3, 3), strides=2, use_bias=False, dtype=self.dtype, name="stem")(x)
        x = nn.relu6(self.norm(name="stem_bn")(x))
        outputs = []
        # Channels and strides of blocks 0 to 12; the first one does not expand.
        widths = (8, 16, 16, 16, 16, 16, 32, 32, 32, 32, 48, 48, 48)
        strides = (1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1)
        for i, (features, stride) in enumerate(zip(widths, strides, strict=True)):
            x = InvertedResidual(
                features=features,
                expansion=6 if i else 1,
                stride=stride,
                norm=self.norm,
                dtype=self.dtype,
                name=f"block{i:02d}",
            )(x)
            outputs.append(x)
        return jnp.concatenate([outputs[5], upsample_corner(outputs[12])], axis=-1)


class SeparableBranch(nn.Module):
    """Five separable convolutions: [B, h, w, C] -> maps [B, h, w, channels]."""

    channels: int
    width4: int
    norm: Any
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        units = ((3, 64), (3, 64), (3, 64), (1, self.width4), (1, self.channels))
        for i, (kernel_size, features) in enumerate(units, start=1):
            x = DepthwiseConv(kernel_size, dtype=self.dtype, name=f"sep{i}_depthwise")(x)
            x = nn.Dense(features, use_bias=False, dtype=self.dtype, name=f"sep{i}_pointwise")(x)
            x = self.norm(use_scale=False, name=f"sep{i}_bn")(x)
            if i < len(units):
                x = nn.relu(x)
        return x


class MobileNetV2Small(nn.Module):
    """The network "mobilenet_v2_small" of the tf-pose-estimation project (0.47 M parameters).

    A MobileNetV2 backbone (Sandler et al., 2018) of half width and OpenPose's six stages (Cao et
    al., 2017) of separable convolutions, each refining the previous maps.

    Attributes:
        statistics: of the backbone's batch norm. "fixed": running averages. "instance": mean and
            variance of each image, as in the published graph. The stages use running averages.
        momentum: of the running averages; 0 keeps the last batch's statistics.
        axis_name: the mapped axis over which batch statistics are synchronized.
        dtype: of the computation; parameters, statistics and outputs are float32.
    """

    statistics: str = "fixed"
    momentum: float = 0.99
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: Array, *, train: bool = False, all_stages: bool = False
    ) -> Maps | list[Maps]:
        norm = self._norm(train)
        features = self._backbone(train)(images)
        x, stages = features, []
        for stage in range(1, 7):
            branch = partial(
                SeparableBranch, width4=256 if stage == 1 else 64, norm=norm, dtype=self.dtype
            )
            paf = branch(NUM_PAF_CHANNELS, name=f"stage{stage}_paf")(x)
            heat = branch(NUM_HEAT_CHANNELS, name=f"stage{stage}_heat")(x)
            stages.append((heat.astype(jnp.float32), paf.astype(jnp.float32)))
            x = jnp.concatenate([paf, heat, features], axis=-1)
        return stages if all_stages else stages[-1]

    def _backbone(self, train: bool) -> nn.Module:
        if self.statistics not in ("fixed", "instance"):
            raise ValueError(f"statistics must be 'fixed' or 'instance', not {self.statistics!r}")
        norm = self._norm(train)
        if self.statistics == "instance":
            norm = partial(
                nn.InstanceNorm, epsilon=_EPSILON, use_fast_variance=False, dtype=self.dtype
            )
        return MobileNetV2Features(norm=norm, dtype=self.dtype, name="backbone")

    def _norm(self, train: bool) -> Any:
        return partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=self.momentum,
            epsilon=_EPSILON,
            axis_name=self.axis_name,
            use_fast_variance=False,
            dtype=self.dtype,
        )
