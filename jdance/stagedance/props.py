"""Props, light cones and the audience of StageDance, drawn as polygons."""

from collections.abc import Sequence

import cv2
import numpy as np

from jdance.stagedance.camera import Camera
from jdance.stagedance.lighting import Color, hsv, rgb


def tint(tone: np.ndarray, color: Color) -> np.ndarray:
    """Multiplies tones [...] by a color: [..., 3]."""
    return tone[..., None] * rgb(*color)


def _polygon(image: np.ndarray, points: np.ndarray, color: np.ndarray) -> None:
    """Fills an anti-aliased polygon [N, 2] (pixels) with a color [3] or, in masks, a tone [1]."""
    fixed = np.round(np.clip(points, -9999, 9999) * 16).astype(np.int32)
    cv2.fillConvexPoly(image, fixed, [float(c) for c in color], cv2.LINE_AA, 4)


def _box(
    image: np.ndarray, camera: Camera, x: float, z: float, size: Sequence[float], tone: np.ndarray
) -> None:
    """Draws a box on the floor; size is (width, height, depth) in meters."""
    w, h, d = size
    xs, ys, zs = np.meshgrid([x - w / 2, x + w / 2], [0, h], [z - d, z], indexing="ij")
    p = camera.project(np.stack([xs, ys, zs], -1))[0]  # [x, y, z, 2]
    side = p[1 if x < camera.position[0] else 0]
    _polygon(image, np.array([p[0, 1, 0], p[1, 1, 0], p[1, 1, 1], p[0, 1, 1]]), tone * 1.25)
    _polygon(image, np.array([side[0, 0], side[1, 0], side[1, 1], side[0, 1]]), tone * 0.6)
    _polygon(image, np.array([p[0, 0, 1], p[0, 1, 1], p[1, 1, 1], p[1, 0, 1]]), tone)


def _circle(radius_x: float, radius_y: float) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, 28)
    return np.stack([np.cos(turn) * radius_x, np.sin(turn) * radius_y], 1)


def _disc(
    image: np.ndarray, camera: Camera, at: Sequence[float], radius: float, color: np.ndarray,
    squash: float = 1.0,
) -> None:  # fmt: skip
    """Draws a disc that faces the camera; the radius is in meters."""
    point, depth = camera.project(np.array(at))
    pixels = radius * camera.focal / float(depth)
    _polygon(image, _circle(pixels, pixels * squash) + point, color)


def draw_props(
    image: np.ndarray, camera: Camera, wall: float, dark: bool, rng: np.random.Generator
) -> None:
    """Draws loudspeakers, plants, steps, columns and crates along the backdrop."""
    half = camera.stage_width(image.shape[1]) / 2 * 1.25
    dim = 0.55 if dark else 1.0
    for _ in range(rng.integers(0, 6)):
        x = float(rng.choice([-1, 1]) * rng.uniform(0.25, 1.05) * half)
        z = -wall + float(rng.uniform(0.3, 0.8))
        kind = rng.integers(5)
        if kind == 0:
            high = float(rng.uniform(0.9, 1.7))
            _box(image, camera, x, z, (0.6, high, 0.4), rgb(0.10, 0.10, 0.11))
            for level, radius in ((0.28, 0.22), (0.62, 0.18), (0.86, 0.08)):
                _disc(image, camera, (x, high * level, z), radius, rgb(0.2, 0.2, 0.21))
                _disc(image, camera, (x, high * level, z), radius / 2, rgb(0.05, 0.05, 0.06))
        elif kind == 1:
            _box(image, camera, x, z, (0.34, 0.36, 0.3), rgb(0.5, 0.3, 0.2) * dim)
            for _leaf in range(40):
                rise = rng.uniform(0, 1)
                at = (x + rng.normal(0, 0.06 + 0.2 * rise * (1.2 - rise)), 0.38 + 0.8 * rise, z)
                green = rgb(*hsv(rng.uniform(0.25, 0.38), 0.6, rng.uniform(0.35, 0.6)))
                _disc(image, camera, at, rng.uniform(0.04, 0.09), green * dim, 0.6)
        elif kind == 2:
            tone = rgb(*hsv(rng.uniform(0, 1), 0.2, 0.7)) * dim
            for step in range(3, 0, -1):
                _box(image, camera, x, z - 0.3 * step + 0.6, (1.5, 0.2 * step, 0.3), tone)
        elif kind == 3:
            tone = rgb(0.85, 0.82, 0.76) * dim
            for k, offset in enumerate(np.linspace(-1, 1, 7)):
                flute = tone * (0.95 - 0.3 * abs(offset) - 0.06 * (k % 2))
                _box(image, camera, x + offset * 0.14, z, (0.05, 3.6, 0.05), flute)
            _box(image, camera, x, z, (0.46, 0.2, 0.3), tone * 0.9)
        else:
            tone = rgb(*hsv(rng.uniform(0, 1), rng.uniform(0.2, 0.7), 0.65)) * dim
            _box(image, camera, x, z, rng.uniform(0.35, 0.8, 3).tolist(), tone)


def draw_light_cone(
    haze: np.ndarray, camera: Camera, at: np.ndarray, radius: float, color: Color,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    """Adds a cone of light from a lamp above the image to a pool on the floor.

    Args:
        haze: float32 [H / 2, W / 2, 3], at half the image's resolution; changed in place.
        camera: of the stage.
        at: center of the pool on the floor, float [3] in meters.
        radius: of the pool, in meters.
        color: of the light.
        rng: draws the lamp's position.
    """
    height, width = haze.shape[:2]
    foot, depth = camera.project(at)
    foot = foot / 2
    spread = radius * camera.focal / float(depth) / 2
    lamp = np.array([foot[0] + rng.normal(0, 0.12) * width, -0.04 * height])
    cone = np.zeros((height, width), np.float32)
    for width_factor, tone in ((1.0, 0.5), (0.6, 0.8), (0.3, 1.0)):  # brighter in the middle
        wide = np.array([spread * width_factor, 0])
        source = np.array([2.0, 0])
        corners = np.array([lamp - source, lamp + source, foot + wide, foot - wide])
        _polygon(cone, corners, np.array([tone]))
    fall = np.clip(1 - (np.arange(height) - lamp[1]) / (foot[1] - lamp[1]), 0, 1) ** 0.8
    haze += 0.32 * tint((cone * fall[:, None]).astype(np.float32), color)
    _polygon(haze, lamp + _circle(9, 9) * width / 640, np.minimum(rgb(*color) + 0.6, 2))


def draw_crowd(camera: Camera, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Coverage float32 [H, W] of the audience's heads along the lower edge of the image."""
    width, height = size
    row = float(camera.project(np.array([0.0, 0.0, 1.0]))[0][1])
    cover = np.zeros((height, width), np.float32)
    head = height * rng.uniform(0.022, 0.04)
    x = -head
    while x < width + head:
        y = max(row + head * 1.2, height - head * 2.6) + head * rng.uniform(0, 0.9)
        _polygon(cover, _circle(0.8 * head, head) + (x, y), np.ones(1))
        _polygon(cover, _circle(1.9 * head, 1.5 * head) + (x, y + 2.4 * head), np.ones(1))
        x += head * rng.uniform(2.4, 4.5)
    return cv2.GaussianBlur(cover, (0, 0), 1.2 * width / 640)
