"""From the heads of MoveNet MultiPose to people: pure functions of fixed shapes.

A peak of the center map is a person. It tells roughly where each joint is; the joint is then where
its heat map is high near there.

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

_STRIDE = 4  # pixels a cell
_CENTER_THRESHOLD = 0.08
_HEAT_THRESHOLD = 0.05  # joints with less are missing
# A joint is sought within this many person sizes plus cells of where the center expects it.
_REACH_SIZE, _REACH_CELLS = 0.35, 2.0
_DISTANCE_BIAS = 1.8  # cells; the heat counts divided by the distance plus this


class _Rough(NamedTuple):
    """People by their centers.

    Attributes:
        joints: float32 [B, P, J, 2], where the joints are expected.
        reach: float32 [B, P], how far from there they are sought.
        score: float32 [B, P], probability of the center, sorted; 0 where there is no person.
    """

    joints: Array
    reach: Array
    score: Array


def decode(heads: Heads, config: DecodeConfig, min_joints: ArrayLike) -> People:
    """Finds people; of `config` only max_people is used.

    Args:
        heads: the outputs of `MoveNetMultiPose`.
        config: static.
        min_joints: int32 [], how many joints a person needs.
    """
    rough = _from_centers(heads, config.max_people)
    heat = jax.nn.sigmoid(heads.heat).transpose(0, 3, 1, 2)  # [B, J, h, w]
    position, heat = jax.lax.platform_dependent(
        heat, heads.offset, rough, cpu=_refine_in_turn, default=_refine_at_once
    )
    present = (heat >= _HEAT_THRESHOLD) & (rough.score > 0)[..., None]
    pixels = _STRIDE * position[..., ::-1] - 0.5
    joints = jnp.concatenate([pixels, heat[..., None]], -1)
    return jax.vmap(partial(_select, min_joints=min_joints))(
        _to_coco18(jnp.where(present[..., None], joints, 0)), rough.score
    )


def _from_centers(heads: Heads, people: int) -> _Rough:
    """The P highest peaks of the center map, over 3x3 cells."""
    center = jax.nn.sigmoid(heads.center[..., 0])
    batch, height, width = center.shape
    padded = jnp.pad(center, ((0, 0), (1, 1), (1, 1)))
    is_peak = center > _CENTER_THRESHOLD
    for dy, dx in np.ndindex(3, 3):  # of equal neighbors the first is the peak
        neighbor = padded[:, dy : dy + height, dx : dx + width]
        is_peak &= center > neighbor if (dy, dx) < (1, 1) else center >= neighbor
    score, cell = jax.lax.top_k(jnp.where(is_peak, center, 0).reshape(batch, -1), people)
    flat = heads.regress.reshape(batch, -1, 2 * JOINTS)
    regress = jnp.take_along_axis(flat, cell[..., None], 1).reshape(batch, people, JOINTS, 2)
    place = jnp.stack([cell // width, cell % width], -1)
    joints = place[:, :, None] + regress
    size = (joints.max(2) - joints.min(2)).max(-1)
    return _Rough(joints, _REACH_SIZE * size + _REACH_CELLS, score)


def _refine_at_once(heat: Array, offset: Array, rough: _Rough) -> tuple[Array, Array]:
    """Positions [B, P, J, 2] and heat [B, P, J] of all people's joints: for GPUs."""
    find = jax.vmap(_refine, in_axes=(None, None, 1, 1), out_axes=(1, 1))
    return find(heat, offset, rough.joints, rough.reach)


def _refine_in_turn(heat: Array, offset: Array, rough: _Rough) -> tuple[Array, Array]:
    """The same in a loop over as many people as there are: for CPUs."""
    batch, people = rough.score.shape

    def one(row: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
        joints, reach = (
            jax.lax.dynamic_index_in_dim(x, row, 1, keepdims=False)
            for x in (rough.joints, rough.reach)
        )
        new = _refine(heat, offset, joints, reach)
        return tuple(
            jax.lax.dynamic_update_index_in_dim(x, value, row, 1)
            for x, value in zip(found, new, strict=True)
        )

    start = jnp.zeros((batch, people, JOINTS, 2)), jnp.zeros((batch, people, JOINTS))
    return jax.lax.fori_loop(0, (rough.score > 0).sum(1).max(), one, start)


def _refine(heat: Array, offset: Array, joints: Array, reach: Array) -> tuple[Array, Array]:
    """Positions [B, J, 2] and heat [B, J] of the joints of one person of each image.

    Args:
        heat: [B, J, h, w].
        offset: [B, h, w, 2 J].
        joints: [B, J, 2], where they are expected.
        reach: [B].
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
    place = jnp.stack([cell // width, cell % width], -1) + shift
    # Where the person reaches beyond the image, no cell is near.
    found = jnp.take_along_axis(value.reshape(batch, JOINTS, -1), cell[..., None], -1)[..., 0] > 0
    return place, jnp.where(found, best, 0)


def _to_coco18(joints: Array) -> Array:
    """[..., 17, 3] -> [..., 18, 3]: the neck is the middle of the shoulders."""
    order = np.array(skeleton.COCO17_TO_COCO18)
    result = joints[..., np.maximum(order, 0), :]
    right, left = result[..., skeleton.R_SHOULDER, :], result[..., skeleton.L_SHOULDER, :]
    score = jnp.minimum(right[..., 2:], left[..., 2:])
    neck = jnp.concatenate([(right[..., :2] + left[..., :2]) / 2, score], -1)
    neck = jnp.where(score > 0, neck, 0)
    return result.at[..., skeleton.NECK, :].set(neck)


def _select(keypoints: Array, score: Array, min_joints: ArrayLike) -> People:
    """The people [P] of one image that are no copies of better ones, the best first."""
    present = keypoints[..., 2] > 0
    # Centers alone rank people whose joints are not seen too high.
    heat = keypoints[..., 2].sum(-1) / jnp.maximum(present.sum(-1), 1)
    score = score * heat
    valid = (present.sum(-1) >= min_joints) & (score > 0)
    kept, _ = oks.suppress(oks.similarity(keypoints) >= oks.SAME_PERSON, score, valid)
    best, row = jax.lax.top_k(jnp.where(kept, score, -jnp.inf), len(score))
    there = best > -jnp.inf
    return People(
        jnp.where(there[:, None, None], keypoints[row], 0), there, jnp.where(there, best, 0)
    )
