"""Similarity of people inside compiled programs (OKS, boxes), and suppression by it.

Letters in the shapes: N people of an image, J = 18 joints.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jdance.skeleton import FALLOFF

_NARROW = 0.3  # the shorter side of a person's box counts as at least this share of the longer one
SAME_PERSON = 0.6  # people with a higher similarity are one


def similarity(people: Array) -> Array:
    """COCO's OKS of all pairs of people: [N, 18, 3] -> float32 [N, N] in 0 to 1.

    Over the joints that both have; distances are relative to the size of the larger person.
    """
    present, xy = people[..., 2] > 0, people[..., :2]
    low, high = _boxes(people)
    sides = high - low
    area = jnp.maximum(sides, _NARROW * sides.max(-1, keepdims=True)).prod(-1)
    area = jnp.maximum(jnp.maximum(area[:, None], area), 1e-6)[..., None]
    distance = jnp.square(xy[:, None] - xy).sum(-1)
    close = jnp.exp(-0.5 * distance / (area * np.square(FALLOFF).astype(np.float32)))
    both = present[:, None] & present
    return jnp.where(both, close, 0).sum(-1) / jnp.maximum(both.sum(-1), 1)


def overlap(people: Array) -> Array:
    """Intersections of boxes over the smaller of both, of all pairs: [N, 18, 3] -> [N, N]."""
    low, high = _boxes(people)
    sides = jnp.minimum(high[:, None], high) - jnp.maximum(low[:, None], low)
    area = (high - low).prod(-1)
    smaller = jnp.maximum(jnp.minimum(area[:, None], area), 1e-6)
    return jnp.maximum(sides, 0).prod(-1) / smaller


def _boxes(people: Array) -> tuple[Array, Array]:
    """The lowest and highest x and y [N, 2] of the joints that people have; 0 without any."""
    present, xy = people[..., 2:] > 0, people[..., :2]
    there = present.any(-2)
    low = jnp.where(present, xy, jnp.inf).min(-2)
    high = jnp.where(present, xy, -jnp.inf).max(-2)
    return jnp.where(there, low, 0), jnp.where(there, high, 0)


def suppress(alike: Array, score: Array, valid: Array) -> tuple[Array, Array]:
    """Greedy suppression: of people that are alike, the one with the highest score is kept.

    Args:
        alike: bool [N, N], symmetric.
        score: float32 [N]; of equal ones the first counts as the highest.
        valid: bool [N]; others neither stay nor suppress.

    Returns:
        kept: bool [N].
        owner: int32 [N], for each valid person the best kept one that is alike, maybe itself.
    """
    index = np.arange(len(score))
    better = (score[:, None] > score) | ((score[:, None] == score) & (index[:, None] < index))
    rivals = alike & better & valid[:, None] & valid

    def settle(state: tuple[Array, Array]) -> tuple[Array, Array]:
        # Whoever has no kept rival is kept. The best person is right at once, and each round makes
        # the next one right, so that this ends with what one person after the other would give.
        kept, _ = state
        new = valid & ~(rivals & kept[:, None]).any(0)
        return new, (new != kept).any()

    start = valid, jnp.ones_like(valid).any()
    kept, _ = jax.lax.while_loop(lambda state: state[1], settle, start)
    options = (alike | np.eye(len(score), dtype=bool)) & kept[:, None]
    owner = jnp.where(options, score[:, None], -jnp.inf).argmax(0)
    return kept, jnp.where(kept, index, owner)
