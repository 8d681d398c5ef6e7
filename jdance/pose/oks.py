"""Similarity of people (OKS, overlap of boxes) and non-maximum suppression, in JAX.

Letters in the shapes: N people of an image, J = 18 joints.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jdance.skeleton import FALLOFF

_MIN_ASPECT = 0.3  # minimum ratio of the shorter to the longer side of a person's box
SAME_PERSON = 0.6  # minimum similarity of duplicates


def similarity(people: Array) -> Array:
    """COCO's object keypoint similarity of all pairs: [N, 18, 3] -> float32 [N, N] in 0 to 1.

    Over the joints that both people have, relative to the size of the larger one.
    """
    present, xy = people[..., 2] > 0, people[..., :2]
    low, high = _boxes(people)
    sides = high - low
    area = jnp.maximum(sides, _MIN_ASPECT * sides.max(-1, keepdims=True)).prod(-1)
    area = jnp.maximum(jnp.maximum(area[:, None], area), 1e-6)[..., None]
    distance = jnp.square(xy[:, None] - xy).sum(-1)
    close = jnp.exp(-0.5 * distance / (area * np.square(FALLOFF).astype(np.float32)))
    both = present[:, None] & present
    return jnp.where(both, close, 0).sum(-1) / jnp.maximum(both.sum(-1), 1)


def overlap(people: Array) -> Array:
    """Intersection over the smaller box of all pairs: [N, 18, 3] -> [N, N]."""
    low, high = _boxes(people)
    sides = jnp.minimum(high[:, None], high) - jnp.maximum(low[:, None], low)
    area = (high - low).prod(-1)
    smaller = jnp.maximum(jnp.minimum(area[:, None], area), 1e-6)
    return jnp.maximum(sides, 0).prod(-1) / smaller


def _boxes(people: Array) -> tuple[Array, Array]:
    """Minimum and maximum x and y [N, 2] of the present joints; 0 without any."""
    present, xy = people[..., 2:] > 0, people[..., :2]
    any_present = present.any(-2)
    low = jnp.where(present, xy, jnp.inf).min(-2)
    high = jnp.where(present, xy, -jnp.inf).max(-2)
    return jnp.where(any_present, low, 0), jnp.where(any_present, high, 0)


def suppress(alike: Array, score: Array, valid: Array) -> tuple[Array, Array]:
    """Greedy non-maximum suppression: keeps the highest score among similar people.

    Args:
        alike: bool [N, N], symmetric: which people are similar.
        score: float32 [N]; ties are ordered by index.
        valid: bool [N]; others are neither kept nor suppress.

    Returns:
        kept: bool [N].
        owner: int32 [N], for each valid person the best similar one that is kept, maybe itself.
    """
    index = np.arange(len(score))
    better = (score[:, None] > score) | ((score[:, None] == score) & (index[:, None] < index))
    rivals = alike & better & valid[:, None] & valid

    def update(state: tuple[Array, Array]) -> tuple[Array, Array]:
        # Keeps everyone without a kept rival. Round i is correct for the best i people, so that the
        # fixed point equals sequential suppression.
        kept, _ = state
        new = valid & ~(rivals & kept[:, None]).any(0)
        return new, (new != kept).any()

    start = valid, jnp.ones_like(valid).any()
    kept, _ = jax.lax.while_loop(lambda state: state[1], update, start)
    options = (alike | np.eye(len(score), dtype=bool)) & kept[:, None]
    owner = jnp.where(options, score[:, None], -jnp.inf).argmax(0)
    return kept, jnp.where(kept, index, owner)
