"""Training images that stay on the device: decoded once, and warped there for each step.

The loader then yields maps in place of images, and a step needs next to nothing from the host.
What is drawn for an example is the same either way; the pixels differ by rounding alone.
"""

from typing import Any

import cv2
import jax.numpy as jnp
import numpy as np
from jax import Array

from jdance.data import augment, crop, records
from jdance.errors import UserError


def crops(source: Any, size: int) -> np.ndarray:
    """All images of a source, uint8 [N, s, s, 3], for views of `size` pixels.

    s is the side that `augment.reduction` leaves of a stored crop.

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


def back(affine: np.ndarray, size: int) -> np.ndarray:
    """The map from pixels of a view to those of an image in `crops`, float32 [2, 3].

    `affine` is the map of `augment.plain` or `draw_maps`, from stored crops to the view.
    """
    factor = augment.reduction(size)
    inverse = np.asarray(cv2.invertAffineTransform(affine), np.float64)
    inverse[:, 2] += 0.5  # pixel x of a stored crop is (x + 0.5) / factor - 0.5 of the smaller one
    inverse /= factor
    inverse[:, 2] -= 0.5
    return inverse.astype(np.float32)


def with_images(batch: dict[str, Array], images: Array | None, size: int) -> dict[str, Array]:
    """A batch with its views, "image" [B, size, size, 3] in place of "back" [B, 2, 3].

    Args:
        batch: as the loader yields it; "index" int32 [B] tells which images are meant.
        images: see `crops`; None: the batch has its views already.
        size: side of a view.
    """
    if images is None:
        return batch
    rest = dict(batch)
    maps = rest.pop("back")
    return rest | {"image": warp(images, batch["index"], maps, size)}


def warp(images: Array, index: Array, maps: Array, size: int) -> Array:
    """Views float32 [B, size, size, 3] of images uint8 [N, s, s, 3], interpolated linearly.

    Args:
        images: see `crops`; outside of them all is 0.
        index: int32 [B], which image each view is of.
        maps: float32 [B, 2, 3], see `back`.
        size: side of a view.
    """
    row, column = jnp.meshgrid(jnp.arange(size), jnp.arange(size), indexing="ij")
    places = jnp.stack([column, row, jnp.ones_like(row)], -1).astype(jnp.float32)
    x, y = jnp.moveaxis(jnp.einsum("bij,hwj->bhwi", maps, places, precision="highest"), -1, 0)
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
