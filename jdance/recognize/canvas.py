"""Frames of any size on canvases of a few sizes, so that few programs are compiled."""

from collections.abc import Sequence

import numpy as np

# In pixels, of the square canvases: one for the web's photos, one for those of phones and cameras.
# A small image costs no more on the first than on one of its own size, and compiling takes seconds.
SIDES = (2048, 4608)
_SMALL = 2048  # up to here all canvases are square
_STRIP = 384  # the shorter side of the longest strips
_STEP = 2048  # sides of what no square holds are multiples of this


def canvas_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of the canvas for an image.

    It is the smallest square that holds the image. Large ones that are long and narrow get a
    quarter of that square, and what no square holds gets a rectangle.
    """
    longer, shorter = max(height, width), min(height, width)
    side = next((side for side in SIDES if longer <= side), -longer % _STEP + longer)
    if side in SIDES:
        narrow = side // 4 if side > _SMALL and shorter <= side // 4 else side
    else:
        narrow = next((n for n in (_STRIP, *SIDES) if shorter <= n), -shorter % _STEP + shorter)
    return (side, narrow) if height > width else (narrow, side)


def place(images: Sequence[np.ndarray], size: tuple[int, int] | None = None) -> np.ndarray:
    """Puts images uint8 [h, w, 3] at the top left of canvases uint8 [B, H, W, 3], 0 elsewhere.

    Without a size it is the canvas of the largest height and width.

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
