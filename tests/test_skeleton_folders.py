"""Folders of OpenPose JSON files, alone and beside images."""

from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_image

from jdance.data import crop, images, openpose_json, records
from jdance.data.prepare import prepare
from jdance.data.sources import open_source
from jdance.errors import UserError


def person(x, y, size, seed=0):
    """A person [18, 3] in a box of the given position and size."""
    joints = np.random.default_rng(seed).uniform(0, 1, (18, 2))
    joints -= joints.min(0)
    joints *= size / joints.max(0)
    return np.concatenate([joints + [x, y], np.full((18, 1), 0.9)], -1).astype(np.float32)


def load(folder, split):
    source = records.Dataset(folder).source(split)
    return [records.unpack(source[i]) for i in range(len(source))]


def write(path, *people):
    path.parent.mkdir(parents=True, exist_ok=True)
    openpose_json.write(path, np.array(people).reshape(-1, 18, 3))


def test_track_largest_keeps_one_person():
    """Two people cross; the tracked one is missing for a while, and a distant one appears."""
    frames, expected = [], []
    for t in range(30):
        tracked, other = person(10 * t, 50, 100, seed=1), person(300 - 10 * t, 55, 80, seed=2)
        present = not 18 <= t < 21
        people = [tracked] * present + [other] if t % 2 else [other] + [tracked] * present
        frames.append(np.stack(people))
        expected.append(tracked if present else np.zeros((18, 3)))
    frames[19] = person(3000, 50, 99)[None]
    frames[20] = np.zeros((0, 18, 3), np.float32)
    found = openpose_json.track_largest(frames)
    close = np.abs(found - expected).max((1, 2)) < 0.01
    assert close[:18].all() and close[21:].all() and not found[19:21].any()


def test_track_largest_without_people():
    assert not openpose_json.track_largest([np.zeros((0, 18, 3), np.float32)] * 3).any()
    assert openpose_json.track_largest([]).shape == (0, 18, 3)


def test_folder_of_stills(tmp_path):
    for i in range(10):
        for name in ("jump", "turn"):
            write(tmp_path / "in" / name / f"{i}_keypoints.json", person(0, 0, 50, i),
                  person(200, 0, 90, 100 + i))  # fmt: skip
    write(tmp_path / "in" / "jump" / "empty_keypoints.json")
    (tmp_path / "in" / "turn" / "bad.json").write_text("{}")
    (tmp_path / "in" / "turn" / "notes.txt").write_text("x")
    info = prepare(open_source(str(tmp_path / "in")), tmp_path / "out", None)
    reasons = {entry["file"].rpartition("/")[2]: entry["reason"] for entry in info["skipped"]}
    assert reasons.keys() == {"empty_keypoints.json", "bad.json", "notes.txt"}
    assert "has no person" in reasons["empty_keypoints.json"]
    assert not info["sequences"] and info["layout"] == "coco18"
    found = [e for split in info["splits"] for e in load(tmp_path / "out", split)]
    assert len(found) == 20
    for example in found:
        number = int(example.source.rpartition("/")[2].partition("_")[0])
        large = person(200, 0, 90, 100 + number)
        np.testing.assert_allclose(example.keypoints, crop.fit_keypoints(large), atol=0.05)
        assert not example.image
    everyone = open_source(str(tmp_path / "in"), label_all=True)
    info = prepare(everyone, tmp_path / "all", None)
    assert sum(split["count"] for split in info["splits"].values()) == 40


def test_folder_of_clips_with_splits(tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        for name in ("jump", "turn"):
            for clip in range(count):
                for t in range(6):
                    people = [] if t in (0, 3) else [person(2 * t, 0, 90, clip)]
                    file = f"frame_{t:012}_keypoints.json"
                    write(tmp_path / "in" / split / name / str(clip) / file, *people)
    (tmp_path / "in" / "test" / "jump" / "no_clip").mkdir()
    info = prepare(open_source(str(tmp_path / "in")), tmp_path / "out", None)
    assert [entry["reason"] for entry in info["skipped"]] == ["not a folder of .json frames"]
    assert info["sequences"] and info["splits"]["train"]["count"] == 6
    (example, *_) = load(tmp_path / "out", "test")
    assert example.keypoints.shape == (5, 18, 3)  # frames 1 to 5
    assert not example.keypoints[2].any()
    expected = np.stack([person(2 * t, 0, 90, 0) * (t != 3) for t in range(1, 6)])
    np.testing.assert_allclose(example.keypoints, crop.fit_keypoints(expected), atol=0.05)


def test_images_with_key_point_files(tmp_path):
    """In the folders of the images, in others, and for a manifest."""
    rows = ["path,label"]
    for i in range(12):
        image, people = tiny_image(i)
        name = ("jump", "turn")[i % 2]
        (tmp_path / "in" / name).mkdir(parents=True, exist_ok=True)
        # Both classes use the same stems.
        images.write(tmp_path / "in" / name / f"{i // 2}.png", image)
        rows.append(f"{name}/{i // 2}.png,{name}")
        for folder in ("in", "points"):
            write(tmp_path / folder / name / f"{i // 2}_keypoints.json", *people)
    (tmp_path / "in" / "list.csv").write_text("\n".join(rows))
    for number, (source, points) in enumerate(
        [("in", "in"), ("in", "points"), ("in/list.csv", "points")]
    ):
        opened = open_source(str(tmp_path / source), keypoints=tmp_path / points)
        info = prepare(opened, tmp_path / f"out{number}", None)
        assert not info["skipped"]
        for split in info["splits"]:
            for example in load(tmp_path / f"out{number}", split):
                name, stem = example.source.removesuffix(".png").split("/")
                _, (joints,) = tiny_image(2 * int(stem) + (name == "turn"))
                expected = crop.to_crop(joints, crop.person_square(joints))
                np.testing.assert_allclose(example.keypoints, expected, atol=0.01)
                assert example.image


def test_unsuitable_key_points_raise(tmp_path):
    write(tmp_path / "in" / "jump" / "0_keypoints.json", person(0, 0, 9))
    with pytest.raises(UserError, match="holds key points itself"):
        open_source(str(tmp_path / "in"), keypoints=tmp_path)
    with pytest.raises(UserError, match="has key points of its own"):
        open_source("stage:tiny", keypoints=tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        open_source(str(tmp_path / "in"), keypoints=tmp_path / "nowhere")
    image, _ = tiny_image(0)
    for i in range(4):
        (tmp_path / "photos" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        images.write(tmp_path / "photos" / "ab"[i % 2] / f"{i}.png", image)
    with pytest.raises(UserError, match="expected the key points of an image"):
        prepare(open_source(str(tmp_path / "photos"), keypoints=tmp_path / "in"),
                tmp_path / "out", None)  # fmt: skip


def test_people_with_few_joints_are_skipped(tmp_path):
    few = person(0, 0, 90)
    few[3:] = 0
    for i in range(2):
        write(tmp_path / "in" / "jump" / f"{i}_keypoints.json", few)
        write(tmp_path / "in" / "turn" / f"{i}_keypoints.json", person(0, 0, 9))
    info = prepare(open_source(str(tmp_path / "in")), tmp_path / "out", None)
    assert len(info["skipped"]) == 2 and "4 joints" in info["skipped"][0]["reason"]
    info = prepare(open_source(str(tmp_path / "in")), tmp_path / "all", None, min_joints=3)
    assert not info["skipped"]


@pytest.mark.parametrize(
    "name", ["{}_keypoints", "clip2_{:012}_keypoints", "f{:03}", "v1 {} pose2d"]
)
def test_frame_order_and_gaps(tmp_path, name):
    """A missing file is a frame without people."""
    for t in range(24):
        if t not in (7, 8):
            write(tmp_path / f"{name.format(t)}.json", person(10 * t, 0, 90))
    paths = openpose_json.frames(tmp_path)
    assert openpose_json.frame_indices(paths) == [t for t in range(24) if t not in (7, 8)]
    track = openpose_json.read_sequence(paths)
    np.testing.assert_allclose(track[:, 5, 0] - track[0, 5, 0],
                               [10 * t * (t not in (7, 8)) - (t in (7, 8)) * track[0, 5, 0]
                                for t in range(24)], atol=1e-3)  # fmt: skip


def test_frame_indices_without_consecutive_numbers():
    indices = lambda *names: openpose_json.frame_indices([Path(name) for name in names])  # noqa: E731
    assert indices("a.json", "b.json", "c.json") == [0, 1, 2]
    assert indices("10.json", "20.json", "40.json") == [0, 1, 3]  # every tenth frame
    assert indices("0.json", "33.json", "67.json") == [0, 1, 2]  # milliseconds
    assert indices("1_1.json", "1_2.json", "2_1.json") == [0, 1, 2]
    assert indices("1.json", "01.json") == [0, 1] and indices("5.json") == [0] and indices() == []


def test_video_keypoints(tmp_path):
    for index, digits in ((0, 12), (1, 1), (12, 1), (3, 4)):
        write(tmp_path / f"x_{index:0{digits}}_keypoints.json", person(index, 0, 90))
    (tmp_path / "x_4_keypoints.json").write_text("{}")
    write(tmp_path / "xx_2_keypoints.json", person(0, 0, 90))
    known = openpose_json.VideoKeypoints("in/x.mp4", tmp_path)
    assert [len(known(i)) for i in (0, 1, 2, 3, 4, 12)] == [1, 1, 0, 1, 0, 1]
    assert list(known.problems) == [2, 4]
    assert "x_000000000002_keypoints.json: no such file" in known.problems[2]
    with pytest.raises(UserError, match=r"y_000000000000_keypoints\.json: no such file"):
        openpose_json.VideoKeypoints("y.mp4", tmp_path)


def test_people_in_key_point_files_are_counted_from_the_left(tmp_path):
    """OpenPose writes them in any order."""
    left, right = person(20, 10, 40), person(70, 10, 40)
    rows = ["path,label,person"]
    for i in range(4):
        images.write(tmp_path / f"{i}.png", np.zeros((90, 120, 3), np.uint8))
        write(tmp_path / "points" / f"{i}_keypoints.json", right, left)
        rows += [f"{i}.png,left,0", f"{i}.png,right,1"]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    source = open_source(str(tmp_path / "list.csv"), keypoints=tmp_path / "points")
    info = prepare(source, tmp_path / "out", None)
    for split in info["splits"]:
        for example in load(tmp_path / "out", split):
            name = info["classes"][example.label]
            joints = left if name == "left" else right
            expected = crop.to_crop(joints, crop.person_square(joints))
            np.testing.assert_allclose(example.keypoints, expected, atol=0.1)
            assert example.person == ("left", "right").index(name)


def _key_points_of(source):
    """{item: key points, or the error's text}."""
    found = {}
    for item in source.items:
        try:
            found[item.name] = item.load().detected
        except UserError as error:
            found[item.name] = str(error)
    return found


def test_images_that_share_a_stem_have_key_points_of_their_own(tmp_path):
    folder, points = tmp_path / "in" / "jump", tmp_path / "points" / "jump"
    folder.mkdir(parents=True)
    for name in ("a.jpg", "a.png", "b.png", "c.png"):
        images.write(folder / name, np.zeros((90, 120, 3), np.uint8))
    a_jpg, a_png, b, c = (person(5 + 9 * i, 5, 40) for i in range(4))
    write(points / "a.jpg_keypoints.json", a_jpg)
    write(points / "a_keypoints.json", a_png)  # of which of the two?
    write(points / "b_keypoints.json", b)
    write(points / "c.png_keypoints.json", c)  # as the results of recognition may be called
    found = _key_points_of(open_source(str(tmp_path / "in"), keypoints=tmp_path / "points"))
    assert "a.png_keypoints.json: no such file" in found.pop("jump/a.png")
    for name, expected in {"a.jpg": a_jpg, "b.png": b, "c.png": c}.items():
        np.testing.assert_allclose(found[f"jump/{name}"][0], expected, atol=0.1)


def test_absolute_paths_have_key_points_in_the_folders_of_the_manifest(tmp_path):
    rows = ["path,label"]
    for i, name in enumerate(("jump", "turn")):
        (tmp_path / name).mkdir()
        images.write(tmp_path / name / "a.png", np.zeros((90, 120, 3), np.uint8))
        write(tmp_path / "points" / name / "a_keypoints.json", person(5 + 9 * i, 5, 40))
        rows.append(f"{tmp_path / name / 'a.png'},{name}")
    (tmp_path / "list.csv").write_text("\n".join(rows))
    source = open_source(str(tmp_path / "list.csv"), keypoints=tmp_path / "points")
    for found, i in zip(_key_points_of(source).values(), range(2), strict=True):
        np.testing.assert_allclose(found[0], person(5 + 9 * i, 5, 40), atol=0.1)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "list.csv").write_text("\n".join(rows))
    write(tmp_path / "points" / "a_keypoints.json", person(5, 5, 40))
    with pytest.raises(UserError, match=r"several images are a\.png"):
        open_source(str(tmp_path / "elsewhere" / "list.csv"), keypoints=tmp_path / "points")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda joints: joints * [1 / 120, 1 / 90, 1], "look like fractions of the image"),
        (lambda joints: joints * [20, 20, 1], "lie outside the image of 120 x 90 pixels"),
    ],
)
def test_key_points_in_other_units_are_refused(tmp_path, change, message):
    write(tmp_path / "x.json", change(person(20, 10, 40)))
    with pytest.raises(UserError, match=message):
        openpose_json.read(tmp_path / "x.json", (90, 120))
    write(tmp_path / "x.json", change(person(20, 10, 40)), person(60, 10, 40))
    assert len(openpose_json.read(tmp_path / "x.json", (90, 120))) == 2


def test_detections_of_few_joints_are_not_tracked(tmp_path):
    ghost = np.zeros((18, 3), np.float32)
    ghost[:2] = [[0, 0, 1], [900, 900, 1]]
    for i in range(5):
        write(tmp_path / f"{i}.json", person(50 + i, 40, 80), *[ghost] * (i == 2))
    paths = openpose_json.frames(tmp_path)
    np.testing.assert_allclose(
        openpose_json.read_sequence(paths, 4)[:, 1, 0],
        [person(50 + i, 40, 80)[1, 0] for i in range(5)],
        atol=0.01,
    )
