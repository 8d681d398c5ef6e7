"""Tracking, smoothing of joints and motions, timelines, and the page of a video."""

import numpy as np
import pytest
from conftest import tiny_image

from jdance.recognize import timeline, tracking
from jdance.recognize.page import VideoPage
from jdance.recognize.stream import Stream
from jdance.recognize.timeline import Segment, Timeline
from jdance.recognize.tracking import Tracker
from jdance.report import draw


def _body(x, y=100.0, size=100.0):
    """Returns a skeleton [18, 3] with its center at (x, y) and its longer side `size`."""
    person = tiny_image(0)[1][0].copy()
    low, high = person[:, :2].min(0), person[:, :2].max(0)
    person[:, :2] = (person[:, :2] - (low + high) / 2) / (high - low).max() * size + [x, y]
    return person


def _numbers(tracker, frames, period=0.1):
    """Returns the final track numbers of each frame's people."""
    detections = [tracker.update(i * period, np.array(f).reshape(-1, 18, 3)) for i, f in frames]
    return [[detection.track.number for detection in row] for row in detections]


def test_similarity_matches_coco():
    person = _body(50)
    moved = person.copy()
    moved[:, 0] += 10
    sizes = np.array([80.0])
    same = tracking.similarity(person[None], person[None], sizes)
    np.testing.assert_allclose(same, 1)
    sigma = np.array([26, 79, 79, 72, 62, 79, 72, 62, 107, 87, 89, 107, 87, 89, 25, 25, 35, 35])
    expected = np.exp(-(10**2) / (2 * 80**2 * (2 * sigma / 1000) ** 2)).mean()
    actual = tracking.similarity(moved[None], person[None], sizes)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    moved[:, 2] = 0
    assert tracking.similarity(moved[None], person[None], sizes) == 0


def test_crossing_people_keep_their_tracks():
    frames = [(i, [_body(20 + 8 * i, 100, 100), _body(340 - 8 * i, 130, 110)]) for i in range(40)]
    # People are sorted from left to right, so their order changes after the crossing.
    frames = [(i, sorted(people, key=lambda p: p[:, 0].mean())) for i, people in frames]
    numbers = _numbers(Tracker(), frames)
    assert numbers[5] == [0, 1] and numbers[-1] == [1, 0]
    assert all(sorted(row) == [0, 1] for row in numbers)


def test_tracks_survive_short_gaps_only():
    away = [(i, [] if 10 <= i < 18 else [_body(100)]) for i in range(60)]
    assert {n for row in _numbers(Tracker(), away) for n in row} == {0}
    away = [(i, [] if 10 <= i < 30 else [_body(100)]) for i in range(60)]
    assert {n for row in _numbers(Tracker(), away) for n in row} == {0, 1}


def test_joints_that_are_not_seen_move_with_the_person():
    """Else they would catch whoever stands where they were last seen."""
    legs = slice(8, 14)

    def upper(x):
        person = _body(x)
        person[legs] = 0
        return person

    walk = [(i, [_body(100)]) for i in range(10)]
    walk += [(i, [upper(100 + 8 * (i - 10))]) for i in range(10, 40)]
    walk += [(40, [_body(100)]), *((i, [_body(100), upper(340)]) for i in range(41, 50))]
    numbers = _numbers(Tracker(), walk)
    assert {n for row in numbers[:40] for n in row} == {0}
    assert numbers[-1] == [1, 0]
    # Legs alone elsewhere are no part of the person.
    others = _body(100)
    others[[i for i in range(18) if not 8 <= i < 14]] = 0
    tracker = Tracker()
    for i, people in walk[:40]:
        tracker.update(i * 0.1, np.array(people))
    (first, second) = tracker.update(4.0, np.stack([others, upper(340)]))
    assert second.track.number == 0 and first.track is not second.track
    np.testing.assert_array_equal(second.keypoints[legs], 0)


def test_pauses_between_frames_end_no_track():
    times = [0, 0.1, 2.2, 4.2, 4.3, 6.3, 6.4, 8.4]
    tracker = Tracker()
    tracks = {id(tracker.update(t, _body(100)[None])[0].track) for t in times}
    assert len(tracks) == 1
    line = Timeline(0.1)
    for time, previous in zip(times, [np.inf, *times], strict=False):
        line.add(time, 0, "wave", 0.9, previous)
    (segment,) = line.finish()
    assert (segment.start, segment.end) == (0, pytest.approx(8.5))


@pytest.mark.parametrize("count", [1, 2])
def test_people_of_very_short_videos_are_found(count):
    stream = Stream()
    frames = []
    for i in range(count):
        people = [_body(100), _body(300)] + [_body(500)] * (i == 1)
        frames += stream.add(i, i / 10, None, people, [np.ones(2) / 2] * len(people))
    frames += stream.flush()
    assert [[p.track for p in frame.people] for frame in frames] == [[0, 1]] * count


def test_single_detections_are_not_confirmed():
    frames = [(i, [_body(100)] + [_body(300)] * (i == 5)) for i in range(20)]
    assert _numbers(Tracker(), frames)[5] == [0, None]


@pytest.mark.parametrize("period", [0.1, 0.5, 4.0])
def test_tracking_at_low_frame_rates(period):
    people = np.stack([_body(100), _body(400)])
    frames = list(enumerate([people] * 6))
    assert _numbers(Tracker(), frames, period)[-1] == [0, 1]
    stream = Stream()
    tracked = [f for i, p in frames for f in stream.add(i, i * period, None, p, np.eye(2))]
    tracked += stream.flush()
    assert [[person.track for person in frame.people] for frame in tracked] == [[0, 1]] * 6


def test_fragments_of_a_person_are_merged():
    upper, lower = _body(100), _body(100)
    upper[8:14], lower[:8], lower[14:] = 0, 0, 0
    frames = [(i, [upper, lower] if i in (6, 7, 8) else [_body(100)]) for i in range(15)]
    assert _numbers(Tracker(), frames) == [[0]] * 15


def test_joints_at_rest_are_smoothed_and_fast_ones_do_not_lag():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1.5, (120, 18, 2))
    # At rest for 60 frames, then one body size per second.
    x = np.where(np.arange(120) < 60, 0, (np.arange(120) - 60) * 100 / 30)
    raw = np.stack([_body(100 + at) for at in x])
    raw[..., :2] += noise
    tracker, smoothed = Tracker(), []
    for i, person in enumerate(raw):
        (detection,) = tracker.update(i / 30, person[None])
        smoothed.append(detection.keypoints)
    before, after = (tracking.jitter(list(p[:60]), still=0.5) for p in (raw, smoothed))
    assert after < before / 2
    lag = np.stack(smoothed)[80:, :, 0].mean(1) - raw[80:, :, 0].mean(1)
    assert abs(lag.mean()) < 2 * 100 / 30  # two frames


def _run(stream, frames):
    tracked = []
    for i, people, probabilities in frames:
        tracked += stream.add(i, i * 0.1, None, people, probabilities)
    return tracked + list(stream.flush())


def test_gaps_are_bridged_and_motions_smoothed():
    frames = []
    for i in range(30):
        outlier = i == 15
        probabilities = np.array([0.1, 0.9]) if outlier else np.array([0.8, 0.2])
        visible = not 8 <= i < 11
        frames.append((i, [_body(100 + 2 * i)] * visible, [probabilities] * visible))
    tracked = _run(Stream(window=0.5, lag=0.5), frames)
    assert [frame.index for frame in tracked] == list(range(30))
    assert all(len(frame.people) == 1 and frame.people[0].track == 0 for frame in tracked)
    assert [frame.index for frame in tracked if frame.people[0].bridged] == [8, 9, 10]
    assert all(frame.people[0].probabilities.argmax() == 0 for frame in tracked)
    middle = tracked[9].people[0].keypoints[:, 0].mean()
    assert middle == pytest.approx(tracked[7].people[0].keypoints[:, 0].mean() + 4, abs=3)


@pytest.mark.parametrize(("window", "lag"), [(0.5, 0.5), (1.0, 1.0), (1.0, 0.2)])
def test_gaps_are_bridged_wholly_or_not_at_all(window, lag):
    for fps, count in ((30, 4), (30, 15), (30, 16), (30, 40), (25, 23), (10, 5), (10, 10), (2, 1)):
        stream, begin = Stream(window=window, lag=lag), 2 * fps
        tracked = []
        for i in range(5 * fps):
            visible = not begin <= i < begin + count
            people, probabilities = [_body(100)] * visible, [np.array([1.0])] * visible
            tracked += stream.add(i, i / fps, None, people, probabilities)
        tracked += stream.flush()
        bridged = {frame.index for frame in tracked for p in frame.people if p.bridged}
        short = count / fps < lag + 1e-6
        assert bridged == (set(range(begin, begin + count)) if short else set()), (fps, count)


def test_the_sequence_network_gets_the_window_around_a_frame():
    spans = []

    def classifier(keypoints, times, ends):
        assert keypoints.shape == (len(times), 18, 3)
        assert ends[1] - ends[0] == pytest.approx(2.0)
        assert ends[0] - 1e-6 <= times[0] and times[-1] <= ends[1] + 1e-6
        spans.append((times[0], times[-1]))
        return np.array([0.3, 0.7])

    tracked = _run(
        Stream(window=1.0, lag=1.0, classifier=classifier),
        [(i, [_body(9)], [np.zeros(2)]) for i in range(50)],
    )
    assert all(frame.people[0].probabilities[1] == 0.7 for frame in tracked)
    assert len(spans) < 30  # not in every frame
    assert any(end - start == pytest.approx(2.0) for start, end in spans)


def test_timeline_ends_segments_at_changes_and_gaps(tmp_path):
    motion_timeline = Timeline(0.1)
    motions = ["a"] * 32 + ["b"] * 20
    starts = [motion_timeline.add(i * 0.1, 0, motion, 0.5) for i, motion in enumerate(motions)]
    assert [i for i, start in enumerate(starts) if start] == [0, 32]
    motion_timeline.add(9.0, 0, "b", 1.0)  # after a gap
    motion_timeline.add(1.0, 1, "a", 0.25)
    segments = motion_timeline.finish()
    spans = [(s.track, s.motion, round(s.start, 3), round(s.end, 3)) for s in segments]
    assert spans == [
        (0, "a", 0, 3.2), (0, "b", 3.2, 5.2), (0, "b", 9.0, 9.1), (1, "a", 1.0, 1.1),
    ]  # fmt: skip
    first, second = timeline.summary(segments)
    assert first["seconds"] == {"a": 3.2, "b": 2.1} and second["track"] == 1
    timeline.write_csv(tmp_path / "x.csv", segments)
    assert (tmp_path / "x.csv").read_text().splitlines()[1] == "0,0.000,3.200,a,0.5000"


def test_frames_seconds_apart_are_one_segment():
    """As with --every, time lapses and slow animations."""
    motion_timeline = Timeline(2.0)
    for i in (0, 1, 2, 5):
        motion_timeline.add(2.0 * i, 0, "a", 0.5)
    spans = [(segment.start, segment.end) for segment in motion_timeline.finish()]
    assert spans == [(0.0, 6.0), (10.0, 12.0)]


def test_segmental_f1():
    true = [Segment(0, 0, 10, "a", 1), Segment(0, 10, 20, "b", 1)]
    assert timeline.segmental_f1(true, true) == 1
    predicted = [Segment(0, 0, 6, "a", 1), Segment(0, 6, 20, "b", 1)]
    assert timeline.segmental_f1(predicted, true) == 1  # both overlap by more than a half
    split = [Segment(0, 0, 5.5, "a", 1), Segment(0, 5.5, 10, "a", 1)]
    assert timeline.segmental_f1(split, true) == pytest.approx(2 * 1 / 4)
    assert timeline.segmental_f1([Segment(1, 0, 10, "a", 1)], true) == 0
    assert timeline.segmental_f1([], []) == 0
    moment = [Segment(0, 3, 3, "a", 1), Segment(0, 5, 5, "a", 1)]  # both of zero length
    assert timeline.segmental_f1(moment, moment) == 1
    assert (
        timeline.segmental_f1(moment, true) == 0
        and timeline.segmental_f1(moment[:1], moment[1:]) == 0
    )


def test_page_has_unknown_once(tmp_path):
    page = VideoPage("x.mp4", ["walk", "unknown"])
    segments = [Segment(0, 0, 2, "walk", 0.9), Segment(0, 2, 4, "unknown", 0.2)]
    page.write(tmp_path / "x.html", segments, 4.0)
    text = (tmp_path / "x.html").read_text()
    gray = "#{:02x}{:02x}{:02x}".format(*draw.motion_color(-1))  # as in the annotated video
    assert text.count(f'fill="{gray}"') == 2 and text.count('<th scope="col">unknown</th>') == 1


def test_page_is_self_contained_and_escaped(tmp_path):
    page = VideoPage("<b>&.mp4", ["walk", "wave"])
    page.add_image(1.5, b"\xff\xd8")
    segments = [Segment(0, 0, 62, "walk", 0.9), Segment(3, 5, 9, "unknown", 0.2)]
    page.write(tmp_path / "x.html", segments, 70.0)
    text = (tmp_path / "x.html").read_text()
    assert "<b>&.mp4" not in text and "&lt;b&gt;&amp;.mp4" in text
    assert text.count("<rect") == 4 and "1:02.0" in text and "data:image/jpeg;base64," in text
    assert "http" not in text and "<td>dancer 3</td>" in text and "<td>62.0</td>" in text
