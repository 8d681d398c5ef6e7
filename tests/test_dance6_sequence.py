"""The sequence form of dance6: drawn tracks, the shipped file, and motions made by hand."""

import numpy as np
import pytest
from test_dance6 import POSES, pose

from jdance import shipped, skeleton
from jdance.data.prepare import prepare
from jdance.data.records import Dataset, unpack
from jdance.data.sources import open_source
from jdance.recognize import packed
from jdance.recognize.sequences import SequenceClassifier
from jdance.stagedance import skeletons, tracks
from jdance.stagedance.body import MOTIONS

_ENDS = (-1.0, 1.0)


@pytest.fixture(scope="module")
def classifier():
    return SequenceClassifier.form_of("dance6")


def _classify(classifier, clip, fps=15.0):
    """The motion, or `unknown`, of a clip [T, 18, 3] around its middle."""
    times = (np.arange(len(clip)) - (len(clip) - 1) / 2) / fps
    probabilities = classifier(np.stack(clip), times, _ENDS)
    best = int(probabilities.argmax())
    return (
        classifier.classes[best] if probabilities[best] > classifier.min_confidence else "unknown"
    )


@pytest.mark.parametrize("label", skeletons.CLASSES)
def test_tracks_are_valid_and_deterministic(label):
    for number in range(3):
        track = tracks.draw(0, "val", label, number)
        assert track.ndim == 3 and track.shape[1:] == (18, 3) and track.dtype == np.float32
        present = skeleton.is_present(track)
        assert present.sum(-1).max() >= 4 and not track[~present].any()
        np.testing.assert_array_equal(track, tracks.draw(0, "val", label, number))
    assert not np.array_equal(tracks.draw(1, "val", label, 0), tracks.draw(0, "val", label, 0))


def _path(label, joint):
    """Median range of a joint's path about the neck in 12 tracks, in heights of the skeleton."""
    ranges = []
    for number in range(12):
        track = tracks.draw(0, "val", label, number)
        seen = (track[:, [joint, skeleton.NECK], 2] > 0).all(1)
        if seen.sum() > 5:
            path = track[seen, joint, :2] - track[seen, skeleton.NECK, :2]
            ranges.append(np.ptp(path, axis=0).max() / np.ptp(track[seen][..., 1]))
    return np.median(ranges)


def test_walks_step_and_standing_people_do_not():
    assert _path("walk", skeleton.R_ANKLE) > 2 * _path("stand", skeleton.R_ANKLE)


def test_prepares_the_data_set(tmp_path, monkeypatch):
    monkeypatch.setattr(tracks, "COUNTS", {"train": (2, 4), "val": (1, 2), "test": (1, 2)})
    prepare(open_source("stage:dance6_sequence"), tmp_path / "data", None)
    dataset = Dataset(tmp_path / "data")
    assert dataset.sequences and dataset.classes == [*MOTIONS, "unknown"]
    assert [dataset.count(split) for split in ("train", "val", "test")] == [16, 8, 8]
    assert unpack(dataset.source("val")[0]).keypoints.ndim == 3


def test_shipped_file():
    assert sum(file.stat().st_size for file in shipped.FILES.values()) < 3_000_000
    model = packed.load("dance6_sequence")
    assert model.classes == packed.load("dance6").classes
    assert model.source == "stage:dance6_sequence" and "/" not in model.config.data.dir


def test_other_models_have_no_sequence_form(tmp_path, monkeypatch):
    assert SequenceClassifier.form_of("runs/other") is None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dance6").mkdir()
    assert SequenceClassifier.form_of("dance6") is None  # a run of the user by this name


@pytest.mark.parametrize("name", [n for n, (_, m) in POSES.items() if m in ("akimbo", "stand")])
def test_still_motions_stay(classifier, name):
    changes, motion = POSES[name]
    assert _classify(classifier, [pose(changes)] * 31) == motion


def test_a_wave_needs_to_swing(classifier):
    still = pose(POSES["a forearm up"][0])
    assert _classify(classifier, [still] * 31) == "unknown"
    clip = []
    for i in range(31):
        angle = np.radians(30 * np.sin(2 * np.pi * 1.2 * i / 15))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        moved = still.copy()
        moved[4, :2] = still[3, :2] + turn @ (still[4, :2] - still[3, :2])
        clip.append(moved)
    assert _classify(classifier, clip) == "wave"


def test_a_walk_needs_steps(classifier):
    stride = pose(POSES["a stride"][0])
    assert _classify(classifier, [stride] * 31) != "walk"
    legs, other = [9, 10, 12, 13], [12, 13, 9, 10]
    arms, other_arm = [3, 4, 6, 7], [6, 7, 3, 4]
    clip = []
    for i in range(31):
        phase = 2 * np.pi * 0.9 * i / 15
        weight = 0.5 + 0.5 * np.cos(phase)  # 1: this stride, 0: its mirror image
        step = stride.copy()
        for ours, theirs in ((legs, other), (arms, other_arm)):
            step[ours, :2] = weight * stride[ours, :2] + (1 - weight) * stride[theirs, :2]
        lift = 14 * max(np.sin(phase), 0), 14 * max(-np.sin(phase), 0)  # of the swinging foot
        step[[10, 13], 1] -= lift
        clip.append(step)
    assert _classify(classifier, clip) == "walk"
