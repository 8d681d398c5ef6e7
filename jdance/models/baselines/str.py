"""STR's network: a DenseNet for images of 32 x 32 pixels.

Pham et al., Sensors 19(8):1932, 2019, section 3.3; DenseNet by Huang et al., 2017. Implemented as
described in the text, from which the released code and weights deviate.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from jdance import skeleton_maps
from jdance.features import Inputs
from jdance.models.layers import Conv, Dropout, batch_norm
from jdance.models.resnet import Conv1x1

_BLOCKS = 3


class DenseNet(nn.Module):
    """Three dense blocks without bottlenecks, with ELU in place of ReLU.

    Attributes:
        classes: number of motions M.
        depth: 3 N + 4, with N layers in each block: 16, 28 or 40.
        growth: channels added by each layer.
        stem: channels of the first convolution.
        dropout: rate after each convolution except the first.
        axis_name: the mapped axis over which batch statistics are synchronized.
    """

    classes: int
    depth: int = 16
    growth: int = 12
    stem: int = 16
    dropout: float = 0.2
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        image: Array | None,
        features: Array,
        valid: Array | None = None,
        *,
        index: Array | None = None,
        train: bool = False,
    ) -> Array:
        """Logits float32 [B, M].

        Args:
            image: unused.
            features: maps [B, 32, 32, 3] in 0 to 255, see `skeleton_maps.compute`.
            valid: unused; maps without key points are black.
            index, train: as for `FusedNet`.
        """
        if index is None:
            index = jnp.arange(len(features))

        norm = batch_norm(train, self.axis_name, self.dtype)

        def activation(x: Array) -> Array:
            return nn.elu(norm()(x))

        def conv(x: Array, channels: int) -> Array:
            return Conv(channels, (3, 3), use_bias=False, dtype=self.dtype)(x)

        x = conv(features.astype(self.dtype) / 127.5 - 1, self.stem)
        for block in range(_BLOCKS):
            for _ in range((self.depth - 4) // _BLOCKS):
                new = conv(activation(x), self.growth)
                x = jnp.concatenate([x, Dropout(self.dropout)(new, index, train)], -1)
            if block < _BLOCKS - 1:
                x = Conv1x1(x.shape[-1], dtype=self.dtype)(activation(x))()
                x = nn.avg_pool(Dropout(self.dropout)(x, index, train), (2, 2), (2, 2))
        x = activation(x).mean((1, 2))
        return nn.Dense(self.classes, name="logits")(x.astype(jnp.float32))


def inputs(config: ConfigDict) -> Inputs:
    """Skeleton maps of stills or sequences, see `skeleton_maps.compute`."""
    return Inputs(
        compute=skeleton_maps.compute,
        shape=(skeleton_maps.SIDE, skeleton_maps.SIDE, 3),
        sequences=True,
        frames=config.sequence.frames,
        dtype=np.uint8,
    )


def build(
    config: ConfigDict, axis_name: str | None, freeze_backbone: bool, platform: str
) -> DenseNet:
    """Builds the network; arguments as for `jdance.models.build`."""
    if config.str.depth < 7 or (config.str.depth - 4) % 3:
        raise ValueError(f"model.str.depth={config.str.depth}: expected 3 N + 4, such as 16")
    return DenseNet(
        classes=config.classes,
        **config.str,
        axis_name=axis_name,
        dtype=jnp.dtype(config.dtype),
    )
