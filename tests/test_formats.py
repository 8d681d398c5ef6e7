"""Formats of other tools, read back by these tools' own libraries."""

import contextlib
import io
import json
import os
import tracemalloc
from contextlib import closing
from html import unescape
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import tiny_image
from programs import program

from jdance import files, skeleton
from jdance.data import images, openpose_json, videos
from jdance.errors import UserError
from jdance.recognize import annotations, formats, timeline
from jdance.recognize.inputs import Job
from jdance.recognize.stream import TrackedPerson
from jdance.recognize.timeline import Segment
from jdance.recognize.writers import Clip, MotionFrame

COUNT, FPS = 25, 10.0
CLASSES = ["walk", 'a "wave" & <turn>']
# The first dancer changes at 1.2 s; the second is away from 1.0 to 1.5 s.
SEGMENTS = [
    Segment(0, 0.0, 1.2, CLASSES[0], 0.9), Segment(0, 1.2, 2.5, CLASSES[1], 0.8),
    Segment(3, 0.0, 1.0, CLASSES[1], 0.7), Segment(3, 1.5, 2.5, "unknown", 0.4),
]  # fmt: skip
# The cues of the subtitles: start, end, and the dancers' motions.
CUES = [
    (0.0, 1.0, {0: CLASSES[0], 3: CLASSES[1]}), (1.0, 1.2, {0: CLASSES[0]}),
    (1.2, 1.5, {0: CLASSES[1]}), (1.5, 2.5, {0: CLASSES[1], 3: "unknown"}),
]  # fmt: skip


def dancer(track, index, motion):
    """A dancer who moves to the right; the first has no left wrist."""
    keypoints = tiny_image(track)[1][0]
    keypoints[:, 0] += index / 4
    keypoints[:, 2] = np.linspace(0.3, 0.9, skeleton.NUM_JOINTS)
    if track == 0:
        keypoints[skeleton.L_WRIST] = 0
    x, y = keypoints[keypoints[:, 2] > 0, :2].T
    box = float(x.min()), float(y.min()), float(np.ptp(x)), float(np.ptp(y))
    probabilities = np.array([0.75, 0.25])
    return TrackedPerson(track, keypoints, box, probabilities, motion=motion, confidence=0.7)


def frames(clip, count=COUNT):
    for index in range(count):
        people = [dancer(0, index, CLASSES[index >= 12])]
        if not 10 <= index < 15:
            people.append(dancer(3, index, CLASSES[1] if index < 10 else "unknown"))
        yield MotionFrame(index, index / FPS, tiny_image(index)[0], people, clip)


def write(name, folder, source="dance.mp4", segments=SEGMENTS, names=()):
    """Writes the dancers in a format; returns the path and the frames."""
    fps = None if names else FPS
    clip = Clip(str(folder / source), (96, 80), fps, CLASSES, images=names)
    written = list(frames(clip, len(names) or COUNT))
    with closing(formats.Several([name], folder / source.partition(".")[0], clip)) as writer:
        for frame in written:
            writer.add(frame)
        writer.finish(segments)
    assert not list(folder.rglob("*.partial")) and not list(folder.rglob("*.old"))
    return folder / f"dance{formats.FORMATS[name].suffix}", written


def test_coco(tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    names = ["000000000139.jpg", "000000000885.png", "7.jpg"]
    path, written = write("coco", tmp_path, names=names)
    entries = json.loads(path.read_text())
    assert [entry["image_id"] for entry in entries] == [139, 139, 885, 885, 7, 7]
    assert [entry["file_name"] for entry in entries[::2]] == names
    person = written[0].people[1]
    triples = np.reshape(entries[1]["keypoints"], (17, 3))
    for joint, name in ((0, "nose"), (1, "left_eye"), (5, "left_shoulder"), (10, "right_wrist"),
                        (16, "right_ankle")):  # fmt: skip
        expected = person.keypoints[skeleton.NAMES.index(name)]
        np.testing.assert_allclose(triples[joint], expected, atol=1e-3)
    np.testing.assert_allclose(entries[1]["bbox"], person.box, atol=0.01)
    assert entries[0]["keypoints"][27:30] == [0, 0, 0]
    for entry in entries:
        confidence = np.array(entry["keypoints"][2::3])
        assert entry["score"] == pytest.approx(confidence[confidence > 0].mean(), abs=1e-3)

    def precision(move):
        truth = [
            {**entry, "id": i + 1, "area": float(np.prod(entry["bbox"][2:])), "iscrowd": 0,
             "keypoints": [move * (k % 3 == 0) + (2 * (v > 0) if k % 3 == 2 else v)
                           for k, v in enumerate(entry["keypoints"])],
             "num_keypoints": int(np.count_nonzero(entry["keypoints"][2::3]))}
            for i, entry in enumerate(entries)
        ]  # fmt: skip
        with contextlib.redirect_stdout(io.StringIO()):
            dataset = coco.COCO()
            dataset.dataset = {
                "info": {}, "images": [{"id": i} for i in (139, 885, 7)],
                "categories": [{"id": 1, "name": "person"}], "annotations": truth,
            }  # fmt: skip
            dataset.createIndex()
            evaluation = cocoeval.COCOeval(dataset, dataset.loadRes(str(path)), "keypoints")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return evaluation.stats[0]

    assert precision(0) == pytest.approx(1) and precision(6) < 0.7


def test_coco_ids(tmp_path):
    def ids(names):
        path, _ = write("coco", tmp_path, names=names)
        return [entry["image_id"] for entry in json.loads(path.read_text())][::2]

    assert ids(["a.jpg", "12.jpg"]) == [1, 2]
    assert ids(["12.jpg", "012.jpg"]) == [1, 2]  # the same number
    path, _ = write("coco", tmp_path)
    entries = json.loads(path.read_text())
    assert len(entries) == 45 and entries[-1]["image_id"] == 24 and "file_name" not in entries[0]
    write("coco", tmp_path, names=["a.jpg"])
    with closing(formats.Coco(tmp_path / "empty", Clip("", None, FPS, CLASSES))) as writer:
        writer.finish([])
    assert json.loads((tmp_path / "empty_coco.json").read_text()) == []


def test_openpose(tmp_path):
    for _ in range(2):  # the second replaces the first
        folder, written = write("openpose", tmp_path, "dance.v2.mp4")
    folder = tmp_path / "dance_keypoints"
    paths = openpose_json.frames(folder)
    assert len(paths) == COUNT and openpose_json.frame_indices(paths) == list(range(COUNT))
    read = openpose_json.VideoKeypoints("dance.v2.mp4", folder)
    for frame in written:
        expected = np.stack([person.keypoints for person in frame.people])
        np.testing.assert_allclose(read(frame.index), expected, atol=1e-3)
        content = json.loads(paths[frame.index].read_text())["people"]
        assert [p["person_id"] for p in content] == [[p.track] for p in frame.people]
        assert content[0]["hand_left_keypoints_2d"] == []
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="dance_keypoints: holds other files"):
        write("openpose", tmp_path, "dance.v2.mp4")
    assert (folder / "notes.txt").exists()


def test_openpose_of_images(tmp_path):
    _, written = write("openpose", tmp_path, names=["a.b.jpg", "c.jpg", "c.png"])
    for name, frame in zip(("a.b", "c.jpg", "c.png"), written, strict=True):
        read = openpose_json.read(tmp_path / f"{name}_keypoints.json")
        np.testing.assert_allclose(read[1], frame.people[1].keypoints, atol=1e-3)


def test_csv(tmp_path):
    pandas = pytest.importorskip("pandas")
    path, written = write("csv", tmp_path)
    table = pandas.read_csv(path)
    assert tuple(table.columns) == formats.JOINT_COLUMNS
    assert len(table) == 25 * 17 + 20 * 18  # the first dancer lacks a joint
    row = table[(table.frame == 20) & (table.track == 3) & (table.joint == "left_knee")].iloc[0]
    expected = written[20].people[1].keypoints[skeleton.L_KNEE]
    np.testing.assert_allclose([row.x, row.y, row.confidence], expected, atol=1e-3)
    assert row.time == pytest.approx(2.0)
    wide = table[table.track == 0].pivot(index="frame", columns="joint", values="x")
    assert wide.shape == (25, 17) and not wide.isna().any().any()
    path, _ = write("csv", tmp_path, names=["a.jpg", "b.jpg"])
    assert list(pandas.read_csv(path).image.unique()) == ["a.jpg", "b.jpg"]


def eaf_is_well_formed(path):
    """Checks order, references and times of an EAF document, as its schema demands."""
    root = ElementTree.parse(path).getroot()
    order = ["HEADER", "TIME_ORDER", "TIER", "LINGUISTIC_TYPE", "LANGUAGE", "CONTROLLED_VOCABULARY"]
    tags = [element.tag for element in root]
    assert tags == sorted(tags, key=order.index) and root.get("FORMAT") == "3.0"
    slots = {
        slot.get("TIME_SLOT_ID"): int(slot.get("TIME_VALUE")) for slot in root.iter("TIME_SLOT")
    }
    assert list(slots.values()) == sorted(slots.values())
    entries = {entry.get("CVE_ID"): entry[0].text for entry in root.iter("CV_ENTRY_ML")}
    found = list(root.iter("ALIGNABLE_ANNOTATION"))
    for annotation in found:
        assert slots[annotation.get("TIME_SLOT_REF1")] < slots[annotation.get("TIME_SLOT_REF2")]
        assert entries[annotation.get("CVE_REF")] == annotation[0].text
    assert len({annotation.get("ANNOTATION_ID") for annotation in found}) == len(found)
    languages = {language.get("LANG_ID") for language in root.iter("LANGUAGE")}
    assert {value.get("LANG_REF") for value in root.iter("CVE_VALUE")} <= languages
    return root


def test_eaf(tmp_path):
    elan = pytest.importorskip("pympi.Elan", reason="needs pympi-ling")
    path, _ = write("eaf", tmp_path)
    assert not elan.Eaf(path).media_descriptors  # there is no video
    video = tmp_path / "my videos" / "dance.mp4"
    clip = Clip(str(video), (96, 80), FPS, CLASSES, video=video)
    with closing(formats.Eaf(tmp_path / "out" / ".." / "dance", clip)) as writer:
        (tmp_path / "out").mkdir()
        writer.finish(SEGMENTS)
    eaf_is_well_formed(path)
    document = elan.Eaf(path)
    (media,) = document.media_descriptors
    assert media["RELATIVE_MEDIA_URL"] == "./my videos/dance.mp4"
    assert media["MEDIA_URL"] == f"file://{tmp_path}/my videos/dance.mp4"
    assert media["MIME_TYPE"] == "video/mp4"
    assert sorted(document.get_tier_names()) == ["dancer 0", "dancer 3"]
    for track in (0, 3):
        read = [(start / 1000, end / 1000, motion) for start, end, motion
                in document.get_annotation_data_for_tier(f"dancer {track}")]  # fmt: skip
        assert sorted(read) == [(s.start, s.end, s.motion) for s in SEGMENTS if s.track == track]
    vocabulary = document.controlled_vocabularies["motions"][1].values()
    assert [entry[0][0][0] for entry in vocabulary] == [*CLASSES, "unknown"]


def test_textgrid(tmp_path):
    parselmouth = pytest.importorskip("parselmouth", reason="needs praat-parselmouth")
    path, _ = write("textgrid", tmp_path)
    call = parselmouth.praat.call
    grid = parselmouth.read(str(path))
    assert (grid.xmin, grid.xmax) == (0, 2.5) and call(grid, "Get number of tiers") == 2

    def intervals(tier):
        return [
            tuple(call(grid, f"Get {what} of interval", tier, i + 1)
                  for what in ("start time", "end time", "label"))
            for i in range(call(grid, "Get number of intervals", tier))
        ]  # fmt: skip

    assert [call(grid, "Get tier name", tier) for tier in (1, 2)] == ["dancer 0", "dancer 3"]
    assert intervals(1) == [(0, 1.2, CLASSES[0]), (1.2, 2.5, CLASSES[1])]
    assert intervals(2) == [(0, 1, CLASSES[1]), (1, 1.5, ""), (1.5, 2.5, "unknown")]


def lines_of(motions):
    return "\n".join(f"dancer {track}: {motion}" for track, motion in motions.items())


def test_srt(tmp_path):
    srt = pytest.importorskip("srt")
    path, _ = write("srt", tmp_path)
    read = [(cue.start.total_seconds(), cue.end.total_seconds(), cue.content)
            for cue in srt.parse(path.read_text())]  # fmt: skip
    assert read == [(start, end, lines_of(motions)) for start, end, motions in CUES]


def test_vtt(tmp_path):
    webvtt = pytest.importorskip("webvtt", reason="needs webvtt-py")
    path, _ = write("vtt", tmp_path)
    captions = list(webvtt.read(path))
    for caption, (start, end, motions) in zip(captions, CUES, strict=True):
        assert (caption.start, caption.end) == (f"00:00:0{start:.3f}", f"00:00:0{end:.3f}")
        assert unescape(caption.text) == lines_of(motions) and caption.voice == "dancer 0"


def test_hours_and_no_people():
    segments = [Segment(0, 3725.5, 3726.0, "a\nb", 1.0)]
    assert annotations.srt(segments).splitlines()[1:] == [
        "01:02:05,500 --> 01:02:06,000", "dancer 0: a b",
    ]  # fmt: skip
    assert annotations.srt([]) == "" and annotations.vtt([]) == "WEBVTT\n"
    assert "size = 0" in annotations.textgrid([], 2.0)
    # At a changing frame rate a segment may overlap the next one.
    overlapping = [Segment(0, 0, 1.3, "a", 1), Segment(0, 1.2, 2, "b", 1), Segment(0, 2, 2, "c", 1)]
    assert annotations.spans(overlapping) == {0: [(0, 1200, "a"), (1200, 2000, "b")]}


def test_rerun(tmp_path):
    pytest.importorskip("rerun", reason="needs rerun-sdk")
    from rerun.chunk import RrdReader

    path, written = write("rerun", tmp_path)
    reader = RrdReader(path)
    assert [entry.application_id for entry in reader.recordings()] == ["jdance"]
    assert len(reader.blueprints()) == 1
    rows = {}
    for chunk in reader.stream():
        rows.setdefault(chunk.entity_path, []).extend(chunk.to_record_batch().to_pylist())

    def column(entity, name, index):
        found = {row[index]: row[name] for row in rows[entity] if row.get(name) is not None}
        return [found[key] for key in sorted(found)]

    points = column("/video/dancer_3", "Points2D:positions", "frame")
    present = [frame for frame in written if len(frame.people) == 2]
    assert len(points) == len(present)
    for row, frame in zip(points, present, strict=True):
        np.testing.assert_allclose(row, frame.people[1].keypoints[:, :2], atol=1e-3)
    ids = column("/video/dancer_0", "Points2D:keypoint_ids", "frame")[0]
    assert ids == [i for i in range(18) if i != skeleton.L_WRIST]
    strips = column("/video/dancer_0", "LineStrips2D:strips", "frame")[0]
    assert len(strips) == skeleton.NUM_TREE_LIMBS - 1
    assert column("/video/dancer_0", "Boxes2D:labels", "frame")[0] == ["0: walk 0.70"]
    assert column("/video/dancer_3", "Clear:is_recursive", "frame") == [[False]]
    assert column("/probabilities/dancer_0", "Scalars:scalars", "frame")[0] == [0.75, 0.25]
    jpegs = column("/video/image", "EncodedImage:blob", "frame")
    assert len(jpegs) == COUNT
    assert bytes(jpegs[3][0]) == images.encode_jpeg(written[3].image, 80)
    states = column("/motions/dancer_3", "StateChange:state", "time")
    assert states == [[CLASSES[1]], [""], ["unknown"], [""]]


def test_rerun_of_images(tmp_path):
    pytest.importorskip("rerun", reason="needs rerun-sdk")
    from rerun.chunk import RrdReader

    path, _ = write("rerun", tmp_path, names=["a.jpg", "b.jpg"], segments=[])
    chunks = [c for c in RrdReader(path).stream() if c.entity_path == "/video/image"]
    assert sum(c.num_rows for c in chunks) == 2 and "time" not in chunks[0].timeline_names


def test_names_of_formats(monkeypatch):
    assert formats.select(["srt", "coco", "srt"]) == ["srt", "coco"]
    with pytest.raises(UserError, match=r"--format=nix,da: no such format; known: coco, openpose"):
        formats.select(["nix", "coco", "da"])
    with pytest.raises(UserError, match=r"--format=srt: .* images have coco, openpose, csv, rerun"):
        formats.select(["srt", "coco"], videos=False)
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install rerun-sdk"):
        formats.select(["rerun"])


def test_videos_end_to_end(tmp_path):
    """All formats of a video, whose key points are then read back as --input and --keypoints."""
    (tmp_path / "scene-0_keypoints").mkdir()
    older = openpose_json.path_for_frame("scene-0.mp4", 99, tmp_path / "scene-0_keypoints")
    older.write_text("{}")  # of a longer video
    program("stage", f"--output={tmp_path}", "--video", "--dancers=2", "--seconds=3", "--fps=5",
            "--width=160", "--height=120")  # fmt: skip
    assert not older.exists()
    (video,) = tmp_path.glob("scene-0.*")
    names = [name for name in formats.FORMATS if name != "rerun" or find_spec("rerun")]
    out, keypoints = tmp_path / "out", tmp_path / "scene-0_keypoints"
    common = f"--input={video}", "--noannotate"
    program("recognize", *common, f"--keypoints={keypoints}", f"--output={out}",
            f"--format={','.join(names)}")  # fmt: skip
    expected = [f"scene-0{formats.FORMATS[name].suffix}" for name in names]
    assert {path.name for path in files.list_visible(out)} == {
        *expected, "scene-0.json", "scene-0.csv", "scene-0.html",
    }  # fmt: skip
    segments = timeline.read_csv(out / "scene-0.csv")
    assert next(annotations.cues(segments))[0] == 0
    root = eaf_is_well_formed(out / "scene-0.eaf")
    motions = [value.text for value in root.iter("ANNOTATION_VALUE")]
    assert motions == [segment.motion for segment in segments]
    assert root.find("HEADER/MEDIA_DESCRIPTOR").get("RELATIVE_MEDIA_URL") == f"../{video.name}"
    result = json.loads((out / "scene-0.json").read_text())
    people = [len(frame["people"]) for frame in result["frames"]]
    written = out / "scene-0_keypoints"
    _, error = program("recognize", *common, f"--keypoints={written}", f"--output={out}",
                       "--format=openpose", status=1)  # fmt: skip
    assert "might be replaced by --format=openpose" in error
    for words in ((*common, f"--keypoints={written}"),
                  (f"--input={written}", "--frames_per_second=5")):  # fmt: skip
        program("recognize", *words, f"--output={tmp_path / 'again'}")
        (path,) = (tmp_path / "again").glob("*.json")
        again = json.loads(path.read_text())
        assert [len(frame["people"]) for frame in again["frames"]] == people
        path.unlink()


def test_images_end_to_end(tmp_path):
    photos, keypoints = tmp_path / "photos", tmp_path / "keypoints"
    photos.mkdir()
    keypoints.mkdir()
    for number in (17, 3):
        image, people = tiny_image(number)
        images.write(photos / f"{number}.png", image)
        openpose_json.write(openpose_json.path_for(str(number), keypoints), people)
    (photos / "5.png").write_bytes(b"")
    words = f"--input={photos}", f"--keypoints={keypoints}", f"--output={tmp_path / 'out'}"
    captured, error = program("recognize", *words, "--format=coco,openpose,csv", status=1)
    assert "skipped" in captured and "1 of 3 inputs skipped" in error
    entries = json.loads((tmp_path / "out" / "images_coco.json").read_text())
    assert [(entry["image_id"], entry["file_name"]) for entry in entries] == [
        (3, "3.png"), (17, "17.png"),
    ]  # fmt: skip
    read = openpose_json.read(tmp_path / "out" / "17_keypoints.json")
    np.testing.assert_allclose(read, tiny_image(17)[1], atol=1e-3)
    rows = (tmp_path / "out" / "images_joints.csv").read_text().splitlines()
    assert rows[0].startswith("image,frame,") and rows[1].startswith("3.png,0,0.0,0,nose,")
    _, error = program("recognize", *words, "--format=srt", status=1)
    assert "images have coco, openpose, csv, rerun" in error
    _, error = program("recognize", *words, "--format=mp3", status=1)
    assert "no such format; known: coco, openpose, csv, eaf, textgrid, srt, vtt, rerun" in error


def test_names_that_are_not_utf8(tmp_path):
    """Latin-1, as on old disks, of a folder, an image and a video."""
    media, keypoints, out = (
        tmp_path / os.fsdecode(n) for n in (b"m\xe9dia", b"points", b"r\xe9sum\xe9")
    )
    media.mkdir()
    keypoints.mkdir()
    photo, dance = media / os.fsdecode(b"f\xeate.png"), media / os.fsdecode(b"caf\xe9.webm")
    with closing(videos.VideoWriter(dance, FPS)) as writer:
        for index in range(4):
            image, people = tiny_image(index)
            writer.write(index / FPS, image)
            openpose_json.write(openpose_json.path_for_frame(dance.name, index, keypoints), people)
    for path in (photo, media / "z.png"):
        images.write(path, image)
        openpose_json.write(openpose_json.path_for(path.stem, keypoints), people)
    assert [frame.index for frame in videos.Video(dance)] == [0, 1, 2, 3]
    names = [name for name in formats.FORMATS if name != "rerun" or find_spec("rerun")]
    program("recognize", f"--input={media}", f"--keypoints={keypoints}", f"--output={out}",
            f"--format={','.join(names)}")  # fmt: skip
    stem = out / dance.stem
    assert all(files.with_suffix(stem, formats.FORMATS[name].suffix).exists() for name in names)
    assert videos.output_path(stem).stat().st_size > 100
    assert "f\ufffdte.png,0,0.0,0,nose," in (out / "images_joints.csv").read_text()
    assert "f\ufffdte.png" in {
        e["file_name"] for e in json.loads((out / "images_coco.json").read_text())
    }
    program("summarize", f"--input={out}")
    assert (out / "summary.csv").read_text().splitlines()[1].startswith("caf\ufffd,0,0.000,")


def test_no_file_has_the_name_of_another_result():
    def check(names, *paths):
        jobs = [Job(Path(path), Path(path).stem) for path in paths]
        several = sum(path.endswith("jpg") for path in paths) > 1
        formats.check_files(jobs, names, ["openpose"] if several else names)

    check(["csv", "openpose", "eaf", "rerun"], "x.mp4", "x_keypoints.mp4", "x_coco.mp4")
    check(["csv"], "x.mp4", "x_joints.jpg")
    check(["coco", "csv"], "x.jpg", "x_coco.jpg", "x_joints.jpg")
    for name, *paths in (
        ("csv", "x.mp4", "X_joints.mp4"),
        ("coco", "x.mp4", "x_coco.jpg"),
        ("coco", "x.jpg", "x_coco.mp4"),
        ("openpose", "x.jpg", "x_keypoints.jpg"),
    ):
        with pytest.raises(UserError, match=f"^{paths[1]}: .* --format={name} of {paths[0]}"):
            check([name], *paths)


@pytest.mark.parametrize("name", formats.FORMATS)
def test_interruption_leaves_nothing(tmp_path, name):
    if name == "rerun":
        pytest.importorskip("rerun", reason="needs rerun-sdk")
    clip = Clip("dance.mp4", (96, 80), FPS, CLASSES)
    with closing(formats.Several([name], tmp_path / "dance", clip)) as writer:
        writer.add(next(frames(clip)))
    assert not list(tmp_path.iterdir())


def test_memory_does_not_grow(tmp_path):
    names = [name for name in formats.FORMATS if name != "rerun"]
    clip = Clip("dance.mp4", (96, 80), FPS, CLASSES)
    frame = next(frames(clip))
    with closing(formats.Several(names, tmp_path / "dance", clip)) as writer:
        tracemalloc.start()
        for _ in range(50):
            writer.add(frame)
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(200):
            writer.add(frame)
        grown, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert grown - before < 10_000  # bytes; a frame has 25 kB
