"""GPU formulations, run on the CPU, give the same results as the CPU formulations."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny_config

from jdance import models
from jdance.models.pose_layers import DepthwiseConv
from jdance.pose import PoseEstimator
from jdance.pose.decode import DecodeConfig, decode
from jdance.recognize import resample
from jdance.recognize.recognizer import Recognizer


def on_gpu(monkeypatch):
    """Traces everything as for a GPU from now on."""
    monkeypatch.setattr(
        jax.lax, "platform_dependent", lambda *values, cpu, default: default(*values)
    )
    jax.clear_caches()


@pytest.fixture(autouse=True)
def forget():
    yield
    jax.clear_caches()


def image(height, width):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return np.kron(coarse, np.ones((8, 8, 1), np.uint8))[:height, :width]


def test_letterbox_and_crops(monkeypatch):
    sizes = np.array([(300, 200), (500, 900), (50, 700), (520, 920)], np.int32)
    frames = np.zeros((len(sizes), 520, 920, 3), np.uint8)
    for frame, (height, width) in zip(frames, sizes, strict=True):
        frame[:height, :width] = image(height, width)
    squares = np.array(
        [(10, 20, 150), (-50, -30, 500), (5, 5, 256), (10, -9, 1100), (0, 0, 33)], np.int32
    )
    index = np.repeat(np.arange(len(sizes), dtype=np.int32), len(squares))
    squares = np.tile(squares, (len(sizes), 1))
    expected = resample.letterbox(frames, sizes)
    crops = [resample.cut(frames, i, square) for i, square in zip(index, squares, strict=True)]
    on_gpu(monkeypatch)
    found = resample.letterbox(frames, sizes)
    assert np.abs(np.asarray(found, int) - np.asarray(expected, int)).max() <= 1
    found = resample.cut_all(frames, index, squares)
    assert np.abs(np.asarray(found) - np.asarray(crops)).max() <= 1


def test_decode(monkeypatch):
    rng = np.random.default_rng(0)
    heat = rng.uniform(0, 0.3, (2, 30, 46, 19)).astype(np.float32)
    paf = rng.normal(0, 0.4, (2, 30, 46, 38)).astype(np.float32)
    config = DecodeConfig(peaks_per_joint=40, max_people=40, min_score=0.05)
    expected = jax.device_get(decode(heat, paf, config))
    assert expected.valid.sum() > 10
    on_gpu(monkeypatch)
    jax.tree.map(
        partial(np.testing.assert_allclose, atol=1e-3), decode(heat, paf, config), expected
    )


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
def test_depthwise_convolution(monkeypatch, stride, dilation):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 12, 10, 5)), jnp.float32)
    net = DepthwiseConv(stride=stride, dilation=dilation)
    variables = net.init(jax.random.key(0), x)

    def value_and_gradients():
        weights = jnp.cos(jnp.arange(5.0))
        return jax.jit(
            jax.value_and_grad(lambda v, x: (net.apply(v, x) * weights).sum(), argnums=(0, 1))
        )(variables, x)

    expected = value_and_gradients()
    on_gpu(monkeypatch)
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    jax.tree.map(close, value_and_gradients(), expected)


@pytest.mark.parametrize("known", [False, True])
def test_recognition(monkeypatch, tiny_data, known):
    """With more people than fit into a batch, and images without people."""
    config = tiny_config(tiny_data)
    config.model.classes = 3
    net = models.build(config.model)
    variables = net.init(
        jax.random.key(0), np.zeros((1, 32, 32, 3), np.uint8), np.ones((1, 18), np.float32)
    )
    frames = [image(300, 400), image(200, 240), np.zeros((64, 64, 3), np.uint8)]
    rng = np.random.default_rng(0)
    people = [rng.uniform(20, 180, (count, 18, 3)).astype(np.float32) for count in (21, 14, 0)]

    def recognized():
        estimator = None if known else PoseEstimator.load("stage")
        recognizer = Recognizer(config, list("abc"), variables, estimator)
        found = recognizer.dispatch(frames, people if known else None, whole_image=True)
        return jax.device_get(found)

    expected = recognized()
    on_gpu(monkeypatch)
    found = recognized()
    np.testing.assert_array_equal(found.valid, expected.valid)
    assert found.valid.sum() >= (36 if known else 1)
    np.testing.assert_allclose(found.keypoints, expected.keypoints, atol=0.05)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=2e-3)
