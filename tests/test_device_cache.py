"""Device cache of images: same views and same training as on the host."""

import cv2
import jax
import numpy as np
import pytest
from conftest import tiny_config

from jdance.bench import inputs
from jdance.data import augment, device_cache, records
from jdance.data.randomness import BatchRandom
from jdance.errors import UserError
from jdance.train import loop, tasks


@pytest.mark.parametrize("size", [224, 100, 32])  # reduction 1, 2 and 4
def test_views_match_the_host(size):
    factor = augment.reduction(size)
    noise = np.random.default_rng(0).integers(
        0, 256, (2, 256 // factor, 256 // factor, 3), np.uint8
    )
    images = np.stack([cv2.GaussianBlur(image, (0, 0), 3) for image in noise])
    config = tiny_config("").augment
    config.update(rotation=40.0, scale=0.3, shift=0.2, stretch=0.2, shear=0.1)
    index = np.array([1, 0, 1], np.int32)
    rng = BatchRandom([np.random.default_rng(row) for row in range(3)])
    affines, _ = augment.draw_affines(size, rng, config)
    maps = np.stack([device_cache.inverse_affine(affine, size) for affine in affines])
    views = jax.jit(device_cache.warp_images, static_argnums=3)(images, index, maps, size)
    for view, number, affine in zip(views, index, affines, strict=True):
        expected = augment.warp_image(images[number], augment.reduce_affine(affine, factor), size)
        error = np.abs(view - expected.astype(np.float32))
        # OpenCV rounds positions; most of the error is at the image's edge.
        assert error.mean() < 0.6 and np.percentile(error, 95) < 2


def run(folder, tiny_data, **changes):
    config = tiny_config(tiny_data)
    config.model.dropout = config.model.stage_dropout = 0.0
    config.epochs = 1.0
    config.data.resident = changes.pop("resident", False)
    config.update(changes)
    return loop.train(config, folder)["loss"]


def test_training_matches_the_host(tmp_path, tiny_data):
    host = run(tmp_path / "host", tiny_data)
    device = run(tmp_path / "device", tiny_data, resident=True, steps_per_dispatch=2, log_every=2)
    assert device == pytest.approx(host, rel=0.05)


def test_profiles_use_resident_images(tiny_data):
    config = tiny_config(tiny_data)
    config.data.resident = True
    dataset = records.Dataset(tiny_data)
    task = tasks.make(config, dataset.classes)
    task.setup(dataset)
    real = next(task.train_batches(dataset.source("train"), 0))
    drawn = inputs.batch(task.config, config.batch_size)
    assert {name: (v.shape, v.dtype) for name, v in drawn.items()} == {
        name: (v.shape, v.dtype) for name, v in real.items()
    }
    assert (
        inputs.random_images(task).shape[1:]
        == task.cached_images(dataset.source("train")).shape[1:]
    )


def test_color_augmentation_needs_the_host(tmp_path, tiny_data):
    config = tiny_config(tiny_data)
    config.data.resident, config.augment.color = True, 0.1
    with pytest.raises(UserError, match=r"augment\.color"):
        loop.train(config, tmp_path / "run")
