"""Smoothing of motions over time, against brute force and on drawn sequences."""

import itertools

import numpy as np
import pytest

from jdance.recognize import smoothing
from jdance.recognize.smoothing import MotionSmoother, Smoothing
from jdance.recognize.stream import TrackedFrame, TrackedPerson

_BOX = (0.0, 0.0, 1.0, 1.0)


def _brute_force(scores, change):
    """Log marginals [T, M] over all sequences of motions, up to a constant."""
    frames, motions = scores.shape
    total = np.full((frames, motions), -np.inf)
    for path in itertools.product(range(motions), repeat=frames):
        value = sum(scores[t, m] for t, m in enumerate(path)) - change * sum(
            a != b for a, b in itertools.pairwise(path)
        )
        for t, m in enumerate(path):
            total[t, m] = np.logaddexp(total[t, m], value)
    return total


def test_marginals_equal_brute_force():
    scores = np.random.default_rng(0).normal(0, 2, (6, 3))
    expected = _brute_force(scores, 1.3)
    forward = None
    for t in range(6):
        forward, logs = smoothing.marginals(scores[t:], 1.3, forward)
        np.testing.assert_allclose(logs - logs.max(), expected[t] - expected[t].max(), atol=1e-9)


def test_marginals_of_several_tracks_equal_those_of_each():
    rng = np.random.default_rng(0)
    scores, before = rng.normal(0, 2, (6, 4, 3)), rng.normal(0, 2, (4, 3))
    present = rng.random((6, 4)) < 0.6
    present[0] = True
    forward, logs = smoothing.marginals(scores, 1.3, before, present)
    for track in range(4):
        own = scores[present[:, track], track]
        alone, alone_logs = smoothing.marginals(own, 1.3, before[track])
        np.testing.assert_allclose(forward[track], alone, atol=1e-12)
        np.testing.assert_allclose(logs[track], alone_logs, atol=1e-12)


def _run(smoother, probabilities, fps=10.0, gap=()):
    frames = []
    for i, row in enumerate(probabilities):
        people = [TrackedPerson(0, np.zeros((18, 3)), _BOX, np.array(row))] * (i not in gap)
        frames += smoother.add(TrackedFrame(i, i / fps, None, people))
    return frames + list(smoother.flush())


def _motions(frames):
    return [person.motion for frame in frames for person in frame.people]


@pytest.mark.parametrize("fps", [5.0, 10.0, 60.0])
def test_short_errors_vanish_and_changes_stay_at_any_frame_rate(fps):
    a, b = [0.8, 0.2], [0.2, 0.8]
    half = int(fps * 3)
    rows = [a] * half + [b] * half
    rows[half // 2 : half // 2 + max(int(0.2 * fps), 1)] = [b] * max(int(0.2 * fps), 1)
    smoother = MotionSmoother(["a", "b"], Smoothing(4.0, 4.0), lag=1.0)
    frames = _run(smoother, rows, fps)
    assert [frame.index for frame in frames] == list(range(2 * half))
    assert _motions(frames) == ["a"] * half + ["b"] * half
    assert frames[0].people[0].confidence == 0.8  # of the frame, not of the CRF


def test_gaps_and_tracks_are_independent():
    rows = [[0.8, 0.2]] * 20 + [[0.2, 0.8]] * 20
    frames = _run(MotionSmoother(["a", "b"], Smoothing(4.0, 4.0)), rows, gap=range(10, 15))
    assert _motions(frames) == ["a"] * 15 + ["b"] * 20
    assert [len(frame.people) for frame in frames[9:16]] == [1, 0, 0, 0, 0, 0, 1]


def test_the_lag_bounds_how_far_it_looks_ahead():
    smoother = MotionSmoother(["a", "b"], Smoothing(4.0, 4.0), lag=0.3)
    person = TrackedPerson(0, np.zeros((18, 3)), _BOX, np.array([0.6, 0.4]))
    done = [list(smoother.add(TrackedFrame(i, i / 10, None, [person]))) for i in range(6)]
    assert [len(frames) for frames in done] == [0, 0, 0, 1, 1, 1]
    immediate = MotionSmoother(["a", "b"], Smoothing(4.0, 4.0), lag=0.0)
    assert len(list(immediate.add(TrackedFrame(0, 0.0, None, [person])))) == 1


@pytest.mark.parametrize("classes", [["a", "b"], ["a", "b", "unknown"]])
def test_threshold_of_unknown(classes):
    unknown = [0.02] * (len(classes) - 2)
    for probability, expected in ((0.75, "unknown"), (0.85, "a")):
        row = [probability, 1 - probability - sum(unknown), *unknown]
        smoother = MotionSmoother(classes, Smoothing(4.0, 4.0), min_confidence=0.8)
        assert set(_motions(_run(smoother, [row] * 10))) == {expected}
    smoother = MotionSmoother(classes, Smoothing(4.0, 4.0))
    assert set(_motions(_run(smoother, [[0.4, 0.3, *unknown]] * 5))) == {"a"}


def test_fit_finds_parameters_that_generated_the_data():
    rng = np.random.default_rng(1)
    tracks = []
    for _ in range(40):
        labels = [int(rng.integers(3))]
        for _ in range(199):
            labels.append(int(rng.integers(3)) if rng.random() < 0.05 else labels[-1])
        labels = np.array(labels)
        logs = rng.normal(0, 1, (200, 3))
        logs[np.arange(200), labels] += 0.7
        tracks.append((np.arange(200) / 10, logs - np.logaddexp.reduce(logs, 1)[:, None], labels))
    found = smoothing.fit(tracks)
    # Gaussian scores of unit variance that differ by .7: the log likelihood ratio is .7 * logs.
    assert found.evidence * 0.1 == pytest.approx(0.7, abs=0.08)
    # A change to another motion has the probability 1/30, to stay 29/30.
    assert found.change == pytest.approx(np.log((1 - 1 / 30) / (1 / 60)), abs=0.3)
