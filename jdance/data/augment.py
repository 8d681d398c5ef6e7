"""From a stored crop to the network's view of it: picture and key points in one warp.

The paper's recipe (section 4.2): crop to 256, random rotation, random flip, centre crop 224. The
whole chain is one affine map, so that the picture is resampled once.
"""

import cv2
import numpy as np
from ml_collections import ConfigDict

from jdance import skeleton
from jdance.data import crop

LEGS = ("right_hip", "left_hip", "right_knee", "left_knee", "right_ankle", "left_ankle")

_VISIBLE = 224 / 256  # part of the crop's side that the network sees


def reduction(size: int) -> int:
    """The factor 1, 2 or 4 by which a stored crop may shrink before it is warped to `size`."""
    return max(
        factor for factor in (1, 2, 4) if factor == 1 or crop.SIZE * _VISIBLE / factor >= size
    )


def matrix(
    size: int, rng: np.random.Generator | None, config: ConfigDict
) -> tuple[np.ndarray, bool]:
    """Draws the affine map [2, 3] from pixels of the stored crop to a view of `size` pixels.

    Args:
        size: side of the view.
        rng: what to draw from; None: the plain centre view.
        config: `jdance.config.augment()`.

    Returns:
        The map, and whether it mirrors.
    """
    linear = np.eye(2) * size / (crop.SIZE * _VISIBLE)
    centre = np.full(2, size / 2 - 0.5)
    mirrored = False
    if rng is not None:
        angle = np.deg2rad(rng.uniform(-config.rotation, config.rotation))
        mirrored = bool(rng.random() < config.flip)
        scale = np.exp(rng.uniform(-config.scale, config.scale))
        stretch = np.exp(rng.uniform(-config.stretch, config.stretch) / 2)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        mirror = np.diag([-1.0 if mirrored else 1.0, 1.0])
        linear = linear @ turn @ np.diag([stretch, 1 / stretch]) @ mirror * scale
        if config.shear:
            linear = linear @ np.array([[1, rng.uniform(-config.shear, config.shear)], [0, 1]])
        centre = centre + rng.uniform(-config.shift, config.shift, 2) * size
    offset = centre - linear @ np.full(2, crop.SIZE / 2 - 0.5)
    return np.concatenate([linear, offset[:, None]], 1), mirrored


def warp_keypoints(
    keypoints: np.ndarray,
    affine: np.ndarray,
    mirrored: bool,
    layout: skeleton.Layout = skeleton.COCO18,
) -> np.ndarray:
    """Applies a map [2, 3] to key points [..., J, 3]; a mirror also swaps left and right."""
    moved = keypoints[..., layout.flip, :].copy() if mirrored else keypoints.copy()
    moved[..., :2] = moved[..., :2] @ affine[:, :2].T + affine[:, 2]
    return skeleton.clean(moved)


def warp_image(image: np.ndarray, affine: np.ndarray, size: int) -> np.ndarray:
    """Applies a map [2, 3] from full stored crops to one of side 256 or a fraction of that."""
    factor = crop.SIZE / image.shape[0]
    # Pixel x of the reduced crop is pixel factor * (x + 0.5) - 0.5 of the full one.
    adapted = affine.copy()
    adapted[:, 2] += affine[:, :2] @ np.full(2, factor / 2 - 0.5)
    adapted[:, :2] *= factor
    return cv2.warpAffine(image, adapted, (size, size), flags=cv2.INTER_LINEAR)


def disturb_keypoints(
    keypoints: np.ndarray,
    size: int,
    rng: np.random.Generator,
    config: ConfigDict,
    layout: skeleton.Layout = skeleton.COCO18,
) -> np.ndarray:
    """Adds noise to the joints of [..., J, 3] and drops some of them, the same in all frames."""
    noise = rng.normal(0, config.joint_noise * size, (*keypoints.shape[:-1], 2))
    dropped = rng.random(len(layout)) < config.joint_dropout
    if config.legs_dropout and rng.random() < config.legs_dropout:
        dropped[layout.at(LEGS)] = True
    noisy = keypoints.copy()
    noisy[..., :2] += noise
    noisy[..., dropped, 2] = 0
    return np.where(keypoints[..., 2:] > 0, skeleton.clean(noisy), 0).astype(np.float32)


def disturb_image(image: np.ndarray, rng: np.random.Generator, config: ConfigDict) -> np.ndarray:
    """Changes brightness, contrast and saturation of uint8 RGB, and hides a rectangle."""
    if config.color > 0:
        gain, contrast, saturation = 1 + config.color * rng.uniform(-1, 1, 3)
        tint = 1 + config.color * rng.uniform(-0.3, 0.3, 3)
        grey = np.full((3, 3), 1 / 3)
        # One 3 x 4 colour map: saturation, then contrast about the middle, gain and tint.
        mix = (saturation * np.eye(3) + (1 - saturation) * grey) * contrast * gain * tint[:, None]
        shift = np.full((3, 1), 128 * (1 - contrast) * gain)
        image = cv2.transform(image, np.hstack([mix, shift]))
    if rng.random() < config.erase:
        size = image.shape[0]
        height, width = (rng.uniform(0.1, 0.4, 2) * size).astype(int)
        top, left = rng.integers(0, size - height + 1), rng.integers(0, size - width + 1)
        image = image.copy()
        image[top : top + height, left : left + width] = rng.integers(0, 256, 3)
    return image


def view(image: np.ndarray, size: int) -> np.ndarray:
    """The network's plain view [size, size, 3] of a crop [256, 256, 3], as evaluation sees it."""
    factor = reduction(size)
    if factor > 1:
        side = crop.SIZE // factor
        image = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    affine, _ = matrix(size, None, ConfigDict())
    return warp_image(image, affine, size)
