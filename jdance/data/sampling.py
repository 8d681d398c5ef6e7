"""How often each class is drawn in training: balanced, or more where the network is weak."""

from collections.abc import Sequence

import numpy as np

from jdance.data.randomness import stream

SAMPLINGS = ("shuffled", "balanced", "confusion")


def balanced(labels: np.ndarray, classes: int) -> np.ndarray:
    """Equal shares float64 [M] for the classes that occur in labels int [N], 0 for the others."""
    there = np.bincount(labels, minlength=classes) > 0
    return there / there.sum()


def steered(confusion: np.ndarray, strength: float) -> np.ndarray:
    """Shares float64 [M] that grow with the errors of each class.

    The paper (Shen et al., 2021) only sketches a sampling that follows the confusion matrix. Here
    the share of a class is in proportion to 1 + strength x (part of it that is taken for others).

    Args:
        confusion: counts [M, M] (true class, guess); a class that does not occur gets no share.
        strength: 0 gives equal shares.
    """
    counts = confusion.sum(1)
    errors = 1 - confusion.diagonal() / np.maximum(counts, 1e-9)
    weights = np.where(counts > 0, 1 + strength * errors, 0)
    return weights / weights.sum()


class Order:
    """An endless order of N examples in which each class has a given share.

    It is a pure function of the place. In each epoch of N places every class gets its share, and
    every example of a class comes equally often, give or take one.

    Args:
        labels: int [N], of the examples.
        shares: float [M] with sum 1.
        seed: of the shuffles.
    """

    def __init__(self, labels: np.ndarray, shares: Sequence[float] | np.ndarray, seed: int):
        self._members = [np.flatnonzero(labels == label) for label in range(len(shares))]
        self._quotas = _whole(np.asarray(shares, float) * len(labels))
        self._count, self._seed = len(labels), seed
        self._epochs: dict[int, np.ndarray] = {}

    def __call__(self, place: int) -> int:
        """The example at a place."""
        number, within = divmod(place, self._count)
        epoch = self._epochs.get(number)
        if epoch is None:
            epoch = self._draw(number)
            # Readers look a little ahead: two epochs at a time are in use.
            self._epochs = {n: e for n, e in self._epochs.items() if abs(n - number) == 1}
            self._epochs[number] = epoch
        return int(epoch[within])

    def _draw(self, number: int) -> np.ndarray:
        rng = stream("sampling", self._seed, number)
        drawn = []
        for members, quota in zip(self._members, self._quotas, strict=True):
            rounds = [rng.permutation(members) for _ in range(-(-quota // max(len(members), 1)))]
            drawn += [np.concatenate(rounds)[:quota]] if rounds else []
        return rng.permutation(np.concatenate(drawn))


def _whole(wanted: np.ndarray) -> np.ndarray:
    """Whole numbers with the same sum as `wanted`, by largest remainders."""
    result = np.floor(wanted + 1e-9).astype(int)
    missing = round(float(wanted.sum())) - int(result.sum())
    result[np.argsort(result - wanted, kind="stable")[:missing]] += 1
    return result
