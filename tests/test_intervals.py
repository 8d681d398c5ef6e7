"""95 % intervals, compared with SciPy and with formulas for normal distributions."""

import numpy as np
import pytest
from scipy import stats

from jdance.train import intervals

Z = stats.norm.ppf(0.975)


def names(numbers):
    return np.array([f"video {number}" for number in numbers])


def cluster_error(values, members):
    """Standard error of a mean over clusters, by linearization of the ratio (Cochran, 1977)."""
    mean = values.mean()
    totals = np.array([(values[members == m] - mean).sum() for m in np.unique(members)])
    return np.sqrt((totals**2).sum()) / len(values)


@pytest.mark.parametrize(("right", "count"), [(0, 8), (5, 10), (27, 27), (293, 360), (1, 1)])
def test_independent_examples(right, count):
    expected = stats.binomtest(right, count).proportion_ci(0.95, "wilson")
    actual = intervals.wilson(right / count, count)
    np.testing.assert_allclose(actual, (expected.low, expected.high), atol=1e-6)
    correct = np.arange(count) < right
    interval, method = intervals.accuracy(correct, names(range(count)))
    assert interval == actual and method == "Wilson"


def test_wilson_by_a_published_figure():
    low, high = intervals.wilson(0.5, 10)  # Newcombe (1998): 0.2366 to 0.7634
    assert (low, high) == (pytest.approx(0.2366, abs=1e-4), pytest.approx(0.7634, abs=1e-4))


def test_bootstrap_over_groups():
    rng = np.random.default_rng(1)
    members = np.repeat(np.arange(60), rng.integers(1, 20, 60))
    correct = rng.uniform(size=len(members)) < rng.beta(4, 2, 60)[members]
    order = rng.permutation(len(members))
    interval, method = intervals.accuracy(correct[order], names(members[order]))
    assert method == "bootstrap over 60 groups"
    error = cluster_error(correct.astype(float), members)
    expected = correct.mean() + np.array([-Z, Z]) * error
    np.testing.assert_allclose(interval, expected, atol=0.12 * error)
    independent = intervals.wilson(correct.mean(), len(correct))
    assert np.ptp(interval) > 1.3 * np.ptp(independent)
    assert intervals.accuracy(correct[order], names(members[order]))[0] == interval  # seeded


def test_copies_of_examples_do_not_narrow_the_interval():
    correct = np.arange(100) % 5 > 0
    copied, _ = intervals.accuracy(np.repeat(correct, 7), names(np.repeat(np.arange(100), 7)))
    np.testing.assert_allclose(copied, intervals.wilson(0.8, 100), atol=0.02)


@pytest.mark.parametrize("groups", [1, 4])
def test_few_groups_count_as_few_examples(groups):
    members = np.arange(40) % groups
    interval, method = intervals.accuracy(np.arange(40) < 30, names(members))
    assert interval == intervals.wilson(0.75, groups)
    assert method == f"Wilson over {groups} group{'s' * (groups > 1)}"


@pytest.mark.parametrize("value", [True, False])
def test_all_right_or_all_wrong(value):
    interval, method = intervals.accuracy(np.full(40, value), names(np.arange(40) // 4))
    assert interval == intervals.wilson(float(value), 10) and method == "Wilson over 10 groups"


def test_difference_of_independent_examples():
    """The interval of McNemar's test for paired proportions."""
    rng = np.random.default_rng(0)
    first, second = rng.uniform(size=(2, 900)) < [[0.85], [0.75]]
    only_first, only_second = (first & ~second).sum(), (second & ~first).sum()
    count = len(first)
    error = np.sqrt(only_first + only_second - (only_first - only_second) ** 2 / count) / count
    expected = (only_first - only_second) / count + np.array([-Z, Z]) * error
    actual = intervals.difference(first, second, names(range(count)))
    np.testing.assert_allclose(actual, expected, atol=0.1 * error)
    reverse = intervals.difference(second, first, names(range(count)))
    np.testing.assert_allclose(reverse, (-actual[1], -actual[0]), atol=1e-12)


def test_difference_is_paired_and_over_groups():
    rng = np.random.default_rng(2)
    members = np.repeat(np.arange(50), 8)
    first = rng.uniform(size=400) < 0.8
    assert intervals.difference(first, first, names(members)) == (0, 0)
    second = first & (rng.uniform(size=400) < rng.uniform(0.6, 1, 50)[members])
    error = cluster_error(first.astype(float) - second, members)
    expected = (first.mean() - second.mean()) + np.array([-Z, Z]) * error
    actual = intervals.difference(first, second, names(members))
    np.testing.assert_allclose(actual, expected, atol=0.3 * error)  # it is skewed


def test_difference_of_few_groups_is_uncertain():
    first, second = np.arange(60) < 50, np.arange(60) < 40
    for few in (first, second), (second, second), (np.ones(60, bool), np.zeros(60, bool)):
        assert intervals.difference(*few, names(np.arange(60) % 3)) == (-1, 1)


def test_many_examples_are_drawn_in_chunks(monkeypatch):
    first, second = np.arange(300) < 200, np.arange(300) < 190
    whole = intervals.difference(first, second, names(range(300)))
    monkeypatch.setattr(intervals, "_CHUNK", 1000)
    assert intervals.difference(first, second, names(range(300))) == whole
