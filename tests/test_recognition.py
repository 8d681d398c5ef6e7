"""The compiled program: its crops are those of preparing, its people those of the estimator."""

import jax
import numpy as np
import pytest
from conftest import tiny_config, tiny_image

from jdance import models
from jdance.data import augment, crop, images
from jdance.pose import PoseEstimator
from jdance.pose.letterbox import letterbox
from jdance.recognize import canvas, resample
from jdance.recognize.recognizer import Recognizer

_letterbox, _cut = jax.jit(resample.letterbox), jax.jit(resample.cut)
_view = jax.jit(resample.view, static_argnames="size")


def _image(height, width, seed=0):
    """Something like a photo: shapes with edges, in soft light, and a little noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    image = np.stack([110 + 60 * np.sin((x + k * y) / (17 + 9 * k)) for k in range(3)], -1)
    for _ in range(12):
        cx, cy, r = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(5, 60)
        image[np.hypot(x - cx, y - cy) < r] = rng.uniform(0, 255, 3)
    return np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


def _difference(a, b):
    return np.abs(np.asarray(a).astype(int) - b.astype(int)).max()


@pytest.mark.parametrize("size", [(300, 200), (368, 368), (600, 900), (1100, 700), (50, 1000)])
def test_letterbox_and_crops_are_those_of_opencv(size):
    image = _image(*size)
    frames = canvas.pad([image])
    sizes = np.array([size], np.int32)
    assert _difference(_letterbox(frames, sizes)[0], letterbox(image)[0]) <= 1
    for square in [(10, 20, 150), (-50, -30, 500), (5, 5, 256), (10, -9, max(size) * 5 // 4)]:
        expected = crop.cut(image, crop.Square(*square))
        got = _cut(frames, 0, np.array(square, np.int32))
        assert _difference(got, expected) <= 1
        for side in (224, 64):
            assert _difference(_view(got, size=side), augment.view(expected, side)) <= 2


def test_black_beyond_the_image():
    frames = canvas.pad([np.full((30, 40, 3), 200, np.uint8)])
    got = np.asarray(_cut(frames, 0, np.array([20, 10, 64], np.int32)))
    # The image's corner is 20 pixels into the square, 4 pixels of the crop each.
    assert (got[:76, :76] == 200).all() and (got[84:] == 0).all() and (got[:, 84:] == 0).all()


def _recognizer(tiny_data, estimator=None, **options):
    config = tiny_config(tiny_data)
    config.model.classes = 3
    net = models.build(config.model)
    image = np.zeros((1, 32, 32, 3), np.uint8)
    variables = net.init(jax.random.key(0), image, np.ones((1, 18), np.float32))
    return Recognizer(config, list("abc"), variables, estimator, **options)


def test_a_folder_of_photos_needs_one_program(tiny_data):
    recognizer = _recognizer(tiny_data)
    rng = np.random.default_rng(0)
    for _ in range(12):
        height, width = rng.integers(32, 1900, 2)
        people = np.concatenate([tiny_image(i)[1] for i in range(int(rng.integers(1, 9)))])
        people[..., :2] *= [width / 80, height / 96]
        image = np.zeros((height, width, 3), np.uint8)
        assert len(recognizer(image, people)) == len(people)
    assert recognizer.compiled(True, False)._cache_size() == 1


def test_one_program_serves_all_options(tiny_data):
    image, people = tiny_image(0)
    people[0, 6:] = 0
    recognizer = _recognizer(tiny_data)
    for min_joints, whole_image, found in ((6, False, 1), (7, False, 0), (7, True, 1)):
        recognizer.min_joints = min_joints
        assert len(recognizer(image, people, whole_image=whole_image)) == found
    assert recognizer.compiled(True, False)._cache_size() == 1


@pytest.mark.parametrize("count", [1, 7, 30])
def test_any_number_of_people(tiny_data, count):
    recognizer = _recognizer(tiny_data)
    image = tiny_image(0)[0]
    people = np.concatenate([tiny_image(i)[1] for i in range(count)])
    found = recognizer(image, people)
    assert len(found) == count
    for i in (0, count // 2, count - 1):
        (alone,) = recognizer(image, people[i : i + 1])
        np.testing.assert_allclose(found[i].probabilities, alone.probabilities, atol=1e-5)


def test_frames_of_a_batch_do_not_mix_and_devices_share_them(tiny_data):
    recognizer = _recognizer(tiny_data)
    frame_images = [tiny_image(i) for i in range(8)]
    some = [k[: i % 2] for i, (_, k) in enumerate(frame_images)]
    together = recognizer.people(recognizer.dispatch([p for p, _ in frame_images], some))
    for i, (image, _) in enumerate(frame_images):
        alone = recognizer(image, some[i])
        assert len(alone) == len(together[i]) == i % 2
        for a, b in zip(alone, together[i], strict=True):
            np.testing.assert_allclose(a.probabilities, b.probabilities, atol=1e-5)


def test_unsure_is_unknown(tiny_data):
    image, people = tiny_image(0)
    recognizer = _recognizer(tiny_data)
    (sure,) = recognizer(image, people)
    top = float(sure.probabilities.max())
    for least, motion in ((top + 0.01, "unknown"), (top - 0.01, sure.motion)):
        recognizer.min_confidence = least
        assert recognizer(image, people)[0].motion == motion
    (hot,) = _recognizer(tiny_data, temperature=4.0)(image, people)
    assert hot.probabilities.max() < top


@pytest.mark.parametrize(
    ("pose", "views"),
    [
        ("pose/mobilenet_v2_small.pb", ()),
        ("pose/movenet_multipose/movenet-multipose.json", ("flip",)),
    ],
)
def test_people_are_those_of_the_estimator(tiny_data, real_data, pose, views):
    estimator = PoseEstimator.load(real_data(pose), view_names=views)
    recognizer = _recognizer(tiny_data, estimator)
    for name in ("p2.jpg", "apink3.jpg"):
        image = images.read(real_data(f"photos/{name}"))
        expected = estimator.people(image)
        found = np.stack([person.keypoints for person in recognizer(image)])
        assert len(expected) >= 1
        # One grey level of rounding in the letterbox moves a joint a little.
        np.testing.assert_allclose(found, expected, atol=0.02 * max(image.shape))


def test_images_without_people(tiny_data, real_data):
    estimator = PoseEstimator.load(real_data("pose/mobilenet_v2_small.pb"))
    recognizer = _recognizer(tiny_data, estimator)
    for size in [(64, 64), (19, 380), (380, 19)]:
        image = np.full((*size, 3), 128, np.uint8)
        (whole,) = recognizer(image, whole_image=True)
        assert whole.keypoints is None and whole.box == (0, 0, size[1], size[0])
