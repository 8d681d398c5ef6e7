"""launch/recognize.py on lists of inputs: continuing, formats that images share, SIGTERM."""

import json
import os
import signal
import time
from contextlib import closing

import numpy as np
import pytest
from conftest import ROOT, tiny_image
from programs import Script, program

from jdance import files
from jdance.data import images, openpose_json, videos


def add_photo(folder, number):
    image, people = tiny_image(number)
    images.write(folder / f"{number}.png", image)
    openpose_json.write(folder / f"{number}_keypoints.json", people)


def add_video(folder, seconds):
    """Writes 10 frames a second of one person."""
    image, people = tiny_image(0)
    points = folder / "points"
    points.mkdir()
    with closing(videos.VideoWriter(folder / "a.webm", 10)) as writer:
        for i in range(10 * seconds):
            writer.write(i / 10, image)
            moved = people + np.array([i % 7, 0, 0], np.float32)
            openpose_json.write(openpose_json.path_for_frame("a.webm", i, points), moved)
    return points


def test_more_images_extend_the_formats_that_they_share(tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for number in (3, 5):
        add_photo(photos, number)
    words = f"--input={photos}", f"--keypoints={photos}", f"--output={out}", "--format=coco,csv"
    captured, _ = program("recognize", *words)
    assert "wrote 2 results" in captured
    shared = out / "images_coco.json"
    assert [entry["image_id"] for entry in json.loads(shared.read_text())] == [3, 5]
    # The results are the same as those of a single image.
    first = shared.stat().st_mtime_ns
    captured, _ = program("recognize", *words)
    assert "wrote 0 results" in captured and "; 2 done by earlier runs" in captured
    assert shared.stat().st_mtime_ns == first
    add_photo(photos, 4)
    captured, _ = program("recognize", *words)
    assert "wrote 1 result " in captured and "; 2 done by earlier runs" in captured
    assert [entry["image_id"] for entry in json.loads(shared.read_text())] == [3, 4, 5]
    rows = (out / "images_joints.csv").read_text().splitlines()
    assert {row.split(",")[0] for row in rows[1:]} == {"3.png", "4.png", "5.png"}
    program("recognize", f"--input={photos / '4.png'}", f"--keypoints={photos}",
            f"--output={tmp_path / 'one'}", "--format=coco")  # fmt: skip
    alone = json.loads((tmp_path / "one" / "4_coco.json").read_text())
    assert alone == [e for e in json.loads(shared.read_text()) if e["image_id"] == 4]


def test_isolated_decoding_gives_the_same_results(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    add_photo(photos, 1)
    (photos / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    for name, words in (("a", []), ("b", ["--isolate"])):
        _, error = program(
            "recognize", f"--input={photos}", f"--keypoints={photos}",
            f"--output={tmp_path / name}", *words, status=1,
        )  # fmt: skip
        assert "1 of 2 inputs skipped" in error
    assert (tmp_path / "a" / "1.json").read_text() == (tmp_path / "b" / "1.json").read_text()


def test_a_list_of_parts_of_a_video(tmp_path):
    points, out = add_video(tmp_path, 4), tmp_path / "out"
    listed = tmp_path / "list.csv"
    listed.write_text("path,start,end,output\na.webm,1,2,2021/solo\na.webm,,,\nnone.webm,,,\n")
    words = f"--input={listed}", f"--keypoints={points}", f"--output={out}", "--noannotate"
    captured, error = program("recognize", *words, status=1)
    assert "none.webm: no such file" in captured and "1 of 3 inputs skipped" in error
    frames = json.loads((out / "2021" / "solo.json").read_text())["frames"]
    assert [frame["index"] for frame in frames] == list(range(10, 20))
    names = [path.name for path in files.list_visible(out)]
    assert names == ["2021", "a.csv", "a.html", "a.json", "failures.csv"]
    assert len(json.loads((out / "a.json").read_text())["frames"]) == 40
    # failures.csv is a list of inputs, too.
    (tmp_path / "none.webm").write_bytes((tmp_path / "a.webm").read_bytes())
    for path in points.glob("a_*"):
        path.rename(points / path.name.replace("a_", "none_"))
    retry = f"--input={out / 'failures.csv'}", *words[1:]
    captured, _ = program("recognize", *retry)
    assert "wrote 1 result " in captured and not (out / "failures.csv").exists()
    # An option that changes the result.
    captured, _ = program("recognize", *retry[1:], f"--input={tmp_path / 'none.webm'}",
                          "--min_confidence=0.9")  # fmt: skip
    assert "wrote 1 result " in captured


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs signals of POSIX")
def test_sigterm_ends_with_status_75_and_leaves_nothing_half(tmp_path):
    points, out = add_video(tmp_path, 60), tmp_path / "out"
    words = [
        ROOT / "launch" / "recognize.py", f"--input={tmp_path / 'a.webm'}",
        f"--keypoints={points}", f"--output={out}",
    ]  # fmt: skip
    run = Script(words, tmp_path / "log")
    deadline = time.monotonic() + 300
    while not list(out.glob(".jdance/work/*/a.json*")):
        assert time.monotonic() < deadline and run.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.01)
    run.send_signal(signal.SIGTERM)
    assert run.wait() == 75, (tmp_path / "log").read_text()
    assert "run the same command again" in (tmp_path / "log").read_text()
    assert not files.list_visible(out)
    assert not os.listdir(out / ".jdance" / "work") and not os.listdir(out / ".jdance" / "claims")
    captured, _ = program("recognize", *words[1:])
    assert "wrote 1 result " in captured
    assert len(json.loads((out / "a.json").read_text())["frames"]) == 600
