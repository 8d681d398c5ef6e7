"""Formulations that compilers run faster than the plain ones; the numbers are the same.

Each function says which plain Flax it equals, in values and in gradients, up to rounding. What is
slow about the plain one is mostly its backward pass. On the CPU a barrier on a cotangent keeps XLA
from computing it again inside each matrix product that uses it.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array


@jax.custom_vjp
def settled(y: Array) -> Array:
    """y itself; its cotangent is computed once, before anything uses it."""
    return y


settled.defvjp(lambda y: (y, None), lambda _, gradient: (jax.lax.optimization_barrier(gradient),))


@jax.custom_vjp
def product(x: Array, kernel: Array) -> Array:
    """x [..., C] @ kernel [C, K]: a 1x1 convolution, or `nn.Dense` without a bias."""
    return x @ kernel


def _product_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return x @ kernel, (x, kernel)


def _product_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = saved
    gradient = jax.lax.optimization_barrier(gradient)
    rows = gradient.reshape(-1, gradient.shape[-1])
    # In this order XLA's CPU backend needs no transposed copy of the larger matrix.
    kernel_gradient = (rows.T @ x.reshape(-1, x.shape[-1])).T
    return gradient @ kernel.T, kernel_gradient


product.defvjp(_product_forward, _product_backward)


def convolution(x: Array, kernel: Array, stride: int, padding: int | None = None) -> Array:
    """`nn.Conv` without a bias: x [B, *space, C], kernel [*sizes, C, K], one stride for all.

    `padding` is the number of zeros on either side of each axis; None: half the kernel's size.
    """
    space = "DHW"[-(x.ndim - 2) :]
    sides = [(size // 2 if padding is None else padding,) * 2 for size in kernel.shape[:-2]]
    layout = (f"N{space}C", f"{space}IO", f"N{space}C")
    strides = (stride,) * len(space)
    return settled(
        jax.lax.conv_general_dilated(x, kernel, strides, sides, dimension_numbers=layout)
    )


def stem(x: Array, kernel: Array) -> Array:
    """`convolution` with stride 2 and a kernel [7, 7, C, K] for few channels, x [B, H, W, C].

    Each 2x2 cell of pixels becomes one with 4 C channels, and the kernel, a row and a column of
    zeros longer, a 4x4 one with stride 1: more channels to work on at once. Pictures of odd sizes
    go the plain way.
    """
    batch, height, width, channels = x.shape
    if height % 2 or width % 2:
        return convolution(x, kernel, 2)
    x = jnp.pad(x, ((0, 0), (3, 3), (3, 3), (0, 0)))
    x = x.reshape(batch, height // 2 + 3, 2, width // 2 + 3, 2, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // 2 + 3, width // 2 + 3, 4 * channels)
    kernel = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
    kernel = kernel.reshape(4, 2, 4, 2, channels, -1).transpose(0, 2, 1, 3, 4, 5)
    kernel = kernel.reshape(4, 4, 4 * channels, -1)
    return convolution(x, kernel, 1, 0)


def max_pool(x: Array) -> Array:
    """Maximum over 3x3 pixels with stride 2 and one pixel of padding, of [B, H, W, C].

    Equals `nn.max_pool`; where a window has several largest values, the first gets the gradient,
    in both. Pictures of odd sizes go the plain way.
    """
    if x.shape[1] % 2 or x.shape[2] % 2:
        return nn.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])
    return _max_pool(x)


@jax.custom_vjp
def _max_pool(x: Array) -> Array:
    return _pooled(x)[0]


def _pooled(x: Array) -> tuple[Array, Array]:
    """The maxima [B, H/2, W/2, C], and which of its window's nine pixels each is, uint8."""
    value, column = _largest(x, 2)
    value, row, columns = _largest(value, 1, column)
    return value, 3 * row + columns


def _largest(x: Array, axis: int, *others: Array) -> tuple[Array, ...]:
    """The maxima over three along an axis with stride 2, their places, and `others` there."""
    low = float(jnp.finfo(x.dtype).min)
    parts = [_three(x, axis, low), *(_three(other, axis, 0) for other in others)]
    best, place = parts[0][0], jnp.zeros(parts[0][0].shape, jnp.uint8)
    chosen = [part[0] for part in parts[1:]]
    for number in (1, 2):
        larger = parts[0][number] > best
        best = jnp.maximum(best, parts[0][number])  # which keeps what is no number
        place = jnp.where(larger, jnp.uint8(number), place)
        chosen = [
            jnp.where(larger, part[number], old)
            for part, old in zip(parts[1:], chosen, strict=True)
        ]
    return best, place, *chosen


def _three(x: Array, axis: int, padding: float) -> list[Array]:
    """Pixels 2 i - 1, 2 i and 2 i + 1 along an axis, for all i."""
    pair = x.reshape(*x.shape[:axis], x.shape[axis] // 2, 2, *x.shape[axis + 1 :])
    even, odd = (jax.lax.index_in_dim(pair, i, axis + 1, keepdims=False) for i in (0, 1))
    before = jax.lax.slice_in_dim(odd, 0, -1 + odd.shape[axis], axis=axis)
    width = [(1, 0) if i == axis else (0, 0) for i in range(x.ndim)]
    return [jnp.pad(before, width, constant_values=padding), even, odd]


def _pool_forward(x: Array) -> tuple[Array, Array]:
    return _pooled(x)


def _pool_backward(place: Array, gradient: Array) -> tuple[Array]:
    gradient = jax.lax.optimization_barrier(gradient)

    def to(row: int, column: int, down: int = 0, right: int = 0) -> Array:
        """What pixel (row, column) of each window gets; of the window `down`, `right` of it."""
        part = jnp.where(place == 3 * row + column, gradient, 0)
        part = part[:, down:, right:]
        return jnp.pad(part, ((0, 0), (0, down), (0, right), (0, 0)))

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


_max_pool.defvjp(_pool_forward, _pool_backward)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def batch_norm(
    x: Array, scale: Array, bias: Array, epsilon: float, axis_name: str | None
) -> tuple[Array, Array, Array]:
    """Normalises x [..., C] with the batch's own mean and variance; see `nn.BatchNorm`.

    Args:
        x: of any float type.
        scale, bias: [C].
        epsilon: added to the variance.
        axis_name: the mapped axis over which the statistics are shared, or None.

    Returns:
        The result, of x's type, as x a + b; mean and variance [C], at least float32, through
        which no gradient goes.
    """
    return _norm_forward(x, scale, bias, epsilon, axis_name)[0]


def _mean(values: tuple[Array, ...], axis_name: str | None) -> tuple[Array, ...]:
    return values if axis_name is None else jax.lax.pmean(values, axis_name)


def _norm_forward(
    x: Array, scale: Array, bias: Array, epsilon: float, axis_name: str | None
) -> tuple[tuple[Array, Array, Array], tuple[Array, ...]]:
    wide = x.astype(jnp.promote_types(jnp.float32, x.dtype))
    axes = tuple(range(x.ndim - 1))
    mean, square = _mean((wide.mean(axes), jnp.square(wide).mean(axes)), axis_name)
    variance = jnp.maximum(square - jnp.square(mean), 0)
    inverse = jax.lax.rsqrt(variance + epsilon)
    factor = inverse * scale
    y = wide * factor + (bias - mean * factor)
    return (y.astype(x.dtype), mean, variance), (x, scale, mean, inverse)


def _norm_backward(
    epsilon: float, axis_name: str | None, saved: tuple[Array, ...], gradients: tuple[Array, ...]
) -> tuple[Array, Array, Array]:
    x, scale, mean, inverse = saved
    gradient = jax.lax.optimization_barrier(gradients[0])
    wide, wide_gradient = x.astype(mean.dtype), gradient.astype(mean.dtype)
    axes = tuple(range(x.ndim - 1))
    total, product = wide_gradient.sum(axes), (wide_gradient * wide).sum(axes)
    scale_gradient = (product - mean * total) * inverse
    # Statistics shared by several devices pass their gradients on to all of them.
    count = x.size // x.shape[-1]
    mean_gradient, mean_scaled = _mean((total / count, scale_gradient / count), axis_name)
    slope = -scale * jnp.square(inverse) * mean_scaled
    offset = -scale * inverse * mean_gradient - slope * mean
    x_gradient = wide_gradient * (scale * inverse) + wide * slope + offset
    return x_gradient.astype(x.dtype), scale_gradient, total


batch_norm.defvjp(_norm_forward, _norm_backward)
