"""Augmentation of stored crops: one affine map for image and key points, and distortions.

The paper's recipe (section 4.2): crop to 256, random rotation, random flip, center crop 224. The
chain is one affine map, so that the image is resampled once.
"""

from typing import NamedTuple

import cv2
import numpy as np
from ml_collections import ConfigDict

from jdance import skeleton
from jdance.data import crop
from jdance.data.randomness import BatchRandom, between

LEGS = ("right_hip", "left_hip", "right_knee", "left_knee", "right_ankle", "left_ankle")

_VISIBLE = 224 / 256  # visible fraction of the crop's side


def reduction(size: int) -> int:
    """Factor (1, 2 or 4) by which a stored crop can be reduced before it is warped to `size`."""
    return max(
        factor for factor in (1, 2, 4) if factor == 1 or crop.SIZE * _VISIBLE / factor >= size
    )


def center_affine(size: int) -> np.ndarray:
    """Affine map [2, 3] from a stored crop to its center crop of `size` pixels."""
    scale = size / (crop.SIZE * _VISIBLE)
    offset = size / 2 - 0.5 - scale * (crop.SIZE / 2 - 0.5)
    return np.array([[scale, 0, offset], [0, scale, offset]])


def draw_affines(size: int, rng: BatchRandom, config: ConfigDict) -> tuple[np.ndarray, np.ndarray]:
    """Draws random variants of `center_affine` for B examples.

    Args:
        size: side of the view in pixels.
        rng: random numbers of the batch.
        config: `jdance.config.augment()`.

    Returns:
        Affine maps float64 [B, 2, 3], and whether each one mirrors, bool [B].
    """
    turn, mirror, scale, stretch, shear, right, down = rng.uniform(7)
    turn = np.deg2rad(between(turn, -config.rotation, config.rotation))
    mirrored = mirror < config.flip
    scale = np.exp(between(scale, -config.scale, config.scale))
    stretch = np.exp(between(stretch, -config.stretch, config.stretch) / 2)
    shear = between(shear, -config.shear, config.shear)
    scale *= size / (crop.SIZE * _VISIBLE)
    # Shear, then mirror, stretch and scale, then rotation.
    across, along = scale * stretch * np.where(mirrored, -1, 1), scale / stretch
    linear = np.empty((len(turn), 2, 2))
    linear[:, 0, 0], linear[:, 0, 1] = np.cos(turn) * across, -np.sin(turn) * along
    linear[:, 1, 0], linear[:, 1, 1] = np.sin(turn) * across, np.cos(turn) * along
    linear[:, :, 1] += linear[:, :, 0] * shear[:, None]
    shift = between(np.stack([right, down], 1), -config.shift, config.shift)
    center = size / 2 - 0.5 + shift * size
    offset = center - linear.sum(2) * (crop.SIZE / 2 - 0.5)
    return np.concatenate([linear, offset[..., None]], 2), mirrored


def warp_keypoints(
    keypoints: np.ndarray,
    affine: np.ndarray,
    mirrored: np.ndarray | None = None,
    layout: skeleton.Layout = skeleton.COCO18,
) -> np.ndarray:
    """Applies affine maps [B, 2, 3] to key points [B, ..., J, 3].

    Left and right joints are swapped where `mirrored`, bool [B].
    """
    ones = (1,) * (keypoints.ndim - 3)
    moved = keypoints
    if mirrored is not None:
        where = mirrored.reshape(-1, *ones, 1, 1)
        moved = np.where(where, keypoints[..., layout.flip, :], keypoints)
    linear, offset = affine[..., :2], affine[..., 2]
    xy = moved[..., :2] @ linear.swapaxes(1, 2).reshape(-1, *ones, 2, 2)
    xy += offset.reshape(-1, *ones, 1, 2)
    return skeleton.clean(np.concatenate([xy, moved[..., 2:]], -1))


def reduce_affine(affine: np.ndarray, factor: int) -> np.ndarray:
    """Adapts affine maps [..., 2, 3] from stored crops to crops of 1 / factor of their size."""
    # Pixel x of the reduced crop is pixel factor * (x + 0.5) - 0.5 of the full one.
    linear = affine[..., :2] * factor
    offset = affine[..., 2] + affine[..., :2].sum(-1) * (factor / 2 - 0.5)
    return np.concatenate([linear, offset[..., None]], -1)


def warp_image(
    image: np.ndarray, affine: np.ndarray, size: int, out: np.ndarray | None = None
) -> np.ndarray:
    """Warps uint8 RGB by an affine map [2, 3] to [size, size, 3], optionally into `out`."""
    return cv2.warpAffine(image, affine, (size, size), dst=out, flags=cv2.INTER_LINEAR)


def distort_keypoints(
    keypoints: np.ndarray,
    size: int,
    rng: BatchRandom,
    config: ConfigDict,
    layout: skeleton.Layout = skeleton.COCO18,
) -> np.ndarray:
    """Adds noise to joints [B, ..., J, 3] and drops some of them in all frames."""
    noise = rng.normal(*keypoints.shape[1:-1], 2) * (config.joint_noise * size)
    *joints, legs = rng.uniform(len(layout) + 1)
    dropped = np.stack(joints, 1) < config.joint_dropout
    dropped[:, layout.at(LEGS)] |= (legs < config.legs_dropout)[:, None]
    noisy = keypoints.astype(np.float64)
    noisy[..., :2] += noise
    kept = ~dropped.reshape(len(dropped), *(1,) * (keypoints.ndim - 3), -1)
    kept = kept & (keypoints[..., 2] > 0)
    return np.where(kept[..., None], skeleton.clean(noisy), np.float32(0))


class Distortions(NamedTuple):
    """Parameters of `distort_image` for B views; None disables a distortion.

    Attributes:
        colors: maps from (R, G, B, 1) to (R, G, B), float64 [B, 3, 4].
        erased: row and column ranges of rectangles, int [B, 4]; all 0 for none.
        fills: RGB of the rectangles, int [B, 3].
    """

    colors: np.ndarray | None
    erased: np.ndarray | None
    fills: np.ndarray | None


def draw_distortions(size: int, rng: BatchRandom, config: ConfigDict) -> Distortions:
    """Draws color changes and rectangles to erase in views of `size` pixels."""
    colors = erased = fills = None
    if config.color > 0:
        drawn = between(rng.uniform(6), -config.color, config.color)
        gain, contrast, saturation = (1 + drawn[:3])[:, :, None, None]
        tint = (1 + 0.3 * drawn[3:]).T[..., None]
        # Saturation, contrast about mid-gray, gain and tint.
        mix = (saturation * np.eye(3) + (1 - saturation) / 3) * contrast * gain * tint
        shift = np.broadcast_to(128 * (1 - contrast) * gain, tint.shape)
        colors = np.concatenate([mix, shift], 2)
    if config.erase > 0:
        chance, height, width, top, left, *fill = rng.uniform(8)
        sides = (between(np.stack([height, width]), 0.1, 0.4) * size).astype(int)
        first = (np.stack([top, left]) * (size + 1 - sides)).astype(int)
        box = np.stack([first[0], first[0] + sides[0], first[1], first[1] + sides[1]], 1)
        erased = np.where((chance < config.erase)[:, None], box, 0)
        fills = (np.stack(fill, 1) * 256).astype(int)
    return Distortions(colors, erased, fills)


def distort_image(image: np.ndarray, distortions: Distortions, row: int) -> None:
    """Distorts uint8 RGB [size, size, 3] in place by the parameters of one view."""
    if distortions.colors is not None:
        cv2.transform(image, distortions.colors[row], dst=image)
    if distortions.erased is not None and distortions.fills is not None:
        top, bottom, left, right = distortions.erased[row]
        image[top:bottom, left:right] = distortions.fills[row]


def center_view(image: np.ndarray, size: int) -> np.ndarray:
    """Center view [size, size, 3] of a crop [256, 256, 3], as in evaluation."""
    factor = reduction(size)
    if factor > 1:
        side = crop.SIZE // factor
        image = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    return warp_image(image, reduce_affine(center_affine(size), factor), size)
