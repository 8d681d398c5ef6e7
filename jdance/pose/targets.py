"""Encodes people to the target maps of a pose network: the inverse of decode.

Letters in the shapes: B images, M people, h x w cells.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jdance import skeleton

_FIRST, _SECOND = skeleton.LIMBS.T
_CUTOFF = 0.01  # smaller values of a Gaussian are set to 0


def encode(
    keypoints: jax.Array,
    size: tuple[int, int],
    *,
    stride: int = 8,
    sigma: float = 7.0,
    limb_width: float = 1.0,
    overhang: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """Draws heat maps and part-affinity fields (PAFs) of people, as for OpenPose's training.

    The center of the cell in row i and column j is the pixel x = stride j + (stride - 1) / 2,
    y = stride i + (stride - 1) / 2. A joint is a Gaussian in its heat map; people are combined by
    the maximum. A limb with two labeled joints is a unit vector in the cells along it; people are
    combined by the mean.

    Args:
        keypoints: float [B, M, 18, 3], x and y in pixels of the network's input; joints with a
            score > 0 are labeled. Images with fewer people are padded with zeros.
        size: (h, w) of the maps; static under jit.
        stride: pixels per cell.
        sigma: standard deviation of the Gaussians in pixels; values below 1 % become 0.
        limb_width: half the width of a limb, in cells.
        overhang: extension of a limb beyond its ends, in cells. With 0, limbs shorter than a cell
            can miss all cell centers and cannot be decoded: 1 in 20 people of 60 to 78 pixels
            height loses a joint.

    Returns:
        heat: float32 [B, h, w, 19]; the last channel is the background, 1 - maximum of the others.
        paf: float32 [B, h, w, 38] in the channels of skeleton.PAF_CHANNELS.

    Raises:
        ValueError: the key points are not [B, M, 18, 3].
    """
    if keypoints.ndim != 4 or keypoints.shape[2:] != (skeleton.NUM_JOINTS, 3):
        raise ValueError(f"key points of shape {keypoints.shape}: expected [B, M, 18, 3]")
    keypoints = jnp.asarray(keypoints, jnp.float32)
    labeled = skeleton.is_present(keypoints)
    cells = (keypoints[..., :2] - (stride - 1) / 2) / stride
    position = jnp.where(labeled[..., None], cells, 0)

    def add_person(maps: tuple, person: tuple) -> tuple[tuple, None]:
        heat, vectors, count = maps
        position, labeled = person
        heat = jnp.maximum(heat, _draw_joints(position, labeled, size, sigma / stride))
        vector, inside = _draw_limbs(position, labeled, size, limb_width, overhang)
        return (heat, vectors + vector, count + inside), None

    # A scan over people keeps the memory independent of M.
    shape = (len(keypoints), *size)
    limbs = len(skeleton.LIMBS)
    empty = (
        jnp.zeros((*shape, skeleton.NUM_JOINTS)),
        jnp.zeros((*shape, limbs, 2)),
        jnp.zeros((*shape, limbs)),
    )
    people = position.swapaxes(0, 1), labeled.swapaxes(0, 1)
    (heat, vectors, count), _ = jax.lax.scan(add_person, empty, people)

    heat = jnp.where(heat < _CUTOFF, 0, heat)
    background = 1 - heat.max(axis=-1, keepdims=True)
    mean = vectors / jnp.maximum(count, 1)[..., None]
    paf = mean.reshape(*shape, 2 * limbs)[..., np.argsort(skeleton.PAF_CHANNELS.ravel())]
    return jnp.concatenate([heat, background], axis=-1), paf


def _draw_joints(
    position: jax.Array, labeled: jax.Array, size: tuple[int, int], sigma: float
) -> jax.Array:
    """Gaussians [B, h, w, 18] at the joints [B, 18, 2] of one person per image, in cells."""
    row, column = (np.arange(n, dtype=np.float32)[:, None] for n in size)
    x, y = position[:, None, :, 0], position[:, None, :, 1]
    across = jnp.exp(-0.5 * ((column - x) / sigma) ** 2)  # [B, w, 18]
    across = jnp.where(labeled[:, None], across, 0)
    down = jnp.exp(-0.5 * ((row - y) / sigma) ** 2)  # [B, h, 18]
    return down[:, :, None] * across[:, None]


def _draw_limbs(
    position: jax.Array,
    labeled: jax.Array,
    size: tuple[int, int],
    width: float,
    overhang: float,
) -> tuple[jax.Array, jax.Array]:
    """Limbs of one person per image: unit vectors [B, h, w, 19, 2] and masks [B, h, w, 19]."""
    row, column = (np.arange(n, dtype=np.float32)[:, None] for n in size)
    start = position[:, None, None, _FIRST]  # [B, 1, 1, 19, 2]
    vector = position[:, None, None, _SECOND] - start
    length = jnp.sqrt((vector**2).sum(axis=-1))
    direction = vector / jnp.where(length > 0, length, 1)[..., None]

    # The offset of each cell from the limb's start, in coordinates along and across the limb.
    dx, dy = column - start[..., 0], row[:, None] - start[..., 1]  # [B, 1, w, 19], [B, h, 1, 19]
    along = dx * direction[..., 0] + dy * direction[..., 1]
    across = dx * direction[..., 1] - dy * direction[..., 0]
    drawn = (labeled[:, _FIRST] & labeled[:, _SECOND])[:, None, None] & (length > 0)
    inside = drawn & (jnp.abs(across) <= width)
    inside &= (along >= -overhang) & (along <= length + overhang)
    return jnp.where(inside[..., None], direction, 0), inside.astype(jnp.float32)
