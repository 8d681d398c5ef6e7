"""The sequence network: the paper's residual attention network in one dimension, over time."""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from jdance import features
from jdance.models import attention
from jdance.models.attention import Attention
from jdance.models.layers import MLP, Conv, batch_norm
from jdance.models.resnet import Bottleneck
from jdance.skeleton import LAYOUTS


class SequenceNet(nn.Module):
    """Classifies the motion of a sequence of key-point features (paper, sections 2.1 and 2.3).

    Convolution with batch norm and ReLU, two max-pools, bottleneck blocks, CBAM (whose spatial
    attention is over time), dense layers.

    Attributes:
        classes: number of motions M.
        stem_width, stem_kernel: of the first convolution.
        width: channels K of the bottleneck blocks.
        blocks: number of bottleneck blocks.
        kernel: S, the size of their middle convolution.
        attention: makes the attention module after them; None: no attention.
        dense_widths: hidden dense layers, with batch norm.
        spreads: also feed the standard deviations of all features over time to the dense layers,
            which show small movements such as those of a wave.
        means: also feed their means over time.
        stage_dropout: rate before the dense layers.
        dropout: rate after each hidden dense layer.
        axis_name: the mapped axis over which batch statistics are synchronized.
    """

    classes: int
    stem_width: int = 64
    stem_kernel: int = 5
    width: int = 128
    blocks: int = 3
    kernel: int = 3
    attention: Attention | None = None
    dense_widths: Sequence[int] = (256, 128)
    spreads: bool = False
    means: bool = False
    stage_dropout: float = 0.0
    dropout: float = 0.5
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
            features: [B, T, D] with T at least 4.
            valid: bool [B], whether any frame has key points; otherwise features are zeroed.
            index, train: as for `FusedNet`.
        """
        if index is None:
            index = jnp.arange(features.shape[0])

        norm = batch_norm(train, self.axis_name, self.dtype)
        x = norm(name="input_norm")(features.astype(self.dtype))
        if valid is not None:
            x = jnp.where(valid[:, None, None], x, 0)
        x = Conv(
            self.stem_width, (self.stem_kernel,), use_bias=False, dtype=self.dtype, name="stem"
        )(x)
        x = nn.relu(norm(name="stem_norm")(x))
        for _ in range(2):
            x = nn.max_pool(x, (2,), (2,))
        for block in range(self.blocks):
            x = Bottleneck(
                features=self.width,
                kernel=self.kernel,
                axis_name=self.axis_name,
                dtype=self.dtype,
                name=f"block{block + 1}",
            )(x, train)
        if self.attention is not None:
            x = self.attention(name="attention")(x, train)
        x = x.reshape(len(x), -1)
        statistics = {
            "spreads": jnp.sqrt(features.var(1) + 1e-6) if self.spreads else None,
            "means": features.mean(1) if self.means else None,
        }
        for name, values in statistics.items():
            if values is None:
                continue
            values = norm(name=f"{name}_norm")(values.astype(self.dtype))
            if valid is not None:
                values = jnp.where(valid[:, None], values, 0)
            x = jnp.concatenate([x, values], -1)
        x = MLP(
            self.dense_widths,
            self.dropout,
            self.dtype,
            input_dropout=self.stage_dropout,
            norm=norm,
            name="dense",
        )(x, index, train)
        return nn.Dense(self.classes, name="logits")(x.astype(jnp.float32))


def inputs(config: ConfigDict) -> features.Inputs:
    """Features, positions and velocities of T frames, see `features.sequence`."""
    layout, frames = LAYOUTS[config.layout], config.sequence.frames
    return features.Inputs(
        compute=partial(features.sequence, config.features),
        shape=(frames, features.size(config.features, layout) + 4 * len(layout)),
        feature_set=config.features,
        stills=False,
        sequences=True,
        frames=frames,
        smooth=True,
    )


def build(
    config: ConfigDict, axis_name: str | None, freeze_backbone: bool, platform: str
) -> SequenceNet:
    """Builds the network; arguments as for `jdance.models.build`."""
    parts = config.sequence.to_dict()
    if parts.pop("frames") < 4:
        raise ValueError(f"model.sequence.frames={config.sequence.frames}: must be 4 or more")
    return SequenceNet(
        classes=config.classes,
        attention=attention.from_config(config, axis_name, parts.pop("reduction")),
        stage_dropout=config.stage_dropout,
        dropout=config.dropout,
        axis_name=axis_name,
        dtype=jnp.dtype(config.dtype),
        **parts | {"dense_widths": tuple(parts["dense_widths"])},
    )
