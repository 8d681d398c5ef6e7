"""Square crops around people, for preparing data and for recognition."""

from typing import NamedTuple

import cv2
import numpy as np

from jdance import skeleton
from jdance.errors import UserError

SIZE = 256  # side of stored crops in pixels (the paper, section 4.2)
MARGIN = 1.25  # ratio of the crop's side to the longer side of the key points' box
MIN_SIDE = 32  # pixels
MAX_SIDE = 20_000  # pixels; larger crops come from broken key points


class Square(NamedTuple):
    """A square in whole pixels; it may extend beyond the image."""

    left: int
    top: int
    side: int


def tight_box(keypoints: np.ndarray) -> tuple[float, float, float, float]:
    """Bounding box x, y, width, height of the present joints of [18, 3]; at least one."""
    xy = keypoints[skeleton.is_present(keypoints), :2]
    x, y = xy.min(0)
    right, bottom = xy.max(0)
    return float(x), float(y), float(right - x), float(bottom - y)


def largest_person(people: np.ndarray) -> int:
    """Index of the person with the largest bounding box among [N, 18, 3], N >= 1."""
    boxes = [tight_box(person) for person in people]
    return int(np.argmax([width * height for _, _, width, height in boxes]))


def from_left(people: np.ndarray) -> np.ndarray:
    """People [N, 18, 3], each with a joint, in the order of the centers of their boxes."""
    present, x = skeleton.is_present(people), people[..., 0]
    left = np.where(present, x, np.inf).min(axis=-1)
    right = np.where(present, x, -np.inf).max(axis=-1)
    return people[np.argsort(left + right, kind="stable")]


def person_square(keypoints: np.ndarray) -> Square:
    """Square around the present key points of [18, 3]; at least one."""
    x, y, width, height = tight_box(keypoints)
    side = max(MARGIN * max(width, height), MIN_SIDE)
    left, top = x + width / 2 - side / 2, y + height / 2 - side / 2
    return Square(round(left), round(top), round(side))


def image_square(height: int, width: int) -> Square:
    """Square around a whole image, for images without detected people."""
    side = max(height, width)
    return Square((width - side) // 2, (height - side) // 2, side)


def cut(image: np.ndarray, square: Square, size: int = SIZE) -> np.ndarray:
    """Crops a square from uint8 [H, W, 3] and resizes it to [size, size, 3].

    Downscaling averages areas, upscaling interpolates linearly; pixels outside the image are 0.

    Raises:
        UserError: the square is larger than MAX_SIDE.
    """
    left, top, side = square
    if side > MAX_SIDE:
        raise UserError(
            f"needs a square of {side} pixels, more than {MAX_SIDE}: a very long image, or "
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


def fit_keypoints(keypoints: np.ndarray, size: int = SIZE) -> np.ndarray:
    """Transforms key points [..., J, 3] in any unit into a crop of `size` pixels.

    The bounding box of all present joints is centered, with the margin of `person_square`.
    """
    xy = keypoints[skeleton.is_present(keypoints), :2]
    if not len(xy):
        return np.zeros_like(keypoints, np.float32)
    low, high = xy.min(0).astype(np.float64), xy.max(0).astype(np.float64)
    scale = size / MARGIN / max(float((high - low).max()), 1e-9)
    moved = keypoints.astype(np.float64)
    moved[..., :2] = (moved[..., :2] - (low + high) / 2) * scale + (size - 1) / 2
    return skeleton.clean(moved)


def to_crop(keypoints: np.ndarray, square: Square, size: int = SIZE) -> np.ndarray:
    """Transforms key points [..., 3] from image to crop pixels; missing ones stay 0."""
    scale = size / square.side
    moved = keypoints.copy()
    moved[..., :2] = (keypoints[..., :2] + 0.5 - [square.left, square.top]) * scale - 0.5
    return skeleton.clean(moved)
