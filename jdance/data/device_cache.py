"""Cache of decoded training images on the device, where each step warps them.

The loader then yields affine maps in place of images, so that little is transferred per step. The
random numbers are the same as on the host; pixels differ by rounding only.
"""

from typing import Any

import cv2
import jax.numpy as jnp
import numpy as np
from jax import Array

from jdance.data import augment, crop, records
from jdance.errors import UserError


def decode_images(source: Any, size: int) -> np.ndarray:
    """Decodes all images of a source for views of `size` pixels.

    Returns:
        uint8 [N, s, s, 3], where s is the side of crops reduced by `augment.reduction(size)`.

    Raises:
        UserError: an example has no image.
    """
    factor = augment.reduction(size)
    side = crop.SIZE // factor
    result = np.empty((len(source), side, side, 3), np.uint8)
    for index in range(len(source)):
        record = records.unpack(source[index])
        if record.image is None:
            raise UserError(f"{record.source}: has no image; train with data.resident=False")
        result[index] = records.decode_image(record.image, factor)
    return result


def inverse_affine(affine: np.ndarray, size: int) -> np.ndarray:
    """Inverts an affine map [2, 3] from stored crops to views of `size` pixels.

    Returns:
        The map from a view's pixels to those of `decode_images`, float32 [2, 3].
    """
    factor = augment.reduction(size)
    inverse = np.asarray(cv2.invertAffineTransform(affine), np.float64)
    inverse[:, 2] += 0.5  # pixel x of a stored crop is (x + 0.5) / factor - 0.5 of the smaller one
    inverse /= factor
    inverse[:, 2] -= 0.5
    return inverse.astype(np.float32)


def add_views(batch: dict[str, Array], images: Array | None, size: int) -> dict[str, Array]:
    """Replaces "inverse_affine" [B, 2, 3] of a batch by "image" [B, size, size, 3].

    Args:
        batch: from the loader; "index" int32 [B] selects the images.
        images: from `decode_images`; None returns the batch unchanged.
        size: side of a view in pixels.
    """
    if images is None:
        return batch
    rest = dict(batch)
    maps = rest.pop("inverse_affine")
    return rest | {"image": warp_images(images, batch["index"], maps, size)}


def warp_images(images: Array, index: Array, maps: Array, size: int) -> Array:
    """Warps images to views, float32 [B, size, size, 3], by bilinear interpolation.

    Args:
        images: uint8 [N, s, s, 3], see `decode_images`; pixels outside are 0.
        index: image of each view, int32 [B].
        maps: float32 [B, 2, 3], see `inverse_affine`.
        size: side of a view in pixels.
    """
    row, column = jnp.meshgrid(jnp.arange(size), jnp.arange(size), indexing="ij")
    grid = jnp.stack([column, row, jnp.ones_like(row)], -1).astype(jnp.float32)
    x, y = jnp.moveaxis(jnp.einsum("bij,hwj->bhwi", maps, grid, precision="highest"), -1, 0)
    left, top = jnp.floor(x), jnp.floor(y)
    side = images.shape[1]
    result = jnp.zeros((*x.shape, 3), jnp.float32)
    for down in (0, 1):
        for right in (0, 1):
            i, j = top + down, left + right
            weight = (1 - jnp.abs(y - i)) * (1 - jnp.abs(x - j))
            inside = (i >= 0) & (i < side) & (j >= 0) & (j < side)
            i, j = (jnp.clip(k, 0, side - 1).astype(jnp.int32) for k in (i, j))
            pixels = images[index[:, None, None], i, j]
            result += jnp.where(inside, weight, 0)[..., None] * pixels
    return result
