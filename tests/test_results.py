"""Results of recognition in Python: tables, drawings, notebooks, files, documented lines."""

import base64
import json
import re
from contextlib import closing

import numpy as np
import pytest
from conftest import ROOT

from jdance import skeleton
from jdance.data import images, openpose_json, videos
from jdance.errors import UserError
from jdance.pose import zoo
from jdance.recognize import Recognizer, timeline, video
from jdance.recognize.recognizer import annotate
from jdance.recognize.sequences import SequenceClassifier
from jdance.report import draw, html
from jdance.stagedance.video import StageVideo

FPS, COUNT = 7.5, 15


@pytest.fixture(scope="module")
def recognizer():
    return Recognizer.load("dance6", None)


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """A folder with a video of two dancers, their key points, and its first frame."""
    folder = tmp_path_factory.mktemp("stage")
    clip = StageVideo(3, 0, dancers=2, seconds=COUNT / FPS, width=160, height=120)
    (folder / "keypoints").mkdir()
    with closing(videos.VideoWriter(folder / "dance.webm", FPS)) as writer:
        for index, (when, scene) in enumerate(clip.frames(FPS)):
            writer.write(when, scene.image)
            people = np.array([dancer.keypoints for dancer in scene.dancers])
            path = openpose_json.path_for_frame("dance.webm", index, folder / "keypoints")
            openpose_json.write(path, people)
            if not index:
                images.write(folder / "photo.png", scene.image)
                openpose_json.write(folder / "photo_keypoints.json", people)
    return folder


@pytest.fixture(scope="module")
def photo(recognizer, stage):
    return recognizer.image(stage / "photo.png", stage / "photo_keypoints.json")


@pytest.fixture(scope="module")
def dance(recognizer, stage):
    return recognizer.video(stage / "dance.webm", keypoints=stage / "keypoints")


def test_image(recognizer, stage, photo):
    pixels = images.read(stage / "photo.png")
    keypoints = openpose_json.read(stage / "photo_keypoints.json")
    expected = recognizer(pixels, keypoints)
    assert [p.motion for p in photo.people] == [p.motion for p in expected]
    np.testing.assert_array_equal(photo.draw(), annotate(pixels, expected, recognizer.classes))
    assert not np.array_equal(photo.draw(), pixels)
    from_array = recognizer.image(pixels, keypoints)
    assert from_array.source == "" and repr(from_array).startswith("ImageResult('': ")
    np.testing.assert_array_equal(from_array.draw(), photo.draw())
    with pytest.raises(UserError, match="choose a pose network"):
        recognizer.image(pixels)


def test_table_of_people(photo):
    pytest.importorskip("pandas")
    table, person = photo.to_pandas(), photo.people[1]
    assert len(table) == 2 and list(table.columns[:3]) == ["person", "motion", "confidence"]
    row = table.iloc[1]
    assert row.motion == person.motion and row.confidence == person.probabilities.max()
    assert (row.x, row.y, row.width, row.height) == person.box
    np.testing.assert_array_equal(row[7:].tolist(), person.probabilities)
    assert table.columns[7] == f"p({photo.classes[0]})"
    joints = photo.to_pandas("joints")
    row = joints[(joints.track == 1) & (joints.joint == "left_wrist")].iloc[0]
    expected = person.keypoints[skeleton.L_WRIST]
    np.testing.assert_allclose([row.x, row.y, row.confidence], expected, atol=1e-3)
    with pytest.raises(ValueError, match="'frames': no such table; known: people, joints"):
        photo.to_pandas("frames")


def jpegs(text):
    return [images.decode(base64.b64decode(data))
            for data in re.findall("data:image/jpeg;base64,([^\"]+)", text)]  # fmt: skip


def test_image_in_a_notebook(recognizer, photo):
    text = photo._repr_html_()
    (shown,) = jpegs(text)
    np.testing.assert_array_equal(shown, images.decode(images.encode_jpeg(photo.draw(), 85)))
    for i, person in enumerate(photo.people):
        cells = f"<td>{i}</td><td>{person.motion}</td><td>{person.probabilities.max():.2f}</td>"
        assert cells in text
    assert "<html" not in text and "http" not in text
    nobody = recognizer.image(np.zeros((64, 48, 3), np.uint8), np.zeros((0, 18, 3), np.float32))
    assert "0 people" in nobody._repr_html_() and repr(nobody) == "ImageResult('': no person)"


def test_fragments_do_not_style_the_notebook():
    text = html.to_fragment([html.Section("<a>", [html.Text("b")])])
    style = text.partition("<style>")[2].partition("</style>")[0]
    assert style.startswith(".jdance {") and style.endswith("}")
    assert not re.search(r"\bbody\b|:root", style)
    assert style.count("{") == style.count("}") and "<h3>&lt;a&gt;</h3>" in text


def test_saves_an_image(photo, tmp_path):
    path = photo.save(tmp_path / "out", formats=["coco", "openpose"])
    assert path == tmp_path / "out" / "photo.json"
    assert {p.name for p in path.parent.iterdir()} == {
        "photo.json", "photo.png", "photo_coco.json", "photo_keypoints.json",
    }  # fmt: skip
    (frame,) = json.loads(path.read_text())["frames"]
    assert [p["motion"] for p in frame["people"]] == [p.motion for p in photo.people]
    np.testing.assert_array_equal(images.read(path.with_suffix(".png")), photo.draw())
    assert len(openpose_json.read(tmp_path / "out" / "photo_keypoints.json")) == 2
    with pytest.raises(UserError, match="motions over time"):
        photo.save(tmp_path / "out", formats=["srt"])
    with pytest.raises(UserError, match="s3://bucket/out: save writes to local folders only"):
        photo.save("s3://bucket/out")


def test_results_are_not_saved_beside_the_original(photo, dance, stage, tmp_path):
    before = {path: path.read_bytes() for path in stage.iterdir() if path.is_file()}
    (tmp_path / "link").symlink_to(stage)
    for result in (photo, dance):
        for folder in (stage, tmp_path / "link"):
            with pytest.raises(UserError, match="is the folder of"):
                result.save(folder)
    assert before == {path: path.read_bytes() for path in stage.iterdir() if path.is_file()}


def test_video_equals_the_program(recognizer, stage, dance, tmp_path):
    """As `video.recognize_video` writes it, also when saved from the result."""
    settings = video.Settings(formats=["csv", "srt"])
    problem = video.recognize_video(
        recognizer, stage / "dance.webm", tmp_path / "dance", settings,
        keypoints=stage / "keypoints", classifier=SequenceClassifier.form_of("dance6"),
    )  # fmt: skip
    assert problem == dance.problem == "" and len(dance.frames) == COUNT
    written = json.loads((tmp_path / "dance.json").read_text())
    assert dance.tracks == written["tracks"] and len(dance.tracks) == 2
    path = dance.save(tmp_path / "again", formats=["csv", "srt"])
    for name in ("dance.json", "dance.csv", "dance.srt", "dance_joints.csv", "dance.html"):
        assert (path.parent / name).read_text() == (tmp_path / name).read_text(), name
    (first,), (second,) = ([*folder.glob("dance.webm"), *folder.glob("dance.mp4")]
                           for folder in (tmp_path, path.parent))  # fmt: skip
    for one, other in zip(videos.Video(first), videos.Video(second), strict=True):
        np.testing.assert_array_equal(one.image, other.image)
    (path.parent / first.name).unlink()
    dance.save(tmp_path / "again", annotate=False)
    assert not (path.parent / first.name).exists()


def test_tables_of_a_video(dance):
    pytest.importorskip("pandas")
    segments = [timeline.Segment(*row) for row in dance.to_pandas().itertuples(index=False)]
    assert segments == dance.segments and repr(dance).endswith("2 dancers, 2.0 s)")
    joints = dance.to_pandas("joints")
    assert joints.frame.nunique() == COUNT
    assert joints.time.max() == pytest.approx((COUNT - 1) / FPS, abs=1e-3)
    person = dance.frames[9].people[1]
    row = joints[(joints.frame == 9) & (joints.track == person.track) & (joints.joint == "neck")]
    expected = person.keypoints[skeleton.NECK]
    np.testing.assert_allclose(row[["x", "y", "confidence"]].iloc[0], expected, atol=1e-3)


def test_draws_a_frame(dance, stage):
    frame = dance.frames[7]
    image = videos.frame_at(stage / "dance.webm", frame.time)
    expected = draw.people(
        image, [p.keypoints for p in frame.people], [p.box for p in frame.people], frame.labels,
        frame.color_indices,
    )  # fmt: skip
    np.testing.assert_array_equal(dance.draw(frame.time + 0.1), expected)
    assert dance.draw(0).shape == dance.draw(99.0).shape == (120, 160, 3)


def test_video_in_a_notebook(dance):
    text = dance._repr_html_()
    assert text.count("<rect") >= len(dance.segments) and "2 dancers tracked over 0:02.0." in text
    assert all(f"{s.motion} " in text for s in dance.segments)
    shown = images.decode(images.encode_jpeg(dance.draw(0), 80))
    np.testing.assert_array_equal(jpegs(text)[0], shown)


def test_clip_of_skeletons(recognizer, stage, tmp_path):
    clip = recognizer.video(stage / "keypoints", fps=FPS, every=2)
    assert len(clip.frames) == (COUNT + 1) // 2 and len(clip.tracks) == 2
    path = clip.save(tmp_path, formats=["vtt"])
    assert path == tmp_path / "keypoints.json" and (tmp_path / "keypoints.vtt").exists()
    with pytest.raises(UserError, match="not a video file"):
        clip.draw(0.0)


def test_the_documented_lines(stage, tmp_path, monkeypatch):
    pytest.importorskip("pandas")
    monkeypatch.setattr(zoo, "choose", lambda: "stage")  # which ships, and suits the scene
    monkeypatch.chdir(tmp_path)
    images.write(tmp_path / "photo.jpg", images.read(stage / "photo.png"))
    (tmp_path / "dance.mp4").write_bytes((stage / "dance.webm").read_bytes())
    text = (ROOT / "docs" / "python.md").read_text()
    names: dict = {}
    exec(text.split("```python\n")[1].split("```")[0], names)
    assert len(names["people"]) == len(names["photo"].people) >= 1
    assert len(names["dance"].frames) == (COUNT + 1) // 2
    assert len(names["motions"]) == len(names["dance"].segments) >= 1
    assert names["pixels"].shape == names["frame"].shape == (120, 160, 3)
    assert {"dance.eaf", "dance.srt", "dance.json"} <= {
        p.name for p in (tmp_path / "out").iterdir()
    }
