"""Posture feedback for dancers in videos."""

import json
from contextlib import closing

import jax
import numpy as np
import pytest
from conftest import tiny_config, tiny_image

from jdance import features, models
from jdance.data import openpose_json, videos
from jdance.recognize import feedback, video
from jdance.recognize.recognizer import Recognizer
from jdance.train.posture import fit


def _turned(keypoints, degrees):
    """Rotates the left forearm of key points [18, 3] clockwise in the image."""
    result = keypoints.copy()
    turn = np.radians(degrees)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    result[7, :2] = result[6, :2] + rotation @ (result[7, :2] - result[6, :2])
    return result


@pytest.fixture(scope="module")
def posture():
    """A model of three motions, all fitted on one noisy skeleton."""
    rng = np.random.default_rng(0)
    many = np.tile(tiny_image(0)[1], (60, 1, 1))
    many[..., :2] += rng.normal(0, 0.5, many[..., :2].shape)
    segments = features.compute("segments22", many)
    return fit(segments, np.arange(60) % 3, ("a", "b", "c"))


def test_advice_averages_the_frames_of_a_motion(posture):
    person = tiny_image(0)[1][0]
    advice = feedback.PostureFeedback(posture)
    for angle in (-38, -40, -42, -40, -40, -40):
        advice.add(3, "a", _turned(person, angle))
        advice.add(4, "b", person)
        advice.add(4, "unknown", person)
    for _ in range(2):  # too few frames
        advice.add(3, "b", person)
    (wrong,), (right,) = advice.for_track(3), advice.for_track(4)
    assert (wrong["motion"], wrong["frames"]) == ("a", 6)
    worst = wrong["parts"][0]
    assert worst["part"] == "left forearm" and worst["score"] < 0.05
    assert worst["angle"] == pytest.approx(40, abs=4)
    assert feedback.describe(wrong).startswith("left forearm 0.0")
    assert feedback.describe(wrong).endswith("degrees clockwise")
    assert right["motion"] == "b" and feedback.describe(right) == "nothing to correct"
    assert advice.for_track(9) == []


def test_advice_is_in_the_results_and_on_the_page_of_a_video(posture, tiny_data, tmp_path):
    config = tiny_config(tiny_data)
    config.model.update(classes=3, branches="keypoints")
    variables = jax.jit(models.build(config.model).init)(jax.random.key(0), None, np.ones((1, 18)))
    image, people = tiny_image(0)
    wrong = _turned(people[0], 60)[None]
    with closing(videos.VideoWriter(tmp_path / "x.webm", 10)) as writer:
        for i in range(12):
            writer.write(i / 10, image)
            openpose_json.write(openpose_json.path_for_frame("x.webm", i, tmp_path), wrong)
    settings = video.Settings(annotate=False, posture=posture)
    recognizer = Recognizer(config, list("abc"), variables)
    video.recognize_video(
        recognizer, tmp_path / "x.webm", tmp_path / "out", settings, keypoints=tmp_path
    )
    (track,) = json.loads((tmp_path / "out.json").read_text())["tracks"]
    (assessment,) = track["posture"]
    assert assessment["motion"] == track["segments"][0]["motion"] and assessment["frames"] >= 10
    assert assessment["parts"][0]["part"] == "left forearm"
    page = (tmp_path / "out.html").read_text()
    assert "What to correct" in page and f"Dancer 0, {assessment['motion']}: left forearm" in page
    video.recognize_video(
        recognizer, tmp_path / "x.webm", tmp_path / "out", video.Settings(annotate=False),
        keypoints=tmp_path,
    )  # fmt: skip
    assert "What to correct" not in (tmp_path / "out.html").read_text()
