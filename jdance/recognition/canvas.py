"""Frames of any size on canvases of a few sizes, so that few programs are compiled."""

from collections.abc import Sequence

import numpy as np

SIDES = (384, 768, 1536, 3072, 6144)  # of the square canvases, in pixels
_SMALL = 1536  # up to here all canvases are square
_STEP = 2048  # sides of what no square holds are multiples of this


def canvas_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of the canvas for a picture.

    It is the smallest square that holds the picture. Large ones that are long and narrow get a
    quarter of that square, and what no square holds gets a rectangle.
    """
    longer, shorter = max(height, width), min(height, width)
    side = next((side for side in SIDES if longer <= side), -longer % _STEP + longer)
    if side in SIDES:
        narrow = side // 4 if side > _SMALL and shorter <= side // 4 else side
    else:
        narrow = next((side for side in SIDES if shorter <= side), -shorter % _STEP + shorter)
    return (side, narrow) if height > width else (narrow, side)


def place(images: Sequence[np.ndarray], size: tuple[int, int] | None = None) -> np.ndarray:
    """Puts pictures uint8 [h, w, 3] at the top left of canvases uint8 [B, H, W, 3], 0 elsewhere.

    Without a size it is the canvas of the largest height and width.
    """
    if size is None:
        size = canvas_size(max(i.shape[0] for i in images), max(i.shape[1] for i in images))
    if len(images) == 1 and images[0].shape[:2] == size:
        return images[0][None]
    canvases = np.zeros((len(images), *size, 3), np.uint8)
    for canvas, image in zip(canvases, images, strict=True):
        canvas[: image.shape[0], : image.shape[1]] = image
    return canvases
