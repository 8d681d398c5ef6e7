"""launch/recognize.py on lists of inputs: continuing, formats that images share, SIGTERM."""

import csv
import json
import os
import signal
import struct
import time
from contextlib import closing

import av
import numpy as np
import pytest
from conftest import ROOT, tiny_image
from programs import Script, program

from jdance import files
from jdance.data import images, openpose_json, videos
from jdance.recognize.archive import weights
from jdance.recognize.inputs import Job


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
    captured, _ = program("recognize", *words, "--every=2")  # for videos
    assert "wrote 0 results" in captured
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


def test_key_points_of_images_in_folders(tmp_path):
    archive, points = tmp_path / "archive", tmp_path / "points"
    for year in (2020, 2021):
        folder = archive / str(year)
        folder.mkdir(parents=True)
        add_photo(folder, year)
        (folder / f"{year}.png").rename(folder / "x.png")
    points.mkdir()
    (archive / "2020" / "2020_keypoints.json").rename(points / "x_keypoints.json")
    words = f"--input={archive}/**/*.png", f"--keypoints={points}"
    captured, error = program("recognize", *words, f"--output={tmp_path / 'bad'}", status=1)
    assert (
        "2 of 2 inputs skipped" in error
        and captured.count("2 inputs are called x; its key poi") == 2
    )
    for year, name in ((2020, "x_keypoints.json"), (2021, "../archive/2021/2021_keypoints.json")):
        (points / str(year)).mkdir()
        (points / name).rename(points / str(year) / "x_keypoints.json")
    out = tmp_path / "out"
    (archive / "2019").mkdir()
    (archive / "2019" / "x.png").touch()  # counts for the ids of COCO's format
    program("recognize", *words, f"--output={out}", "--format=openpose,coco,csv", status=1)
    entries = json.loads((out / "images_coco.json").read_text())
    listed = [(2, "2020/x.png"), (3, "2021/x.png")]
    assert [(entry["image_id"], entry["file_name"]) for entry in entries] == listed
    rows = list(csv.DictReader((out / "images_joints.csv").read_text().splitlines()))
    assert {(int(row["frame"]) + 1, row["image"]) for row in rows} == set(listed)
    for year in (2020, 2021):
        np.testing.assert_array_equal(
            openpose_json.read(out / f"{year}/x_keypoints.json"),
            openpose_json.read(points / f"{year}/x_keypoints.json"),
        )
    # The results are key points in their turn.
    again = f"--keypoints={out}", f"--output={tmp_path / 'again'}"
    captured, _ = program("recognize", words[0], *again, status=1)
    assert "wrote 2 results" in captured


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
    while not list((out / ".jdance" / "work").glob("*/a.json*")):
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


def write_video(path, seconds):
    """Writes 10 frames a second."""
    image, _ = tiny_image(0)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = *image.shape[:2], "yuv420p"
        for _ in range(10 * seconds):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(stream.encode())


def claim(path, hours):
    """Makes the header of a Matroska file state another duration."""
    data = bytearray(path.read_bytes())
    at = data.index(b"\x44\x89\x88") + 3  # Duration, of 8 bytes, in milliseconds
    data[at : at + 8] = struct.pack(">d", hours * 3.6e6)
    path.write_bytes(data)
    with av.open(str(path)) as file:
        assert file.duration == pytest.approx(hours * 3.6e9)


def test_bad_files_are_listed_and_the_rest_is_done(tmp_path):
    """Empty, cut, text called .mp4, and a header that claims 10 hours."""
    archive, points, out = tmp_path / "archive", tmp_path / "points", tmp_path / "out"
    archive.mkdir()
    points.mkdir()
    write_video(archive / "good.mp4", 2)
    whole = (archive / "good.mp4").read_bytes()
    (archive / "empty.mp4").touch()
    (archive / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (archive / "text.mp4").write_text("not a video\n" * 100)
    write_video(archive / "claim.mkv", 1)
    claim(archive / "claim.mkv", 10)
    for name, count in (("good.mp4", 20), ("claim.mkv", 10)):
        for i in range(count):
            openpose_json.write(openpose_json.path_for_frame(name, i, points), tiny_image(0)[1])
    captured, error = program(
        "recognize", f"--input={archive}", f"--keypoints={points}", f"--output={out}",
        "--noannotate", "--videos_at_once=3", status=1,
    )  # fmt: skip
    assert "wrote 2 results" in captured and "3 of 5 inputs skipped" in error
    with (out / "failures.csv").open(newline="") as file:
        rows = {row["output"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {"empty", "cut", "text"}
    assert all(row["status"] == "failed" and "\n" not in row["reason"] for row in rows.values())
    for name, count in (("good", 20), ("claim", 10)):
        assert len(json.loads((out / f"{name}.json").read_text())["frames"]) == count
    # The estimate of the time left is by the size of the files, the duration by their frames.
    record = json.loads((out / ".jdance" / "records" / "claim.json").read_text())
    assert record["seconds"] == pytest.approx(1)
    source = archive / "claim.mkv"
    assert weights([Job(source, "claim")]) == {"claim": source.stat().st_size}
