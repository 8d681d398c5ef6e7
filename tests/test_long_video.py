"""Recognition of long videos runs in constant memory.

JDANCE_LONG_MINUTES sets the length; ten minutes by default.
"""

import os
from fractions import Fraction
from importlib.util import find_spec

import av
import jax
import numpy as np
import pytest
from conftest import tiny_config

from jdance import models
from jdance.pose import PoseEstimator
from jdance.recognize import formats, video
from jdance.recognize.recognizer import DECODE, Recognizer
from jdance.stagedance.video import StageVideo

_FPS, _SIZE = 2.0, (120, 160)
_MINUTES = int(os.environ.get("JDANCE_LONG_MINUTES", "10"))


def _resident_memory() -> float:
    """Returns the resident memory of this process in MiB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _write_loop(path, count: int) -> None:
    """Writes ten seconds of a stage again and again, encoded once."""
    stage_video = StageVideo(5, 0, dancers=3, seconds=10, height=_SIZE[0], width=_SIZE[1])
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=int(_FPS), options={"bf": "0"})
        stream.height, stream.width, stream.pix_fmt = *_SIZE, "yuv420p"
        packets = []
        for _, scene in stage_video.frames(_FPS):
            packets += stream.encode(av.VideoFrame.from_ndarray(scene.image, format="rgb24"))
        packets += stream.encode()
        clip = [(bytes(packet), packet.is_keyframe) for packet in packets]
        for i in range(count):
            data, is_key = clip[i % len(clip)]
            packet = av.Packet(data)
            packet.stream, packet.pts, packet.dts = stream, i, i
            packet.time_base, packet.is_keyframe = Fraction(1, int(_FPS)), is_key
            file.mux(packet)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's /proc")
def test_memory_is_flat_over_a_long_video(tiny_data, tmp_path):
    path, count = tmp_path / "x.mp4", int(60 * _MINUTES * _FPS)
    _write_loop(path, count)
    config = tiny_config(tiny_data)
    config.model.classes = 3
    image = np.zeros((1, 32, 32, 3), np.uint8)
    variables = jax.jit(models.build(config.model).init)(jax.random.key(0), image, np.ones((1, 18)))
    estimator = PoseEstimator.load("stage", DECODE, size=192)
    recognizer = Recognizer(config, list("abc"), variables, estimator, min_joints=4)
    peaks = np.zeros(_MINUTES)

    def on_progress(done: int, total: int) -> None:
        minute = min(int((done - 1) / _FPS / 60), _MINUTES - 1)
        peaks[minute] = max(peaks[minute], _resident_memory())

    names = [name for name in formats.FORMATS if name != "rerun" or find_spec("rerun")]
    settings = video.Settings(formats=names)
    assert video.recognize_video(recognizer, path, tmp_path / "out", on_progress=on_progress,
                                 settings=settings) == ""  # fmt: skip
    print("peak MiB of each minute:", *np.round(peaks))
    assert peaks.max() <= 1.1 * peaks[0]
    assert (tmp_path / "out.json").stat().st_size > 100 * count
