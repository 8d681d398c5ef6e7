"""Pads frames to a few canvas sizes, so that few programs are compiled."""

from collections.abc import Sequence

import numpy as np

# Sides of the square canvases in pixels: web photos, and photos of phones and cameras. Padding a
# small image costs little; compiling for its own size costs seconds.
SIDES = (2048, 4608)
_SMALL = 2048  # canvases up to this side are always square
_STRIP = 384  # the shorter side of the canvas for extremely long images
_STEP = 2048  # larger canvases have sides that are multiples of this


def canvas_size(height: int, width: int) -> tuple[int, int]:
    """Returns the (height, width) of the canvas for an image.

    It is the smallest square that holds the image, or a quarter of that square for large, narrow
    images. Images that fit no square get a rectangle.
    """
    longer, shorter = max(height, width), min(height, width)
    side = next((side for side in SIDES if longer <= side), -longer % _STEP + longer)
    if side in SIDES:
        narrow = side // 4 if side > _SMALL and shorter <= side // 4 else side
    else:
        narrow = next((n for n in (_STRIP, *SIDES) if shorter <= n), -shorter % _STEP + shorter)
    return (side, narrow) if height > width else (narrow, side)


def pad(images: Sequence[np.ndarray], size: tuple[int, int] | None = None) -> np.ndarray:
    """Zero-pads images at the bottom and right to one canvas size.

    Args:
        images: B images uint8 [h, w, 3].
        size: (H, W); None: `canvas_size` of the largest height and width.

    Returns:
        uint8 [B, H, W, 3].

    Raises:
        ValueError: an image is larger than `size`.
    """
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    size = size or canvas_size(height, width)
    if height > size[0] or width > size[1]:
        raise ValueError(
            f"{height} x {width} pixels do not fit on a canvas of {size[0]} x {size[1]}"
        )
    if len(images) == 1 and images[0].shape[:2] == size:
        return images[0][None]
    canvases = np.zeros((len(images), *size, 3), np.uint8)
    for canvas, image in zip(canvases, images, strict=True):
        canvas[: image.shape[0], : image.shape[1]] = image
    return canvases
