"""Image files of cameras, phones and browsers."""

import builtins
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import tiny_image

from jdance import files
from jdance.data import images, videos
from jdance.errors import UserError


def photo():
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 2)


def test_paths_may_be_strings(tmp_path):
    image, _ = tiny_image(0)
    images.write(tmp_path / "a.png", image)
    assert (images.read(str(tmp_path / "a.png")) == image).all()


@pytest.mark.parametrize("progressive", [0, 1])
@pytest.mark.parametrize("flag", [cv2.IMREAD_COLOR, cv2.IMREAD_REDUCED_COLOR_2])
def test_jpeg_may_lack_only_its_end_marker(progressive, flag, capfd):
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive]
    data = cv2.imencode(".jpg", photo(), options)[1].tobytes()
    whole = images.decode(data, flag)
    for missing in (1, 2):
        np.testing.assert_array_equal(images.decode(data[:-missing], flag), whole)
    for missing in (12, 200, len(data) // 2):
        assert images.decode(data[:-missing], flag) is None
    assert capfd.readouterr().err == ""


def test_heic_and_avif_are_detected_by_content_and_upright(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    from PIL import Image

    heif.register_heif_opener()
    source_image = np.zeros((40, 60, 3), np.uint8)
    source_image[:10] = 250
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate clockwise
    for name in ("a.heic", "b.avif"):
        Image.fromarray(source_image).save(tmp_path / name, exif=exif.tobytes())
    (tmp_path / "c.jpg").write_bytes((tmp_path / "a.heic").read_bytes())
    assert [path.name for path in images.find(tmp_path)] == ["a.heic", "b.avif", "c.jpg"]
    for path in images.find(tmp_path):
        image = images.read(path)
        assert image.shape == (60, 40, 3) and image[:, -8:].mean() > 230 > 20 > image[:, :25].mean()
    (tmp_path / "d.heic").write_bytes((tmp_path / "a.heic").read_bytes()[:400])
    with pytest.raises(UserError, match=r"d\.heic: not a readable"):
        images.read(tmp_path / "d.heic")


def test_heic_without_pillow_heif_raises(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments):
        if name == "pillow_heif":
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    (tmp_path / "photo.jpg").write_bytes(b"\0\0\0\x1cftypheic\0\0\0\0mif1heic")
    with pytest.raises(UserError, match=r"photo\.jpg: is a HEIC .* pip install pillow-heif"):
        images.read(tmp_path / "photo.jpg")


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_animated_images_are_videos(tmp_path, kind):
    image_module = pytest.importorskip("PIL.Image")
    frames = [image_module.fromarray(np.full((40, 60, 3), 20 + 40 * i, np.uint8)) for i in range(5)]
    moving, still = tmp_path / f"moving.{kind}", tmp_path / f"still.{kind}"
    frames[0].save(
        moving, save_all=True, append_images=frames[1:], duration=[100, 200, 300, 400, 500]
    )
    images.write(still, tiny_image(0)[0])
    assert videos.find(tmp_path) == [moving] and images.find(tmp_path) == [still]
    found = list(videos.Video(moving))
    np.testing.assert_allclose([f.time for f in found], [0, 0.1, 0.3, 0.6, 1.0], atol=1e-3)
    np.testing.assert_allclose([f.image.mean() for f in found], [20, 60, 100, 140, 180], atol=3)
    assert videos.Video(moving).size == (40, 60) and not videos.describe_damage(moving)
    assert images.read(still).shape == (96, 80, 3)
    moving.write_bytes(moving.read_bytes()[:-200])
    video = videos.Video(moving)
    assert len(list(video)) < 5 or video.problem


def test_natural_order(tmp_path):
    for name in ("10.png", "2.png", "b1.png", "1.png", "a 3 b 20.png", "a 3 b 3.png", "001.png"):
        images.write(tmp_path / name, tiny_image(0)[0][:8, :8])
    assert [path.name for path in images.find(tmp_path)] == [
        "001.png", "1.png", "2.png", "10.png", "a 3 b 3.png", "a 3 b 20.png", "b1.png",
    ]  # fmt: skip
    paths = [Path(name) for name in ("x/10/a", "x/9/b", "x")]
    assert sorted(paths, key=files.natural_key) == paths[::-1]
