"""Examples for sequence networks from labeled videos."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from programs import program

from jdance.data import openpose_json, records, videos
from jdance.data.prepare import prepare
from jdance.data.sources import open_source
from jdance.errors import UserError
from jdance.pose import PoseEstimator
from jdance.recognize import windows

FPS = 10.0
FRAMES = 60


def _person(x, raised):
    """A skeleton about x whose right wrist is `raised` pixels above its shoulder."""
    rows = [0, 10, 10, 25, 40, 10, 25, 40, 50, 70, 90, 50, 70, 90, -2, -2, 0, 0]
    across = [0, 0, -8, -10, -12, 8, 10, 12, -5, -5, -5, 5, 5, 5, -2, 2, -4, 4]
    keypoints = np.stack([x + np.array(across), 20.0 + np.array(rows), np.ones(18)], 1)
    keypoints[4, 1] = 30 - raised
    return keypoints.astype(np.float32)


def _people(index):
    """The left person raises the wrist slowly, the right one waves."""
    return np.stack([_person(40, index / 4), _person(110, 8 * np.sin(index))])


def _estimator():
    """Detects the people of `_people`, whose frame number is the image's brightness."""
    return lambda image: _people(round(image.mean() / 4))


@pytest.fixture
def folder(tmp_path):
    writer = videos.VideoWriter(videos.output_path(tmp_path / "dance"), FPS)
    for index in range(FRAMES):
        writer.write(index / FPS, np.full((120, 160, 3), 4 * index, np.uint8))
    writer.close()
    return tmp_path


def _manifest(folder, rows):
    path = folder / "manifest.csv"
    video = next(p.name for p in folder.iterdir() if p.stem == "dance")
    with open(path, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "split", "group", "start", "end", "box", "person"])
        table.writerows([video, *row] for row in rows)
    return path


def _examples(path, output, window=2.0):
    source = windows.from_videos(
        open_source(str(path), frames_per_second=None), _estimator(), window=window, per_second=2.0
    )
    info = prepare(source, output, None)
    assert info["sequences"]
    dataset = records.Dataset(output)
    found = dataset.source("train")
    return [records.unpack(found[i]) for i in range(len(found))]


def _wrist(example):
    """Height of the right wrist over the shoulder, [T], in trunk lengths."""
    keypoints = example.keypoints
    trunk = keypoints[:, 8, 1] - keypoints[:, 1, 1]
    return (keypoints[:, 2, 1] - keypoints[:, 4, 1]) / trunk


def test_windows_show_the_labeled_person_around_the_middle(folder):
    box_left, box_right = "28 18 24 92", "98 18 24 92"
    path = _manifest(
        folder,
        [
            ["raise", "train", "a", 1, 5, box_left, ""],
            ["wave", "train", "a", 1, 5, box_right, ""],
            ["raise", "train", "a", 1, 5, "", 0],
            ["wave", "train", "a", 1, 5, "", 1],
        ],
    )
    found = _examples(path, folder / "data")
    assert [example.label for example in found] == 8 * [0] + 8 * [1] + 8 * [0] + 8 * [1]
    for first, second in ((0, 16), (8, 24)):  # the box and the index select the same people
        for i in range(8):
            same = found[first + i].keypoints, found[second + i].keypoints
            np.testing.assert_array_equal(*same)
    slow, waving = found[:8], found[8:16]
    assert slow[0].keypoints.shape == (21, 18, 3)  # 2 s at 10 frames per second
    for number, example in enumerate(slow):
        # In the middle of window i, at 1 + (i + 0.5) / 2 s, the wrist is 2.5 pixels per second
        # higher; the tracker's smoothing lags by less than a pixel.
        expected = (10 * (1.2 + 0.5 * number) / 4) / 40
        assert _wrist(example)[10] == pytest.approx(expected, abs=0.05)
        assert np.all(np.diff(_wrist(example)) > -1e-3)
    assert min(_wrist(example).std() for example in waving) > 0.04


def test_windows_repeat_the_ends_of_a_track(folder):
    path = _manifest(folder, [["raise", "train", "a", 0, 0.4, "", 0]] * 2)
    first = _examples(path, folder / "data")[0].keypoints
    np.testing.assert_array_equal(first[:8], np.broadcast_to(first[0], (8, 18, 3)))
    assert _wrist(records.Example(first, 0))[-1] > _wrist(records.Example(first, 0))[0] + 0.03


def test_labels_without_a_track_are_skipped(folder):
    rows = [["raise", "train", "a", 1, 3, "", 0]] * 2 + [
        ["raise", "train", "a", 1, 3, "1 1 5 5", ""]
    ]
    source = open_source(str(_manifest(folder, rows)), frames_per_second=None)
    made = windows.from_videos(source, _estimator(), window=1.0, per_second=2.0)
    assert len(made.items) == 8
    ((_, reason),) = made.skipped
    assert "not tracked from 1 to 3 s" in reason


def test_images_are_skipped(folder):
    (folder / "class").mkdir()
    next(folder.glob("dance.*")).rename(folder / "class" / "dance.webm")
    image = folder / "class" / "photo.png"
    image.write_bytes(b"")
    source = open_source(str(folder), frames_per_second=None)
    assert [item.name for item in source.items] == ["class/dance.webm"]
    assert ("class/photo.png", "an image; --window makes examples of videos only") in source.skipped
    assert len(windows.from_videos(source, _estimator(), window=2.0, per_second=1.0).items) == 6


def test_skeletons_are_refused(tmp_path):
    arguments = (f"--source={tmp_path}/a.npz", "--window=2", f"--output={tmp_path}/data")
    error = program("prepare", *arguments, status=1)[1]
    assert "--window=2: for videos in a folder or a manifest" in error
    for label in ("walk", "wave"):
        (tmp_path / "in" / label).mkdir(parents=True)
        for number in range(2):
            openpose_json.write(tmp_path / "in" / label / f"{number}.json", _people(number))
    arguments = (f"--source={tmp_path}/in", "--window=2", f"--output={tmp_path}/data")
    error = program("prepare", *arguments, status=1)[1]
    assert "holds key points, but --window is for videos" in error


def test_stage_videos_become_sequences(tmp_path):
    size = ["--width=320", "--height=240", "--seconds=5", "--fps=8", "--dancers=2"]
    program("stage", f"--output={tmp_path}/videos", "--video", *size)
    source = open_source(f"{tmp_path}/videos/manifest.csv", frames_per_second=None)
    estimator = PoseEstimator.load("stage").people
    made = windows.from_videos(source, estimator, window=2.0, per_second=2.0)
    assert not made.skipped
    assert len(made.items) >= 16
    assert {item.load().keypoints.shape for item in made.items} == {(1, 17, 18, 3)}


def test_a_part_beyond_the_end_is_skipped(folder):
    rows = [["raise", "train", "a", 1, 3, "", 0]] * 2 + [["raise", "train", "a", 50, 60, "", 0]]
    source = open_source(str(_manifest(folder, rows)), frames_per_second=None)
    assert len(source.items) == 2
    assert "nothing of it is between start and end" in source.skipped[0][1]
    source.items[0] = replace(source.items[0], span=None)
    with pytest.raises(UserError, match="holds key points"):
        windows.from_videos(source, _estimator(), window=1.0, per_second=1.0)
