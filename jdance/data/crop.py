"""The crop around a person: one function for preparing data and for recognising."""

from typing import NamedTuple

import cv2
import numpy as np

from jdance import skeleton
from jdance.errors import UserError

SIZE = 256  # side of stored crops in pixels (the paper, section 4.2)
MARGIN = 1.25  # side of the square : longer side of the key points' box
SMALLEST = 32  # side in pixels
LARGEST = 20_000  # likewise; what is larger than this comes from broken key points


class Square(NamedTuple):
    """A square in an image: left, top and side in whole pixels; it may reach outside."""

    left: int
    top: int
    side: int


def tight_box(keypoints: np.ndarray) -> tuple[float, float, float, float]:
    """The box x, y, width, height of the present joints of [18, 3]; at least one must be."""
    xy = keypoints[skeleton.is_present(keypoints), :2]
    x, y = xy.min(0)
    right, bottom = xy.max(0)
    return float(x), float(y), float(right - x), float(bottom - y)


def largest(people: np.ndarray) -> int:
    """Which of the people [N, 18, 3] has the tight box with the largest area; N is at least 1."""
    boxes = [tight_box(person) for person in people]
    return int(np.argmax([width * height for _, _, width, height in boxes]))


def around(keypoints: np.ndarray) -> Square:
    """The square around a person's key points [18, 3], of which at least one must be present."""
    x, y, width, height = tight_box(keypoints)
    side = max(MARGIN * max(width, height), SMALLEST)
    left, top = x + width / 2 - side / 2, y + height / 2 - side / 2
    return Square(round(left), round(top), round(side))


def whole(height: int, width: int) -> Square:
    """The square around a whole image, for when nobody is found in it."""
    side = max(height, width)
    return Square((width - side) // 2, (height - side) // 2, side)


def cut(image: np.ndarray, square: Square, size: int = SIZE) -> np.ndarray:
    """Cuts a square out of uint8 [H, W, 3] and resamples it to [size, size, 3].

    Shrinking averages areas, growing interpolates linearly; outside the image all is 0.

    Raises:
        UserError: the square is larger than any image.
    """
    left, top, side = square
    if side > LARGEST:
        raise UserError(
            f"needs a square of {side} pixels, more than {LARGEST}: a very long image, or "
            "key points that cannot be right"
        )
    height, width = image.shape[:2]
    x0, x1 = np.clip([left, left + side], 0, width)
    y0, y1 = np.clip([top, top + side], 0, height)
    if (x1 - x0, y1 - y0) == (side, side):
        region = image[y0:y1, x0:x1]
    else:
        region = np.zeros((side, side, 3), np.uint8)
        region[y0 - top : y1 - top, x0 - left : x1 - left] = image[y0:y1, x0:x1]
    method = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    return cv2.resize(region, (size, size), interpolation=method)


def fit(keypoints: np.ndarray, size: int = SIZE) -> np.ndarray:
    """Key points [..., J, 3] without an image, moved and scaled as if a crop had been cut.

    The longer side of the box around all present joints gets the share of `size` that it has in
    `around`, whatever the unit was; the middle of the box becomes the middle of the square.
    """
    xy = keypoints[skeleton.is_present(keypoints), :2]
    if not len(xy):
        return np.zeros_like(keypoints, np.float32)
    low, high = xy.min(0).astype(np.float64), xy.max(0).astype(np.float64)
    scale = size / MARGIN / max(float((high - low).max()), 1e-9)
    moved = keypoints.astype(np.float64)
    moved[..., :2] = (moved[..., :2] - (low + high) / 2) * scale + (size - 1) / 2
    return skeleton.clean(moved)


def into(keypoints: np.ndarray, square: Square, size: int = SIZE) -> np.ndarray:
    """Key points [..., 3] of the image in pixels of the crop; missing ones stay 0."""
    scale = size / square.side
    moved = keypoints.copy()
    moved[..., :2] = (keypoints[..., :2] + 0.5 - [square.left, square.top]) * scale - 0.5
    return skeleton.clean(moved)
