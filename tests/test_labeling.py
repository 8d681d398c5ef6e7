"""Right motions that were marked on a page, as a manifest and as a data set.

The scripts of the page run in V8; tests/test_serve_browser.py fills in its form.
"""

import csv
import io
import json
import re
from contextlib import closing

import numpy as np
import pytest
from programs import program

from jdance.data import records, sources, videos
from jdance.recognize import page
from jdance.recognize.timeline import Segment
from jdance.stagedance.video import StageVideo

py_mini_racer = pytest.importorskip("py_mini_racer", reason="needs mini-racer")

HEAD = ["path", "label", "start", "end", "box"]


@pytest.fixture(scope="module")
def call():
    """A function that calls one of labels.js with JSON."""
    engine = py_mini_racer.MiniRacer()
    engine.eval(page.static("labels.js").replace("export ", ""))

    def run(name, *arguments):
        values = ", ".join(map(json.dumps, arguments))
        return json.loads(engine.eval(f"JSON.stringify({name}({values}))"))

    return run


def label(track, start, end, name):
    return {"track": track, "start": start, "end": end, "label": name}


def read(text):
    head, *rows = csv.reader(io.StringIO(text, newline=""))
    assert head == HEAD
    return rows


def page_data(text):
    """Returns the segments, boxes and motions in a page."""
    found = re.search(r'<script id="labeling-data" type="application/json">(.*?)</script>', text)
    return json.loads(found[1])


def test_a_row_per_half_second(call):
    boxes = {"0": [[i / 8, i, 2, 30, 40.5] for i in range(24)], "7": [[0.3, 1, 2, 3, 4]]}
    rows = read(call("toManifest", 'a, "b".mp4', [label(0, 0.5, 1.75, "x")], boxes, True))
    assert rows == [
        ['a, "b".mp4', "x", "0.500", "1.000", "4 2 30 40.5"],
        ['a, "b".mp4', "x", "1.000", "1.500", "8 2 30 40.5"],
        ['a, "b".mp4', "x", "1.500", "1.750", "12 2 30 40.5"],
    ]
    # Times between frames; a dancer who is not there; the order of several labels.
    labels = [label(7, 0.29999, 9, "late"), label(0, 0.05, 0.3, "y"), label(3, 0, 9, "gone")]
    rows = read(call("toManifest", "a.mp4", labels, boxes, True))
    assert [row[1:4] for row in rows] == [["y", "0.125", "0.300"], ["late", "0.300", "0.800"]]
    assert not read(call("toManifest", "a.mp4", [label(0, 0.51, 0.6, "x")], boxes, True))
    image = {"1": [[0, 5, 6, 7, 8]], "0": [[0, 1, 1, 1, 1]]}
    assert read(call("toManifest", "a.jpg", [label(1, 0, 1, "x")], image, False)) == [
        ["a.jpg", "x", "", "", "5 6 7 8"]
    ]


def test_rows_leave_no_gap(call):
    """The boxes of a page are up to 0.3 s apart at 10 frames per second."""
    boxes = {"0": [[i / 10, i, 2, 30, 40] for i in (*range(0, 21, 3), *range(50, 60, 3))]}
    rows = read(call("toManifest", "a.mp4", [label(0, 0.2, 6.0, "x")], boxes, True))
    assert [row[2:4] for row in rows] == [
        ["0.300", "0.700"], ["0.700", "1.200"], ["1.200", "1.700"], ["1.700", "2.200"],
        ["5.000", "5.200"], ["5.200", "5.700"], ["5.700", "6.000"],
    ]  # fmt: skip


def test_labels_replace_each_other(call):
    labels = []
    for new in (label(0, 0, 4, "a"), label(1, 0, 4, "b"), label(0, 1, 2, "c"), label(1, 0, 9, "d")):
        labels = call("addLabel", labels, new)
    assert labels == [
        label(0, 0, 1, "a"), label(1, 0, 9, "d"), label(0, 1, 2, "c"), label(0, 2, 4, "a"),
    ]  # fmt: skip
    segments = [
        {"track": 0, "start": 0, "end": 2, "motion": "wave", "confidence": 0.5},
        {"track": 0, "start": 2, "end": 6, "motion": "walk"},
        {"track": 2, "start": 0, "end": 1, "motion": "stand"},
    ]
    some = [label(0, 1, 3, "x")]
    assert call("addRecognized", some, segments) == [
        label(0, 0, 1, "wave"), label(2, 0, 1, "stand"), label(0, 1, 3, "x"),
        label(0, 3, 6, "walk"),
    ]  # fmt: skip


@pytest.mark.parametrize(("text", "name"), [
    ("  arm   swing\n", "arm swing"), ("a\u0007\u202eb", "a b"), (" \t ", ""), ("pas é", "pas é"),
])  # fmt: skip
def test_names_are_one_line(call, text, name):
    assert call("cleanName", text) == name


@pytest.mark.parametrize("seconds", [0, 1 / 30, 2 / 3, 1.0667, 4.35, 12.345, 599.99])
def test_a_time_in_the_form_does_not_lose_its_frame(call, seconds):
    shown = float(call("hundredths", seconds))
    assert shown <= seconds < shown + 0.0101


def test_boxes_of_a_page(tmp_path):
    """Enough boxes for every half second and every motion, and text that cannot end the script."""
    written = page.VideoPage("x", ["walk"], video="</script><b>.mp4", annotated="a b.webm")
    for i in range(60):
        boxes = {0: (i, 0, 5, 5)} | ({4: (0, i, 9, 9)} if i > 40 else {})
        written.add_boxes(2 + i / 30, boxes, i in (0, 11))
    segments = [
        Segment(4, 3, 4, "walk", 1),
        Segment(0, 2, 3, "walk", 1),
        Segment(0, 3, 4, "unknown", 1),
    ]
    written.write(tmp_path / "x.html", segments, 4.0)
    text = (tmp_path / "x.html").read_text()
    assert "</script><b>" not in text
    data = page_data(text)
    assert data["path"] == "</script><b>.mp4"
    assert data["video"] == {"path": "a%20b.webm", "start": 2}
    assert data["motions"] == ["walk", "unknown"]
    # In the order of the timeline's bars.
    assert [(s["track"], s["motion"]) for s in data["segments"]] == [
        (0, "walk"), (0, "unknown"), (4, "walk"),
    ]  # fmt: skip
    assert text.count('<rect class="bar"') == 3
    times = [box[0] for box in data["boxes"]["0"]]
    assert times[0] == 2 and 2.3667 in times and max(np.diff(times)) < 0.27
    assert len(times) < 12 and data["boxes"]["4"][0] == [3.3667, 0, 41, 9, 9]
    # Without a video there is nothing to prepare.
    page.VideoPage("x", ["walk"]).write(tmp_path / "y.html", segments, 4.0)
    assert "<script" not in (tmp_path / "y.html").read_text()


def test_corrections_become_a_data_set(call, tmp_path):
    """Recognize, correct, prepare: the records have the right labels, times and people."""
    clip = StageVideo(5, 0, dancers=2, seconds=4, width=320, height=240)
    with closing(videos.VideoWriter(tmp_path / "dance.webm", 8.0)) as writer:
        for when, scene in clip.frames(8.0):
            writer.write(when, scene.image)
    out = tmp_path / "out"
    program(
        "recognize", "--pose=stage", f"--input={tmp_path / 'dance.webm'}", f"--output={out}",
        "--sequence_model=none",
    )  # fmt: skip
    data = page_data((out / "dance.html").read_text())
    assert data["path"] == "dance.webm"
    assert (out / data["video"]["path"]).exists() and data["video"]["start"] == 0
    frames = {f["time"]: f for f in json.loads((out / "dance.json").read_text())["frames"]}
    assert all(len(frame["people"]) == 2 for frame in frames.values())
    labels = []
    for new in (label(0, 0.5, 2.5, "spin, fast"), label(1, 1.0, 3.0, "bow")):
        labels = call("addLabel", labels, new)
    every = call("addRecognized", labels, data["segments"])
    (tmp_path / "manifest.csv").write_text(
        call("toManifest", data["path"], every, data["boxes"], True)
    )
    source = sources.open_source(str(tmp_path / "manifest.csv"))
    assert not source.skipped
    expected = []
    for item in source.items:
        (person,) = item.people
        when = float(re.search(r"at ([\d.]+) s$", item.name)[1])
        frame = frames[min(frames, key=lambda time: abs(time - when))]
        ordered = sorted(frame["people"], key=lambda p: p["box"][0] + p["box"][2] / 2)
        match = [np.allclose(p["box"], person.box, atol=0.06) for p in ordered]
        number = match.index(True)
        own = ordered[number]
        right = {(0, 0.5, 2.5): "spin, fast", (1, 1.0, 3.0): "bow"}
        wanted = [name for (track, start, end), name in right.items()
                  if track == own["track"] and start <= when < end]  # fmt: skip
        assert person.label == (wanted or [own["motion"]])[0]
        expected.append((item.name, person.label, number))
    assert sum(name == "spin, fast" for _, name, _ in expected) == 4
    assert sum(name == "bow" for _, name, _ in expected) == 4
    program(
        "prepare", f"--source={tmp_path / 'manifest.csv'}", "--pose=stage",
        f"--output={tmp_path / 'data'}", "--split_by=frame",
    )  # fmt: skip
    dataset = records.Dataset(tmp_path / "data")
    found = []
    for split in ("train", "val", "test"):
        shards = dataset.source(split)
        for example in (records.unpack(shards[i]) for i in range(len(shards))):
            found.append((example.source, dataset.classes[example.label], example.person))
            assert example.keypoints.any()
    assert sorted(found) == sorted(expected)
