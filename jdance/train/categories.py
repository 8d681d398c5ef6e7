"""Categories of easily confused classes, stage 1 of QES (Wu et al., Sensors 19(23):5129, 2019).

They are derived from the confusion matrix of a flat network in cross-validation on the training
data.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jdance.models.baselines.qes import FlatPostureNet

FOLDS = 5
_STEPS, _LEARNING_RATE = 400, 0.02  # of full-batch Adam


def find(
    features: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[str],
    classes: int,
    *,
    hidden: int,
    min_categories: int,
    threshold: float,
    seed: int,
) -> tuple[int, ...]:
    """Finds the category of each class.

    Args:
        features: float32 [N, D] of the training examples.
        labels: int [N].
        groups: of the examples; no group is split between folds.
        classes: their number M.
        hidden: units of the flat network.
        min_categories: at least this many, unless there are fewer classes.
        threshold: minimum mean mutual confusion for merging two categories.
        seed: for the folds and the networks.
    """
    confusion = cross_validated_confusion(features, labels, groups, classes, hidden, seed)
    return merge(confusion, min_categories, threshold)


def cross_validated_confusion(
    features: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[str],
    classes: int,
    hidden: int,
    seed: int,
) -> np.ndarray:
    """Confusion matrix int [M, M] (true, predicted) over the held-out folds; see `find`."""
    folds = _folds(groups, seed)
    weights = jnp.asarray(folds != np.arange(FOLDS)[:, None], jnp.float32)  # [folds, N]
    guesses = _predict(
        jnp.asarray(features), jnp.asarray(labels), weights, jax.random.key(seed), classes, hidden
    )
    held_out = np.asarray(jax.device_get(guesses))[folds, np.arange(len(labels))]
    confusion = np.zeros((classes, classes), int)
    np.add.at(confusion, (labels, held_out), 1)
    return confusion


def merge(confusion: np.ndarray, min_categories: int, threshold: float) -> tuple[int, ...]:
    """Merges classes by average linkage.

    The mutual confusion of two classes is the mean of the two fractions that are predicted as the
    other class; that of two categories is the mean over their pairs of classes. The two categories
    with the highest are merged until it is below `threshold` or `min_categories` remain.

    Args:
        confusion: counts [M, M] (true, predicted).
        min_categories, threshold: see `find`.

    Returns:
        The category of each class, numbered by their first classes.
    """
    fractions = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    mutual = (fractions + fractions.T) / 2
    groups = [[label] for label in range(len(confusion))]
    while len(groups) > max(min_categories, 1):
        links = {
            (a, b): float(mutual[np.ix_(groups[a], groups[b])].mean())
            for b in range(len(groups))
            for a in range(b)
        }
        (a, b), link = max(links.items(), key=lambda item: item[1])
        if link < threshold:
            break
        groups[a] += groups.pop(b)
    groups.sort(key=min)
    category = {label: i for i, group in enumerate(groups) for label in group}
    return tuple(category[label] for label in range(len(confusion)))


def _folds(groups: Sequence[str], seed: int) -> np.ndarray:
    """The fold int [N] of each example: by groups, or by examples if there are too few groups."""
    names, members = np.unique(groups, return_inverse=True)
    if len(names) < FOLDS:
        members = np.arange(len(groups))
    order = np.random.default_rng(seed).permutation(members.max() + 1)
    return order[members] % FOLDS


@partial(jax.jit, static_argnames=("classes", "hidden"))
def _predict(
    features: Array, labels: Array, weights: Array, key: Array, classes: int, hidden: int
) -> Array:
    """Predictions int32 [folds, N] of networks trained with example weights [folds, N]."""
    net, optimizer = FlatPostureNet(classes, hidden), optax.adam(_LEARNING_RATE)

    def loss(params: dict, weight: Array) -> Array:
        logits = net.apply(params, None, features)
        losses = optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits), labels)
        return (weight * losses).sum() / jnp.maximum(weight.sum(), 1)

    def train(weight: Array, fold: Array) -> Array:
        params = net.init(jax.random.fold_in(key, fold), None, features[:1])

        def step(carry: tuple, _: None) -> tuple[tuple, None]:
            params, opt_state = carry
            updates, opt_state = optimizer.update(jax.grad(loss)(params, weight), opt_state)
            return (optax.apply_updates(params, updates), opt_state), None

        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), None, _STEPS)
        return jnp.asarray(net.apply(params, None, features)).argmax(-1)

    return jax.vmap(train)(weights, jnp.arange(FOLDS))
