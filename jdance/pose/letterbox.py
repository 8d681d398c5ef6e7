"""Letterboxing: images to the square input of a pose network, and key points back."""

import cv2
import numpy as np

from jdance import skeleton

INPUT_SIZE = 368  # default side of the square, in pixels


def letterbox(image: np.ndarray, size: int = INPUT_SIZE) -> tuple[np.ndarray, float]:
    """Fits an image into a square, preserving its aspect ratio.

    Args:
        image: uint8 [H, W, 3].
        size: side of the square in pixels.

    Returns:
        uint8 [size, size, 3] with the scaled image at the top left and zeros elsewhere, and the
        scale, size / max(H, W).
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"expected an image uint8 [H, W, 3], got {image.dtype} {image.shape}")
    height, width = image.shape[:2]
    fitted_height, fitted_width = fitted_size(height, width, size)
    scale = size / max(height, width)
    square = np.zeros((size, size, 3), np.uint8)
    square[:fitted_height, :fitted_width] = cv2.resize(
        image,
        (fitted_width, fitted_height),
        interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC,
    )
    return square, scale


def to_image(keypoints: np.ndarray, height: int, width: int, size: int = INPUT_SIZE) -> np.ndarray:
    """Maps key points from a letterboxed image to pixels of the original image.

    Args:
        keypoints: float [..., J, 3] in pixels of the square.
        height, width: of the image, in pixels.
        size: side of the square in pixels.

    Returns:
        float32 [..., J, 3] with the same scores. Joints outside the image become missing.
    """
    fitted_height, fitted_width = fitted_size(height, width, size)
    # Pixel centers have integer coordinates, as in cv2.resize. Each axis has its own factor,
    # because the fitted sizes are rounded.
    factor = np.array([width / fitted_width, height / fitted_height], np.float32)
    result = np.array(keypoints, np.float32)
    result[..., :2] = (result[..., :2] + 0.5) * factor - 0.5
    outside = (result[..., 0] > width - 0.5) | (result[..., 1] > height - 0.5)
    result[outside] = 0
    return skeleton.clean(result)


def fitted_size(height: int, width: int, size: int = INPUT_SIZE) -> tuple[int, int]:
    """Height and width in pixels of an image in its square."""
    # In integers, so that compiled programs get the same result.
    longer = max(height, width)
    down, across = ((2 * side * size + longer) // (2 * longer) for side in (height, width))
    return max(1, down), max(1, across)
