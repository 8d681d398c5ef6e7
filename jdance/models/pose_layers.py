"""Layers of the pose networks, and the outputs of the networks that return maps.

Networks with heat maps of joints and part-affinity fields (PAFs) are called as
`net(images, train=False, all_stages=False)` with images float32 [B, H, W, 3], BGR in 0 to 255, H
and W multiples of 16 (or 8, see `jdance.pose.networks`). They return `Maps`, or with `all_stages`
the list of every stage's maps, first to last, for intermediate supervision.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from jdance.models import fast_ops

NUM_HEAT_CHANNELS = 19
NUM_PAF_CHANNELS = 38

# Heat maps float32 [B, H/8, W/8, 19] (the 18 joints of `jdance.skeleton`, then the background) and
# PAFs float32 [B, H/8, W/8, 38] (in the channels of `jdance.skeleton.PAF_CHANNELS`).
Maps = tuple[Array, Array]


class DepthwiseConv(nn.Module):
    """Depthwise convolution with zero padding: [B, H, W, C] -> [B, H/stride, W/stride, C].

    Padding is TensorFlow's SAME or, if `symmetric`, equal on opposite sides as in Caffe and
    PyTorch; they differ for stride > 1 only. The kernel is [K, K, 1, C], as in `nn.Conv`.

    On the CPU it is computed as K*K shifted multiply-adds, which XLA fuses into one loop: XLA's
    grouped convolution is about ten times slower there.
    """

    kernel_size: int = 3
    stride: int = 1
    dilation: int = 1
    symmetric: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        size, stride, dilation = self.kernel_size, self.stride, self.dilation
        init = nn.initializers.lecun_normal()
        kernel = self.param("kernel", init, (size, size, 1, x.shape[-1]), jnp.float32)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)

        x = jnp.pad(x, _pads(x, size, stride, dilation, self.symmetric))
        return _depthwise(x, kernel[:, :, 0], stride, dilation)


def _pads(
    x: Array, size: int, stride: int, dilation: int, symmetric: bool
) -> list[tuple[int, int]]:
    """The padding of [B, H, W, C] for a convolution, see `DepthwiseConv`."""
    reach = (size - 1) * dilation + 1
    pads = [(reach // 2, reach // 2)] * 2
    if not symmetric:
        pads = jax.lax.padtype_to_pads(x.shape[1:3], (reach, reach), (stride, stride), "SAME")
    return [(0, 0), *pads, (0, 0)]


def _shifted_sum(x: Array, kernel: Array, stride: int, dilation: int) -> Array:
    """Depthwise convolution of x [B, H, W, C] with [K, K, C], without padding."""
    size = kernel.shape[0]
    rows, columns = (n - (size - 1) * dilation for n in x.shape[1:3])

    def tap(i: int, j: int) -> Array:
        top, left = i * dilation, j * dilation
        shifted = x[:, top : top + rows : stride, left : left + columns : stride]
        return shifted * kernel[i, j]

    taps = [tap(i, j) for i in range(size) for j in range(size)]
    return sum(taps[1:], start=taps[0])


def _grouped(x: Array, kernel: Array, stride: int, dilation: int) -> Array:
    """`_shifted_sum` as a grouped convolution."""
    return jax.lax.conv_general_dilated(
        x, kernel[:, :, None], (stride, stride), "VALID", rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=x.shape[-1],
    )  # fmt: skip


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _depthwise(x: Array, kernel: Array, stride: int, dilation: int) -> Array:
    """Depthwise convolution of x [B, H, W, C] with [K, K, C], without padding."""
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=partial(_shifted_sum, stride=stride, dilation=dilation),
        default=partial(_grouped, stride=stride, dilation=dilation),
    )


def _depthwise_forward(
    x: Array, kernel: Array, stride: int, dilation: int
) -> tuple[Array, tuple[Array, Array]]:
    return _depthwise(x, kernel, stride, dilation), (x, kernel)


def _depthwise_backward(
    stride: int, dilation: int, saved: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    def grouped_vjp(x: Array, kernel: Array, gradient: Array) -> Any:
        grouped = partial(_grouped, stride=stride, dilation=dilation)
        return jax.vjp(grouped, x, kernel)[1](gradient)

    def shifted_sum_vjp(x: Array, kernel: Array, gradient: Array) -> Any:
        _, transpose = jax.vjp(lambda x: _shifted_sum(x, kernel, stride, dilation), x)
        size, channels = kernel.shape[0], kernel.shape[-1]
        rows, columns = (n - (size - 1) * dilation for n in x.shape[1:3])

        # A loop over the taps, because XLA's CPU backend otherwise recomputes `gradient` for each
        # of them, which makes training steps two to three times slower.
        def tap(corner: Array) -> Array:
            start = (0, corner[0], corner[1], 0)
            shifted = jax.lax.dynamic_slice(x, start, (len(x), rows, columns, channels))
            return (shifted[:, ::stride, ::stride] * gradient).sum((0, 1, 2))

        corners = dilation * np.array(list(np.ndindex(size, size)))
        taps = jax.lax.map(tap, jnp.asarray(corners))
        return *transpose(gradient), taps.reshape(kernel.shape)

    return jax.lax.platform_dependent(*saved, gradient, cpu=shifted_sum_vjp, default=grouped_vjp)


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


class ConvUnit(nn.Module):
    """Convolution, batch norm or bias, and activation: [B, H, W, C] -> [B, H/s, W/s, features].

    Attributes:
        features: output channels; None: a depthwise convolution.
        size, stride, dilation: of the kernel.
        symmetric: see `DepthwiseConv`.
        act: the activation, or None.
        norm: makes a batch norm; None: a bias instead, if `use_bias`.
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
    def __call__(self, x: Array) -> Array:
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


def upsample_corner(x: Array) -> Array:
    """Bilinear upsampling [B, h, w, C] -> [B, 2h, 2w, C] with aligned corners, as TensorFlow 1.

    out[2i] = in[i] and out[2i+1] = (in[i] + in[i+1]) / 2, with the last element repeated.
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


def upsample_half_pixel(x: Array) -> Array:
    """Bilinear upsampling [B, h, w, C] -> [B, 2h, 2w, C] with half-pixel centers.

    Equals `jax.image.resize`, as sums of shifted arrays instead of matrix products.
    """
    for axis in (1, 2):
        first, last = (jax.lax.slice_in_dim(x, i, i + 1, axis=axis) for i in (0, x.shape[axis] - 1))
        before = jnp.concatenate([first, jax.lax.slice_in_dim(x, 0, -1, axis=axis)], axis)
        after = jnp.concatenate([jax.lax.slice_in_dim(x, 1, None, axis=axis), last], axis)
        shape = list(x.shape)
        shape[axis] *= 2
        halves = [0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after]
        x = jnp.stack(halves, axis + 1).reshape(shape)
    return x
