"""Recognition in bfloat16 is close to float32."""

import cv2
import jax
import numpy as np
from conftest import tiny_config, tiny_image

from jdance import models
from jdance.bench.inputs import crowd
from jdance.pose import PoseEstimator
from jdance.recognize.recognizer import Recognizer


def test_pose_maps():
    image = crowd(4)[0][None]
    (heat, paf), (low_heat, low_paf) = (
        PoseEstimator.load("stage", dtype=dtype).maps(image) for dtype in (None, "bfloat16")
    )
    assert low_heat.dtype == low_paf.dtype == np.float32
    for exact, low in ((heat, low_heat), (paf, low_paf)):
        difference = np.abs(np.asarray(low) - np.asarray(exact))
        assert 0 < difference.mean() < 0.01 and difference.max() < 0.15


def test_motions(tiny_data):
    config = tiny_config(tiny_data)
    config.model.classes = 3
    image = np.zeros((1, 32, 32, 3), np.uint8)
    variables = jax.jit(models.build(config.model).init)(jax.random.key(0), image, np.ones((1, 18)))
    exact, low = (
        Recognizer(config, list("abc"), variables, dtype=dtype) for dtype in (None, "bfloat16")
    )
    assert config.model.dtype == "float32"  # the caller's own stays as it is
    rng = np.random.default_rng(0)
    images = np.stack([cv2.resize(tiny_image(i)[0], (32, 32)) for i in range(4)])
    numbers = rng.normal(0, 1, (4, 18)).astype(np.float32)
    a, b = (
        np.asarray(jax.jit(one.network.logits)(variables, images, numbers, np.ones(4, bool)))
        for one in (exact, low)
    )
    assert a.dtype == b.dtype == np.float32
    assert 0 < np.abs(a - b).max() < 0.05
