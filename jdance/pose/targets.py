"""From people to the maps that a pose network should give: the inverse of decode.

Letters in the shapes: B images, M people, h x w cells.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jdance import skeleton

_FIRST, _SECOND = skeleton.LIMBS.T
_CUT = 0.01  # under this a Gaussian counts as 0


def encode(
    keypoints: jax.Array,
    size: tuple[int, int],
    *,
    stride: int = 8,
    sigma: float = 7.0,
    limb_width: float = 1.0,
    overhang: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """Draws the heat maps and part-affinity fields (PAFs) of people, as OpenPose is trained on.

    The centre of the cell in row i and column j is the pixel x = stride j + (stride - 1) / 2,
    y = stride i + (stride - 1) / 2. A joint is a Gaussian in its heat map, the maximum where
    people overlap. A limb is the unit vector along it in the cells beside it, the mean where
    people overlap; it is drawn if both its joints are labelled and not in the same place.

    Args:
        keypoints: float [B, M, 18, 3], x and y in pixels of the network's input; a joint is
            labelled if its score is > 0. Images with fewer people are filled up with zeros.
        size: (h, w) of the maps; static under jit.
        stride: pixels a cell.
        sigma: standard deviation of the Gaussian in pixels; values under 1 % become 0.
        limb_width: how far to either side of a limb it is drawn, in cells.
        overhang: how far beyond its ends a limb is drawn, in cells. With 0 a limb shorter than a
            cell may miss the centre of every cell, and cannot be decoded then: 1 person in 20 that
            is 60 to 78 pixels tall loses a joint.

    Returns:
        heat: float32 [B, h, w, 19], the last channel the background, 1 - the maximum of the rest.
        paf: float32 [B, h, w, 38] in the channels of skeleton.PAF_CHANNELS.

    Raises:
        ValueError: the key points are not [B, M, 18, 3].
    """
    if keypoints.ndim != 4 or keypoints.shape[2:] != (skeleton.NUM_JOINTS, 3):
        raise ValueError(f"key points of shape {keypoints.shape}: expected [B, M, 18, 3]")
    keypoints = jnp.asarray(keypoints, jnp.float32)
    labelled = skeleton.is_present(keypoints)
    cells = (keypoints[..., :2] - (stride - 1) / 2) / stride
    position = jnp.where(labelled[..., None], cells, 0)

    def add_person(maps: tuple, person: tuple) -> tuple[tuple, None]:
        heat, vectors, count = maps
        position, labelled = person
        heat = jnp.maximum(heat, _draw_joints(position, labelled, size, sigma / stride))
        vector, inside = _draw_limbs(position, labelled, size, limb_width, overhang)
        return (heat, vectors + vector, count + inside), None

    # One person after the other, in all images at once: the memory does not grow with M.
    shape = (len(keypoints), *size)
    limbs = len(skeleton.LIMBS)
    empty = (
        jnp.zeros((*shape, skeleton.NUM_JOINTS)),
        jnp.zeros((*shape, limbs, 2)),
        jnp.zeros((*shape, limbs)),
    )
    people = position.swapaxes(0, 1), labelled.swapaxes(0, 1)
    (heat, vectors, count), _ = jax.lax.scan(add_person, empty, people)

    heat = jnp.where(heat < _CUT, 0, heat)
    background = 1 - heat.max(axis=-1, keepdims=True)
    mean = vectors / jnp.maximum(count, 1)[..., None]
    paf = mean.reshape(*shape, 2 * limbs)[..., np.argsort(skeleton.PAF_CHANNELS.ravel())]
    return jnp.concatenate([heat, background], axis=-1), paf


def _draw_joints(
    position: jax.Array, labelled: jax.Array, size: tuple[int, int], sigma: float
) -> jax.Array:
    """Gaussians [B, h, w, 18] about the joints [B, 18, 2] of one person an image, all in cells."""
    row, column = (np.arange(n, dtype=np.float32)[:, None] for n in size)
    x, y = position[:, None, :, 0], position[:, None, :, 1]
    across = jnp.exp(-0.5 * ((column - x) / sigma) ** 2)  # [B, w, 18]
    across = jnp.where(labelled[:, None], across, 0)
    down = jnp.exp(-0.5 * ((row - y) / sigma) ** 2)  # [B, h, 18]
    return down[:, :, None] * across[:, None]


def _draw_limbs(
    position: jax.Array,
    labelled: jax.Array,
    size: tuple[int, int],
    width: float,
    overhang: float,
) -> tuple[jax.Array, jax.Array]:
    """Limbs of one person an image: unit vectors [B, h, w, 19, 2], and 1 where drawn [B, h, w, 19].

    All in cells.
    """
    row, column = (np.arange(n, dtype=np.float32)[:, None] for n in size)
    start = position[:, None, None, _FIRST]  # [B, 1, 1, 19, 2]
    vector = position[:, None, None, _SECOND] - start
    length = jnp.sqrt((vector**2).sum(axis=-1))
    direction = vector / jnp.where(length > 0, length, 1)[..., None]

    # Each cell's offset from the limb's start, in the limb's own axes.
    dx, dy = column - start[..., 0], row[:, None] - start[..., 1]  # [B, 1, w, 19], [B, h, 1, 19]
    along = dx * direction[..., 0] + dy * direction[..., 1]
    across = dx * direction[..., 1] - dy * direction[..., 0]
    drawn = (labelled[:, _FIRST] & labelled[:, _SECOND])[:, None, None] & (length > 0)
    inside = drawn & (jnp.abs(across) <= width)
    inside &= (along >= -overhang) & (along <= length + overhang)
    return jnp.where(inside[..., None], direction, 0), inside.astype(jnp.float32)
