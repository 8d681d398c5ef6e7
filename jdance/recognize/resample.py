"""Letterboxing and cropping inside compiled programs, with the numbers of OpenCV.

Resampling is separable: along each axis an output pixel is a weighted sum of a few source pixels,
its taps. They follow from integers, which may be data of the program: one program serves images
and squares of all sizes. Results agree with `pose.letterbox`, `crop.cut` and `augment.view` but for
rounding.

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
    """How `extent` source pixels become `pixels` output pixels; int32 [], data of the program."""

    extent: Array
    pixels: Array


def _area(axis: _Axis, place: Array, tap: Array) -> tuple[Array, Array]:
    """Source pixel and weight of a tap of output pixels `place` int32 [n], averaging areas.

    Counted in units of 1 / pixels of a source pixel, in which all borders are whole numbers.
    """
    start = place * axis.extent
    pixel = start // axis.pixels + tap
    first = jnp.maximum(pixel * axis.pixels, start)
    last = jnp.minimum((pixel + 1) * axis.pixels, start + axis.extent)
    return pixel, jnp.maximum(last - first, 0) / axis.extent


def _between(axis: _Axis, place: Array) -> tuple[Array, Array]:
    """The source pixel before the centre of output pixels, and how far beyond it that lies."""
    numerator = (2 * place + 1) * axis.extent - axis.pixels
    before = numerator // (2 * axis.pixels)
    return before, (numerator - before * 2 * axis.pixels) / (2 * axis.pixels)


def _linear(axis: _Axis, place: Array, tap: Array) -> tuple[Array, Array]:
    before, part = _between(axis, place)
    weight = jnp.where(tap == 0, 1 - part, jnp.where(tap == 1, part, 0))
    return jnp.clip(before + tap, 0, axis.extent - 1), weight


def _cubic(axis: _Axis, place: Array, tap: Array) -> tuple[Array, Array]:
    before, part = _between(axis, place)
    x = abs(part + 1 - tap)
    near = ((_CUBIC + 2) * x - (_CUBIC + 3)) * x * x + 1
    far = ((_CUBIC * x - 5 * _CUBIC) * x + 8 * _CUBIC) * x - 4 * _CUBIC
    weight = jnp.where(x <= 1, near, jnp.where(x < 2, far, 0))
    return jnp.clip(before - 1 + tap, 0, axis.extent - 1), weight


def fitted_size(sizes: Array, size: int = INPUT_SIZE) -> Array:
    """`letterbox.fitted_size` of int32 [B, 2], height and width."""
    longer = sizes.max(-1, keepdims=True)
    return jnp.maximum((2 * sizes * size + longer) // (2 * longer), 1)


def letterbox(frames: Array, sizes: Array, size: int = INPUT_SIZE) -> Array:
    """Fits frames into squares, as `pose.letterbox.letterbox` does.

    Args:
        frames: uint8 [B, H, W, 3], 0 beyond their true sizes.
        sizes: int32 [B, 2], true height and width, at least 1.
        size: side of the squares.

    Returns:
        uint8 [B, size, size, 3].
    """
    return jax.lax.platform_dependent(
        frames,
        sizes,
        cpu=lambda frames, sizes: _letterbox_by_taps(frames, sizes, size),
        default=lambda frames, sizes: _letterbox_by_matrices(frames, sizes, size),
    )


def _letterbox_by_matrices(frames: Array, sizes: Array, size: int) -> Array:
    fitted = fitted_size(sizes, size)
    shrinks = sizes.max(-1) > size
    place = jnp.arange(size, dtype=jnp.int32)

    def matrix(extent: Array, count: Array, shrinks: Array, length: int) -> Array:
        axis = _Axis(extent, count)
        by_area = _area_matrix(axis, place, jnp.arange(length, dtype=jnp.int32))
        cubic = _matrix(lambda tap: _cubic(axis, place, tap), 4, length)
        return jnp.where((place < count)[:, None], jnp.where(shrinks, by_area, cubic), 0)

    rows, columns = (
        jax.vmap(partial(matrix, length=frames.shape[1 + i]))(sizes[:, i], fitted[:, i], shrinks)
        for i in (0, 1)
    )
    return _to_bytes(_resampled(frames, rows, columns))


def _area_matrix(axis: _Axis, place: Array, pixel: Array) -> Array:
    """Weights [n, length] of source pixels int32 [length] in output pixels [n], by `_area`."""
    place, pixel = place[:, None], pixel[None]
    first = jnp.maximum(pixel * axis.pixels, place * axis.extent)
    last = jnp.minimum((pixel + 1) * axis.pixels, (place + 1) * axis.extent)
    return jnp.maximum(last - first, 0) / axis.extent


def _matrix(taps: Callable[[Array], tuple[Array, Array]], count: int, length: int) -> Array:
    """Weights [n, length] of all source pixels, where each output pixel has `count` taps."""
    pixel, weight = jax.vmap(taps)(jnp.arange(count))  # [count, n]
    same = pixel[..., None] == jnp.arange(length)
    return jnp.where(same, weight[..., None], 0).sum(0)


def _resampled(images: Array, rows: Array, columns: Array) -> Array:
    """[N, H, W, 3] by weights [N, n, H] and [N, n, W]: float32 [N, n, n, 3]."""
    product = partial(jnp.einsum, precision="highest")
    across = product("nxw,nhwc->nhxc", columns, images.astype(jnp.float32))
    return product("nyh,nhxc->nyxc", rows, across)


def _letterbox_by_taps(frames: Array, sizes: Array, size: int) -> Array:
    fitted = fitted_size(sizes, size)
    shrinks = sizes.max(-1) > size  # [B]
    # As many taps as the frame that needs most of them has.
    most = jnp.where(shrinks[:, None], (sizes - 1) // fitted + 2, 4).max(0)
    place = jnp.arange(size, dtype=jnp.int32)

    def taps(number: int, tap: Array) -> tuple[Array, Array]:
        """Source pixel and weight [B, size] along axis 0 (down) or 1 (across)."""

        def one(extent: Array, count: Array, shrinks: Array) -> tuple[Array, Array]:
            axis = _Axis(extent, count)
            by_area, cubic = _area(axis, place, tap), _cubic(axis, place, tap)
            pixel, weight = (jnp.where(shrinks, a, c) for a, c in zip(by_area, cubic, strict=True))
            return jnp.clip(pixel, 0, extent - 1), jnp.where(place < count, weight, 0)

        return jax.vmap(one)(sizes[:, number], fitted[:, number], shrinks)

    rows = _gathered(frames, most[0], lambda tap: taps(0, tap), size)
    columns = _gathered(rows.transpose(0, 2, 1, 3), most[1], lambda tap: taps(1, tap), size)
    return _to_bytes(columns.transpose(0, 2, 1, 3))


def _gathered(
    source: Array, taps: Array, at: Callable[[Array], tuple[Array, Array]], count: int
) -> Array:
    """Weighted sums of rows of [B, N, M, 3]: float32 [B, count, M, 3].

    at(tap) gives the rows int32 [B, count] and weights float32 [B, count] of one of the taps.
    """

    def add(tap: Array, total: Array) -> Array:
        pixel, weight = at(tap)
        rows = jax.vmap(lambda image, places: image[places])(source, pixel)
        return total + weight[..., None, None] * rows

    shape = (source.shape[0], count, *source.shape[2:])
    return jax.lax.fori_loop(0, taps, add, jnp.zeros(shape, jnp.float32))


def cut(frames: Array, index: Array, square: Array) -> Array:
    """Cuts one square out of one of the frames, as `crop.cut` does.

    Args:
        frames: uint8 [B, H, W, 3], 0 beyond their true sizes.
        index: int32 [], which frame.
        square: int32 [3], left, top and side; the side at most 20,000.

    Returns:
        float32 [256, 256, 3] of whole numbers.
    """
    height, width = frames.shape[1:3]
    left, top, side = square
    axis = _Axis(side, jnp.int32(crop.SIZE))
    shrinks = side > crop.SIZE
    most = jnp.where(shrinks, (side - 1) // crop.SIZE + 2, 2)
    place = jnp.arange(crop.SIZE, dtype=jnp.int32)

    def taps(tap: Array, start: Array, limit: int) -> tuple[Array, Array]:
        by_area, linear = _area(axis, place, tap), _linear(axis, place, tap)
        pixel, weight = (jnp.where(shrinks, a, b) for a, b in zip(by_area, linear, strict=True))
        pixel += start
        inside = (pixel >= 0) & (pixel < limit)
        return jnp.clip(pixel, 0, limit - 1), jnp.where(inside, weight, 0)

    def within(columns: int) -> Array:
        """The crop, where all of the square that is inside the canvas is so many columns wide."""
        first = jnp.clip(left, 0, width - columns)

        def add_rows(tap: Array, total: Array) -> Array:
            pixel, weight = taps(tap, top, height)
            flat = jnp.zeros((), jnp.int32)
            window = jax.lax.dynamic_slice(
                frames, (index, flat, first, flat), (1, height, columns, 3)
            )[0]
            return total + weight[:, None, None] * window[pixel]

        def add_columns(tap: Array, total: Array) -> Array:
            pixel, weight = taps(tap, left - first, columns)
            return total + weight[:, None, None] * rows[pixel]

        nothing = jnp.zeros((crop.SIZE, columns, 3), jnp.float32)
        rows = jax.lax.fori_loop(0, most, add_rows, nothing).transpose(1, 0, 2)
        nothing = jnp.zeros((crop.SIZE, crop.SIZE, 3), jnp.float32)
        return jax.lax.fori_loop(0, most, add_columns, nothing).transpose(1, 0, 2)

    # Most squares are much narrower than the frame: a few programs for windows of fixed widths.
    widths = [w for w in (crop.SIZE * 2**i for i in range(6)) if w < width] + [width]
    needed = jnp.searchsorted(jnp.array(widths[:-1], jnp.int32), side)
    whole = jax.lax.switch(needed, [lambda w=w: within(w) for w in widths])
    return jnp.round(jnp.clip(whole, 0, 255))


def cut_all(frames: Array, index: Array, squares: Array) -> Array:
    """`cut` for N squares at once, by matrix products: for GPUs.

    Args:
        frames: uint8 [B, H, W, 3], 0 beyond their true sizes.
        index: int32 [N], the frame of each square.
        squares: int32 [N, 3], left, top and side; the side at most 20,000.

    Returns:
        float32 [N, 256, 256, 3] of whole numbers.
    """
    place = jnp.arange(crop.SIZE, dtype=jnp.int32)

    def matrix(start: Array, side: Array, length: int) -> Array:
        axis = _Axis(side, jnp.int32(crop.SIZE))
        by_area = _area_matrix(axis, place, jnp.arange(length, dtype=jnp.int32) - start)

        def taps(tap: Array) -> tuple[Array, Array]:
            pixel, weight = _linear(axis, place, tap)
            return pixel + start, weight

        return jnp.where(side > crop.SIZE, by_area, _matrix(taps, 2, length))

    left, top, side = squares.T
    rows = jax.vmap(partial(matrix, length=frames.shape[1]))(top, side)
    columns = jax.vmap(partial(matrix, length=frames.shape[2]))(left, side)
    return jnp.round(jnp.clip(_resampled(frames[index], rows, columns), 0, 255))


def view(stored: Array, size: int) -> Array:
    """The network's plain view uint8 [size, size, 3] of a crop, as `augment.view`.

    Args:
        stored: float32 [256, 256, 3] of whole numbers.
        size: side of the view.
    """
    factor = augment.reduction(size)
    side = crop.SIZE // factor
    seen = jnp.round(stored.reshape(side, factor, side, factor, 3).mean((1, 3)))
    pixels, weights = _view_taps(size, side)
    for axis in (0, 1):
        shape = [-1 if i == axis else 1 for i in range(3)]
        seen = sum(
            jnp.take(seen, pixel, axis=axis) * weight.reshape(shape)
            for pixel, weight in zip(pixels, weights, strict=True)
        )
    return _to_bytes(seen)


def _view_taps(size: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Two source pixels int32 [2, size] and their weights: `augment.warp_image` along one axis."""
    (scale, _, offset), _ = augment.for_reduced(augment.plain(size), crop.SIZE // side)
    at = (np.arange(size) - offset) / scale
    pixels = np.floor(at) + np.array([[0], [1]])
    weights = np.where((pixels >= 0) & (pixels < side), 1 - abs(at - pixels), 0)
    return np.clip(pixels, 0, side - 1).astype(np.int32), weights.astype(np.float32)


def _to_bytes(values: Array) -> Array:
    return jnp.round(jnp.clip(values, 0, 255)).astype(jnp.uint8)
