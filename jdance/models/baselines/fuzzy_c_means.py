"""Fuzzy C-means: prototypes of which every point is a member to some degree (Bezdek, 1981).

Pure array code of fixed shapes; points that do not count have weight 0, so that many sets of
different sizes are grouped in one vectorised call.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

_SMALLEST = 1e-12  # squared distance


def memberships(points: Array, prototypes: Array, fuzziness: float) -> Array:
    """How much each point belongs to each prototype: float32 [..., K], with sum 1.

    u_k = 1 / sum_j (d_k / d_j)^(2 / (m - 1)), with d the Euclidean distances and m the fuzziness.

    Args:
        points: float32 [..., D].
        prototypes: float32 [K, D].
        fuzziness: m, greater than 1; near 1 only the nearest prototype counts.
    """
    return jax.nn.softmax(scores(points, prototypes, fuzziness))


def scores(points: Array, prototypes: Array, fuzziness: float) -> Array:
    """Logarithms of memberships [..., K], but for a number that is the same for all K.

    As logarithms because for small m the powers themselves would overflow.
    """
    return -jnp.log(_square_distances(points, prototypes)) / (fuzziness - 1)


@partial(jax.jit, static_argnames=("count", "steps"))
def fit(
    points: Array, weights: Array, key: Array, *, count: int, fuzziness: float, steps: int = 100
) -> Array:
    """Prototypes float32 [K, D] of weighted points, from a start by k-means.

    Args:
        points: float32 [N, D].
        weights: float32 [N], 0 for points that do not count; at least K must count.
        key: chooses the first prototypes.
        count: K.
        fuzziness: m, greater than 1.
        steps: of k-means and of fuzzy C-means, each.
    """
    start = _spread(points, weights, key, count)
    start = _repeat(partial(_k_means_step, points, weights), start, steps)
    return _repeat(partial(step, points, weights, fuzziness=fuzziness), start, steps)


def step(points: Array, weights: Array, prototypes: Array, *, fuzziness: float) -> Array:
    """One update [K, D]: the mean of all points, weighted by their memberships to the power m."""
    shares = weights[:, None] * memberships(points, prototypes, fuzziness) ** fuzziness
    return _means(points, shares, prototypes)


def _k_means_step(points: Array, weights: Array, prototypes: Array) -> Array:
    nearest = _square_distances(points, prototypes).argmin(-1)
    return _means(points, weights[:, None] * jax.nn.one_hot(nearest, len(prototypes)), prototypes)


def _means(points: Array, shares: Array, before: Array) -> Array:
    """Means of points by shares [N, K]; a prototype to which nothing belongs stays."""
    total = shares.sum(0)[:, None]
    return jnp.where(total > 0, shares.T @ points / jnp.where(total > 0, total, 1), before)


def _spread(points: Array, weights: Array, key: Array, count: int) -> Array:
    """First prototypes by k-means++ (Arthur and Vassilvitskii, 2007).

    Each is a point, drawn in proportion to the squared distance to those that are there.
    """

    def draw(carry: tuple[Array, Array], number: Array) -> tuple[tuple[Array, Array], None]:
        chosen, nearest = carry
        index = jax.random.categorical(
            jax.random.fold_in(key, number), jnp.log(weights) + jnp.log(nearest)
        )
        distances = _square_distances(points, points[index][None])[:, 0]
        chosen = chosen.at[number].set(points[index])
        return (chosen, jnp.minimum(nearest, distances)), None

    start = (jnp.zeros((count, points.shape[1])), jnp.ones(len(points)))
    (chosen, _), _ = jax.lax.scan(draw, start, jnp.arange(count))
    return chosen


def _repeat(update: Callable[[Array], Array], start: Array, steps: int) -> Array:
    return jax.lax.fori_loop(0, steps, lambda _, value: update(value), start)


def _square_distances(points: Array, prototypes: Array) -> Array:
    difference = points[..., None, :] - prototypes
    return jnp.maximum(jnp.square(difference).sum(-1), _SMALLEST)
