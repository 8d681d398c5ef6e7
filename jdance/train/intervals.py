"""95 % confidence intervals of accuracies, and of the difference of two on the same examples.

Examples of one group, such as the frames of a video, are not independent: intervals then come from
a bootstrap over groups, which is seeded. Independent examples get Wilson's interval.
"""

import numpy as np

from jdance.progress import counted

Interval = tuple[float, float]

_Z = 1.959964  # 97.5 % quantile of the standard normal distribution
_RESAMPLES = 4000
_SEED = 0
_MIN_UNITS = 5  # fewer groups cannot be resampled
_CHUNK = 2_000_000  # numbers drawn at once


def wilson(fraction: float, count: int) -> Interval:
    """The interval of a fraction of `count` independent examples (Wilson, 1927)."""
    center = (fraction + _Z * _Z / (2 * count)) / (1 + _Z * _Z / count)
    half = _Z / (1 + _Z * _Z / count)
    half *= float(np.sqrt(fraction * (1 - fraction) / count + _Z * _Z / (4 * count * count)))
    return max(0.0, center - half), min(1.0, center + half)


def accuracy(correct: np.ndarray, groups: np.ndarray) -> tuple[Interval, str]:
    """The interval of an accuracy.

    Args:
        correct: bool [N].
        groups: str [N], of the examples. If all are different, the examples are independent.

    Returns:
        The interval and its method. If there are fewer than 5 groups, or if all examples are
        right or all wrong, a bootstrap is meaningless: the interval is Wilson's for as many
        examples as there are groups.
    """
    members, count = _numbered(groups)
    mean = float(correct.mean())
    if count == len(correct):
        return wilson(mean, count), "Wilson"
    if count < _MIN_UNITS or correct.all() or not correct.any():
        return wilson(mean, count), f"Wilson over {counted(count, 'group')}"
    return _bootstrap(correct, members, count), f"bootstrap over {count} groups"


def difference(first: np.ndarray, second: np.ndarray, groups: np.ndarray) -> Interval:
    """The interval of the accuracy of `first` minus that of `second` on the same examples.

    It comes from a paired bootstrap over groups, or over the examples if they are independent.
    Fewer than 5 say nothing about others: it is -1 to 1.

    Args:
        first, second: bool [N], whether each of two classifiers is right.
        groups: str [N], of the examples.
    """
    members, count = _numbered(groups)
    values = first.astype(np.float64) - second
    if count < _MIN_UNITS:
        return -1.0, 1.0
    return _bootstrap(values, members, count)


def _numbered(groups: np.ndarray) -> tuple[np.ndarray, int]:
    """The number of each example's group, int [N], and the number of groups."""
    names, members = np.unique(groups, return_inverse=True)
    return members, len(names)


def _bootstrap(values: np.ndarray, members: np.ndarray, count: int) -> Interval:
    """Percentile interval of the mean of values [N] of `count` resampled groups."""
    sums = np.bincount(members, values, count)
    sizes = np.bincount(members, minlength=count)
    rng = np.random.default_rng(_SEED)
    means: list[np.ndarray] = []
    rows = max(1, _CHUNK // count)
    for start in range(0, _RESAMPLES, rows):
        drawn = rng.integers(count, size=(min(rows, _RESAMPLES - start), count))
        means.append(sums[drawn].sum(1) / sizes[drawn].sum(1))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high)
