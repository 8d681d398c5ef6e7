"""OpenPose's network (Cao et al., 2017); see `pose_layers` for the call."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jdance.models.layers import Conv
from jdance.models.pose_layers import NUM_HEAT_CHANNELS, NUM_PAF_CHANNELS, Maps

# VGG-19 (Simonyan and Zisserman, 2015) up to conv4_2, with max-pools between the groups, then two
# layers that reduce 512 channels to 128.
_GROUPS = (
    (("conv1_1", 64), ("conv1_2", 64)),
    (("conv2_1", 128), ("conv2_2", 128)),
    (("conv3_1", 256), ("conv3_2", 256), ("conv3_3", 256), ("conv3_4", 256)),
    (("conv4_1", 512), ("conv4_2", 512), ("conv4_3", 256), ("conv4_4", 128)),
)


class OpenPoseVGG19(nn.Module):
    """VGG-19 features, then stages that refine the maps (52.3 M parameters with six stages).

    Attributes:
        stages: number of stages, 1 or more.
        axis_name: unused, as there is no batch norm.
        dtype: of the computation; parameters and outputs are float32.
    """

    stages: int = 6
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: Array, *, train: bool = False, all_stages: bool = False
    ) -> Maps | list[Maps]:
        x = (images.astype(self.dtype) - 128) / 256
        for group in _GROUPS:
            if group is not _GROUPS[0]:
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
            for name, channels in group:
                x = nn.relu(Conv(channels, (3, 3), dtype=self.dtype, name=name)(x))
        features, stages = x, []
        for stage in range(1, self.stages + 1):
            kernels = ((3, 128),) * 3 + ((1, 512),) if stage == 1 else ((7, 128),) * 5 + ((1, 128),)
            paf, heat = (
                Branch(kernels, channels, self.dtype, name=f"stage{stage}_{name}")(x)
                for name, channels in (("paf", NUM_PAF_CHANNELS), ("heat", NUM_HEAT_CHANNELS))
            )
            stages.append((heat.astype(jnp.float32), paf.astype(jnp.float32)))
            x = jnp.concatenate([paf, heat, features], axis=-1)
        return stages if all_stages else stages[-1]


class Branch(nn.Module):
    """Convolutions with ReLU, then one to maps [B, h, w, channels].

    Attributes:
        kernels: (size, channels) of each but the last.
        channels: of the maps.
    """

    kernels: tuple[tuple[int, int], ...]
    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        layers = (*self.kernels, (1, self.channels))
        for i, (size, channels) in enumerate(layers, start=1):
            if size == 1:  # XLA is faster with matrix products
                x = nn.Dense(channels, dtype=self.dtype, name=f"conv{i}")(x)
            else:
                x = Conv(channels, (size, size), dtype=self.dtype, name=f"conv{i}")(x)
            if i < len(layers):
                x = nn.relu(x)
        return x
