"""Pinhole cameras in front of the stage of StageDance."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Camera:
    """A pinhole camera.

    Attributes:
        position: float64 [3], in meters.
        rotation: float64 [3, 3]; the rows are the image's right, down and the viewing direction.
        focal: focal length in pixels.
        center: principal point (x, y) in pixels.
    """

    position: np.ndarray
    rotation: np.ndarray
    focal: float
    center: tuple[float, float]

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Projects points [..., 3] in meters: pixels [..., 2] and depths [...] in meters."""
        local = (points - self.position) @ self.rotation.T
        depth = local[..., 2]
        return local[..., :2] * (self.focal / depth)[..., None] + self.center, depth

    def stage_width(self, pixels: int) -> float:
        """Width in meters that `pixels` cover at the stage's center."""
        return pixels * float(np.hypot(self.position[0], self.position[2])) / self.focal


def stage_camera(
    height: float, distance: float, pan: float, target: float, focal: float, size: tuple[int, int]
) -> Camera:
    """Points a camera at the stage's vertical axis.

    Args:
        height: of the camera above the floor, in meters.
        distance: from the stage's center, in meters.
        pan: angle in degrees to the right of the stage's viewing axis.
        target: height in meters of the point on the vertical axis that is centered.
        focal: focal length in pixels.
        size: image width and height in pixels.
    """
    angle = np.radians(pan)
    position = np.array([distance * np.sin(angle), height, distance * np.cos(angle)])
    ahead = np.array([0.0, target, 0.0]) - position
    ahead /= np.linalg.norm(ahead)
    right = np.cross(ahead, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(ahead, right), ahead])
    return Camera(position, rotation, focal, ((size[0] - 1) / 2, (size[1] - 1) / 2))


def random_camera(rng: np.random.Generator, troupe: int, size: tuple[int, int]) -> Camera:
    """Draws a camera that frames `troupe` dancers; `size` is width and height in pixels."""
    tall = max(2.5, 0.40 * troupe + 1.3) * rng.uniform(1.0, 1.22)  # visible height in meters
    tall = max(tall, (0.78 * troupe + 1.1) * size[1] / size[0])
    focal = size[1] / (2 * np.tan(np.radians(rng.uniform(17, 27))))
    distance = tall * focal / size[1]
    return stage_camera(
        height=rng.uniform(0.9, 2.5), distance=distance, pan=rng.uniform(-12, 12),
        target=0.92 + 0.07 * (tall - 2.4) + rng.uniform(-0.05, 0.12), focal=float(focal), size=size,
    )  # fmt: skip


def trace_pixels(camera: Camera, wall: float, size: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Intersects each pixel's ray with the floor (y = 0) and the backdrop (z = -`wall`).

    Returns:
        x, y, z in meters, float32 [H, W] each, and whether the floor is hit, bool [H, W].
    """
    u = (np.arange(size[0]) - camera.center[0]) / camera.focal
    v = (np.arange(size[1]) - camera.center[1]) / camera.focal
    right, down, ahead = camera.rotation
    ray = right * u[None, :, None] + down * v[:, None, None] + ahead
    to_wall = (-wall - camera.position[2]) / ray[..., 2]
    to_floor = -camera.position[1] / np.minimum(ray[..., 1], -1e-6)
    is_floor = to_floor < to_wall
    x, y, z = np.moveaxis(camera.position + ray * np.minimum(to_floor, to_wall)[..., None], -1, 0)
    return x.astype(np.float32), y.astype(np.float32), z.astype(np.float32), is_floor
