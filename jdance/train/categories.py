"""Which classes belong together: those that a simple network takes for one another.

Stage 1 of QES (Wu et al., Sensors 19(23):5129, 2019) names a category of classes that are easily
confused. Categories come from the confusion of a flat network in cross-validation on the training
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
_STEPS, _RATE = 400, 0.02  # of Adam on whole folds


def find(
    features: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[str],
    classes: int,
    *,
    hidden: int,
    least: int,
    threshold: float,
    seed: int,
) -> tuple[int, ...]:
    """The category of each class.

    Args:
        features: float32 [N, D] of the training examples.
        labels: int [N].
        groups: of each example; a group is in one fold only.
        classes: M.
        hidden: units of the flat network.
        least: categories that there must be at least; M where there are fewer classes.
        threshold: mean mutual confusion from which on two categories become one.
        seed: of the folds and the networks.
    """
    confusion = cross_validated_confusion(features, labels, groups, classes, hidden, seed)
    return merge(confusion, least, threshold)


def cross_validated_confusion(
    features: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[str],
    classes: int,
    hidden: int,
    seed: int,
) -> np.ndarray:
    """Counts int [M, M] (true class, guess) of each example by the network that did not see it."""
    folds = _folds(groups, seed)
    train = jnp.asarray(folds != np.arange(FOLDS)[:, None], jnp.float32)  # [folds, N]
    guesses = _guess(
        jnp.asarray(features), jnp.asarray(labels), train, jax.random.key(seed), classes, hidden
    )
    own = np.asarray(jax.device_get(guesses))[folds, np.arange(len(labels))]
    confusion = np.zeros((classes, classes), int)
    np.add.at(confusion, (labels, own), 1)
    return confusion


def merge(confusion: np.ndarray, least: int, threshold: float) -> tuple[int, ...]:
    """Merges classes by average link: the category of each, numbered by their first classes.

    The confusion of two classes is the mean of the shares of either that is taken for the other,
    that of two categories the mean over all pairs of their classes. The two categories with the
    largest are merged, until it is less than `threshold` or only `least` categories are left.

    Args:
        confusion: counts [M, M] (true class, guess).
    """
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    mutual = (shares + shares.T) / 2
    groups = [[number] for number in range(len(confusion))]
    while len(groups) > max(least, 1):
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
    return tuple(
        next(i for i, group in enumerate(groups) if number in group)
        for number in range(len(confusion))
    )


def _folds(groups: Sequence[str], seed: int) -> np.ndarray:
    """The fold int [N] of each example, by groups; by examples where there are too few groups."""
    names, members = np.unique(groups, return_inverse=True)
    if len(names) < FOLDS:
        members = np.arange(len(groups))
    order = np.random.default_rng(seed).permutation(members.max() + 1)
    return order[members] % FOLDS


@partial(jax.jit, static_argnames=("classes", "hidden"))
def _guess(
    features: Array, labels: Array, weights: Array, key: Array, classes: int, hidden: int
) -> Array:
    """Guesses int32 [folds, N] for all examples of networks trained with weights [folds, N]."""
    net, optimizer = FlatPostureNet(classes, hidden), optax.adam(_RATE)

    def loss(params: dict, weight: Array) -> Array:
        logits = net.apply(params, None, features)
        errors = optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits), labels)
        return (weight * errors).sum() / jnp.maximum(weight.sum(), 1)

    def train(weight: Array, number: Array) -> Array:
        params = net.init(jax.random.fold_in(key, number), None, features[:1])

        def step(state_and_log: tuple, _: None) -> tuple[tuple, None]:
            params, memory = state_and_log
            updates, memory = optimizer.update(jax.grad(loss)(params, weight), memory)
            return (optax.apply_updates(params, updates), memory), None

        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), None, _STEPS)
        return jnp.asarray(net.apply(params, None, features)).argmax(-1)

    return jax.vmap(train)(weights, jnp.arange(FOLDS))
