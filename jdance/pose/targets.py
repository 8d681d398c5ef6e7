"""From people to the maps that a pose network should give: the inverse of decode.

Letters in the shapes: B images, M people, h x w cells.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jdance import skeleton

_CUT = 0.01  # a Gaussian ends where it falls under this


def encode(
    keypoints: jax.Array,
    size: tuple[int, int],
    *,
    stride: int = 8,
    sigma: float = 7.0,
    limb_width: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """Draws heat maps and part-affinity fields (PAFs) of people, as OpenPose is trained on.

    The centre of cell (row, column) lies at the pixel (stride column + (stride - 1) / 2, likewise
    the row). Each joint's heat map is a Gaussian, the greatest of all people where they overlap.
    Each limb's PAF is the unit vector along the limb in the cells beside it, the mean of all people
    there. A limb is drawn if both its joints are labelled and apart.

    Args:
        keypoints: float [B, M, 18, 3], x and y in pixels of the network's input; a joint is
            labelled if its score is > 0. Fill up with zeros to M people.
        size: (h, w) of the maps; static under jit, like all that follows.
        stride: pixels a cell.
        sigma: standard deviation of the Gaussian in pixels; under 1 % it is cut to 0.
        limb_width: the greatest distance from a limb, in cells, at which its PAF is drawn.

    Returns:
        heat float32 [B, h, w, 19], the last one the background, 1 - the greatest of the others;
        paf float32 [B, h, w, 38] in the channels of skeleton.PAF_CHANNELS.
    """
    if keypoints.ndim != 4 or keypoints.shape[2:] != (skeleton.NUM_JOINTS, 3):
        raise ValueError(f"key points of shape {keypoints.shape}: expected [B, M, 18, 3]")
    keypoints = jnp.asarray(keypoints, jnp.float32)
    labelled = skeleton.is_present(keypoints)
    # Positions in cells. What is not labelled may hold anything, even NaN.
    position = jnp.where(
        labelled[..., None], (keypoints[..., :2] - (stride - 1) / 2) / stride, 0
    )

    heat = _draw_joints(position, labelled, size, sigma / stride)
    background = 1 - heat.max(axis=-1, keepdims=True)
    paf = _draw_limbs(position, labelled, size, limb_width)
    return jnp.concatenate([heat, background], axis=-1), paf


def _draw_joints(
    position: jax.Array, labelled: jax.Array, size: tuple[int, int], sigma: float
) -> jax.Array:
    """Heat maps [B, h, w, 18] of positions [B, M, 18, 2], all in cells."""
    h, w = size
    across, down = (
        jnp.exp(-0.5 * ((np.arange(n) - position[..., axis, None]) / sigma) ** 2)
        for axis, n in enumerate((w, h))
    )  # [B, M, 18, w], [B, M, 18, h]
    across = jnp.where(labelled[..., None], across, 0)
    heat = (down[..., :, None] * across[..., None, :]).max(axis=1, initial=0)
    return jnp.where(heat < _CUT, 0, heat).transpose(0, 2, 3, 1)


def _draw_limbs(
    position: jax.Array, labelled: jax.Array, size: tuple[int, int], limb_width: float
) -> jax.Array:
    """PAFs [B, h, w, 38] of positions [B, M, 18, 2], all in cells."""
    h, w = size
    first, second = skeleton.LIMBS.T
    start = position[:, :, first]  # [B, M, 19, 2]
    vector = position[:, :, second] - start
    length = jnp.sqrt((vector**2).sum(axis=-1))
    drawn = labelled[:, :, first] & labelled[:, :, second] & (length > 0)
    direction = vector / jnp.where(length > 0, length, 1)[..., None]

    # The offset of each cell from the limb's start, split into along the limb and across it.
    dx = np.arange(w, dtype=np.float32) - start[..., 0, None, None]  # [B, M, 19, 1, w]
    dy = np.arange(h, dtype=np.float32)[:, None] - start[..., 1, None, None]  # [B, M, 19, h, 1]
    ux, uy = direction[..., 0, None, None], direction[..., 1, None, None]
    along = dx * ux + dy * uy
    across = jnp.abs(dx * uy - dy * ux)
    inside = (along >= 0) & (along <= length[..., None, None]) & (across <= limb_width)
    inside &= drawn[..., None, None]

    # Sums over the people; XLA fuses what is above into them, so nothing of size B M 19 h w is kept.
    count = jnp.maximum(inside.sum(axis=1), 1)
    mean = [jnp.where(inside, u, 0).sum(axis=1) / count for u in (ux, uy)]
    channels = jnp.concatenate(mean, axis=1)  # [B, 38, h, w]: x of all limbs, then y of all
    return channels[:, np.argsort(skeleton.PAF_CHANNELS.T.ravel())].transpose(0, 2, 3, 1)
