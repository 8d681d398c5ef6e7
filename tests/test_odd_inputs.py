"""Unusual images and videos are recognized or rejected with a clear message."""

import base64
import json
from contextlib import closing

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny_config, tiny_image

from jdance import models, skeleton
from jdance.data import images, openpose_json, videos
from jdance.errors import UserError
from jdance.pose import DecodeConfig, targets
from jdance.pose.decode import decode
from jdance.pose.letterbox import INPUT_SIZE
from jdance.recognize import canvas
from jdance.recognize.recognizer import DECODE, Recognizer
from jdance.recognize.video import Settings, recognize_video

# A CMYK JPEG of 16 x 16 pixels with the color (200, 40, 60).
_CMYK = """
/9j/7gAOQWRvYmUAZAAAAAAC/9sAQwAKBwcIBwYKCAgICwoKCw4YEA4NDQ4dFRYRGCMfJSQiHyIhJis3LyYpNCkhIj
BBMTQ5Oz4+PiUuRElDPEg3PT47/9sAQwEKCwsODQ4cEBAcOygiKDs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7
Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7/8AAFAgAEAAQBAEiAAIRAQMRAQQiAP/EABYAAQEBAAAAAAAAAAAAAAAAAAAEBv
/EABQQAQAAAAAAAAAAAAAAAAAAAAD/xAAVAQEBAAAAAAAAAAAAAAAAAAAFB//EABQRAQAAAAAAAAAAAAAAAAAAAAD/
2gAOBAEAAhEDEQQAAD8AqAIpe3QD/9k=
"""


@pytest.fixture(scope="module")
def network(tiny_data):
    """Configuration and variables of a small motion network with 3 classes."""
    config = tiny_config(tiny_data)
    config.model.classes = 3
    image = np.zeros((1, 32, 32, 3), np.uint8)
    net = models.build(config.model)
    return config, jax.jit(net.init)(jax.random.key(0), image, np.ones((1, 18), np.float32))


def _arguments(network):
    config, variables = network
    return config, list("abc"), variables


class _FakePose:
    """A pose network that outputs the maps of given people, in pixels of the square."""

    variables = ()

    def __init__(self, people):
        self._people = jnp.asarray(people, jnp.float32)[None]
        self.size = INPUT_SIZE

    def pure_people(self, variables, squares, min_joints):
        maps = targets.encode(self._people, (46, 46))
        maps = (jnp.tile(m, (len(squares), 1, 1, 1)) for m in maps)
        return decode(*maps, DECODE, min_joints)


def _crowd(rows, columns):
    """Rows of people [N, 18, 3] that fill a square of 368 pixels."""
    person = np.ones((skeleton.NUM_JOINTS, 3))
    person[:, :2] = [
        (4, 1.5), (4, 4), (2, 4), (1, 8), (0.5, 12), (6, 4), (7, 8), (7.5, 12), (3, 13), (2.5, 18),
        (2, 23), (5, 13), (5.5, 18), (6, 23), (3, 0), (5, 0), (1.5, 1), (6.5, 1),
    ]  # fmt: skip
    across, down = 368 / columns, 368 / rows
    size = min(across / 9, down / 27)
    return np.array(
        [
            person * [size, size, 1] + [(x + 0.06) * across, (y + 0.06) * down, 0]
            for y in range(rows)
            for x in range(columns)
        ]
    )


def test_detects_thirty_people(network):
    crowd = _crowd(3, 10)
    recognizer = Recognizer(*_arguments(network), _FakePose(crowd))  # type: ignore[arg-type]
    people = recognizer(np.full((368, 368, 3), 90, np.uint8))
    assert len(people) == 30
    centers = np.sort([p.box[0] + p.box[2] / 2 for p in people])
    true = np.sort((crowd[..., 0].min(1) + crowd[..., 0].max(1)) / 2)
    np.testing.assert_allclose(centers, true, atol=4)


@pytest.mark.parametrize(
    "kind", ["grey.png", "grey.jpg", "grey16.png", "rgba.png", "rgb16.png", "rgba16.png",
             "grey16.tif"]
)  # fmt: skip
def test_pixel_formats(tmp_path, kind):
    true = cv2.GaussianBlur(tiny_image(1)[0], (9, 9), 2)
    stored, path = true[..., ::-1], tmp_path / kind
    if "grey" in kind:
        stored = cv2.cvtColor(stored, cv2.COLOR_BGR2GRAY)
        true = np.repeat(stored[..., None], 3, -1)
    if "rgba" in kind:
        stored = np.dstack([stored, np.full(stored.shape[:2], 7, np.uint8)])
    if "16" in kind:
        stored = stored.astype(np.uint16) * 257
    assert cv2.imwrite(str(path), stored)
    read = images.read(path)
    assert read.dtype == np.uint8 and read.shape == true.shape
    assert np.abs(read.astype(int) - true).max() <= (3 if kind.endswith("jpg") else 1)


def test_cmyk(tmp_path):
    (tmp_path / "x.jpg").write_bytes(base64.b64decode(_CMYK))
    read = images.read(tmp_path / "x.jpg")
    assert read.shape == (16, 16, 3) and np.abs(read.astype(int) - [200, 40, 60]).max() <= 3


@pytest.mark.parametrize("bad", [b"", b"\x89PNG\r\n\x1a\n", b"text"])
def test_invalid_image_raises(tmp_path, bad):
    (tmp_path / "x.png").write_bytes(bad)
    with pytest.raises(UserError, match=r"x\.png: not a readable image; replace or remove"):
        images.read(tmp_path / "x.png")


def test_canvas_sizes_are_sufficient_and_tight():
    rng = np.random.default_rng(0)
    sizes = [(4320, 7680), (1, 1), (64, 64), (500, 10000), (10000, 500), (300, 6000), (1, 65000)]
    for height, width in [*sizes, *np.exp(rng.uniform(0, 9.5, (200, 2))).astype(int)]:
        high, wide = canvas.canvas_size(int(height), int(width))
        assert high >= height and wide >= width
        # Long images do not need a square of their longer side.
        assert high * wide <= max(4 * (height + 2048) * (width + 2048), 2048**2)
    for height, width in [(300, 6000), (1, 65000), (500, 10000)]:
        assert np.prod(canvas.canvas_size(height, width)) <= 26e6
    # Common images share a canvas: from the web, and from phones and cameras.
    assert len({canvas.canvas_size(h, w) for h, w in rng.integers(32, 2049, (300, 2))}) == 1
    sensors = [(3024, 4032), (3000, 4000), (4000, 3000), (3456, 4608), (4284, 2142)]
    assert len({canvas.canvas_size(*size) for size in sensors}) == 1


def test_image_larger_than_its_canvas_raises():
    with pytest.raises(ValueError, match="96 x 80 pixels do not fit on a canvas of 90 x 90"):
        canvas.pad([tiny_image(0)[0]], (90, 90))


@pytest.mark.parametrize("size", [(64, 64), (4320, 7680), (40, 800), (800, 40)])
def test_tiny_huge_and_long_images(network, size):
    recognizer = Recognizer(*_arguments(network))
    image, known = tiny_image(3)
    scale = min(size[0] / 96, size[1] / 80)
    source_image = np.zeros((*size, 3), np.uint8)
    resized = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    source_image[: resized.shape[0], -resized.shape[1] :] = resized[: size[0], : size[1]]
    known[..., :2] = known[..., :2] * scale + [size[1] - resized.shape[1], 0]
    (person,) = recognizer(source_image, known)
    low, high = known[0, :, :2].min(0), known[0, :, :2].max(0)
    np.testing.assert_allclose(person.box, [*low, *(high - low)], rtol=1e-3, atol=0.01)
    assert person.probabilities.sum() == pytest.approx(1, abs=1e-4)


def _video(path, count=12, size=(96, 80)):
    with closing(videos.VideoWriter(path, 10.0)) as writer:
        for i in range(count):
            writer.write(i / 10, np.full((*size, 3), 20 + 8 * i, np.uint8))


@pytest.fixture(scope="module")
def no_people(network):
    """A recognizer without detections."""
    return Recognizer(*_arguments(network), _FakePose(np.zeros((1, 18, 3))))  # type: ignore[arg-type]


_SETTINGS = Settings(annotate=False, report=False)


def test_videos_without_people(no_people, tmp_path):
    _video(tmp_path / "x.webm")
    assert recognize_video(no_people, tmp_path / "x.webm", tmp_path / "out", _SETTINGS) == ""
    result = json.loads((tmp_path / "out.json").read_text())
    assert [frame["people"] for frame in result["frames"]] == [[]] * 12
    assert result["tracks"] == []
    assert (tmp_path / "out.csv").read_text().splitlines() == ["track,start,end,motion,confidence"]


@pytest.mark.parametrize("suffix", ["webm", "avi", "mp4"])
def test_videos_without_frames(no_people, tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    _video(tmp_path / "whole.webm")
    head = (tmp_path / "whole.webm").read_bytes()[:200]  # without a frame
    for content in (b"", b"nothing", head):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"x\.{suffix}: (not a readable|holds no frame)"):
            recognize_video(no_people, path, tmp_path / "out", _SETTINGS)
        assert not list(tmp_path.glob("out*"))


def test_truncated_videos_keep_readable_frames(no_people, tmp_path):
    whole = cv2.VideoWriter(
        str(tmp_path / "x.avi"), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (80, 96)
    )
    for i in range(30):
        whole.write(tiny_image(i)[0])
    whole.release()
    data = (tmp_path / "x.avi").read_bytes()
    (tmp_path / "x.avi").write_bytes(data[: len(data) // 2])
    problem = recognize_video(no_people, tmp_path / "x.avi", tmp_path / "out", _SETTINGS)
    read = len(json.loads((tmp_path / "out.json").read_text())["frames"])
    assert 10 <= read <= 16 and problem.startswith(f"only {read} of 30 frames can be read")


def test_missing_key_point_files_skip_their_frames(network, tmp_path):
    _video(tmp_path / "x.webm")
    _, people = tiny_image(0)
    for index in (*range(5), *range(6, 11)):
        openpose_json.write(tmp_path / f"x_{index:012}_keypoints.json", people)
    recognizer = Recognizer(*_arguments(network))
    video, stem = tmp_path / "x.webm", tmp_path / "out"
    problem = recognize_video(recognizer, video, stem, _SETTINGS, keypoints=tmp_path)
    assert "2 frames without key points; the first, " in problem
    assert "x_000000000005_keypoints.json: no such file" in problem
    found = json.loads((tmp_path / "out.json").read_text())["frames"]
    seen = [sum(not person["bridged"] for person in frame["people"]) for frame in found]
    assert seen == [index not in (5, 11) for index in range(12)]


def test_max_people():
    assert DECODE.max_people >= 32 and DecodeConfig().max_people <= DECODE.max_people
