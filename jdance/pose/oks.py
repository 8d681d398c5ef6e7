"""Object key-point similarity (OKS) inside compiled programs, and suppression by it.

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
    """COCO's OKS of everybody with everybody: [N, 18, 3] -> float32 [N, N] in 0 to 1.

    Over the joints that both have; distances are relative to the size of the larger person.
    """
    present, xy = people[..., 2] > 0, people[..., :2]
    low = jnp.where(present[..., None], xy, jnp.inf).min(-2)
    high = jnp.where(present[..., None], xy, -jnp.inf).max(-2)
    sides = jnp.where(present.any(-1, keepdims=True), high - low, 0)
    area = jnp.maximum(sides, _NARROW * sides.max(-1, keepdims=True)).prod(-1)
    area = jnp.maximum(jnp.maximum(area[:, None], area), 1e-6)[..., None]
    distance = jnp.square(xy[:, None] - xy).sum(-1)
    close = jnp.exp(-0.5 * distance / (area * np.square(FALLOFF).astype(np.float32)))
    both = present[:, None] & present
    return jnp.where(both, close, 0).sum(-1) / jnp.maximum(both.sum(-1), 1)


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
