"""Fuzzy C-means clustering (Bezdek, 1981): points have degrees of membership in all prototypes.

Shapes are fixed: padding points have weight 0, so that sets of different sizes can be vmapped.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

_MIN_SQUARE_DISTANCE = 1e-12


def memberships(points: Array, prototypes: Array, fuzziness: float) -> Array:
    """Membership of each point in each prototype: float32 [..., K] with sum 1.

    u_k = 1 / sum_j (d_k / d_j)^(2 / (m - 1)), with d the Euclidean distances and m the fuzziness.

    Args:
        points: float32 [..., D].
        prototypes: float32 [K, D].
        fuzziness: m, greater than 1; close to 1, memberships are one-hot.
    """
    return jax.nn.softmax(scores(points, prototypes, fuzziness))


def scores(points: Array, prototypes: Array, fuzziness: float) -> Array:
    """Unnormalized log-memberships [..., K]; the powers themselves overflow for small m."""
    return -jnp.log(_square_distances(points, prototypes)) / (fuzziness - 1)


@partial(jax.jit, static_argnames=("count", "steps"))
def fit(
    points: Array, weights: Array, key: Array, *, count: int, fuzziness: float, steps: int = 100
) -> Array:
    """Fits prototypes float32 [K, D] to weighted points, initialized by k-means.

    Args:
        points: float32 [N, D].
        weights: float32 [N], 0 for padding; at least K must be positive.
        key: for the choice of the initial prototypes.
        count: K.
        fuzziness: m, greater than 1.
        steps: iterations of k-means and of fuzzy C-means, each.
    """
    start = _k_means_plus_plus(points, weights, key, count)
    start = _repeat(partial(_k_means_step, points, weights), start, steps)
    return _repeat(partial(step, points, weights, fuzziness=fuzziness), start, steps)


def step(points: Array, weights: Array, prototypes: Array, *, fuzziness: float) -> Array:
    """One update [K, D]: means of the points, weighted by their memberships to the power m."""
    fractions = weights[:, None] * memberships(points, prototypes, fuzziness) ** fuzziness
    return _weighted_means(points, fractions, prototypes)


def _k_means_step(points: Array, weights: Array, prototypes: Array) -> Array:
    nearest = _square_distances(points, prototypes).argmin(-1)
    fractions = weights[:, None] * jax.nn.one_hot(nearest, len(prototypes))
    return _weighted_means(points, fractions, prototypes)


def _weighted_means(points: Array, fractions: Array, prototypes: Array) -> Array:
    """Means of points weighted by fractions [N, K]; prototypes without points are kept."""
    total = fractions.sum(0)[:, None]
    return jnp.where(total > 0, fractions.T @ points / jnp.where(total > 0, total, 1), prototypes)


def _k_means_plus_plus(points: Array, weights: Array, key: Array, count: int) -> Array:
    """Initial prototypes [K, D] by k-means++ (Arthur and Vassilvitskii, 2007).

    Each is a point, drawn in proportion to the squared distance to the previous ones.
    """

    def draw(carry: tuple[Array, Array], i: Array) -> tuple[tuple[Array, Array], None]:
        chosen, nearest = carry
        index = jax.random.categorical(
            jax.random.fold_in(key, i), jnp.log(weights) + jnp.log(nearest)
        )
        distances = _square_distances(points, points[index][None])[:, 0]
        chosen = chosen.at[i].set(points[index])
        return (chosen, jnp.minimum(nearest, distances)), None

    start = (jnp.zeros((count, points.shape[1])), jnp.ones(len(points)))
    (chosen, _), _ = jax.lax.scan(draw, start, jnp.arange(count))
    return chosen


def _repeat(update: Callable[[Array], Array], start: Array, steps: int) -> Array:
    return jax.lax.fori_loop(0, steps, lambda _, value: update(value), start)


def _square_distances(points: Array, prototypes: Array) -> Array:
    difference = points[..., None, :] - prototypes
    return jnp.maximum(jnp.square(difference).sum(-1), _MIN_SQUARE_DISTANCE)
