"""Scores of videos: matching of tracks to dancers, segmental F1, accuracy."""

import json

import numpy as np
import pytest
from conftest import tiny_image

from jdance.data import openpose_json
from jdance.errors import UserError
from jdance.recognize import timeline
from jdance.recognize.score import fit_smoothing, read, score_video
from jdance.recognize.timeline import Segment


def _score(folder, tracks, segments):
    """Scores a video of two dancers, 4 s at 5 fps.

    `tracks` holds (track, start, end) for each dancer.
    """
    person = tiny_image(0)[1][0]
    dancers = [person, person + np.array([300, 0, 0], np.float32)]
    true = [
        Segment(0, 0, 2, "a", 1), Segment(0, 2, 4, "b", 1), Segment(1, 0, 4, "c", 1)
    ]  # fmt: skip
    timeline.write_csv(folder / "x_truth.csv", true)
    frames = []
    for i in range(20):
        openpose_json.write(openpose_json.path_for_frame("x", i, folder), np.stack(dancers))
        people = [
            {"track": track, "keypoints": dancer.tolist()}
            for dancer, spans in zip(dancers, tracks, strict=True)
            for track, start, end in spans
            if start <= i / 5 < end
        ]
        frames.append({"index": i, "time": i / 5, "people": people})
    result = {"classes": [], "frames": frames, "tracks": timeline.summary(segments)}
    (folder / "x.json").write_text(json.dumps(result))
    return score_video(read(folder / "x.json", folder / "x_truth.csv", folder))


def test_tracks_are_matched_by_position(tmp_path):
    segments = [Segment(7, 0, 2, "a", 1), Segment(7, 2, 4, "b", 1), Segment(2, 0, 4, "c", 1)]
    score = _score(tmp_path, [[(7, 0, 4)], [(2, 0, 4)]], segments)
    assert (score.f1, score.accuracy, score.dancers, score.tracks) == (1, 1, 2, 2)


def test_lost_tracks_and_wrong_motions_count(tmp_path):
    # Dancer 0 is lost at 2.2 s and becomes track 1; dancer 1 is misclassified from 3 s on.
    segments = [
        Segment(0, 0, 2.2, "a", 1), Segment(1, 2.2, 4, "b", 1), Segment(2, 0, 3, "c", 1),
        Segment(2, 3, 4, "a", 1),
    ]  # fmt: skip
    score = _score(tmp_path, [[(0, 0, 2.2), (1, 2.2, 4)], [(2, 0, 4)]], segments)
    assert score.f1 == pytest.approx(2 * 2 / (4 + 3)) and score.tracks == 3
    assert score.accuracy == pytest.approx((10 + 15) / 40)


def test_missing_and_invalid_results(tmp_path):
    with pytest.raises(UserError, match=r"x_truth\.csv: not a timeline"):
        read(tmp_path / "x.json", tmp_path / "x_truth.csv", tmp_path)
    score = _score(tmp_path, [[], []], [])
    assert (score.f1, score.accuracy, score.tracks) == (0, 0, 0)
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(UserError, match=r"x\.json: not a result for a video"):
        read(tmp_path / "x.json", tmp_path / "x_truth.csv", tmp_path)


def test_smoothing_is_learned_from_unsmoothed_probabilities(tmp_path):
    _score(
        tmp_path, [[(0, 0, 4)], [(1, 0, 4)]], [Segment(0, 0, 4, "a", 1), Segment(1, 0, 4, "c", 1)]
    )
    path = tmp_path / "x.json"
    content = json.loads(path.read_text()) | {"classes": ["a", "b", "c"]}
    rng = np.random.default_rng(0)
    for frame in content["frames"]:
        for person in frame["people"]:
            probabilities = rng.dirichlet(np.ones(3))
            label = 2 if person["track"] else int(frame["time"] >= 2)
            person["probabilities"] = (0.5 * np.eye(3)[label] + 0.5 * probabilities).tolist()
    path.write_text(json.dumps(content))
    result = read(path, tmp_path / "x_truth.csv", tmp_path)
    found = fit_smoothing([result])
    assert found.evidence > 1 and found.change > 1
    with pytest.raises(UserError, match="c is not a class"):
        fit_smoothing([result._replace(classes=["a", "b"])])
