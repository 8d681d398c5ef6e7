"""Letterboxing and cropping inside compiled programs, equivalent to OpenCV up to rounding.

Resampling is separable: along each axis an output pixel is a weighted sum of a few source pixels,
its taps. Taps are computed from traced integers, so that one program serves images and squares of
all sizes. The references are `pose.letterbox`, `crop.cut` and `augment.center_view`.

Letters in the shapes: B frames, H x W the canvas, n output pixels of an axis, T taps.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jdance.data import augment, crop
from jdance.pose.letterbox import INPUT_SIZE

_CUBIC = -0.75  # OpenCV's coefficient


class _Axis(NamedTuple):
    """Resampling of `extent` source pixels to `pixels` output pixels; traced int32 []."""

    extent: Array
    pixels: Array


def _area(axis: _Axis, output: Array, tap: Array) -> tuple[Array, Array]:
    """Returns source pixel and weight of a tap of output pixels int32 [n], for area averaging.

    In units of 1 / `axis.pixels` source pixels, all borders are integers.
    """
    start = output * axis.extent
    pixel = start // axis.pixels + tap
    first = jnp.maximum(pixel * axis.pixels, start)
    last = jnp.minimum((pixel + 1) * axis.pixels, start + axis.extent)
    return pixel, jnp.maximum(last - first, 0) / axis.extent


def _between(axis: _Axis, output: Array) -> tuple[Array, Array]:
    """Returns the source pixel before the center of output pixels, and the fraction beyond it."""
    numerator = (2 * output + 1) * axis.extent - axis.pixels
    before = numerator // (2 * axis.pixels)
    return before, (numerator - before * 2 * axis.pixels) / (2 * axis.pixels)


def _linear(axis: _Axis, output: Array, tap: Array) -> tuple[Array, Array]:
    before, fraction = _between(axis, output)
    weight = jnp.where(tap == 0, 1 - fraction, jnp.where(tap == 1, fraction, 0))
    return jnp.clip(before + tap, 0, axis.extent - 1), weight


def _cubic(axis: _Axis, output: Array, tap: Array) -> tuple[Array, Array]:
    before, fraction = _between(axis, output)
    x = abs(fraction + 1 - tap)
    near = ((_CUBIC + 2) * x - (_CUBIC + 3)) * x * x + 1
    far = ((_CUBIC * x - 5 * _CUBIC) * x + 8 * _CUBIC) * x - 4 * _CUBIC
    weight = jnp.where(x <= 1, near, jnp.where(x < 2, far, 0))
    return jnp.clip(before - 1 + tap, 0, axis.extent - 1), weight


def fitted_size(sizes: Array, size: int = INPUT_SIZE) -> Array:
    """Traced equivalent of `letterbox.fitted_size`, for heights and widths int32 [B, 2]."""
    longer = sizes.max(-1, keepdims=True)
    return jnp.maximum((2 * sizes * size + longer) // (2 * longer), 1)


def letterbox(frames: Array, sizes: Array, size: int = INPUT_SIZE) -> Array:
    """Traced equivalent of `pose.letterbox.letterbox`: fits frames into squares.

    Args:
        frames: uint8 [B, H, W, 3], zero-padded.
        sizes: int32 [B, 2], heights and widths without the padding, at least 1.
        size: side of the squares.

    Returns:
        uint8 [B, size, size, 3].
    """
    return jax.lax.platform_dependent(
        frames,
        sizes,
        cpu=lambda frames, sizes: _letterbox_by_taps(frames, sizes, size),
        default=lambda frames, sizes: _letterbox_by_matmul(frames, sizes, size),
    )


def _letterbox_by_matmul(frames: Array, sizes: Array, size: int) -> Array:
    fitted = fitted_size(sizes, size)
    shrinks = sizes.max(-1) > size
    output = jnp.arange(size, dtype=jnp.int32)

    def matrix(extent: Array, count: Array, shrinks: Array, length: int) -> Array:
        axis = _Axis(extent, count)
        by_area = _area_matrix(axis, output, jnp.arange(length, dtype=jnp.int32))
        cubic = _matrix(lambda tap: _cubic(axis, output, tap), 4, length)
        return jnp.where((output < count)[:, None], jnp.where(shrinks, by_area, cubic), 0)

    rows, columns = (
        jax.vmap(partial(matrix, length=frames.shape[1 + i]))(sizes[:, i], fitted[:, i], shrinks)
        for i in (0, 1)
    )
    return _to_bytes(_resampled(frames, rows, columns))


def _area_matrix(axis: _Axis, output: Array, pixel: Array) -> Array:
    """Returns the `_area` weights [n, length] of source pixels int32 [length]."""
    output, pixel = output[:, None], pixel[None]
    first = jnp.maximum(pixel * axis.pixels, output * axis.extent)
    last = jnp.minimum((pixel + 1) * axis.pixels, (output + 1) * axis.extent)
    return jnp.maximum(last - first, 0) / axis.extent


def _matrix(taps: Callable[[Array], tuple[Array, Array]], count: int, length: int) -> Array:
    """Returns the dense weights [n, length] of the `count` taps of each output pixel."""
    pixel, weight = jax.vmap(taps)(jnp.arange(count))  # [count, n]
    same = pixel[..., None] == jnp.arange(length)
    return jnp.where(same, weight[..., None], 0).sum(0)


def _resampled(images: Array, rows: Array, columns: Array) -> Array:
    """Applies weights [N, n, H] and [N, n, W] to [N, H, W, 3]: float32 [N, n, n, 3]."""
    einsum = partial(jnp.einsum, precision="highest")
    across = einsum("nxw,nhwc->nhxc", columns, images.astype(jnp.float32))
    return einsum("nyh,nhxc->nyxc", rows, across)


def _letterbox_by_taps(frames: Array, sizes: Array, size: int) -> Array:
    fitted = fitted_size(sizes, size)
    shrinks = sizes.max(-1) > size  # [B]
    max_taps = jnp.where(shrinks[:, None], (sizes - 1) // fitted + 2, 4).max(0)
    output = jnp.arange(size, dtype=jnp.int32)

    def taps(dim: int, tap: Array) -> tuple[Array, Array]:
        """Returns source pixel and weight [B, size] along height (0) or width (1)."""

        def one(extent: Array, count: Array, shrinks: Array) -> tuple[Array, Array]:
            axis = _Axis(extent, count)
            by_area, cubic = _area(axis, output, tap), _cubic(axis, output, tap)
            pixel, weight = (jnp.where(shrinks, a, c) for a, c in zip(by_area, cubic, strict=True))
            return jnp.clip(pixel, 0, extent - 1), jnp.where(output < count, weight, 0)

        return jax.vmap(one)(sizes[:, dim], fitted[:, dim], shrinks)

    rows = _gathered(frames, max_taps[0], lambda tap: taps(0, tap), size)
    columns = _gathered(rows.transpose(0, 2, 1, 3), max_taps[1], lambda tap: taps(1, tap), size)
    return _to_bytes(columns.transpose(0, 2, 1, 3))


def _gathered(
    source: Array, num_taps: Array, taps: Callable[[Array], tuple[Array, Array]], count: int
) -> Array:
    """Computes weighted sums of rows of [B, N, M, 3]: float32 [B, count, M, 3].

    `taps` maps the index of a tap to its rows int32 [B, count] and weights float32 [B, count].
    """

    def add(tap: Array, total: Array) -> Array:
        pixel, weight = taps(tap)
        rows = jax.vmap(lambda image, index: image[index])(source, pixel)
        return total + weight[..., None, None] * rows

    shape = (source.shape[0], count, *source.shape[2:])
    return jax.lax.fori_loop(0, num_taps, add, jnp.zeros(shape, jnp.float32))


def cut(frames: Array, index: Array, square: Array) -> Array:
    """Traced equivalent of `crop.cut`: crops one square from one of the frames.

    Args:
        frames: uint8 [B, H, W, 3], zero-padded.
        index: int32 [], the frame.
        square: int32 [3], left, top and side; the side at most 20,000.

    Returns:
        float32 [256, 256, 3] with integer values.
    """
    height, width = frames.shape[1:3]
    left, top, side = square
    axis = _Axis(side, jnp.int32(crop.SIZE))
    shrinks = side > crop.SIZE
    num_taps = jnp.where(shrinks, (side - 1) // crop.SIZE + 2, 2)
    output = jnp.arange(crop.SIZE, dtype=jnp.int32)

    def taps(tap: Array, start: Array, limit: int) -> tuple[Array, Array]:
        by_area, linear = _area(axis, output, tap), _linear(axis, output, tap)
        pixel, weight = (jnp.where(shrinks, a, b) for a, b in zip(by_area, linear, strict=True))
        pixel += start
        inside = (pixel >= 0) & (pixel < limit)
        return jnp.clip(pixel, 0, limit - 1), jnp.where(inside, weight, 0)

    def crop_window(columns: int) -> Array:
        """Crops from a window of this width that holds the square's part inside the canvas."""
        first = jnp.clip(left, 0, width - columns)

        def add_rows(tap: Array, total: Array) -> Array:
            pixel, weight = taps(tap, top, height)
            zero = jnp.zeros((), jnp.int32)
            window = jax.lax.dynamic_slice(
                frames, (index, zero, first, zero), (1, height, columns, 3)
            )[0]
            return total + weight[:, None, None] * window[pixel]

        def add_columns(tap: Array, total: Array) -> Array:
            pixel, weight = taps(tap, left - first, columns)
            return total + weight[:, None, None] * rows[pixel]

        zeros = jnp.zeros((crop.SIZE, columns, 3), jnp.float32)
        rows = jax.lax.fori_loop(0, num_taps, add_rows, zeros).transpose(1, 0, 2)
        zeros = jnp.zeros((crop.SIZE, crop.SIZE, 3), jnp.float32)
        return jax.lax.fori_loop(0, num_taps, add_columns, zeros).transpose(1, 0, 2)

    # Most squares are much narrower than the frame: one branch for each of a few window widths.
    widths = [w for w in (crop.SIZE * 2**i for i in range(6)) if w < width] + [width]
    branch = jnp.searchsorted(jnp.array(widths[:-1], jnp.int32), side)
    result = jax.lax.switch(branch, [lambda w=w: crop_window(w) for w in widths])
    return jnp.round(jnp.clip(result, 0, 255))


def cut_all(frames: Array, index: Array, squares: Array) -> Array:
    """Equals `cut` for N squares at once, by matrix products: for GPUs.

    Args:
        frames: uint8 [B, H, W, 3], zero-padded.
        index: int32 [N], the frame of each square.
        squares: int32 [N, 3], left, top and side; the side at most 20,000.

    Returns:
        float32 [N, 256, 256, 3] with integer values.
    """
    output = jnp.arange(crop.SIZE, dtype=jnp.int32)

    def matrix(start: Array, side: Array, length: int) -> Array:
        axis = _Axis(side, jnp.int32(crop.SIZE))
        by_area = _area_matrix(axis, output, jnp.arange(length, dtype=jnp.int32) - start)

        def taps(tap: Array) -> tuple[Array, Array]:
            pixel, weight = _linear(axis, output, tap)
            return pixel + start, weight

        return jnp.where(side > crop.SIZE, by_area, _matrix(taps, 2, length))

    left, top, side = squares.T
    rows = jax.vmap(partial(matrix, length=frames.shape[1]))(top, side)
    columns = jax.vmap(partial(matrix, length=frames.shape[2]))(left, side)
    return jnp.round(jnp.clip(_resampled(frames[index], rows, columns), 0, 255))


def view(stored: Array, size: int) -> Array:
    """Traced equivalent of `augment.center_view`: the network's input without augmentation.

    Args:
        stored: float32 [256, 256, 3] with integer values, the crop.
        size: side of the result.

    Returns:
        uint8 [size, size, 3].
    """
    factor = augment.reduction(size)
    side = crop.SIZE // factor
    image = jnp.round(stored.reshape(side, factor, side, factor, 3).mean((1, 3)))
    pixels, weights = _view_taps(size, side)
    for axis in (0, 1):
        shape = [-1 if i == axis else 1 for i in range(3)]
        image = sum(
            jnp.take(image, pixel, axis=axis) * weight.reshape(shape)
            for pixel, weight in zip(pixels, weights, strict=True)
        )
    return _to_bytes(image)


def _view_taps(size: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns two source pixels int32 [2, size] and weights: `augment.warp_image` along an axis."""
    (scale, _, offset), _ = augment.reduce_affine(augment.center_affine(size), crop.SIZE // side)
    position = (np.arange(size) - offset) / scale
    pixels = np.floor(position) + np.array([[0], [1]])
    weights = np.where((pixels >= 0) & (pixels < side), 1 - abs(position - pixels), 0)
    return np.clip(pixels, 0, side - 1).astype(np.int32), weights.astype(np.float32)


def _to_bytes(values: Array) -> Array:
    return jnp.round(jnp.clip(values, 0, 255)).astype(jnp.uint8)
