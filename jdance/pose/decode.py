"""From the maps of a pose network to people: one jitted function of fixed shapes.

Peaks of the heat maps are the candidates for joints, part-affinity fields (PAFs) score every
possible limb between them, each limb's candidates are matched one to one, and the matches are put
together to people (Cao et al., "Realtime Multi-Person 2D Pose Estimation using Part Affinity
Fields", 2017). Every step treats all joints, limbs and people at once, so the time hardly depends
on how many people there are.

Positions inside this module are (x, y) in cells: the centre of the cell in row i and column j is
(j, i).

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
_FEW = 24  # peaks of a joint


@dataclasses.dataclass(frozen=True)
class DecodeConfig:
    """How maps become people. The thresholds are those usual for networks trained on COCO.

    Attributes:
        peaks_per_joint: K, the most peaks kept of each joint's heat map, the highest first. Time
            and memory grow with its square; where an image has no more than 24 of any joint,
            the time is that of 24.
        max_people: P, the most people returned, the best first.
        smoothing: standard deviation, in cells, of the Gaussian that smooths the heat maps before
            peaks are sought; 0 for none. The default is OpenPose's 3 pixels. More of it melts
            the same joint of two people who stand close together into one.
        heat_threshold: a peak of the smoothed heat map must be higher than this.
        refine: whether to place joints between the centres of cells.
        samples: points along a limb at which its PAF is read.
        sample_threshold: a sample counts if the PAF along the limb exceeds this there.
        min_samples: a limb needs at least this many samples that count.
        min_joints: a person needs at least this many joints.
        min_score: a person needs at least this score, see `People`.
        stride: pixels a cell.
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
    """The people in B images, the best first; rows after the last person are all zero.

    Attributes:
        keypoints: float32 [B, P, 18, 3], x and y in pixels of the network's input, and the value
            of the heat map there; a missing joint is all zero.
        valid: bool [B, P], whether the row holds a person.
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
    """Finds the people in the maps of a pose network.

    Args:
        heat: float [B, h, w, 19], a heat map for each joint, then the background.
        paf: float [B, h, w, 38], part-affinity fields in the channels of skeleton.PAF_CHANNELS.
        config: static; each is compiled once for each shape of the maps.
        min_joints: int32 [], in place of the one in `config`, without compiling again.

    Raises:
        ValueError: the shapes are not as above.
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
        # The valid peaks come first: where there are few, the result is the same, in less time.
        few = jax.tree.map(lambda x: x[:, :, :_FEW], peaks)
        many = peaks.valid[:, :, _FEW:].any()
        return jax.lax.cond(many, lambda: connect_all(paf, peaks), lambda: connect_all(paf, few))

    # A GPU would wait for the host at the condition, for longer than all peaks take.
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

    # A peak is higher than the neighbours before it and no lower than those after it, so that only
    # one cell of a plateau is one.
    padded = jnp.pad(smooth, ((0, 0), (1, 1), (1, 1)), constant_values=-jnp.inf)
    is_peak = (smooth > config.heat_threshold) & (heat > 0)
    for dy, dx in np.ndindex(3, 3):
        neighbour = padded[:, dy : dy + h, dx : dx + w]
        is_peak &= smooth > neighbour if (dy, dx) < (1, 1) else smooth >= neighbour

    candidates = jnp.where(is_peak, smooth, 0).reshape(_JOINTS, h * w)
    peaks = min(config.peaks_per_joint, h * w)
    height, cell = jax.lax.top_k(candidates, peaks)
    y, x = cell // w, cell % w
    joint = np.arange(_JOINTS)[:, None]
    position = jnp.stack([x, y], axis=-1).astype(jnp.float32)
    if config.refine:

        def log_heat(y: jax.Array, x: jax.Array) -> jax.Array:
            # The floor is there because maps may fall below 0 beside a peak.
            floor = jnp.maximum(0.01 * height, 1e-6)
            return jnp.log(jnp.maximum(smooth[joint, y, x], floor))

        # Peaks are Gaussians, hence parabolas in the logarithm. At the border the parabola goes
        # through the peak and the two cells inward of it.
        inner_x, inner_y = jnp.clip(x, 1, w - 2), jnp.clip(y, 1, h - 2)
        offset_x = _parabola_top(*(log_heat(y, inner_x + step) for step in (-1, 0, 1)))
        offset_y = _parabola_top(*(log_heat(inner_y + step, x) for step in (-1, 0, 1)))
        top = jnp.stack([inner_x, inner_y], axis=-1).astype(jnp.float32)
        top += jnp.stack([offset_x, offset_y], axis=-1)
        position = jnp.clip(top, position - 0.5, position + 0.5)
    return _Peaks(position, heat[joint, y, x], height > 0)


def _smooth_by_matrices(maps: jax.Array, sigma: float) -> jax.Array:
    """Gaussian smoothing of [J, h, w] as two matrix products."""
    down, across = (_smoothing_matrix(size, sigma) for size in maps.shape[1:])
    return jnp.einsum("ya,jab,xb->jyx", down, maps, across, precision="highest")


def _smooth_by_shifts(maps: jax.Array, sigma: float) -> jax.Array:
    """The same as sums of shifted maps, which fuse with what uses them."""
    reach = int(np.ceil(6 * sigma))  # beyond that weights are under float32's precision
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
    """[size, size]: a Gaussian in each row, of sum 1 also where the border cuts it off."""
    distance = np.arange(size)[:, None] - np.arange(size)
    weights = np.exp(-0.5 * (distance / sigma) ** 2)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _parabola_top(before: jax.Array, centre: jax.Array, after: jax.Array) -> jax.Array:
    """Where the parabola through values at -1, 0 and 1 is highest; 0 if it has no top."""
    curvature = before - 2 * centre + after
    has_top = curvature < 0
    return jnp.where(has_top, 0.5 * (before - after) / jnp.where(has_top, curvature, 1), 0)


def _score_limbs(paf: jax.Array, peaks: _Peaks, config: DecodeConfig) -> jax.Array:
    """Scores [19, K, K] of every limb from each peak of its first joint to each of its second.

    The score is the mean of the PAF along the limb, less a penalty for limbs longer than half the
    map; -inf where there is no limb.
    """
    h, w = paf.shape[:2]
    start = peaks.position[_FIRST][:, :, None]  # [19, K, 1, 2]
    vector = peaks.position[_SECOND][:, None, :] - start  # [19, K, K, 2]
    length = jnp.maximum(jnp.sqrt((vector**2).sum(axis=-1)), 1e-6)
    direction = vector / length[..., None]

    # The PAF is read bilinearly between the centres of cells, and beyond the outermost as there.
    fraction = (np.arange(config.samples, dtype=np.float32) + 0.5) / config.samples
    points = start[..., None, :] + fraction[:, None] * vector[..., None, :]
    x, y = points[..., 0], points[..., 1]  # [19, K, K, samples]
    left, top = jnp.clip(jnp.floor(x), 0, w - 2), jnp.clip(jnp.floor(y), 0, h - 2)
    dx, dy = jnp.clip(x - left, 0, 1), jnp.clip(y - top, 0, 1)
    limb = np.arange(len(skeleton.LIMBS))[:, None, None, None]
    corner = (limb * h + top.astype(jnp.int32)) * w + left.astype(jnp.int32)

    along = jnp.zeros_like(x)
    for axis in range(2):
        # Gathers of single numbers: XLA's CPU code is five times slower at gathering vectors.
        field = paf[..., skeleton.PAF_CHANNELS[:, axis]].transpose(2, 0, 1).reshape(-1)
        upper = (1 - dx) * field[corner] + dx * field[corner + 1]
        lower = (1 - dx) * field[corner + w] + dx * field[corner + w + 1]
        along += ((1 - dy) * upper + dy * lower) * direction[..., axis, None]

    score = along.mean(axis=-1) + jnp.minimum(0.5 * h / length - 1, 0)
    enough = (along > config.sample_threshold).sum(axis=-1) >= config.min_samples
    both = peaks.valid[_FIRST][:, :, None] & peaks.valid[_SECOND][:, None, :]
    return jnp.where(both & enough & (score > 0), score, -jnp.inf)


def match_greedily(scores: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Matches the rows and columns of each matrix one to one, the highest score first.

    Each round takes all pairs that are the best of their row and of their column, and strikes out
    those rows and columns. Taking the best pair of all, one after the other, comes to the same:
    no other pair can take a row or a column from a pair that is the best of both. Equal scores are
    ordered by their index (row, column), as argmax returns the first of equals. The best pair left
    is always among those taken, so there are at most K rounds.

    Args:
        scores: float32 [L, K, K], -inf where a pair is not allowed.

    Returns:
        row: int32 [L, K], the row that each column is matched with, or -1.
        score: float32 [L, K], the score of that pair, or 0.
    """
    index = np.arange(scores.shape[-1])

    def take_mutual_best(state: tuple) -> tuple:
        matched_row, matched_score, left, _ = state
        best_column = left.argmax(axis=2)
        best_row, best_score = left.argmax(axis=1), left.max(axis=1)
        mutual = jnp.take_along_axis(best_column, best_row, axis=1) == index
        mutual &= best_score > -jnp.inf
        matched_row = jnp.where(mutual, best_row, matched_row)
        matched_score = jnp.where(mutual, best_score, matched_score)
        row_used = (matched_row[:, None, :] == index[:, None]).any(axis=2)
        used = row_used[:, :, None] | (matched_row >= 0)[:, None, :]
        left = jnp.where(used, -jnp.inf, left)
        return matched_row, matched_score, left, (left > -jnp.inf).any()

    nothing = jnp.full(scores.shape[:2], -1, jnp.int32), jnp.zeros(scores.shape[:2], jnp.float32)
    state = (*nothing, scores, (scores > -jnp.inf).any())
    row, score, _, _ = jax.lax.while_loop(lambda state: state[-1], take_mutual_best, state)
    return row, score


def _assemble(
    peaks: _Peaks,
    parent: jax.Array,
    limb_score: jax.Array,
    config: DecodeConfig,
    min_joints: ArrayLike,
) -> People:
    """Puts matched limbs together to people, without the axis B.

    Args:
        parent: int32 [19, K], for each peak of a limb's second joint the peak of its first, or -1.
        limb_score: float32 [19, K], the score of that limb, or 0.
        min_joints: that a person needs.
    """
    k = peaks.valid.shape[1]
    peak_id = np.arange(_JOINTS * k).reshape(_JOINTS, k)
    nowhere = _JOINTS * k  # an index that scatters drop

    # Every peak points to the one above it in the tree of limbs, and the topmost, which is the
    # neck where one was found, to itself. Its id is the label of all that lead to it. The tree is
    # three limbs deep; following pointers to pointers twice climbs up to four.
    above = jnp.where(parent >= 0, _FIRST[:, None] * k + parent, peak_id[_SECOND])[:_TREE]
    label = jnp.asarray(peak_id).at[_SECOND[:_TREE]].set(above).reshape(-1)
    for _ in range(2):
        label = label[label]
    label = label.reshape(_JOINTS, k)

    # As each match is one to one, a label has at most one peak of each joint:
    # members[label, joint] is 1 + that peak's index, or 0.
    joint = np.arange(_JOINTS)
    peak_number = jnp.where(peaks.valid, np.arange(1, k + 1), 0)
    members = jnp.zeros((_JOINTS * k, _JOINTS), jnp.int32)
    members = members.at[label, joint[:, None]].set(peak_number, unique_indices=True)
    gain = peaks.score.at[_SECOND[:_TREE]].add(limb_score[:_TREE])

    # A shoulder-ear limb brings what hangs together with the ear to the person of the shoulder,
    # unless they have a joint in common. It never starts a person from a shoulder alone.
    for limb in range(_TREE, len(skeleton.LIMBS)):
        body, head = label[_FIRST[limb], parent[limb]], label[_SECOND[limb]]
        body_has, head_has = members[body] > 0, members[head] > 0
        joins = (parent[limb] >= 0) & ~(body_has & head_has).any(axis=-1)
        joins &= body_has.sum(axis=-1) >= 2
        source = jnp.where(joins, head, nowhere)
        members = members.at[jnp.where(joins, body, nowhere)].add(members[head], mode="drop")
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
