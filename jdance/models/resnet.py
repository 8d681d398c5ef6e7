"""The image branch: a ResNet (He et al., 2016) with convolutional attention.

Batch norm keeps 0.9 of its running statistics at each step. The running variance is that of the
batch (divided by n), as in Flax and in the batch-norm paper's training phase; PyTorch divides by
n - 1, which differs by 1/n, one part in thousands for pictures.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from jdance.models import fast
from jdance.models.attention import Attention
from jdance.models.dropout import Dropout
from jdance.models.norm import Norm, batch_norm


class Conv1x1(nn.Module):
    """A 1x1 convolution, as a matrix product."""

    features: int
    stride: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if self.stride > 1:
            x = x[(slice(None), *(slice(None, None, self.stride),) * (x.ndim - 2))]
        x = x.astype(self.dtype)
        return Kernel((x.shape[-1], self.features), fast.product, self.dtype, name="dense")(x)


class Kernel(nn.Module):
    """A function of x and of a trained kernel.

    Fields:
        shape: of the kernel.
        function: (x, kernel) -> y.
        dtype: of the computation; the kernel stays float32.
    """

    shape: Sequence[int]
    function: Callable[[Array, Array], Array]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", nn.initializers.he_normal(), tuple(self.shape), jnp.float32)
        return self.function(x.astype(self.dtype), kernel.astype(self.dtype))


class Residual(nn.Module):
    """What all residual blocks share: relu(shortcut + attention(branch)).

    [B, *space, C] -> [B, *space / stride, features], with one spatial axis (sequences) or two
    (pictures).

    Fields:
        features: channels K that the block returns.
        version: where a bottleneck strides, see there.
        attention: makes the attention at the end of the branch; None: there is none.
        zero_gamma: the branch's last batch-norm scale starts at 0, so that the block starts as its
            shortcut (Goyal et al., 2017).
        axis_name: the mapped axis over which batch statistics are synchronised.
    """

    features: int
    stride: int = 1
    kernel: int = 3
    version: str = "v1.5"
    attention: Attention | None = None
    zero_gamma: bool = False
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    expansion: ClassVar[int]  # a stage's channels over those inside its blocks

    def branch(self, x: Array, norm: Norm, last_norm: Norm) -> Array:
        """The block's convolutions, each followed by its norm."""
        raise NotImplementedError

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        norm = batch_norm(train, self.axis_name, self.dtype)
        zeros, ones = nn.initializers.zeros_init(), nn.initializers.ones_init()
        y = self.branch(x, norm, partial(norm, scale_init=zeros if self.zero_gamma else ones))
        if self.attention is not None:
            y = self.attention(name="attention")(y, train)
        if self.stride > 1 or x.shape[-1] != self.features:
            x = Conv1x1(self.features, self.stride, self.dtype, name="shortcut")(x)
            x = norm(name="shortcut_norm")(x)
        return nn.relu(x + y)

    def _conv(self, x: Array, features: int, stride: int, name: str) -> Array:
        space = x.ndim - 2
        return Kernel(
            (self.kernel,) * space + (x.shape[-1], features),
            partial(fast.convolution, stride=stride),
            self.dtype,
            name=name,
        )(x)


class BasicBlock(Residual):
    """Two S convolutions to K channels, the first with the stride: the block of ResNet-18 and -34.

    Both versions are the same.
    """

    expansion = 1

    def branch(self, x: Array, norm: Norm, last_norm: Norm) -> Array:
        y = self._conv(x, self.features, self.stride, "conv1")
        y = nn.relu(norm(name="conv1_norm")(y))
        y = self._conv(y, self.features, 1, "conv2")
        return last_norm(name="conv2_norm")(y)


class Bottleneck(Residual):
    """1, S, 1 convolutions to K/4, K/4, K channels: the block of ResNet-50 and larger ones.

    Source: the paper, section 2.2. Version "v1.5" strides in the middle convolution, "v1" in the
    first.
    """

    expansion = 4

    def branch(self, x: Array, norm: Norm, last_norm: Norm) -> Array:
        first, middle = (self.stride, 1) if self.version == "v1" else (1, self.stride)
        y = Conv1x1(self.features // 4, first, self.dtype, name="reduce")(x)
        y = nn.relu(norm(name="reduce_norm")(y))
        y = self._conv(y, self.features // 4, middle, "conv")
        y = nn.relu(norm(name="conv_norm")(y))
        y = Conv1x1(self.features, dtype=self.dtype, name="expand")(y)
        return last_norm(name="expand_norm")(y)


BLOCKS: dict[str, type[Residual]] = {"basic": BasicBlock, "bottleneck": Bottleneck}


class ResNet(nn.Module):
    """Pictures float32 [B, H, W, 3] -> features [B, H/32, W/32, C], C = 8 width expansion.

    Fields:
        block: "bottleneck" (expansion 4) or "basic" (expansion 1).
        stage_sizes: blocks in each stage; (3, 4, 6, 3) is ResNet-50.
        width: channels of the stem; stage i has expansion * width * 2**i.
        version: "v1.5" or "v1", see `Bottleneck`.
        attention: makes an attention module; None: there is none.
        attention_place: "end" (once, after the last stage: the paper) or "blocks" (in every block).
        zero_gamma, axis_name: see `Residual`.
        dropout: rate between the last two stages.
    """

    block: str = "bottleneck"
    stage_sizes: Sequence[int] = (3, 4, 6, 3)
    width: int = 64
    version: str = "v1.5"
    attention: Attention | None = None
    attention_place: str = "end"
    zero_gamma: bool = False
    dropout: float = 0.5
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, index: Array, train: bool) -> Array:
        x = Kernel((7, 7, x.shape[-1], self.width), fast.stem, self.dtype, name="stem")(x)
        x = batch_norm(train, self.axis_name, self.dtype)(name="stem_norm")(x)
        x = nn.relu(fast.max_pool(x))  # in this order ReLU has a quarter of the pixels to do
        block_type = BLOCKS[self.block]
        for stage, blocks in enumerate(self.stage_sizes):
            if stage == len(self.stage_sizes) - 1:
                x = Dropout(self.dropout)(x, index, train)
            for block in range(blocks):
                x = block_type(
                    features=block_type.expansion * self.width * 2**stage,
                    stride=2 if stage > 0 and block == 0 else 1,
                    version=self.version,
                    attention=self.attention if self.attention_place == "blocks" else None,
                    zero_gamma=self.zero_gamma,
                    axis_name=self.axis_name,
                    dtype=self.dtype,
                    name=f"stage{stage + 1}_block{block + 1}",
                )(x, train)
        if self.attention is not None and self.attention_place == "end":
            x = self.attention(name="attention")(x, train)
        return x
