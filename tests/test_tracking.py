"""Who is who from frame to frame, what they do when, and how still joints stay."""

import numpy as np
import pytest
from conftest import tiny_image

from jdance.recognize import timeline, tracking
from jdance.recognize.page import VideoPage
from jdance.recognize.stream import Stream
from jdance.recognize.timeline import Segment, Timeline
from jdance.recognize.tracking import Tracker


def _body(x, y=100.0, size=100.0):
    """A skeleton [18, 3] around a place, `size` high."""
    person = tiny_image(0)[1][0].copy()
    low, high = person[:, :2].min(0), person[:, :2].max(0)
    person[:, :2] = (person[:, :2] - (low + high) / 2) / (high - low).max() * size + [x, y]
    return person


def _numbers(tracker, frames, period=0.1):
    """The numbers of the tracks of each frame's people, as known at the end."""
    seen = [tracker.update(i * period, np.array(f).reshape(-1, 18, 3)) for i, f in frames]
    return [[sighting.track.number for sighting in row] for row in seen]


def test_similarity_is_that_of_coco():
    person = _body(50)
    moved = person.copy()
    moved[:, 0] += 10
    sizes = np.array([80.0])
    same = tracking.similarity(person[None], person[None], sizes)
    np.testing.assert_allclose(same, 1)
    sigma = np.array([26, 79, 79, 72, 62, 79, 72, 62, 107, 87, 89, 107, 87, 89, 25, 25, 35, 35])
    expected = np.exp(-(10**2) / (2 * 80**2 * (2 * sigma / 1000) ** 2)).mean()
    found = tracking.similarity(moved[None], person[None], sizes)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    moved[:, 2] = 0
    assert tracking.similarity(moved[None], person[None], sizes) == 0


def test_people_who_cross_keep_their_numbers():
    frames = [(i, [_body(20 + 8 * i, 100, 100), _body(340 - 8 * i, 130, 110)]) for i in range(40)]
    # People come from left to right in a frame: the order changes when they have passed.
    frames = [(i, sorted(people, key=lambda p: p[:, 0].mean())) for i, people in frames]
    numbers = _numbers(Tracker(), frames)
    assert numbers[5] == [0, 1] and numbers[-1] == [1, 0]
    assert all(sorted(row) == [0, 1] for row in numbers)


def test_a_gap_is_no_new_person_but_a_long_one_is():
    away = [(i, [_body(100)]) for i in range(60) if not 10 <= i < 18]
    assert {n for row in _numbers(Tracker(), away) for n in row} == {0}
    away = [(i, [_body(100)]) for i in range(60) if not 10 <= i < 30]
    assert {n for row in _numbers(Tracker(), away) for n in row} == {0, 1}


def test_seen_once_is_nobody():
    frames = [(i, [_body(100)] + [_body(300)] * (i == 5)) for i in range(20)]
    assert _numbers(Tracker(), frames)[5] == [0, None]


@pytest.mark.parametrize("period", [0.1, 0.5, 4.0])
def test_people_are_followed_however_far_apart_the_frames_are(period):
    people = np.stack([_body(100), _body(400)])
    frames = list(enumerate([people] * 6))
    assert _numbers(Tracker(), frames, period)[-1] == [0, 1]
    stream = Stream()
    done = [f for i, p in frames for f in stream.add(i, i * period, None, p, np.eye(2))]
    done += stream.flush()
    assert [[person.track for person in frame.people] for frame in done] == [[0, 1]] * 6


def test_parts_of_a_person_are_one():
    upper, lower = _body(100), _body(100)
    upper[8:14], lower[:8], lower[14:] = 0, 0, 0
    frames = [(i, [upper, lower] if i in (6, 7, 8) else [_body(100)]) for i in range(15)]
    assert _numbers(Tracker(), frames) == [[0]] * 15


def test_still_joints_are_steadied_and_quick_ones_do_not_lag():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1.5, (120, 18, 2))
    # At rest for 60 frames, then at a body size a second.
    x = np.where(np.arange(120) < 60, 0, (np.arange(120) - 60) * 100 / 30)
    raw = np.stack([_body(100 + at) for at in x])
    raw[..., :2] += noise
    tracker, smooth = Tracker(), []
    for i, person in enumerate(raw):
        (sighting,) = tracker.update(i / 30, person[None])
        smooth.append(sighting.keypoints)
    before, after = (tracking.jitter(list(p[:60]), still=0.5) for p in (raw, smooth))
    assert after < before / 2
    late = np.stack(smooth)[80:, :, 0].mean(1) - raw[80:, :, 0].mean(1)
    assert abs(late.mean()) < 2 * 100 / 30  # two frames


def _run(stream, frames):
    done = []
    for i, people, probabilities_ in frames:
        done += stream.add(i, i * 0.1, None, people, probabilities_)
    return done + list(stream.flush())


def test_gaps_are_bridged_and_motions_smoothed():
    frames = []
    for i in range(30):
        flip = i == 15  # one frame judged otherwise
        probabilities_ = np.array([0.1, 0.9]) if flip else np.array([0.8, 0.2])
        seen = not 8 <= i < 11
        frames.append((i, [_body(100 + 2 * i)] * seen, [probabilities_] * seen))
    done = _run(Stream(window=0.5, lag=0.5), frames)
    assert [frame.index for frame in done] == list(range(30))
    assert all(len(frame.people) == 1 and frame.people[0].track == 0 for frame in done)
    assert [frame.index for frame in done if frame.people[0].bridged] == [8, 9, 10]
    assert all(frame.people[0].probabilities.argmax() == 0 for frame in done)
    middle = done[9].people[0].keypoints[:, 0].mean()
    assert middle == pytest.approx(done[7].people[0].keypoints[:, 0].mean() + 4, abs=3)


def test_the_sequence_network_sees_the_time_around():
    spans = []

    def classifier(keypoints, times):
        assert keypoints.shape == (len(times), 18, 3)
        spans.append((times[0], times[-1]))
        return np.array([0.3, 0.7])

    done = _run(
        Stream(window=1.0, lag=1.0, classifier=classifier),
        [(i, [_body(9)], [np.zeros(2)]) for i in range(50)],
    )
    assert all(frame.people[0].probabilities[1] == 0.7 for frame in done)
    assert len(spans) < 15  # not for every frame
    assert any(end - start == pytest.approx(2.0) for start, end in spans)


def test_timeline_joins_flicker_and_ends_with_gaps(tmp_path):
    times = Timeline(0.1)
    motions = ["a"] * 20 + ["b"] * 2 + ["a"] * 10 + ["b"] * 20
    starts = [times.add(i * 0.1, 0, motion, 0.5) for i, motion in enumerate(motions)]
    assert starts[0] and not starts[1] and starts[20]
    times.add(9.0, 0, "b", 1.0)  # much later
    times.add(1.0, 1, "a", 0.25)
    segments = times.finish()
    spans = [(s.track, s.motion, round(s.start, 3), round(s.end, 3)) for s in segments]
    assert spans == [
        (0, "a", 0, 3.2), (0, "b", 3.2, 5.2), (0, "b", 9.0, 9.1), (1, "a", 1.0, 1.1),
    ]  # fmt: skip
    one, other = timeline.summary(segments)
    assert one["seconds"] == {"a": 3.2, "b": 2.1} and other["track"] == 1
    timeline.write_csv(tmp_path / "x.csv", segments)
    assert (tmp_path / "x.csv").read_text().splitlines()[1] == "0,0.000,3.200,a,0.5000"


def test_segmental_f1():
    true = [Segment(0, 0, 10, "a", 1), Segment(0, 10, 20, "b", 1)]
    assert timeline.segmental_f1(true, true) == 1
    found = [Segment(0, 0, 6, "a", 1), Segment(0, 6, 20, "b", 1)]
    assert timeline.segmental_f1(found, true) == 1  # both overlap by more than a half
    split = [Segment(0, 0, 5.5, "a", 1), Segment(0, 5.5, 10, "a", 1)]
    assert timeline.segmental_f1(split, true) == pytest.approx(2 * 1 / 4)
    assert timeline.segmental_f1([Segment(1, 0, 10, "a", 1)], true) == 0
    assert timeline.segmental_f1([], []) == 0
    moment = [Segment(0, 3, 3, "a", 1), Segment(0, 5, 5, "a", 1)]  # both are empty
    assert timeline.segmental_f1(moment, moment) == 1
    assert timeline.segmental_f1(moment, true) == 0 and timeline.segmental_f1(moment[:1], moment[1:]) == 0


def test_empty_segments_of_one_motion_are_joined():
    same = Timeline(0.0, min_seconds=0.0, max_gap=0.0)
    for motion, probability in (("a", 0.4), ("b", 0.5), ("a", 0.8)):
        same.add(1.0, 0, motion, probability)
    first, *_ = same.finish()
    assert (first.start, first.end) == (1.0, 1.0)
    joined = timeline._merge_equal([Segment(0, 1, 1, "a", 0.4), Segment(0, 1, 1, "a", 0.8)])
    assert joined == [Segment(0, 1, 1, "a", pytest.approx(0.6))]


def test_report_is_one_safe_file(tmp_path):
    page = VideoPage("<b>&.mp4", ["walk", "wave"])
    page.add_image(1.5, b"\xff\xd8")
    segments = [Segment(0, 0, 62, "walk", 0.9), Segment(3, 5, 9, "unknown", 0.2)]
    page.write(tmp_path / "x.html", segments, 70.0)
    text = (tmp_path / "x.html").read_text()
    assert "<b>&.mp4" not in text and "&lt;b&gt;&amp;.mp4" in text
    assert text.count("<rect") == 4 and "1:02.0" in text and "data:image/jpeg;base64," in text
    assert "http" not in text and "<td>dancer 3</td>" in text and "<td>62.0</td>" in text
