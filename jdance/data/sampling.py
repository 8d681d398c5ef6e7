"""Class-balanced and confusion-weighted sampling of training examples."""

from collections.abc import Sequence

import numpy as np

from jdance.data.randomness import stream

SAMPLINGS = ("shuffled", "balanced", "confusion")


def balanced(labels: np.ndarray, classes: int) -> np.ndarray:
    """Equal probabilities float64 [M] for the classes that occur in labels int [N]."""
    present = np.bincount(labels, minlength=classes) > 0
    return present / present.sum()


def confusion_weighted(confusion: np.ndarray, strength: float) -> np.ndarray:
    """Probabilities float64 [M] proportional to 1 + strength * (error rate of the class).

    The paper (Shen et al., 2021) only sketches sampling by the confusion matrix.

    Args:
        confusion: counts [M, M] (true, predicted); classes without examples get probability 0.
        strength: 0 gives equal probabilities.
    """
    counts = confusion.sum(1)
    errors = 1 - confusion.diagonal() / np.maximum(counts, 1e-9)
    weights = np.where(counts > 0, 1 + strength * errors, 0)
    return weights / weights.sum()


class Order:
    """An endless order of N examples with given class fractions.

    It is a pure function of the position. The fractions hold in every epoch of N positions, and
    the numbers of occurrences of a class's examples differ by at most one.

    Args:
        labels: of the examples, int [N].
        fractions: fraction drawn of each class, float [M] with sum 1.
        seed: of the shuffles.
    """

    def __init__(self, labels: np.ndarray, fractions: Sequence[float] | np.ndarray, seed: int):
        self._members = [np.flatnonzero(labels == label) for label in range(len(fractions))]
        self._quotas = _round_to_sum(np.asarray(fractions, float) * len(labels))
        self._count, self._seed = len(labels), seed
        self._epochs: dict[int, np.ndarray] = {}

    def __call__(self, position: int) -> int:
        """Index of the example at a position."""
        number, within = divmod(position, self._count)
        epoch = self._epochs.get(number)
        if epoch is None:
            epoch = self._draw(number)
            # Prefetching uses two epochs at a time.
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


def _round_to_sum(wanted: np.ndarray) -> np.ndarray:
    """Rounds to integers with the same sum, by largest remainders."""
    result = np.floor(wanted + 1e-9).astype(int)
    missing = round(float(wanted.sum())) - int(result.sum())
    result[np.argsort(result - wanted, kind="stable")[:missing]] += 1
    return result
