"""Decodes the heads of MoveNet MultiPose to people: pure functions with fixed shapes.

A peak of the center map is a person. Its regression gives a rough position of each joint, which is
refined to the highest value of the joint's heat map nearby.

Letters in the shapes: B images, h x w cells, P people, J = 17 joints of COCO. Positions are (y, x)
in cells.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jdance import skeleton
from jdance.models.pose_movenet import JOINTS, Heads
from jdance.pose import oks
from jdance.pose.decode import DecodeConfig, People

_STRIDE = 4  # pixels per cell
_CENTER_THRESHOLD = 0.08
_HEAT_THRESHOLD = 0.05  # minimum of a joint
# Minimum of a person, the center's probability times the mean of the joints: the best F1 on 75
# images of COCO (0.73; without it 0.61). Images without people then have hardly any detections.
MIN_SCORE = 0.08
# The search radius around a rough position is _REACH_SIZE times the size of the person, plus cells.
_REACH_SIZE, _REACH_CELLS = 0.35, 2.0
_DISTANCE_BIAS = 1.8  # cells; heat is divided by the distance plus this


class _Rough(NamedTuple):
    """Rough poses, one for each center.

    Attributes:
        joints: float32 [B, P, J, 2], rough positions of the joints.
        reach: float32 [B, P], search radius around these.
        score: float32 [B, P], probability of the center, in descending order; 0 without a person.
    """

    joints: Array
    reach: Array
    score: Array


def decode(heads: Heads, config: DecodeConfig, min_joints: ArrayLike) -> People:
    """Decodes people.

    Args:
        heads: the outputs of `MoveNetMultiPose`.
        config: static; only max_people is used.
        min_joints: int32 [], minimum number of joints of a person.
    """
    rough = _from_centers(heads, config.max_people)
    heat = jax.nn.sigmoid(heads.heat).transpose(0, 3, 1, 2)  # [B, J, h, w]
    position, heat = jax.lax.platform_dependent(
        heat, heads.offset, rough, cpu=_refine_sequentially, default=_refine_all
    )
    present = (heat >= _HEAT_THRESHOLD) & (rough.score > 0)[..., None]
    pixels = _STRIDE * position[..., ::-1] - 0.5
    joints = jnp.concatenate([pixels, heat[..., None]], -1)
    return jax.vmap(partial(_select, min_joints=min_joints))(
        _to_coco18(jnp.where(present[..., None], joints, 0)), rough.score
    )


def _from_centers(heads: Heads, people: int) -> _Rough:
    """Rough poses of the P highest local maxima (3x3 cells) of the center map."""
    center = jax.nn.sigmoid(heads.center[..., 0])
    batch, height, width = center.shape
    padded = jnp.pad(center, ((0, 0), (1, 1), (1, 1)))
    is_peak = center > _CENTER_THRESHOLD
    for dy, dx in np.ndindex(3, 3):  # the first of equal neighbors is the peak
        neighbor = padded[:, dy : dy + height, dx : dx + width]
        is_peak &= center > neighbor if (dy, dx) < (1, 1) else center >= neighbor
    score, cell = jax.lax.top_k(jnp.where(is_peak, center, 0).reshape(batch, -1), people)
    flat = heads.regress.reshape(batch, -1, 2 * JOINTS)
    regress = jnp.take_along_axis(flat, cell[..., None], 1).reshape(batch, people, JOINTS, 2)
    position = jnp.stack([cell // width, cell % width], -1)
    joints = position[:, :, None] + regress
    size = (joints.max(2) - joints.min(2)).max(-1)
    return _Rough(joints, _REACH_SIZE * size + _REACH_CELLS, score)


def _refine_all(heat: Array, offset: Array, rough: _Rough) -> tuple[Array, Array]:
    """Positions [B, P, J, 2] and heat [B, P, J] of all joints; for GPUs."""
    find = jax.vmap(_refine, in_axes=(None, None, 1, 1), out_axes=(1, 1))
    return find(heat, offset, rough.joints, rough.reach)


def _refine_sequentially(heat: Array, offset: Array, rough: _Rough) -> tuple[Array, Array]:
    """The same in a loop that ends after the last person; for CPUs."""
    batch, people = rough.score.shape

    def refine_one(row: Array, results: tuple[Array, Array]) -> tuple[Array, Array]:
        joints, reach = (
            jax.lax.dynamic_index_in_dim(x, row, 1, keepdims=False)
            for x in (rough.joints, rough.reach)
        )
        new = _refine(heat, offset, joints, reach)
        return tuple(
            jax.lax.dynamic_update_index_in_dim(x, value, row, 1)
            for x, value in zip(results, new, strict=True)
        )

    start = jnp.zeros((batch, people, JOINTS, 2)), jnp.zeros((batch, people, JOINTS))
    return jax.lax.fori_loop(0, (rough.score > 0).sum(1).max(), refine_one, start)


def _refine(heat: Array, offset: Array, joints: Array, reach: Array) -> tuple[Array, Array]:
    """Positions [B, J, 2] and heat [B, J] of the joints of one person per image.

    Args:
        heat: [B, J, h, w].
        offset: [B, h, w, 2 J].
        joints: [B, J, 2], rough positions.
        reach: [B], search radius.
    """
    batch, _, height, width = heat.shape
    y, x = joints[..., 0, None], joints[..., 1, None]
    down = jnp.square(jnp.arange(height) - y)[..., None]  # [B, J, h, 1]
    across = jnp.square(jnp.arange(width) - x)[:, :, None]  # [B, J, 1, w]
    distance = jnp.sqrt(down + across)
    near = distance <= reach[:, None, None, None]
    value = jnp.where(near, heat / (distance + _DISTANCE_BIAS), 0)
    cell = value.reshape(batch, JOINTS, -1).argmax(-1)
    best = jnp.take_along_axis(heat.reshape(batch, JOINTS, -1), cell[..., None], -1)[..., 0]
    shift = offset.reshape(batch, height * width, JOINTS, 2)[
        np.arange(batch)[:, None], cell, np.arange(JOINTS)
    ]
    position = jnp.stack([cell // width, cell % width], -1) + shift
    # No cell is near for joints beyond the border.
    found = jnp.take_along_axis(value.reshape(batch, JOINTS, -1), cell[..., None], -1)[..., 0] > 0
    return position, jnp.where(found, best, 0)


def _to_coco18(joints: Array) -> Array:
    """[..., 17, 3] -> [..., 18, 3] with the midpoint of the shoulders as neck."""
    order = np.array(skeleton.COCO17_TO_COCO18)
    result = joints[..., np.maximum(order, 0), :]
    right, left = result[..., skeleton.R_SHOULDER, :], result[..., skeleton.L_SHOULDER, :]
    score = jnp.minimum(right[..., 2:], left[..., 2:])
    neck = jnp.concatenate([(right[..., :2] + left[..., :2]) / 2, score], -1)
    neck = jnp.where(score > 0, neck, 0)
    return result.at[..., skeleton.NECK, :].set(neck)


def _select(keypoints: Array, score: Array, min_joints: ArrayLike) -> People:
    """The people [P] of one image without duplicates, best first."""
    present = keypoints[..., 2] > 0
    # Center scores alone rank people with invisible joints too high.
    heat = keypoints[..., 2].sum(-1) / jnp.maximum(present.sum(-1), 1)
    score = score * heat
    valid = (present.sum(-1) >= min_joints) & (score >= MIN_SCORE)
    kept, _ = oks.suppress(oks.similarity(keypoints) >= oks.SAME_PERSON, score, valid)
    best, row = jax.lax.top_k(jnp.where(kept, score, -jnp.inf), len(score))
    valid = best > -jnp.inf
    return People(
        jnp.where(valid[:, None, None], keypoints[row], 0), valid, jnp.where(valid, best, 0)
    )
