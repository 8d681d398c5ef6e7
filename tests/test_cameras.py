"""Cameras and H.264 by ffmpeg."""

import itertools
import json
import shutil
import subprocess
import threading
from contextlib import closing
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from jdance.data import videos
from jdance.errors import UserError

needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg is not on the PATH")


class _Camera:
    """A fake cv2.VideoCapture whose only camera is number 0."""

    def __init__(self, number, *_):
        self._opened = number == 0

    def isOpened(self):
        return self._opened

    def set(self, *_):
        return True

    def get(self, what):
        sizes = {cv2.CAP_PROP_FRAME_WIDTH: 40.0, cv2.CAP_PROP_FRAME_HEIGHT: 32.0}
        return sizes.get(what, 0.0)

    def grab(self):
        return True

    def retrieve(self):
        return True, np.zeros((32, 40, 3), np.uint8)

    def release(self):
        self._opened = False


def test_camera_frames_have_wall_clock_times_and_end(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", _Camera)
    clock = itertools.count(100.0, 0.0625)
    monkeypatch.setattr(videos, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with closing(videos.Video("camera:0", end=0.25)) as camera:
        assert camera.is_camera and camera.count == 0 and camera.size == (32, 40)
        assert camera.fps == 30  # the default, as the camera reports none
        assert [frame.time for frame in camera] == [0.0625, 0.125, 0.1875]
        assert camera.problem == ""
    with pytest.raises(UserError, match="camera:1: there is no such camera"):
        videos.Video("camera:1")


def test_slow_consumers_of_a_camera_drop_frames():
    first_taken, produced, resume = (threading.Event() for _ in range(3))

    def frames():
        yield 0
        first_taken.wait()
        yield from range(1, 50)
        produced.set()
        resume.wait()
        yield 50

    ahead = videos.prefetch(frames(), 2, newest=True)
    assert next(ahead) == 0
    first_taken.set()
    produced.wait()
    newest = [next(ahead), next(ahead)]
    resume.set()
    assert newest == [48, 49] and list(ahead) == [50]


def test_the_last_frame_is_never_dropped():
    assert list(videos.prefetch(iter(range(100)), 1, newest=True))[-1] == 99
    assert list(videos.prefetch(iter(()), 1, newest=True)) == []


@needs_ffmpeg
def test_h264_with_odd_size_keeps_times_and_plays_in_browsers(tmp_path):
    path = videos.output_path(tmp_path / "x")
    assert path.suffix == ".mp4"
    with closing(videos.VideoWriter(path, 10)) as writer:
        for when, value in ((0.0, 40), (0.1, 80), (0.4, 120), (0.5, 160)):
            writer.write(when, np.full((33, 65, 3), value, np.uint8))
    with closing(videos.Video(path)) as video:
        assert video.size == (34, 66) and video.fps == pytest.approx(10)
        brightness = [frame.image[:32, :64].mean() for frame in video]
    np.testing.assert_allclose(brightness, [40, 80, 80, 80, 120, 160], atol=4)
    if shutil.which("ffprobe"):
        probed = subprocess.run(
            ["ffprobe", "-v", "error", "-show_streams", "-of", "json", path],
            check=True, capture_output=True,
        )  # fmt: skip
        (stream,) = json.loads(probed.stdout)["streams"]
        assert (stream["codec_name"], stream["pix_fmt"]) == ("h264", "yuv420p")


@needs_ffmpeg
def test_ffmpeg_errors_are_reported(tmp_path):
    writer = videos.VideoWriter(tmp_path / "missing" / "x.mp4", 10)
    with pytest.raises(UserError, match=r"x\.mp4: ffmpeg cannot write it"):  # noqa: SIM117
        with closing(writer):
            for i in range(50):
                writer.write(i / 10, np.zeros((320, 320, 3), np.uint8))
