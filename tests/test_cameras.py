"""Cameras, windows and H.264: what is outside of the process, where it is there."""

import itertools
import json
import shutil
import subprocess
import time
from contextlib import closing

import cv2
import numpy as np
import pytest

from jdance.data import videos
from jdance.errors import UserError

needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg is not on the PATH")


class _Camera:
    """In place of cv2.VideoCapture: a camera that gives 100 frames a second, numbered."""

    def __init__(self, number, *_):
        self._there, self._count = number == 0, 0

    def isOpened(self):
        return self._there

    def set(self, *_):
        return True

    def get(self, what):
        sizes = {cv2.CAP_PROP_FRAME_WIDTH: 40.0, cv2.CAP_PROP_FRAME_HEIGHT: 32.0}
        return sizes.get(what, 0.0)

    def grab(self):
        time.sleep(0.01)
        self._count += 1
        return True

    def retrieve(self):
        return True, np.full((32, 40, 3), self._count % 256, np.uint8)

    def release(self):
        self._there = False


def test_a_camera_has_the_clocks_time_and_ends(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", _Camera)
    with closing(videos.Video("camera:0", end=0.2)) as camera:
        assert camera.is_camera and camera.count == 0 and camera.size == (32, 40)
        assert camera.fps == 30  # as it does not say
        frames = list(camera)
    stamps = [frame.time for frame in frames]
    assert 2 <= len(frames) <= 20 and max(stamps) < 0.2
    assert (np.diff(stamps) > 0).all() and camera.problem == ""
    with pytest.raises(UserError, match="camera:1: there is no such camera"):
        videos.Video("camera:1")


def test_a_camera_that_is_too_quick_loses_frames_and_not_time(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", _Camera)
    ahead = videos.ahead(videos.Video("camera:0"), 2, newest=True)
    with closing(ahead):  # type: ignore[type-var]
        first = next(ahead)
        time.sleep(0.3)
        later = [next(ahead) for _ in range(3)]
    # Not the frames that came just after the first.
    assert later[-1].index > first.index + 5
    assert all(a.index < b.index for a, b in itertools.pairwise(later))


def test_the_end_is_never_dropped():
    assert list(videos.ahead(iter(range(100)), 1, newest=True))[-1] == 99
    assert list(videos.ahead(iter(()), 1, newest=True)) == []


@needs_ffmpeg
def test_h264_of_odd_size_keeps_time_and_plays_in_browsers(tmp_path):
    path = videos.output_path(tmp_path / "x")
    assert path.suffix == ".mp4"
    with closing(videos.Writer(path, 10)) as writer:
        for when, value in ((0.0, 40), (0.1, 80), (0.4, 120), (0.5, 160)):
            writer.write(when, np.full((33, 65, 3), value, np.uint8))
    with closing(videos.Video(path)) as video:
        assert video.size == (34, 66) and video.fps == pytest.approx(10)
        brightness = [frame.image[:32, :64].mean() for frame in video]
    np.testing.assert_allclose(brightness, [40, 80, 80, 80, 120, 160], atol=4)
    if shutil.which("ffprobe"):
        told = subprocess.run(
            ["ffprobe", "-v", "error", "-show_streams", "-of", "json", path],
            check=True, capture_output=True,
        )  # fmt: skip
        (stream,) = json.loads(told.stdout)["streams"]
        assert (stream["codec_name"], stream["pix_fmt"]) == ("h264", "yuv420p")


@needs_ffmpeg
def test_h264_that_cannot_be_written(tmp_path):
    writer = videos.Writer(tmp_path / "missing" / "x.mp4", 10)
    with pytest.raises(UserError, match=r"x\.mp4: ffmpeg cannot write it"):  # noqa: SIM117
        with closing(writer):
            for i in range(50):
                writer.write(i / 10, np.zeros((320, 320, 3), np.uint8))
