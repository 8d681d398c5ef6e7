"""Reading of intact and damaged videos, and writing at a constant rate."""

import threading
import time
from contextlib import closing

import numpy as np
import pytest
from conftest import tiny_image

from jdance.data import containers, prepare, sources, videos
from jdance.errors import UserError


def write_video(path, count=20, fps=10.0, size=(96, 80)):
    """A gray video whose brightness encodes the frame's index."""
    with closing(videos.VideoWriter(path, fps)) as writer:
        for i in range(count):
            writer.write(i / fps, np.full((*size, 3), 20 + 8 * i, np.uint8))


def _numbers(frames):
    return [round((float(frame.image.mean()) - 20) / 8) for frame in frames]


def test_round_trip(tmp_path):
    write_video(tmp_path / "x.webm")
    with closing(videos.Video(tmp_path / "x.webm")) as video:
        assert (video.fps, video.size, video.count) == (10, (96, 80), 20)
        frames = list(video)
    assert _numbers(frames) == [frame.index for frame in frames] == list(range(20))
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(20) / 10, atol=1e-3)
    assert video.problem == ""
    part = videos.Video(tmp_path / "x.webm", every=3, start=0.55, end=1.5)
    assert _numbers(part) == [6, 9, 12]


def test_gaps_repeat_frames(tmp_path):
    with closing(videos.VideoWriter(tmp_path / "x.webm", 10)) as writer:
        for when, value in ((0.0, 20), (0.1, 28), (0.5, 60), (0.55, 68), (0.6, 76)):
            writer.write(when, np.full((96, 80, 3), value, np.uint8))
    assert _numbers(videos.Video(tmp_path / "x.webm")) == [0, 1, 1, 1, 1, 5, 6]


def test_truncated_and_invalid_videos(tmp_path, real_data):
    data = real_data("videos/exercise.avi").read_bytes()
    (tmp_path / "x.avi").write_bytes(data[: len(data) * 6 // 10])
    video = videos.Video(tmp_path / "x.avi")
    count = sum(1 for _ in video)
    assert count == 229 and video.problem.startswith("only 229 of 393 frames")
    (tmp_path / "x.avi").write_bytes(b"")
    for name in ("x.avi", "missing.avi", "camera:x"):
        with pytest.raises(UserError, match=name):
            videos.Video(tmp_path / name if "camera" not in name else name)


def test_prefetch_raises_errors_and_stops():
    def items():
        yield 1
        raise UserError("broken")

    prefetched = videos.prefetch(items())
    assert next(prefetched) == 1
    with pytest.raises(UserError, match="broken"):
        next(prefetched)
    before = threading.active_count()
    endless = videos.prefetch(iter(int, 1))
    next(endless)
    endless.close()
    assert threading.active_count() == before


def test_frames_by_time(tmp_path):
    path = tmp_path / "x.webm"
    write_video(path)
    times = videos.times(path, 2.0, 0.3, 1.6)
    np.testing.assert_allclose(times, [0.3, 0.8, 1.3])
    brightness = [videos.frame_at(path, when).mean() for when in (*times, 0.3)]
    np.testing.assert_allclose(brightness, [20 + 8 * i for i in (3, 8, 13, 3)], atol=3)
    with pytest.raises(videos.DamagedVideo, match=r"x\.webm: ends earlier"):
        videos.frame_at(path, 5.0)
    with pytest.raises(UserError, match=r"lasts 2\.0 s"):
        videos.times(path, 2.0, 7.0)


def test_data_set_of_labeled_videos(tmp_path):
    for name in ("a/1", "a/2", "b/1", "b/2"):
        (tmp_path / name[0]).mkdir(exist_ok=True)
        write_video(tmp_path / f"{name}.webm")
    (tmp_path / "a" / "bad.webm").write_bytes(b"no video")
    source = sources.open_source(str(tmp_path), frames_per_second=5.0)
    assert len(source.items) == 40 and source.classes == ["a", "b"]
    assert [name for name, _ in source.skipped] == ["a/bad.webm"]
    people = lambda image: tiny_image(0)[1]  # noqa: E731
    info = prepare.prepare(source, tmp_path / "out", people, fractions={"train": 0.5, "test": 0.5})
    # No video is in two splits.
    assert [info["splits"][name]["count"] for name in ("train", "test")] == [20, 20]


def test_two_people_of_a_moment_do_not_decode_the_video_again(tmp_path, monkeypatch):
    write_video(tmp_path / "x.webm")
    rows = ["path,label,start,end,person"]
    moments = [1.5, 0.5, 1.0]  # in any order
    rows += [f"x.webm,a,{t},{t + 0.4},{person}" for person in (0, 1) for t in moments]
    (tmp_path / "m.csv").write_text("\n".join(rows))
    opened = []
    monkeypatch.setattr(
        videos, "Video", lambda path, video=videos.Video: opened.append(path) or video(path)
    )
    source = sources.open_source(str(tmp_path / "m.csv"))
    found = [round((item.load().image.mean() - 20) / 8) for item in source.items]
    assert found == [5, 5, 10, 10, 15, 15] and len(opened) == 1


def test_frames_that_show_damage_are_left_out(tmp_path, monkeypatch):
    decode = containers.decode_frames

    def damaged(path, info, errors, hardware=""):
        for i, frame in enumerate(decode(path, info, errors, hardware)):
            if i == 7:
                errors.append("bits are wrong")
            yield frame._replace(is_key=i % 5 == 0)

    monkeypatch.setattr(containers, "decode_frames", damaged)
    for name in "ab":
        (tmp_path / name).mkdir()
        write_video(tmp_path / name / "x.webm")
    source = sources.open_source(str(tmp_path), frames_per_second=10.0)
    info = prepare.prepare(source, tmp_path / "out", lambda image: tiny_image(0)[1])
    assert sum(part["count"] for part in info["splits"].values()) == 2 * 17
    assert [entry["file"] for entry in info["skipped"]] == ["a/x.webm", "b/x.webm"]
    assert "some of its frames are damaged; they are left out" in info["skipped"][0]["reason"]


def test_spellings_of_a_path_are_one_group(tmp_path):
    write_video(tmp_path / "x.webm")
    rows = ["path,label,group,start,end"]
    names = ["x.webm", "./x.webm", str(tmp_path / "x.webm")]
    rows += [f"{name},a,,{i / 2},{i / 2 + 0.5}" for i, name in enumerate(names)]
    (tmp_path / "m.csv").write_text("\n".join(rows))
    source = sources.open_source(str(tmp_path / "m.csv"))
    assert {item.group for item in source.items} == {"x.webm"} and not source.notes
    (tmp_path / "m.csv").write_text("\n".join([*rows, "x.webm,a,anna,1.5,2"]))
    (note,) = sources.open_source(str(tmp_path / "m.csv")).notes
    assert "x.webm has rows of 2 groups" in note


def test_manifest_of_video_segments(tmp_path):
    write_video(tmp_path / "x.webm")
    lines = ["path,label,start,end", "x.webm,a,0,1", "x.webm,b,1,", "x.webm,b,1.5,0.5",
             "x.webm,b,30,40"]  # fmt: skip
    (tmp_path / "m.csv").write_text("\n".join(lines))
    source = sources.open_source(str(tmp_path / "m.csv"), frames_per_second=5.0)
    labels = [item.people[0].label for item in source.items]
    assert labels == ["a"] * 5 + ["b"] * 5
    assert {item.group for item in source.items} == {"x.webm"}
    assert "expected 0 <= start < end" in source.skipped[0][1]
    assert "lasts 2.0 s" in source.skipped[1][1]


@pytest.mark.parametrize("begun", [True, False])
def test_prefetch_that_is_interrupted_at_its_start(monkeypatch, begun):
    """As by SIGTERM while `Thread.start` waits."""
    start, running = threading.Thread.start, threading.Event()

    def items():
        while True:
            running.set()
            yield 0
            time.sleep(0.01)

    def interrupted(thread):
        start(thread)
        assert not begun or running.wait(10)
        raise SystemExit(75)

    source = items()
    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(SystemExit), closing(source):  # the thread must not be using it then
        next(videos.prefetch(source))
