"""The image branch: a ResNet (He et al., 2016) with convolutional attention.

Running variances are biased (divided by n), as in Flax; PyTorch divides by n - 1.
"""

from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from jdance.models import fast_ops
from jdance.models.attention import Attention
from jdance.models.layers import Dropout, Norm, batch_norm


class Conv(nn.Module):
    """A deferred convolution without a bias, for the batch norm after it.

    Attributes:
        features: output channels K.
        size, stride: of the kernel along each spatial axis.
        dtype: of the computation; the kernel is float32.
    """

    features: int
    size: int
    stride: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> fast_ops.Conv:
        shape = (*(self.size,) * (x.ndim - 2), x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape, jnp.float32)
        return fast_ops.Conv(x.astype(self.dtype), kernel, self.stride)


class Conv1x1(nn.Module):
    """`Conv` of size 1 with a dense layer's kernel [C, K]."""

    features: int
    stride: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> fast_ops.Conv:
        kernel = DenseKernel((x.shape[-1], self.features), name="dense")()
        kernel = kernel.reshape(*(1,) * (x.ndim - 2), *kernel.shape)
        return fast_ops.Conv(x.astype(self.dtype), kernel, self.stride)


class DenseKernel(nn.Module):
    """The kernel of a dense layer, float32 [C, K]."""

    shape: Sequence[int]

    @nn.compact
    def __call__(self) -> Array:
        return self.param("kernel", nn.initializers.he_normal(), tuple(self.shape), jnp.float32)


class Residual(nn.Module):
    """Base class of residual blocks: relu(shortcut + attention(branch)).

    Maps [B, *space, C] to [B, *space / stride, features], with one spatial axis (sequences) or two
    (images).

    Attributes:
        features: output channels K.
        version: which convolution of a bottleneck strides, see `Bottleneck`.
        attention: makes the attention module at the end of the branch; None: no attention.
        zero_gamma: initialize the branch's last batch-norm scale with 0, so that the block is the
            identity at first (Goyal et al., 2017).
        axis_name: the mapped axis over which batch statistics are synchronized.
        fold_norms: see `batch_norm`.
    """

    features: int
    stride: int = 1
    kernel: int = 3
    version: str = "v1.5"
    attention: Attention | None = None
    zero_gamma: bool = False
    axis_name: str | None = None
    fold_norms: bool = False
    dtype: DTypeLike = jnp.float32

    expansion: ClassVar[int]  # output channels over inner channels
    last_conv: ClassVar[str]  # name of the branch's last convolution

    def branch(self, x: Array, norm: Norm) -> fast_ops.Conv:
        """The block's convolutions, with norm and ReLU after all but the last."""
        raise NotImplementedError

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        norm = batch_norm(train, self.axis_name, self.dtype, fold=self.fold_norms)
        zeros, ones = nn.initializers.zeros_init(), nn.initializers.ones_init()
        last_norm = norm(
            scale_init=zeros if self.zero_gamma else ones, name=f"{self.last_conv}_norm"
        )
        shortcut = x
        if self.stride > 1 or x.shape[-1] != self.features:
            conv = Conv1x1(self.features, self.stride, self.dtype, name="shortcut")(x)
            shortcut = norm(name="shortcut_norm")(conv)
        y = self.branch(x, norm)
        if self.attention is None:
            return last_norm(y, shortcut, act=True)
        return fast_ops.relu(shortcut + self.attention(name="attention")(last_norm(y), train))

    def _conv(self, x: Array, features: int, stride: int, name: str) -> fast_ops.Conv:
        return Conv(features, self.kernel, stride, self.dtype, name=name)(x)


class BasicBlock(Residual):
    """Convolutions of size S, S to K channels, the first with the stride: ResNet-18 and -34."""

    expansion = 1
    last_conv = "conv2"

    def branch(self, x: Array, norm: Norm) -> fast_ops.Conv:
        y = self._conv(x, self.features, self.stride, "conv1")
        y = norm(name="conv1_norm")(y, act=True)
        return self._conv(y, self.features, 1, "conv2")


class Bottleneck(Residual):
    """Convolutions of size 1, S, 1 to K/4, K/4, K channels: ResNet-50 and larger (paper, 2.2).

    Version "v1.5" strides in the middle convolution, "v1" in the first.
    """

    expansion = 4
    last_conv = "expand"

    def branch(self, x: Array, norm: Norm) -> fast_ops.Conv:
        first, middle = (self.stride, 1) if self.version == "v1" else (1, self.stride)
        y = Conv1x1(self.features // 4, first, self.dtype, name="reduce")(x)
        y = norm(name="reduce_norm")(y, act=True)
        y = self._conv(y, self.features // 4, middle, "conv")
        y = norm(name="conv_norm")(y, act=True)
        return Conv1x1(self.features, dtype=self.dtype, name="expand")(y)


BLOCKS: dict[str, type[Residual]] = {"basic": BasicBlock, "bottleneck": Bottleneck}


class ResNet(nn.Module):
    """Images float32 [B, H, W, 3] -> features [B, H/32, W/32, C], C = 8 width expansion.

    Attributes:
        block: "bottleneck" (expansion 4) or "basic" (expansion 1).
        stage_sizes: number of blocks in each stage; (3, 4, 6, 3) is ResNet-50.
        width: channels of the stem; stage i has expansion * width * 2**i.
        version: "v1.5" or "v1", see `Bottleneck`.
        attention: makes an attention module; None: no attention.
        attention_place: "end" (once, after the last stage, as in the paper) or "blocks" (in each).
        zero_gamma, axis_name, fold_norms: see `Residual`.
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
    fold_norms: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, index: Array, train: bool) -> Array:
        stem = Conv(self.width, 7, 2, self.dtype, name="stem")(x)
        x = batch_norm(train, self.axis_name, self.dtype)(name="stem_norm")(stem)
        x = fast_ops.relu(fast_ops.max_pool(x))  # in this order ReLU has fewer pixels
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
                    fold_norms=self.fold_norms,
                    dtype=self.dtype,
                    name=f"stage{stage + 1}_block{block + 1}",
                )(x, train)
        if self.attention is not None and self.attention_place == "end":
            x = self.attention(name="attention")(x, train)
        return x
