"""The model that ships as --model=dance6, the skeletons that it is trained on, packed models."""

import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import ROOT, tiny_config
from programs import program

from jdance import features, models, npz, shipped, skeleton
from jdance.data import images, openpose_json
from jdance.data.prepare import prepare
from jdance.data.records import Dataset, unpack
from jdance.data.sources import open_source
from jdance.errors import UserError
from jdance.recognize import packed
from jdance.recognize.recognizer import Recognizer
from jdance.stagedance import skeletons
from jdance.stagedance.body import MOTIONS
from jdance.train import calibration, loop

# Somebody who stands facing the camera, arms down: x and y of the 18 joints.
STAND = np.array([
    (100, 38), (100, 68), (80, 69), (75, 104), (73, 136), (120, 69), (125, 104), (127, 136),
    (88, 138), (87, 193), (86, 246), (112, 138), (113, 193), (114, 246),
    (96, 34), (104, 34), (90, 37), (110, 37),
], np.float32)  # fmt: skip
POSES = {
    "arms down": ({}, "stand"),
    "hands on the hips": ({3: (52, 104), 4: (82, 126), 6: (148, 104), 7: (118, 126)}, "akimbo"),
    "both arms up": ({3: (72, 36), 4: (76, 2), 6: (128, 36), 7: (124, 2)}, "hold_high"),
    "an arm straight out": ({3: (45, 70), 4: (12, 69)}, "single_arm_open"),
    "a forearm up": ({3: (52, 82), 4: (42, 46)}, "wave"),
    "a stride": (
        {8: (96, 138), 9: (120, 187), 10: (138, 238), 11: (104, 138), 12: (92, 192),
         13: (62, 236), 2: (94, 69), 5: (106, 69), 3: (84, 104), 4: (92, 134),
         6: (118, 104), 7: (132, 130)},
        "walk",
    ),
    "both arms straight out": ({3: (45, 70), 4: (12, 69), 6: (155, 70), 7: (188, 69)}, "unknown"),
    "both forearms up": ({3: (50, 74), 4: (44, 38), 6: (150, 74), 7: (156, 38)}, "unknown"),
    "arms crossed": ({3: (74, 102), 4: (112, 100), 6: (126, 102), 7: (88, 98)}, "unknown"),
    "a hand at the ear": ({3: (66, 92), 4: (88, 46)}, "unknown"),
    "seated, from the front": (
        {9: (80, 158), 10: (82, 212), 12: (120, 158), 13: (118, 212), 4: (82, 148), 7: (118, 148)},
        "unknown",
    ),
    "seated, from the side": (
        {8: (98, 138), 9: (150, 142), 10: (148, 196), 11: (102, 138), 12: (154, 144),
         13: (152, 198), 4: (118, 130), 7: (122, 132)},
        "unknown",
    ),
    "squatting": (
        {8: (86, 180), 9: (60, 172), 10: (78, 222), 11: (114, 180), 12: (140, 172), 13: (122, 222),
         3: (72, 110), 4: (84, 142), 6: (128, 110), 7: (116, 142)},
        "unknown",
    ),
}  # fmt: skip


def pose(changes=()):
    xy = STAND.copy()
    for joint, place in dict(changes).items():
        xy[joint] = place
    return np.concatenate([xy, np.full((18, 1), 0.9, np.float32)], 1)


@pytest.fixture(scope="module")
def dance6():
    return Recognizer.load("dance6", None)


def classify(recognizer, people):
    return [p.motion for p in recognizer(np.zeros((260, 200, 3), np.uint8), np.stack(people))]


@pytest.mark.parametrize("label", skeletons.CLASSES)
def test_skeletons_are_valid_and_deterministic(label):
    drawn = [skeletons.draw(0, "val", label, number) for number in range(20)]
    for number, keypoints in enumerate(drawn):
        assert keypoints.shape == (18, 3) and keypoints.dtype == np.float32
        present = skeleton.is_present(keypoints)
        assert present.sum() >= 4 and not keypoints[~present].any()
        assert (keypoints[:, 2] <= 1).all()
        np.testing.assert_array_equal(keypoints, skeletons.draw(0, "val", label, number))
    others = skeletons.draw(1, "val", label, 0), skeletons.draw(0, "train", label, 0)
    assert not any(np.array_equal(drawn[0], other) for other in others)


def test_prepares_the_data_set(tmp_path, monkeypatch):
    monkeypatch.setattr(skeletons, "COUNTS", {"train": (2, 4), "val": (1, 2), "test": (1, 2)})
    prepare(open_source("stage:dance6"), tmp_path / "data", None)
    dataset = Dataset(tmp_path / "data")
    assert dataset.classes == [*MOTIONS, "unknown"] and dataset.info["source"] == "stage:dance6"
    assert [dataset.count(split) for split in ("train", "val", "test")] == [16, 8, 8]
    assert unpack(dataset.source("val")[0]).image is None


def test_shipped_file():
    file = shipped.FILES["dance6"]
    assert file.stat().st_size < 3_000_000
    model = packed.load("dance6")
    assert model.classes == [*MOTIONS, "unknown"] and model.source == "stage:dance6"
    assert model.temperature > 0 and 0.3 < model.min_confidence < 1
    assert "/" not in model.config.data.dir
    with pytest.raises(UserError, match="no checkpoint"):
        packed.load("dance6", "best")


@pytest.mark.parametrize("name", POSES)
def test_poses(dance6, name):
    changes, motion = POSES[name]
    mirrored = skeleton.flip(pose(changes), 200)
    for person, found in zip(
        (pose(changes), mirrored), classify(dance6, [pose(changes), mirrored]), strict=True
    ):
        assert found == motion, person


@pytest.mark.parametrize(
    "name", [name for name, (_, motion) in POSES.items() if motion in ("stand", "walk")]
)
def test_without_legs_nobody_stands_or_walks(dance6, name):
    person = pose(POSES[name][0])
    person[[9, 10, 12, 13]] = 0
    assert classify(dance6, [person]) == ["unknown"]


def test_real_skeletons(dance6, real_data):
    data = npz.read(real_data("skeletons/openpose18_actions.npz"))
    keypoints = np.concatenate([data["xy"], data["conf"][..., None]], -1).astype(np.float32)
    pck = data["source"] == "pck"
    images_of = {label: keypoints[pck & (data["label"] == label)][::8] * [200, 200, 1]
                 for label in np.unique(data["label"][pck])}  # fmt: skip
    motions = {
        "Yoga_UpwardSalute": "hold_high", "Traffic_BackStop": "single_arm_open",
        "Traffic_FrontStop": "wave", "Stand": "stand",
    }  # fmt: skip
    either = {"Stand_LeftArmRaised", "Stand_RightArmRaised"}
    right = wrong = total = 0
    for label, people in images_of.items():
        found = np.array(classify(dance6, list(people.astype(np.float32))))
        if label in motions:
            total += len(found)
            right += (found == motions[label]).sum()
        if label not in either:
            wrong += ((found != motions.get(label)) & (found != "unknown")).sum()
    assert right / total > 0.9
    assert wrong / sum(map(len, images_of.values())) < 0.03


def test_default_of_recognition(tmp_path):
    changes = POSES["both arms up"][0]
    images.write(tmp_path / "a.png", np.full((260, 200, 3), 90, np.uint8))
    openpose_json.write(openpose_json.path_for("a", tmp_path), pose(changes)[None])
    program("recognize", f"--input={tmp_path / 'a.png'}", f"--keypoints={tmp_path}",
            f"--output={tmp_path / 'out'}", warning="")  # fmt: skip
    result = json.loads((tmp_path / "out" / "a.json").read_text())
    assert result["classes"] == [*MOTIONS, "unknown"]
    assert [person["motion"] for person in result["frames"][0]["people"]] == ["hold_high"]


def test_recognition_without_any_option(real_data, tmp_path):
    """The pose network comes from the cache, the motion model from the package."""
    cache, published = tmp_path / "cache", real_data("pose/hpe0001")
    cache.mkdir()
    for suffix in (".xml", ".bin"):
        file = published / f"human-pose-estimation-0001{suffix}"
        shutil.copy(file, cache / f"hpe0001{suffix}")
    run = subprocess.run(
        [sys.executable, ROOT / "launch" / "recognize.py",
         f"--input={real_data('photos/handsup1.jpg')}", f"--output={tmp_path / 'out'}"],
        env=os.environ | {"JDANCE_CACHE": str(cache)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "pose network: hpe0001" in run.stdout and not run.stderr.count("warning")
    (frame,) = json.loads((tmp_path / "out" / "handsup1.json").read_text())["frames"]
    motions = [person["motion"] for person in frame["people"]]
    assert 1 <= len(motions) <= 5 and set(motions) <= {"hold_high", "unknown"}


def test_packs_a_run(tiny_data, tmp_path):
    config = tiny_config(tiny_data)
    config.epochs, config.model.branches = 0.5, "keypoints"
    run = tmp_path / "run"
    loop.train(config, run)
    calibrated = {"temperature": 2.0, "min_confidence": 0.4}
    (run / "calibration.json").write_text(json.dumps(calibrated))
    program("pack", f"--workdir={run}", f"--output={tmp_path / 'model.npz'}")
    before, after = packed.load(run), packed.load(tmp_path / "model.npz")
    assert after[1] == before[1] and after[3:] == before[3:] == (2.0, 0.4, before.source)
    net = models.build(after.config.model)
    inputs = features.compute("fused18", pose()[None]), np.ones(1, bool)
    logits = [net.apply(jax.device_get(m.variables), None, *inputs) for m in (before, after)]
    np.testing.assert_allclose(*logits, atol=1e-2)
    assert Recognizer.load(tmp_path / "model.npz", None).min_confidence == pytest.approx(0.4)
    assert Recognizer.load(run, None, min_confidence=0.0).min_confidence == 0


def test_damaged_files(tmp_path):
    arrays = npz.read(shipped.FILES["dance6"])
    first = next(name for name in arrays if name != "model")
    file = tmp_path / "model.npz"
    info = json.loads(str(arrays["model"]))
    damaged = [info | change for change in ({"classes": []}, {"temperature": float("nan")},
                                            {"min_confidence": 2})]  # fmt: skip
    changes = [{"model": np.array(text)} for text in ("{", "[]", *map(json.dumps, damaged))]
    for change in (*changes, {first: np.zeros(3)}):
        np.savez(file, **(arrays | change))
        with pytest.raises(UserError, match=r"model\.npz"):
            packed.load(file)


def test_threshold_of_confidence(tmp_path):
    # Motions are correct above 0.8 only; wrong answers "unknown" do not count.
    confidence = np.linspace(0.5, 1, 500)
    probabilities = np.stack([confidence, 1 - confidence], 1)
    labels = (confidence < 0.8).astype(int)
    value = calibration.threshold(probabilities, labels, 1)
    assert value == pytest.approx(0.79, abs=0.011)
    assert calibration.threshold(probabilities, np.ones(500, int), 1) == 1
    calibration.calibrate(probabilities, labels, "val", tmp_path, classes=["a", "unknown"])
    assert calibration.load_min_confidence(tmp_path) > 0
    calibration.calibrate(probabilities, labels, "val", tmp_path, classes=["a", "b"])
    assert calibration.load_min_confidence(tmp_path) == 0
