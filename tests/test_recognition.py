"""The compiled program agrees with its references: OpenCV crops and the pose estimator."""

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
    """Draws a photo-like image: smooth shading, disks with sharp edges, a little noise."""
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
def test_letterbox_and_crops_match_opencv(size):
    image = _image(*size)
    frames = canvas.pad([image])
    sizes = np.array([size], np.int32)
    assert _difference(_letterbox(frames, sizes)[0], letterbox(image)[0]) <= 1
    for square in [(10, 20, 150), (-50, -30, 500), (5, 5, 256), (10, -9, max(size) * 5 // 4)]:
        expected = crop.cut(image, crop.Square(*square))
        actual = _cut(frames, 0, np.array(square, np.int32))
        assert _difference(actual, expected) <= 1
        for side in (224, 64):
            assert _difference(_view(actual, size=side), augment.center_view(expected, side)) <= 2


def test_crops_are_black_outside_the_image():
    frames = canvas.pad([np.full((30, 40, 3), 200, np.uint8)])
    actual = np.asarray(_cut(frames, 0, np.array([20, 10, 64], np.int32)))
    # The image covers 20 x 20 pixels of the square, each of which is 4 x 4 pixels of the crop.
    assert (actual[:76, :76] == 200).all()
    assert (actual[84:] == 0).all() and (actual[:, 84:] == 0).all()


def _recognizer(tiny_data, estimator=None, **options):
    config = tiny_config(tiny_data)
    config.model.classes = 3
    net = models.build(config.model)
    image = np.zeros((1, 32, 32, 3), np.uint8)
    variables = net.init(jax.random.key(0), image, np.ones((1, 18), np.float32))
    return Recognizer(config, list("abc"), variables, estimator, **options)


def test_one_program_serves_all_photo_sizes(tiny_data):
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
    for min_joints, whole_image, count in ((6, False, 1), (7, False, 0), (7, True, 1)):
        recognizer.min_joints = min_joints
        assert len(recognizer(image, people, whole_image=whole_image)) == count
    assert recognizer.compiled(True, False)._cache_size() == 1


@pytest.mark.parametrize("count", [1, 7, 30])
def test_any_number_of_people(tiny_data, count):
    recognizer = _recognizer(tiny_data)
    image = tiny_image(0)[0]
    people = np.concatenate([tiny_image(i)[1] for i in range(count)])
    recognized = recognizer(image, people)
    assert len(recognized) == count
    for i in (0, count // 2, count - 1):
        (alone,) = recognizer(image, people[i : i + 1])
        np.testing.assert_allclose(recognized[i].probabilities, alone.probabilities, atol=1e-5)


def test_frames_of_a_batch_are_independent_and_sharded_over_devices(tiny_data):
    recognizer = _recognizer(tiny_data)
    frames = [tiny_image(i) for i in range(8)]
    people = [keypoints[: i % 2] for i, (_, keypoints) in enumerate(frames)]
    batch = recognizer.people(recognizer.dispatch([image for image, _ in frames], people))
    for i, (image, _) in enumerate(frames):
        alone = recognizer(image, people[i])
        assert len(alone) == len(batch[i]) == i % 2
        for a, b in zip(alone, batch[i], strict=True):
            np.testing.assert_allclose(a.probabilities, b.probabilities, atol=1e-5)


def test_motions_below_min_confidence_are_unknown(tiny_data):
    image, people = tiny_image(0)
    recognizer = _recognizer(tiny_data)
    (person,) = recognizer(image, people)
    top = float(person.probabilities.max())
    for min_confidence, motion in ((top + 0.01, "unknown"), (top - 0.01, person.motion)):
        recognizer.min_confidence = min_confidence
        assert recognizer(image, people)[0].motion == motion
    (calibrated,) = _recognizer(tiny_data, temperature=4.0)(image, people)
    assert calibrated.probabilities.max() < top


@pytest.mark.parametrize(
    ("pose", "views"),
    [
        ("pose/mobilenet_v2_small.pb", ()),
        ("pose/movenet_multipose/movenet-multipose.json", ("flip",)),
    ],
)
def test_people_match_the_estimator(tiny_data, real_data, pose, views):
    estimator = PoseEstimator.load(real_data(pose), view_names=views)
    recognizer = _recognizer(tiny_data, estimator)
    for name in ("p2.jpg", "apink3.jpg"):
        image = images.read(real_data(f"photos/{name}"))
        expected = estimator.people(image)
        actual = np.stack([person.keypoints for person in recognizer(image)])
        assert len(expected) >= 1
        # Rounding in the letterbox by one gray level moves joints slightly.
        np.testing.assert_allclose(actual, expected, atol=0.02 * max(image.shape))


def test_images_without_people(tiny_data, real_data):
    estimator = PoseEstimator.load(real_data("pose/mobilenet_v2_small.pb"))
    recognizer = _recognizer(tiny_data, estimator)
    for size in [(64, 64), (19, 380), (380, 19)]:
        image = np.full((*size, 3), 128, np.uint8)
        (whole,) = recognizer(image, whole_image=True)
        assert whole.keypoints is None and whole.box == (0, 0, size[1], size[0])
