"""From a stored crop to the network's view of it: image and key points in one warp.

The paper's recipe (section 4.2): crop to 256, random rotation, random flip, centre crop 224. The
whole chain is one affine map, so that the image is resampled once.
"""

from typing import NamedTuple

import cv2
import numpy as np
from ml_collections import ConfigDict

from jdance import skeleton
from jdance.data import crop
from jdance.data.randomness import BatchRandom, between

LEGS = ("right_hip", "left_hip", "right_knee", "left_knee", "right_ankle", "left_ankle")

_VISIBLE = 224 / 256  # part of the crop's side that the network sees


def reduction(size: int) -> int:
    """The factor 1, 2 or 4 by which a stored crop may shrink before it is warped to `size`."""
    return max(
        factor for factor in (1, 2, 4) if factor == 1 or crop.SIZE * _VISIBLE / factor >= size
    )


def plain(size: int) -> np.ndarray:
    """The affine map [2, 3] from pixels of a stored crop to its centre view of `size` pixels."""
    scale = size / (crop.SIZE * _VISIBLE)
    offset = size / 2 - 0.5 - scale * (crop.SIZE / 2 - 0.5)
    return np.array([[scale, 0, offset], [0, scale, offset]])


def draw_maps(size: int, rng: BatchRandom, config: ConfigDict) -> tuple[np.ndarray, np.ndarray]:
    """Draws a map such as `plain` for each of B examples.

    Args:
        size: side of the view.
        chances: what to draw from.
        config: `jdance.config.augment()`.

    Returns:
        The maps float64 [B, 2, 3], and whether each mirrors, bool [B].
    """
    turn, mirror, scale, stretch, shear, right, down = rng.uniform(7)
    turn = np.deg2rad(between(turn, -config.rotation, config.rotation))
    mirrored = mirror < config.flip
    scale = np.exp(between(scale, -config.scale, config.scale))
    stretch = np.exp(between(stretch, -config.stretch, config.stretch) / 2)
    shear = between(shear, -config.shear, config.shear)
    scale *= size / (crop.SIZE * _VISIBLE)
    # Turned, stretched and mirrored as one, and sheared before that.
    across, along = scale * stretch * np.where(mirrored, -1, 1), scale / stretch
    linear = np.empty((len(turn), 2, 2))
    linear[:, 0, 0], linear[:, 0, 1] = np.cos(turn) * across, -np.sin(turn) * along
    linear[:, 1, 0], linear[:, 1, 1] = np.sin(turn) * across, np.cos(turn) * along
    linear[:, :, 1] += linear[:, :, 0] * shear[:, None]
    shift = between(np.stack([right, down], 1), -config.shift, config.shift)
    centre = size / 2 - 0.5 + shift * size
    offset = centre - linear.sum(2) * (crop.SIZE / 2 - 0.5)
    return np.concatenate([linear, offset[..., None]], 2), mirrored


def warp_keypoints(
    keypoints: np.ndarray,
    affine: np.ndarray,
    mirrored: np.ndarray | None = None,
    layout: skeleton.Layout = skeleton.COCO18,
) -> np.ndarray:
    """Applies B maps [B, 2, 3] to key points [B, ..., J, 3].

    Where `mirrored`, bool [B], left and right change places.
    """
    more = (1,) * (keypoints.ndim - 3)
    moved = keypoints
    if mirrored is not None:
        where = mirrored.reshape(-1, *more, 1, 1)
        moved = np.where(where, keypoints[..., layout.flip, :], keypoints)
    linear, offset = affine[..., :2], affine[..., 2]
    xy = moved[..., :2] @ linear.swapaxes(1, 2).reshape(-1, *more, 2, 2)
    xy += offset.reshape(-1, *more, 1, 2)
    return skeleton.clean(np.concatenate([xy, moved[..., 2:]], -1))


def for_reduced(affine: np.ndarray, factor: int) -> np.ndarray:
    """Maps [..., 2, 3] from stored crops -> maps from crops of 1/factor of their size."""
    # Pixel x of the reduced crop is pixel factor * (x + 0.5) - 0.5 of the full one.
    linear = affine[..., :2] * factor
    offset = affine[..., 2] + affine[..., :2].sum(-1) * (factor / 2 - 0.5)
    return np.concatenate([linear, offset[..., None]], -1)


def warp_image(
    image: np.ndarray, affine: np.ndarray, size: int, out: np.ndarray | None = None
) -> np.ndarray:
    """Applies a map [2, 3], for crops of this size, to uint8 RGB: [size, size, 3].

    `out`, of that shape and without gaps, is where the view is to lie.
    """
    return cv2.warpAffine(image, affine, (size, size), dst=out, flags=cv2.INTER_LINEAR)


def disturb_keypoints(
    keypoints: np.ndarray,
    size: int,
    rng: BatchRandom,
    config: ConfigDict,
    layout: skeleton.Layout = skeleton.COCO18,
) -> np.ndarray:
    """Adds noise to the joints of [B, ..., J, 3] and drops some, the same in all frames."""
    noise = rng.normal(*keypoints.shape[1:-1], 2) * (config.joint_noise * size)
    *joints, legs = rng.uniform(len(layout) + 1)
    dropped = np.stack(joints, 1) < config.joint_dropout
    dropped[:, layout.at(LEGS)] |= (legs < config.legs_dropout)[:, None]
    noisy = keypoints.astype(np.float64)
    noisy[..., :2] += noise
    kept = ~dropped.reshape(len(dropped), *(1,) * (keypoints.ndim - 3), -1) & (
        keypoints[..., 2] > 0
    )
    return np.where(kept[..., None], skeleton.clean(noisy), np.float32(0))


class Disturbances(NamedTuple):
    """What `disturb_image` does to each of B views; None: nothing to any."""

    colours: np.ndarray | None  # float64 [B, 3, 4], from R, G, B and 1 to R, G and B
    hidden: np.ndarray | None  # int [B, 4]: first and last row and column of a rectangle, or all 0
    covers: np.ndarray | None  # int [B, 3], what the rectangles are filled with


def draw_disturbances(size: int, rng: BatchRandom, config: ConfigDict) -> Disturbances:
    """Draws brightness, contrast, saturation, and a rectangle to hide in views of `size` pixels."""
    colours = hidden = covers = None
    if config.color > 0:
        drawn = between(rng.uniform(6), -config.color, config.color)
        gain, contrast, saturation = (1 + drawn[:3])[:, :, None, None]
        tint = (1 + 0.3 * drawn[3:]).T[..., None]
        # Saturation, then contrast about the middle, gain and tint.
        mix = (saturation * np.eye(3) + (1 - saturation) / 3) * contrast * gain * tint
        shift = np.broadcast_to(128 * (1 - contrast) * gain, tint.shape)
        colours = np.concatenate([mix, shift], 2)
    if config.erase > 0:
        erased, height, width, top, left, *cover = rng.uniform(8)
        sides = (between(np.stack([height, width]), 0.1, 0.4) * size).astype(int)
        first = (np.stack([top, left]) * (size + 1 - sides)).astype(int)
        box = np.stack([first[0], first[0] + sides[0], first[1], first[1] + sides[1]], 1)
        hidden = np.where((erased < config.erase)[:, None], box, 0)
        covers = (np.stack(cover, 1) * 256).astype(int)
    return Disturbances(colours, hidden, covers)


def disturb_image(image: np.ndarray, disturbances: Disturbances, row: int) -> None:
    """Does to uint8 RGB [size, size, 3], where it is, what was drawn for one of the views."""
    if disturbances.colours is not None:
        cv2.transform(image, disturbances.colours[row], dst=image)
    if disturbances.hidden is not None and disturbances.covers is not None:
        top, bottom, left, right = disturbances.hidden[row]
        image[top:bottom, left:right] = disturbances.covers[row]


def view(image: np.ndarray, size: int) -> np.ndarray:
    """The network's plain view [size, size, 3] of a crop [256, 256, 3], as evaluation sees it."""
    factor = reduction(size)
    if factor > 1:
        side = crop.SIZE // factor
        image = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    return warp_image(image, for_reduced(plain(size), factor), size)
