"""Bottom-up pose networks: one image in, heat maps of joints and part-affinity fields out.

Every network here is called as `net(images, train=False, all_stages=False)`, with images float32
[B, H, W, 3] in BGR, 0..255, H and W multiples of 16, and answers `(heat, paf)`: float32
[B, H/8, W/8, 19] (18 joints in the order of `jdance.skeleton`, then background) and
[B, H/8, W/8, 38] (the channels of `jdance.skeleton.PAF_CHANNELS`). With `all_stages` it answers
the list of every stage's `(heat, paf)`, first to last, for training with supervision of each.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jdance.models import fast_ops

NUM_HEAT_CHANNELS = 19
NUM_PAF_CHANNELS = 38

Maps = tuple[jax.Array, jax.Array]

# Some variances of the published weights are as small as 1e-6: epsilon is part of the network.
_EPSILON = 1e-3


class DepthwiseConv(nn.Module):
    """Depthwise convolution with zero padding: [B, H, W, C] -> [B, H/stride, W/stride, C].

    Padding is TensorFlow's SAME or, if `symmetric`, equal on opposite sides, as in Caffe and
    PyTorch; with stride 1 both are the same.

    On the CPU it is K*K shifted multiply-adds, which XLA fuses into one loop: its grouped
    convolution is about ten times slower there. The kernel is [K, K, 1, C], as in `nn.Conv`.
    """

    kernel_size: int = 3
    stride: int = 1
    dilation: int = 1
    symmetric: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size, stride, dilation = self.kernel_size, self.stride, self.dilation
        init = nn.initializers.lecun_normal()
        kernel = self.param("kernel", init, (size, size, 1, x.shape[-1]), jnp.float32)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)

        x = jnp.pad(x, _pads(x, size, stride, dilation, self.symmetric))
        return _depthwise(x, kernel[:, :, 0], stride, dilation)


def _pads(
    x: jax.Array, size: int, stride: int, dilation: int, symmetric: bool
) -> list[tuple[int, int]]:
    """How many zeros a convolution of [B, H, W, C] pads on each side, see `DepthwiseConv`."""
    reach = (size - 1) * dilation + 1
    pads = [(reach // 2, reach // 2)] * 2
    if not symmetric:
        pads = jax.lax.padtype_to_pads(x.shape[1:3], (reach, reach), (stride, stride), "SAME")
    return [(0, 0), *pads, (0, 0)]


def _shifted_sum(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    """Depthwise convolution of x [B, H, W, C] with [K, K, C], without padding."""
    size = kernel.shape[0]
    rows, columns = (n - (size - 1) * dilation for n in x.shape[1:3])

    def tap(i: int, j: int) -> jax.Array:
        top, left = i * dilation, j * dilation
        shifted = x[:, top : top + rows : stride, left : left + columns : stride]
        return shifted * kernel[i, j]

    taps = [tap(i, j) for i in range(size) for j in range(size)]
    return sum(taps[1:], start=taps[0])


def _grouped(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    """`_shifted_sum` as a convolution with a group for each channel."""
    return jax.lax.conv_general_dilated(
        x, kernel[:, :, None], (stride, stride), "VALID", rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=x.shape[-1],
    )  # fmt: skip


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _depthwise(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    """Depthwise convolution of x [B, H, W, C] with [K, K, C], without padding."""
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=partial(_shifted_sum, stride=stride, dilation=dilation),
        default=partial(_grouped, stride=stride, dilation=dilation),
    )


def _depthwise_forward(
    x: jax.Array, kernel: jax.Array, stride: int, dilation: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _depthwise(x, kernel, stride, dilation), (x, kernel)


def _depthwise_backward(
    stride: int, dilation: int, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    def of_grouped(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> Any:
        grouped = partial(_grouped, stride=stride, dilation=dilation)
        return jax.vjp(grouped, x, kernel)[1](gradient)

    def of_shifted_sum(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> Any:
        _, transpose = jax.vjp(lambda x: _shifted_sum(x, kernel, stride, dilation), x)
        size, channels = kernel.shape[0], kernel.shape[-1]
        rows, columns = (n - (size - 1) * dilation for n in x.shape[1:3])

        # A loop over the taps: in one piece, XLA's CPU code would compute `gradient` anew for each
        # of them, which makes a training step two to three times slower.
        def tap(corner: jax.Array) -> jax.Array:
            start = (0, corner[0], corner[1], 0)
            shifted = jax.lax.dynamic_slice(x, start, (len(x), rows, columns, channels))
            return (shifted[:, ::stride, ::stride] * gradient).sum((0, 1, 2))

        corners = dilation * np.array(list(np.ndindex(size, size)))
        taps = jax.lax.map(tap, jnp.asarray(corners))
        return *transpose(gradient), taps.reshape(kernel.shape)

    return jax.lax.platform_dependent(*saved, gradient, cpu=of_shifted_sum, default=of_grouped)


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


class ConvUnit(nn.Module):
    """Convolution, batch norm or bias, activation: [B, H, W, C] -> [B, H/s, W/s, features].

    Attributes:
        features: output channels; None: a depthwise convolution.
        size, stride, dilation: of the kernel.
        symmetric: see `DepthwiseConv`.
        act: the activation, None for none.
        norm: makes a batch norm; None: a bias in its place, if `use_bias`.
        use_bias: whether there is a bias.
        dtype: of the computation.
    """

    features: int | None
    size: int = 3
    stride: int = 1
    dilation: int = 1
    symmetric: bool = True
    act: Any = fast_ops.relu
    norm: Any = None
    use_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.astype(self.dtype)
        if self.features is None:
            x = DepthwiseConv(
                self.size, self.stride, self.dilation, self.symmetric, self.dtype, name="depthwise"
            )(x)
        else:
            init = nn.initializers.lecun_normal()
            shape = (self.size, self.size, x.shape[-1], self.features)
            kernel = self.param("kernel", init, shape, jnp.float32).astype(self.dtype)
            if self.symmetric or self.size == 1:
                x = fast_ops.convolution(x, kernel, self.stride, dilation=self.dilation)
            else:
                pads = _pads(x, self.size, self.stride, self.dilation, self.symmetric)
                x = fast_ops.convolution(jnp.pad(x, pads), kernel, self.stride, 0, self.dilation)
        if self.norm is not None:
            x = self.norm(name="bn")(x)
        elif self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), x.shape[-1:], jnp.float32)
            x = x + bias.astype(self.dtype)
        return x if self.act is None else self.act(x)


class InvertedResidual(nn.Module):
    """MobileNetV2's block: 1x1 expand, 3x3 depthwise, 1x1 project; the input added if it fits."""

    features: int
    expansion: int
    stride: int
    norm: Any
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        # A 1x1 convolution is a matrix product, and XLA does it faster when told so.
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

    Call: images [B, H, W, 3] -> features [B, H/8, W/8, 64], block 5 beside block 12 enlarged.
    """

    norm: Any
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = images.astype(self.dtype)
        x = nn.Conv(16, (3, 3), strides=2, use_bias=False, dtype=self.dtype, name="stem")(x)
        x = nn.relu6(self.norm(name="stem_bn")(x))
        outputs = []
        # features and stride of blocks 0 to 12; the first one does not expand
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
        return jnp.concatenate([outputs[5], upsample2(outputs[12])], axis=-1)


class SeparableBranch(nn.Module):
    """Five separable units: [B, h, w, C] -> the maps [B, h, w, channels] of one branch."""

    channels: int
    width4: int
    norm: Any
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        units = ((3, 64), (3, 64), (3, 64), (1, self.width4), (1, self.channels))
        for i, (kernel_size, features) in enumerate(units, start=1):
            x = DepthwiseConv(kernel_size, dtype=self.dtype, name=f"sep{i}_depthwise")(x)
            x = nn.Dense(features, use_bias=False, dtype=self.dtype, name=f"sep{i}_pointwise")(x)
            # The scale is fixed at 1 in this network.
            x = self.norm(use_scale=False, name=f"sep{i}_bn")(x)
            if i < len(units):
                x = nn.relu(x)
        return x


class MobileNetV2Small(nn.Module):
    """The pose network "mobilenet_v2_small" of the tf-pose-estimation project (0.47 M parameters).

    A MobileNetV2 backbone (Sandler et al., 2018) of half width, then the six stages of OpenPose
    (Cao et al., 2017) with separable convolutions, each refining the maps of the one before. The
    call is described at the top of this file.

    Attributes:
        statistics: what batch norm in the backbone normalises with. "fixed": running averages, as
            usual. "instance": mean and variance of each image by itself, stored nowhere, which is
            how the published graph was frozen (it then runs one image at a time). The stages
            always use running averages.
        momentum: of the running averages while training; 0 keeps the last batch's statistics.
        axis_name: of `pmap`'s axis, to share the batch's statistics among devices in training.
        dtype: of the computation. Parameters, statistics and outputs stay float32.
    """

    statistics: str = "fixed"
    momentum: float = 0.99
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, all_stages: bool = False
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


def upsample2(x: jax.Array) -> jax.Array:
    """Doubles height and width: [B, h, w, C] -> [B, 2h, 2w, C], linear from the corner.

    out[2i] = in[i] and out[2i+1] is the middle of in[i] and in[i+1], the last one repeated: the
    resize of TensorFlow 1, which `jax.image.resize` (half-pixel centres) is not.
    """
    for axis in (1, 2):
        following = jnp.concatenate(
            [
                jax.lax.slice_in_dim(x, 1, None, axis=axis),
                jax.lax.slice_in_dim(x, -1, None, axis=axis),
            ],
            axis=axis,
        )
        shape = list(x.shape)
        shape[axis] *= 2
        x = jnp.stack([x, (x + following) * 0.5], axis=axis + 1).reshape(shape)
    return x
