"""Decodes the maps of a pose network to people: one jitted function with fixed shapes.

Peaks of the heat maps are joint candidates, part-affinity fields (PAFs) score all limbs between
candidates, limbs are matched one to one, and matched limbs are assembled to people (Cao et al.,
"Realtime Multi-Person 2D Pose Estimation using Part Affinity Fields", 2017). All joints, limbs and
people are processed at once, so that the time hardly depends on the number of people.

Positions in this module are (x, y) in cells: the center of row i, column j is (j, i).

Letters in the shapes: B images, h x w cells, K peaks of a joint, P people.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jdance import skeleton

_JOINTS = skeleton.NUM_JOINTS
_FIRST, _SECOND = skeleton.LIMBS.T
_TREE = skeleton.NUM_TREE_LIMBS
_FEW = 24  # peaks per joint


@dataclasses.dataclass(frozen=True)
class DecodeConfig:
    """Parameters of the decoder, with the usual thresholds for networks trained on COCO.

    Attributes:
        peaks_per_joint: K, the maximum number of peaks per heat map, highest first. Time and memory
            grow with its square. On the CPU, a batch with at most 24 peaks per joint takes the
            time of 24.
        max_people: P, the maximum number of people per image, best first.
        smoothing: standard deviation in cells of the Gaussian that smooths the heat maps before the
            peak search; 0 for none. The default is OpenPose's 3 pixels. Larger values merge the
            same joint of people close together.
        heat_threshold: minimum of a peak in the smoothed heat map.
        refine: interpolate peaks between cell centers.
        samples: points per limb where the PAF is sampled.
        sample_threshold: minimum of the PAF along the limb at a positive sample.
        min_samples: minimum number of positive samples of a limb.
        min_joints: minimum number of joints of a person.
        min_score: minimum score of a person, see `People`.
        stride: pixels per cell.
    """

    peaks_per_joint: int = 24
    max_people: int = 24
    smoothing: float = 0.375
    heat_threshold: float = 0.05
    refine: bool = True
    samples: int = 10
    sample_threshold: float = 0.05
    min_samples: int = 7
    min_joints: int = 4
    min_score: float = 0.3
    stride: int = 8


class People(NamedTuple):
    """The people in B images, best first; rows after the last person are zero.

    Attributes:
        keypoints: float32 [B, P, 18, 3]: x and y in pixels of the network's input, and the value
            of the heat map; missing joints are zero.
        valid: bool [B, P], whether the row is a person.
        score: float32 [B, P], (heat-map values of the joints + scores of the limbs) / joints.
    """

    keypoints: jax.Array
    valid: jax.Array
    score: jax.Array


class _Peaks(NamedTuple):
    position: jax.Array  # float32 [18, K, 2], (x, y) in cells
    score: jax.Array  # float32 [18, K], the heat map before smoothing
    valid: jax.Array  # bool [18, K]


@functools.partial(jax.jit, static_argnames="config")
def decode(
    heat: jax.Array,
    paf: jax.Array,
    config: DecodeConfig = DecodeConfig(),
    min_joints: ArrayLike | None = None,
) -> People:
    """Decodes the maps of a pose network to people.

    Args:
        heat: float [B, h, w, 19], heat maps of the joints and the background.
        paf: float [B, h, w, 38], part-affinity fields in the channels of skeleton.PAF_CHANNELS.
        config: static.
        min_joints: int32 [], overrides the one in `config` without recompilation.

    Raises:
        ValueError: other shapes.
    """
    if heat.ndim != 4 or heat.shape[-1] != _JOINTS + 1 or paf.shape != (*heat.shape[:3], 38):
        raise ValueError(
            f"maps of shapes {heat.shape} and {paf.shape}: expected [B, h, w, 19] and "
            "[B, h, w, 38] with the same B, h and w"
        )

    needed = config.min_joints if min_joints is None else min_joints

    def connect(paf: jax.Array, peaks: _Peaks) -> People:
        parent, limb_score = match_greedily(_score_limbs(paf, peaks, config))
        return _assemble(peaks, parent, limb_score, config, needed)

    connect_all = jax.vmap(connect)
    paf = paf.astype(jnp.float32)
    peaks = jax.vmap(lambda maps: _find_peaks(maps[..., :_JOINTS], config))(
        heat.astype(jnp.float32)
    )
    if peaks.valid.shape[2] <= _FEW or config.max_people > _JOINTS * _FEW:
        return connect_all(paf, peaks)

    def connect_few_or_all(paf: jax.Array, peaks: _Peaks) -> People:
        # Valid peaks come first, so that few peaks give the same result in less time.
        few = jax.tree.map(lambda x: x[:, :, :_FEW], peaks)
        many = peaks.valid[:, :, _FEW:].any()
        return jax.lax.cond(many, lambda: connect_all(paf, peaks), lambda: connect_all(paf, few))

    # On a GPU, the condition costs a host synchronization, which takes longer than all peaks.
    return jax.lax.platform_dependent(paf, peaks, cpu=connect_few_or_all, default=connect_all)


def _find_peaks(heat: jax.Array, config: DecodeConfig) -> _Peaks:
    """The K highest local maxima of each map of heat [h, w, 18]."""
    h, w = heat.shape[:2]
    heat = smooth = heat.transpose(2, 0, 1)
    if config.smoothing > 0:
        smooth = jax.lax.platform_dependent(
            heat,
            cpu=functools.partial(_smooth_by_matrices, sigma=config.smoothing),
            default=functools.partial(_smooth_by_shifts, sigma=config.smoothing),
        )

    # A peak is > the neighbors before it and >= those after it: one peak per plateau.
    padded = jnp.pad(smooth, ((0, 0), (1, 1), (1, 1)), constant_values=-jnp.inf)
    is_peak = (smooth > config.heat_threshold) & (heat > 0)
    for dy, dx in np.ndindex(3, 3):
        neighbor = padded[:, dy : dy + h, dx : dx + w]
        is_peak &= smooth > neighbor if (dy, dx) < (1, 1) else smooth >= neighbor

    candidates = jnp.where(is_peak, smooth, 0).reshape(_JOINTS, h * w)
    peaks = min(config.peaks_per_joint, h * w)
    height, cell = jax.lax.top_k(candidates, peaks)
    y, x = cell // w, cell % w
    joint = np.arange(_JOINTS)[:, None]
    position = jnp.stack([x, y], axis=-1).astype(jnp.float32)
    if config.refine:

        def log_heat(y: jax.Array, x: jax.Array) -> jax.Array:
            # Maps can be negative beside a peak.
            floor = jnp.maximum(0.01 * height, 1e-6)
            return jnp.log(jnp.maximum(smooth[joint, y, x], floor))

        # The logarithm of a Gaussian peak is a parabola. At the border, it is fitted to the two
        # cells inside as well.
        inner_x, inner_y = jnp.clip(x, 1, w - 2), jnp.clip(y, 1, h - 2)
        offset_x = _parabola_maximum(*(log_heat(y, inner_x + step) for step in (-1, 0, 1)))
        offset_y = _parabola_maximum(*(log_heat(inner_y + step, x) for step in (-1, 0, 1)))
        top = jnp.stack([inner_x, inner_y], axis=-1).astype(jnp.float32)
        top += jnp.stack([offset_x, offset_y], axis=-1)
        position = jnp.clip(top, position - 0.5, position + 0.5)
    return _Peaks(position, heat[joint, y, x], height > 0)


def _smooth_by_matrices(maps: jax.Array, sigma: float) -> jax.Array:
    """Gaussian smoothing of [J, h, w] as two matrix products."""
    down, across = (_smoothing_matrix(size, sigma) for size in maps.shape[1:])
    return jnp.einsum("ya,jab,xb->jyx", down, maps, across, precision="highest")


def _smooth_by_shifts(maps: jax.Array, sigma: float) -> jax.Array:
    """The same as sums of shifted maps, which XLA fuses with their consumers."""
    reach = int(np.ceil(6 * sigma))  # weights beyond are below float32's precision
    for axis, size in ((1, maps.shape[1]), (2, maps.shape[2])):
        weights = _smoothing_matrix(size, sigma)
        width = [(reach, reach) if i == axis else (0, 0) for i in range(3)]
        padded = jnp.pad(maps, width)
        shape = [-1 if i == axis else 1 for i in range(3)]
        total = jnp.zeros_like(maps)
        for shift in range(-reach, reach + 1):
            along = np.arange(size) + shift
            inside = (along >= 0) & (along < size)
            weight = np.where(inside, weights[np.arange(size), np.clip(along, 0, size - 1)], 0)
            shifted = jax.lax.slice_in_dim(padded, reach + shift, reach + shift + size, axis=axis)
            total += shifted * weight.reshape(shape).astype(np.float32)
        maps = total
    return maps


def _smoothing_matrix(size: int, sigma: float) -> np.ndarray:
    """[size, size]: in each row a Gaussian, normalized to sum 1 also at the border."""
    distance = np.arange(size)[:, None] - np.arange(size)
    weights = np.exp(-0.5 * (distance / sigma) ** 2)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _parabola_maximum(before: jax.Array, center: jax.Array, after: jax.Array) -> jax.Array:
    """Position of the maximum of the parabola through values at -1, 0 and 1; 0 without one."""
    curvature = before - 2 * center + after
    has_maximum = curvature < 0
    return jnp.where(has_maximum, 0.5 * (before - after) / jnp.where(has_maximum, curvature, 1), 0)


def _score_limbs(paf: jax.Array, peaks: _Peaks, config: DecodeConfig) -> jax.Array:
    """Scores [19, K, K] of the limbs between all peaks of their first and second joints.

    The score is the mean of the PAF along the limb, minus a penalty for limbs longer than half the
    map; -inf without a limb.
    """
    h, w = paf.shape[:2]
    start = peaks.position[_FIRST][:, :, None]  # [19, K, 1, 2]
    vector = peaks.position[_SECOND][:, None, :] - start  # [19, K, K, 2]
    length = jnp.maximum(jnp.sqrt((vector**2).sum(axis=-1)), 1e-6)
    direction = vector / length[..., None]

    # Bilinear sampling of the PAF, clamped at the border.
    fraction = (np.arange(config.samples, dtype=np.float32) + 0.5) / config.samples
    points = start[..., None, :] + fraction[:, None] * vector[..., None, :]
    x, y = points[..., 0], points[..., 1]  # [19, K, K, samples]
    left, top = jnp.clip(jnp.floor(x), 0, w - 2), jnp.clip(jnp.floor(y), 0, h - 2)
    dx, dy = jnp.clip(x - left, 0, 1), jnp.clip(y - top, 0, 1)
    limb = np.arange(len(skeleton.LIMBS))[:, None, None, None]
    corner = (limb * h + top.astype(jnp.int32)) * w + left.astype(jnp.int32)

    along = jnp.zeros_like(x)
    for axis in range(2):
        # Scalar gathers, because XLA's CPU backend is five times slower at gathering vectors.
        field = paf[..., skeleton.PAF_CHANNELS[:, axis]].transpose(2, 0, 1).reshape(-1)
        upper = (1 - dx) * field[corner] + dx * field[corner + 1]
        lower = (1 - dx) * field[corner + w] + dx * field[corner + w + 1]
        along += ((1 - dy) * upper + dy * lower) * direction[..., axis, None]

    score = along.mean(axis=-1) + jnp.minimum(0.5 * h / length - 1, 0)
    enough = (along > config.sample_threshold).sum(axis=-1) >= config.min_samples
    both = peaks.valid[_FIRST][:, :, None] & peaks.valid[_SECOND][:, None, :]
    return jnp.where(both & enough & (score > 0), score, -jnp.inf)


def match_greedily(scores: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Greedy one-to-one matching of the rows and columns of all L matrices at once.

    Each round matches all pairs that are the maximum of their row and of their column, and removes
    these rows and columns. This equals matching the highest pair first, one by one, because no
    other pair can claim the row or column of a mutual maximum. Ties are ordered by (row, column),
    as argmax returns the first maximum. The highest remaining pair is matched in every round, so
    there are at most K rounds.

    Args:
        scores: float32 [L, K, K], -inf for pairs that are not allowed.

    Returns:
        row: int32 [L, K], the row matched with each column, or -1.
        score: float32 [L, K], the score of the pair, or 0.
    """
    index = np.arange(scores.shape[-1])

    def match_mutual_maxima(state: tuple) -> tuple:
        matched_row, matched_score, remaining, _ = state
        best_column = remaining.argmax(axis=2)
        best_row, best_score = remaining.argmax(axis=1), remaining.max(axis=1)
        mutual = jnp.take_along_axis(best_column, best_row, axis=1) == index
        mutual &= best_score > -jnp.inf
        matched_row = jnp.where(mutual, best_row, matched_row)
        matched_score = jnp.where(mutual, best_score, matched_score)
        row_used = (matched_row[:, None, :] == index[:, None]).any(axis=2)
        used = row_used[:, :, None] | (matched_row >= 0)[:, None, :]
        remaining = jnp.where(used, -jnp.inf, remaining)
        return matched_row, matched_score, remaining, (remaining > -jnp.inf).any()

    unmatched = jnp.full(scores.shape[:2], -1, jnp.int32), jnp.zeros(scores.shape[:2], jnp.float32)
    state = (*unmatched, scores, (scores > -jnp.inf).any())
    row, score, _, _ = jax.lax.while_loop(lambda state: state[-1], match_mutual_maxima, state)
    return row, score


def _assemble(
    peaks: _Peaks,
    parent: jax.Array,
    limb_score: jax.Array,
    config: DecodeConfig,
    min_joints: ArrayLike,
) -> People:
    """Assembles matched limbs to people, for one image.

    Args:
        peaks: the joint candidates.
        parent: int32 [19, K], for each peak of a limb's second joint the peak of its first, or -1.
        limb_score: float32 [19, K], the score of that limb, or 0.
        config: of the decoder.
        min_joints: minimum number of joints of a person.
    """
    k = peaks.valid.shape[1]
    peak_id = np.arange(_JOINTS * k).reshape(_JOINTS, k)
    dropped = _JOINTS * k  # an out-of-bounds index, for scatters with mode="drop"

    # Pointer jumping: each peak points to its parent in the tree of limbs, roots (the neck, if
    # detected) to themselves; the root's id labels its tree. The tree is three limbs deep, and two
    # rounds reach four levels up.
    above = jnp.where(parent >= 0, _FIRST[:, None] * k + parent, peak_id[_SECOND])[:_TREE]
    label = jnp.asarray(peak_id).at[_SECOND[:_TREE]].set(above).reshape(-1)
    for _ in range(2):
        label = label[label]
    label = label.reshape(_JOINTS, k)

    # Matches are one to one, so that a label has at most one peak of each joint:
    # members[label, joint] is 1 + its index, or 0.
    joint = np.arange(_JOINTS)
    peak_index1 = jnp.where(peaks.valid, np.arange(1, k + 1), 0)
    members = jnp.zeros((_JOINTS * k, _JOINTS), jnp.int32)
    members = members.at[label, joint[:, None]].set(peak_index1, unique_indices=True)
    gain = peaks.score.at[_SECOND[:_TREE]].add(limb_score[:_TREE])

    # A shoulder-ear limb merges the ear's tree into the shoulder's, unless they share a joint type.
    # A shoulder alone never starts a person.
    for limb in range(_TREE, len(skeleton.LIMBS)):
        body, head = label[_FIRST[limb], parent[limb]], label[_SECOND[limb]]
        body_has, head_has = members[body] > 0, members[head] > 0
        joins = (parent[limb] >= 0) & ~(body_has & head_has).any(axis=-1)
        joins &= body_has.sum(axis=-1) >= 2
        source = jnp.where(joins, head, dropped)
        members = members.at[jnp.where(joins, body, dropped)].add(members[head], mode="drop")
        members = members.at[source].set(0, mode="drop")
        label = jnp.asarray(peak_id).reshape(-1).at[source].set(body, mode="drop")[label]
        gain = gain.at[_SECOND[limb]].add(jnp.where(joins, limb_score[limb], 0))

    found = members > 0
    joints = found.sum(axis=-1)
    total = jnp.where(found, gain[joint, members - 1], 0).sum(axis=-1)
    score = total / jnp.maximum(joints, 1).astype(jnp.float32)
    is_person = (joints >= min_joints) & (score >= config.min_score)
    score, row = jax.lax.top_k(jnp.where(is_person, score, -jnp.inf), config.max_people)
    valid = score > -jnp.inf

    pixels = config.stride * peaks.position + (config.stride - 1) / 2
    candidates = jnp.concatenate([pixels, peaks.score[..., None]], axis=-1)
    present = (members[row] > 0) & valid[:, None]
    keypoints = jnp.where(present[..., None], candidates[joint, members[row] - 1], 0)
    return People(keypoints, valid, jnp.where(valid, score, 0))
