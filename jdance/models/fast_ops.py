"""Faster, numerically equivalent versions of Flax ops.

Each docstring names the Flax op with the same values and gradients, up to rounding. Most of the
time is saved in the backward pass. On the CPU, XLA fuses a cotangent into every matrix product that
uses it and recomputes it there; optimization barriers prevent this.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array


def _barrier(x: Array) -> Array:
    """Prevents XLA's CPU backend from recomputing x in each matrix product that uses it.

    Not on GPUs: matrix products are library calls there, and a barrier would only prevent fusions.
    """
    return jax.lax.platform_dependent(x, cpu=jax.lax.optimization_barrier, default=lambda x: x)


@jax.custom_vjp
def cotangent_barrier(y: Array) -> Array:
    """The identity; on the CPU its cotangent is computed once."""
    return y


cotangent_barrier.defvjp(lambda y: (y, None), lambda _, gradient: (_barrier(gradient),))


@jax.custom_vjp
def relu(x: Array) -> Array:
    """`nn.relu` that saves its result, not x, for the backward pass."""
    return jnp.maximum(x, 0)


def _relu_forward(x: Array) -> tuple[Array, Array]:
    y = jnp.maximum(x, 0)
    return y, y


relu.defvjp(_relu_forward, lambda y, gradient: (jnp.where(y != 0, gradient, 0),))


@jax.custom_vjp
def matmul(x: Array, kernel: Array) -> Array:
    """x [..., C] @ kernel [C, K]: a 1x1 convolution, or `nn.Dense` without a bias.

    A matrix product on the CPU; on GPUs a convolution, which cuDNN fuses with bias, residual and
    ReLU.
    """
    return jax.lax.platform_dependent(x, kernel, cpu=jnp.matmul, default=_conv1x1)


def _conv1x1(x: Array, kernel: Array) -> Array:
    if x.ndim == 2:
        return x @ kernel
    return _convolve(x, kernel.reshape(*(1,) * (x.ndim - 2), *kernel.shape))


def _matmul_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return matmul(x, kernel), (x, kernel)


def _matmul_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    def matmuls(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
        gradient = jax.lax.optimization_barrier(gradient)
        rows = gradient.reshape(-1, gradient.shape[-1])
        # This order avoids a transposed copy of the larger matrix on the CPU.
        kernel_gradient = (rows.T @ x.reshape(-1, x.shape[-1])).T
        return gradient @ kernel.T, kernel_gradient

    def convolutions(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
        return _conv1x1(gradient, kernel.T), _outer(x, gradient).astype(kernel.dtype)

    return jax.lax.platform_dependent(*saved, gradient, cpu=matmuls, default=convolutions)


matmul.defvjp(_matmul_forward, _matmul_backward)


def _outer(x: Array, y: Array) -> Array:
    """Sum [C, K] over all positions of the outer products of x [..., C] and y [..., K]."""
    rows, columns = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
    return jax.lax.dot_general(
        rows, columns, (((0,), (0,)), ((), ())), precision="highest",
        preferred_element_type=jnp.promote_types(jnp.float32, x.dtype),
    )  # fmt: skip


def convolution(
    x: Array, kernel: Array, stride: int = 1, padding: int | None = None, dilation: int = 1
) -> Array:
    """`nn.Conv` without a bias.

    Args:
        x: [B, *space, C].
        kernel: [*sizes, C, K].
        stride: along all axes.
        padding: zeros on either side of each axis; None: half the dilated kernel's size.
        dilation: of the kernel, along all axes.
    """
    if padding is None and set(kernel.shape[:-2]) == {1}:
        return matmul(strided(x, stride), kernel.reshape(kernel.shape[-2:]))
    is_stem = x.ndim == 4 and kernel.shape[:2] == (7, 7)
    if is_stem and (stride, padding, dilation) == (2, None, 1):
        plain = partial(_convolve, stride=2)
        return jax.lax.platform_dependent(x, kernel, cpu=space_to_depth_conv, default=plain)
    return cotangent_barrier(_convolve(x, kernel, stride, padding, dilation))


def strided(x: Array, stride: int) -> Array:
    """Every `stride`-th position of [B, *space, C] along each spatial axis."""
    if stride == 1:
        return x
    x = x[(slice(None), *(slice(None, None, stride),) * (x.ndim - 2))]
    # jax 0.10 crashes on GPUs when XLA fuses a strided slice into a matrix product.
    return jax.lax.platform_dependent(x, cpu=lambda x: x, default=jax.lax.optimization_barrier)


def _convolve(
    x: Array, kernel: Array, stride: int = 1, padding: int | None = None, dilation: int = 1
) -> Array:
    sides = tuple(
        (size // 2 * dilation if padding is None else padding,) * 2 for size in kernel.shape[:-2]
    )
    return _conv_general(x, kernel, (stride,) * len(sides), sides, (dilation,) * len(sides))


def conv_general_dilated(
    x: Array,
    kernel: Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *,
    rhs_dilation: Sequence[int],
    feature_group_count: int,
    **_: Any,
) -> Array:
    """`jax.lax.conv_general_dilated` for `nn.Conv`; other options than these are ignored."""
    if feature_group_count > 1:
        raise ValueError("groups: use nn.Conv without this function, or DepthwiseConv")
    sizes = [(kernel.shape[i] - 1) * d + 1 for i, d in enumerate(rhs_dilation)]
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:-1], sizes, strides, padding)
    return _conv_general(x, kernel, tuple(strides), tuple(padding), tuple(rhs_dilation))


_Pads = Sequence[tuple[int, int]]


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _conv_general(
    x: Array, kernel: Array, strides: Sequence[int], padding: _Pads, dilations: Sequence[int]
) -> Array:
    """A convolution of x [B, *space, C] with a kernel [*sizes, C, K]."""
    convolve = partial(_conv, strides=strides, padding=padding, rhs_dilation=dilations)
    if not _is_small(x, kernel):
        return convolve(x, kernel)
    on_cpu = partial(_conv_on_cpu, strides=strides, padding=padding, rhs_dilation=dilations)
    return jax.lax.platform_dependent(x, kernel, cpu=on_cpu, default=convolve)


def _conv(
    x: Array,
    kernel: Array,
    strides: Sequence[int],
    padding: _Pads,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
) -> Array:
    space = "DHW"[-(x.ndim - 2) :]
    layout = (f"N{space}C", f"{space}IO", f"N{space}C")
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, lhs_dilation, rhs_dilation, layout
    )


_WIDE = 2**16  # input times output channels, from which plain loops are slow


def _is_small(x: Array, kernel: Array) -> bool:
    """Whether a map has fewer places than a kernel for many channels."""
    channels = math.prod(kernel.shape[-2:])
    return channels >= _WIDE and math.prod(x.shape[1:-1]) < math.prod(kernel.shape[:-2])


def _conv_on_cpu(
    x: Array,
    kernel: Array,
    strides: Sequence[int],
    padding: _Pads,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
) -> Array:
    """`_conv` with zeros around small maps, which XLA would exchange with the kernel.

    The exchange leads to a layout that its CPU backend runs as plain loops.
    """
    if _is_small(x, kernel):
        inner = [size - 1 for size in lhs_dilation or (1,) * len(padding)]
        sides = [(*pair, between) for pair, between in zip(padding, inner, strict=True)]
        x = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *sides, (0, 0, 0)])
        x = jax.lax.optimization_barrier(x)  # XLA would fold it into the convolution
        padding, lhs_dilation = [(0, 0)] * len(padding), None
    return _conv(x, kernel, strides, padding, lhs_dilation, rhs_dilation)


def _conv_general_forward(
    x: Array, kernel: Array, strides: Sequence[int], padding: _Pads, dilations: Sequence[int]
) -> tuple[Array, tuple[Array, Array]]:
    return _conv_general(x, kernel, strides, padding, dilations), (x, kernel)


def _conv_general_backward(
    strides: Sequence[int],
    padding: _Pads,
    dilations: Sequence[int],
    saved: tuple[Array, Array],
    gradient: Array,
) -> tuple[Array, Array]:
    def plain(x: Array, kernel: Array, gradient: Array) -> Any:
        convolve = partial(_conv, strides=strides, padding=padding, rhs_dilation=dilations)
        return jax.vjp(convolve, x, kernel)[1](gradient)

    def transposed(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
        # XLA's CPU backend has fast convolutions for this layout alone. It transposes others, but
        # not inside loops and conditionals, where they take 20 times as long.
        x, gradient = jax.lax.optimization_barrier((x, gradient))
        axes = tuple(range(1, x.ndim - 1))
        space = range(len(axes))
        low = [before for before, _ in padding]
        reach = [(kernel.shape[i] - 1) * dilations[i] for i in space]
        spread = [(gradient.shape[i + 1] - 1) * strides[i] for i in space]
        free = [x.shape[i + 1] - 1 - spread[i] for i in space]
        kernel_gradient = _conv_on_cpu(
            x.transpose(-1, *axes, 0), gradient.transpose(*axes, 0, -1), dilations,
            [(low[i], reach[i] - free[i] - low[i]) for i in space], rhs_dilation=strides,
        )  # fmt: skip
        x_gradient = _conv_on_cpu(
            gradient, jnp.flip(kernel, space).swapaxes(-1, -2), (1,) * len(axes),
            [(reach[i] - low[i], free[i] + low[i]) for i in space],
            lhs_dilation=strides, rhs_dilation=dilations,
        )  # fmt: skip
        return x_gradient, kernel_gradient.transpose(*axes, 0, -1)

    return jax.lax.platform_dependent(*saved, gradient, cpu=transposed, default=plain)


_conv_general.defvjp(_conv_general_forward, _conv_general_backward)


class Conv(NamedTuple):
    """A deferred convolution, into which the next batch norm can be folded.

    Attributes:
        x: [B, *space, C] in the dtype of the computation.
        kernel: [*sizes, C, K], at least float32.
        stride: along all axes.
    """

    x: Array
    kernel: Array
    stride: int = 1

    def __call__(self) -> Array:
        return convolution(self.x, self.kernel.astype(self.x.dtype), self.stride)

    def affine(self, factor: Array, offset: Array, residual: Array | None, act: bool) -> Array:
        """The result times `factor` [K] plus `offset` [K], then `add_relu`."""
        y = self._replace(kernel=self.kernel * factor)() + offset.astype(self.x.dtype)
        return add_relu(y, residual, act)

    @property
    def expands(self) -> bool:
        """Whether this is a 1x1 convolution to at least twice as many channels."""
        *sizes, inputs, outputs = self.kernel.shape
        return set(sizes) == {1} and outputs >= 2 * inputs

    @property
    def positions(self) -> int:
        """The number of output positions of all examples."""
        return self.x.size // self.x.shape[-1] // self.stride ** (self.x.ndim - 2)


def add_relu(y: Array, residual: Array | None, act: bool) -> Array:
    """`y` plus `residual` if there is one, then ReLU if `act`."""
    y = y if residual is None else y + residual
    return relu(y) if act else y


def conv_norm(
    conv: Conv,
    scale: Array,
    bias: Array,
    epsilon: float,
    axis_name: str | None,
    residual: Array | None = None,
    act: bool = False,
) -> tuple[Array, Array, Array]:
    """A 1x1 convolution with training-mode batch norm folded into it, then `add_relu`.

    The outputs z W of a 1x1 convolution have the mean E[z] W and the second moments
    diag(W' E[z'z] W), with ' for the transpose. So the statistics are computed from the inputs,
    which have fewer channels, and the norm becomes part of kernel and bias. A training step of
    ResNet-50 has 20 % less memory traffic for 7 % more FLOPs.

    Args and returns: as for `batch_norm`; residual has the result's shape.
    """
    x = strided(conv.x, conv.stride)
    kernel = conv.kernel.reshape(conv.kernel.shape[-2:])
    shift = jnp.zeros((), x.dtype) if residual is None else residual
    return _conv_norm(x, kernel, scale, bias, shift, epsilon, axis_name, act)


@partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def _conv_norm(*args: Any) -> tuple[Array, Array, Array]:
    return _conv_norm_forward(*args)[0]


_precise = partial(jnp.matmul, precision="highest")


def _conv_norm_forward(
    x: Array,
    kernel: Array,
    scale: Array,
    bias: Array,
    residual: Array,
    epsilon: float,
    axis_name: str | None,
    act: bool,
) -> tuple[tuple[Array, Array, Array], tuple[Array, ...]]:
    count = x.size // x.shape[-1]
    wide = jnp.promote_types(jnp.float32, x.dtype)
    moments = _outer(x, x) / count  # [C, C]
    input_mean = x.mean(tuple(range(x.ndim - 1)), wide)
    spread = _precise(moments, kernel)  # [C, K]
    mean, square = _mean((_precise(input_mean, kernel), (kernel * spread).sum(0)), axis_name)
    variance = jnp.maximum(square - jnp.square(mean), 0)
    inverse = jax.lax.rsqrt(variance + epsilon)
    factor = inverse * scale
    y = matmul(x, (kernel * factor).astype(x.dtype)) + (bias - mean * factor).astype(x.dtype)
    y = y if residual.ndim == 0 else y + residual
    y = jnp.maximum(y, 0) if act else y
    return (y, mean, variance), (x, kernel, scale, input_mean, spread, mean, inverse, residual, y)


def _conv_norm_backward(
    epsilon: float,
    axis_name: str | None,
    act: bool,
    saved: tuple[Array, ...],
    gradients: tuple[Array, ...],
) -> tuple[Array, ...]:
    x, kernel, scale, input_mean, spread, mean, inverse, residual, y = saved
    # Not >, because XLA rewrites max(x, 0) > 0 to x > 0, for which it would store x.
    gradient = jnp.where(y != 0, gradients[0], 0) if act else gradients[0]
    count = x.size // x.shape[-1]
    factor = inverse * scale
    total = gradient.sum(tuple(range(x.ndim - 1)), mean.dtype)
    folded_gradient = _outer(x, gradient)  # of the folded kernel
    factor_gradient = (kernel * folded_gradient).sum(0) - mean * total
    variance_gradient = -0.5 * factor_gradient * scale * inverse**3
    mean_gradient, square_gradient = _mean(
        (-total * factor - 2 * mean * variance_gradient, variance_gradient), axis_name
    )
    kernel_gradient = (
        folded_gradient * factor
        + 2 * spread * square_gradient
        + input_mean[:, None] * mean_gradient
    )
    square_kernel = _precise(kernel * (2 / count * square_gradient), kernel.T)  # [C, C]
    x_gradient = (
        matmul(gradient, (kernel * factor).astype(x.dtype).T)
        + matmul(x, square_kernel.astype(x.dtype))
        + (_precise(kernel, mean_gradient) / count).astype(x.dtype)
    )
    return (
        x_gradient,
        kernel_gradient,
        factor_gradient * inverse,
        total,
        gradient if residual.ndim else jnp.zeros_like(residual),
    )


_conv_norm.defvjp(_conv_norm_forward, _conv_norm_backward)


def space_to_depth_conv(x: Array, kernel: Array) -> Array:
    """`convolution` of x [B, H, W, C] with stride 2 and a kernel [7, 7, C, K], for few channels.

    Each 2x2 block of pixels becomes one pixel with 4 C channels, and the zero-padded kernel becomes
    4x4 with stride 1, which uses vector units better. Images of odd sizes are convolved directly.
    """
    batch, height, width, channels = x.shape
    if height % 2 or width % 2:
        return cotangent_barrier(_convolve(x, kernel, 2))
    x = jnp.pad(x, ((0, 0), (3, 3), (3, 3), (0, 0)))
    x = x.reshape(batch, height // 2 + 3, 2, width // 2 + 3, 2, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // 2 + 3, width // 2 + 3, 4 * channels)
    kernel = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
    kernel = kernel.reshape(4, 2, 4, 2, channels, -1).transpose(0, 2, 1, 3, 4, 5)
    kernel = kernel.reshape(4, 4, 4 * channels, -1)
    return cotangent_barrier(_convolve(x, kernel, 1, 0))


def max_pool(x: Array) -> Array:
    """`nn.max_pool` of [B, H, W, C] over 3x3 pixels with stride 2 and one pixel of padding.

    The first of equal maxima gets the gradient, as there. Images of odd sizes use `nn.max_pool`.
    """
    if x.shape[1] % 2 or x.shape[2] % 2:
        return nn.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])
    return _max_pool(x)


@jax.custom_vjp
def _max_pool(x: Array) -> Array:
    return _max_pool_forward(x)[0]


def _max_pool_forward(x: Array) -> tuple[Array, Array]:
    """The maxima [B, H/2, W/2, C], and the index of each in its 3x3 window, uint8."""
    value, column = _max3(x, 2)
    value, row, columns = _max3(value, 1, column)
    return value, 3 * row + columns


def _max3(x: Array, axis: int, *others: Array) -> tuple[Array, ...]:
    """Maxima of three along an axis with stride 2, their indices, and `others` at these indices."""
    low = float(jnp.finfo(x.dtype).min)
    values, *companions = _windows3(x, axis, low), *(_windows3(other, axis, 0) for other in others)
    best, index = values[0], jnp.zeros(values[0].shape, jnp.uint8)
    chosen = [window[0] for window in companions]
    for i in (1, 2):
        larger = values[i] > best
        best = jnp.maximum(best, values[i])  # propagates NaN
        index = jnp.where(larger, jnp.uint8(i), index)
        chosen = [
            jnp.where(larger, window[i], old)
            for window, old in zip(companions, chosen, strict=True)
        ]
    return best, index, *chosen


def _windows3(x: Array, axis: int, padding: float) -> list[Array]:
    """Elements 2 i - 1, 2 i and 2 i + 1 along an axis, for all i."""
    pair = x.reshape(*x.shape[:axis], x.shape[axis] // 2, 2, *x.shape[axis + 1 :])
    even, odd = (jax.lax.index_in_dim(pair, i, axis + 1, keepdims=False) for i in (0, 1))
    before = jax.lax.slice_in_dim(odd, 0, -1 + odd.shape[axis], axis=axis)
    width = [(1, 0) if i == axis else (0, 0) for i in range(x.ndim)]
    return [jnp.pad(before, width, constant_values=padding), even, odd]


def _max_pool_backward(index: Array, gradient: Array) -> tuple[Array]:
    gradient = _barrier(gradient)

    def to(row: int, column: int, down: int = 0, right: int = 0) -> Array:
        """The gradient of pixel (row, column) in the window shifted by (down, right)."""
        selected = jnp.where(index == 3 * row + column, gradient, 0)
        selected = selected[:, down:, right:]
        return jnp.pad(selected, ((0, 0), (0, down), (0, right), (0, 0)))

    even = jnp.stack([to(1, 1), to(1, 2) + to(1, 0, right=1)], 3)
    odd = jnp.stack(
        [
            to(2, 1) + to(0, 1, down=1),
            to(2, 2) + to(2, 0, right=1) + to(0, 2, down=1) + to(0, 0, 1, 1),
        ],
        3,
    )
    batch, height, width, channels = gradient.shape
    return (jnp.stack([even, odd], 2).reshape(batch, 2 * height, 2 * width, channels),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def batch_norm(
    x: Array, scale: Array, bias: Array, epsilon: float, axis_name: str | None, act: bool = False
) -> tuple[Array, Array, Array]:
    """Normalizes x with batch statistics, as `nn.BatchNorm` in training; then ReLU if `act`.

    Only x is saved for the backward pass, which recomputes ReLU's mask.

    Args:
        x: [..., C], any float dtype.
        scale, bias: [C].
        epsilon: added to the variance.
        axis_name: the mapped axis over which the statistics are averaged, or None.
        act: apply ReLU.

    Returns:
        The result in x's dtype; mean and variance [C], at least float32, without gradients.
    """
    return _norm_forward(x, scale, bias, epsilon, axis_name, act)[0]


def _mean(values: tuple[Array, ...], axis_name: str | None) -> tuple[Array, ...]:
    return values if axis_name is None else jax.lax.pmean(values, axis_name)


def _sums(axes: tuple[int, ...], *values: Array) -> tuple[Array, ...]:
    """Sums of arrays of the same shape over the same axes; in one kernel on GPUs."""

    def add(a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(x + y for x, y in zip(a, b, strict=True))

    def joint(*values: Array) -> tuple[Array, ...]:
        zeros = tuple(jnp.zeros((), value.dtype) for value in values)
        return tuple(jax.lax.reduce(values, zeros, add, axes))

    def separate(*values: Array) -> tuple[Array, ...]:
        return tuple(value.sum(axes) for value in values)

    return jax.lax.platform_dependent(*values, cpu=separate, default=joint)


def _norm_forward(
    x: Array, scale: Array, bias: Array, epsilon: float, axis_name: str | None, act: bool
) -> tuple[tuple[Array, Array, Array], tuple[Array, ...]]:
    wide = x.astype(jnp.promote_types(jnp.float32, x.dtype))
    axes = tuple(range(x.ndim - 1))
    count = x.size // x.shape[-1]
    mean, square = _mean(
        tuple(total / count for total in _sums(axes, wide, jnp.square(wide))), axis_name
    )
    variance = jnp.maximum(square - jnp.square(mean), 0)
    inverse = jax.lax.rsqrt(variance + epsilon)
    factor = inverse * scale
    offset = bias - mean * factor
    y = wide * factor + offset
    y = jnp.maximum(y, 0) if act else y
    return (y.astype(x.dtype), mean, variance), (x, scale, mean, inverse, offset)


def _norm_backward(
    epsilon: float,
    axis_name: str | None,
    act: bool,
    saved: tuple[Array, ...],
    gradients: tuple[Array, ...],
) -> tuple[Array, Array, Array]:
    x, scale, mean, inverse, offset = saved
    gradient = _barrier(gradients[0])
    wide, wide_gradient = x.astype(mean.dtype), gradient.astype(mean.dtype)
    if act:
        wide_gradient = jnp.where(wide * (inverse * scale) + offset > 0, wide_gradient, 0)
    axes = tuple(range(x.ndim - 1))
    total, product = _sums(axes, wide_gradient, wide_gradient * wide)
    scale_gradient = (product - mean * total) * inverse
    # Gradients of statistics that are averaged over devices are averaged, too.
    count = x.size // x.shape[-1]
    mean_gradient, mean_scaled = _mean((total / count, scale_gradient / count), axis_name)
    slope = -scale * jnp.square(inverse) * mean_scaled
    constant = -scale * inverse * mean_gradient - slope * mean
    x_gradient = wide_gradient * (scale * inverse) + wide * slope + constant
    return x_gradient.astype(x.dtype), scale_gradient, total


batch_norm.defvjp(_norm_forward, _norm_backward)
