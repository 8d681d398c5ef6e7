"""Draws recognized people into images."""

import os
import sys
from collections.abc import Sequence

import cv2
import numpy as np

from jdance import skeleton
from jdance.errors import UserError

# RGB: warm for the person's right side, cool for the left, white for the middle.
_RIGHT, _LEFT, _MIDDLE = (255, 140, 40), (60, 170, 255), (245, 245, 245)
_RIGHT_JOINTS = {joint for joint, name in enumerate(skeleton.NAMES) if name.startswith("right")}
_LEFT_JOINTS = {joint for joint, name in enumerate(skeleton.NAMES) if name.startswith("left")}
# One color per motion, legible under white text.
_MOTIONS = (
    (200, 50, 60), (30, 125, 60), (40, 90, 200), (150, 70, 180), (175, 85, 10), (20, 125, 135),
    (120, 100, 30), (170, 50, 120),
)  # fmt: skip
_SHIFT = 4  # fractional bits of OpenCV's coordinates
_GRAY = (105, 105, 105)


def has_display() -> bool:
    """Returns whether windows can be shown; only Linux needs a variable for the display."""
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return sys.platform in ("darwin", "win32") or bool(display)


class Window:
    """Shows annotated frames in a window.

    Raises:
        UserError: there is no display, or OpenCV was built without windows.
    """

    def __init__(self) -> None:
        if not has_display():
            raise UserError("--show: there is no display here")
        try:
            cv2.namedWindow("jdance", cv2.WINDOW_NORMAL)
        except cv2.error:
            raise UserError(
                "--show: this OpenCV has no windows; pip install opencv-python in its place"
            ) from None

    def __call__(self, image: np.ndarray) -> bool:
        """Shows uint8 RGB [H, W, 3]; returns False after q or Escape."""
        cv2.imshow("jdance", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        return cv2.waitKey(1) & 0xFF not in (ord("q"), 27)


def motion_color(index: int) -> tuple[int, int, int]:
    """Returns the RGB color of the motion with this class index; gray below 0."""
    return _MOTIONS[index % len(_MOTIONS)] if index >= 0 else _GRAY


def people(
    image: np.ndarray,
    keypoints: Sequence[np.ndarray | None],
    boxes: Sequence[tuple[float, ...]],
    labels: Sequence[str],
    colors: Sequence[int],
) -> np.ndarray:
    """Draws the skeleton, box and label of every person.

    Args:
        image: uint8 RGB [H, W, 3], unchanged.
        keypoints: [18, 3] of each person, or None.
        boxes: x, y, width, height of each person in pixels.
        labels: short text for each person.
        colors: class index of each person, see `motion_color`.

    Returns:
        uint8 RGB [H, W, 3].
    """
    canvas = image.copy()
    # Line width relative to the image, but limited for panoramas.
    longer, shorter = max(image.shape[:2]), min(image.shape[:2])
    unit = max(1.0, min(longer, 3 * shorter) / 640)
    for person in keypoints:
        if person is not None:
            _skeleton(canvas, person, unit)
    rgb = [motion_color(index) for index in colors]
    for (x, y, width, height), color in zip(boxes, rgb, strict=True):
        corner, end = (round(x), round(y)), (round(x + width), round(y + height))
        cv2.rectangle(canvas, corner, end, color, round(2 * unit), cv2.LINE_AA)
    taken: list[tuple[int, int, int, int]] = []
    for label, (x, y, width, _), color in zip(labels, boxes, rgb, strict=True):
        corner = (round(x), round(y))
        taken.append(_label(canvas, label, corner, round(width), color, unit, taken))
    return canvas


def pose(image: np.ndarray, person: np.ndarray) -> np.ndarray:
    """Draws a skeleton [18, 3] into a copy of an image uint8 RGB [H, W, 3]."""
    canvas = image.copy()
    _skeleton(canvas, person, max(1.0, max(image.shape[:2]) / 300))
    return canvas


def _skeleton(canvas: np.ndarray, person: np.ndarray, unit: float) -> None:
    present = skeleton.is_present(person)
    points = np.round(person[:, :2] * 2**_SHIFT).astype(int)
    limbs = [tuple(limb) for limb in skeleton.LIMBS[: skeleton.NUM_TREE_LIMBS].tolist()]
    for dark, width in ((True, 5 * unit), (False, 3 * unit)):  # a dark outline, then the limb
        for a, b in limbs:
            if present[a] and present[b]:
                color = (20, 20, 20) if dark else _side_color(a, b)
                cv2.line(canvas, points[a], points[b], color, round(width), cv2.LINE_AA, _SHIFT)
    radius = round(2.5 * unit * 2**_SHIFT)
    for joint in np.flatnonzero(present):
        cv2.circle(canvas, points[joint], radius, _MIDDLE, -1, cv2.LINE_AA, _SHIFT)


def _side_color(*joints: int) -> tuple[int, int, int]:
    if _RIGHT_JOINTS & set(joints):
        return _RIGHT
    return _LEFT if _LEFT_JOINTS & set(joints) else _MIDDLE


def _label(
    canvas: np.ndarray,
    text: str,
    corner: tuple[int, int],
    room: int,
    color: tuple[int, int, int],
    unit: float,
    taken: list[tuple[int, int, int, int]],
) -> tuple[int, int, int, int]:
    """Draws a label above a box's corner, moved to stay inside the image and clear of `taken`.

    It shrinks by up to a quarter to fit `room`, the width of the box. Returns the label's box.
    """
    font, stroke, pad = cv2.FONT_HERSHEY_SIMPLEX, max(1, round(unit)), round(3 * unit)
    size = 0.5 * unit
    (width, _), _ = cv2.getTextSize(text, font, size, stroke)
    size *= float(np.clip((room - 2 * pad) / width, 0.75, 1))
    (width, height), baseline = cv2.getTextSize(text, font, size, stroke)
    full_width, full_height = width + 2 * pad, height + baseline + 2 * pad
    x = int(np.clip(corner[0], 0, max(0, canvas.shape[1] - full_width)))
    y = int(np.clip(corner[1] - full_height, 0, max(0, canvas.shape[0] - full_height)))
    for _ in range(len(taken)):
        overlapping = [t for t in taken if _overlap((x, y, full_width, full_height), t)]
        if not overlapping:
            break
        y = max(t[1] + t[3] for t in overlapping)
    cv2.rectangle(canvas, (x, y), (x + full_width, y + full_height), color, -1)
    origin = (x + pad, y + pad + height)
    cv2.putText(canvas, text, origin, font, size, (255, 255, 255), stroke, cv2.LINE_AA)
    return x, y, full_width, full_height


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]
