"""Shared fixtures: four simulated devices, a tiny data set, and optional real data."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import jaxlib

# Before the first import of jax: four simulated CPU devices, and quick compilation, which dominates
# the tests' time.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
)
if jaxlib.__version__.startswith("0.10."):  # XLA aborts on flags that a version does not know
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Compiled programs are shared among tests and their subprocesses.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jdance-compiled-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

import cv2
import numpy as np
import pytest

from jdance import config as defaults
from jdance import models, skeleton
from jdance.data import loader
from jdance.data.items import Item, LabeledPerson, Loaded, Source
from jdance.data.prepare import prepare

ROOT = Path(__file__).resolve().parent.parent
REAL_DATA = Path(os.environ.get("JDANCE_TEST_DATA", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def real_data():
    """A function from a name to the path of real test data; skips the test if it is absent."""

    def find(name: str) -> Path:
        path = REAL_DATA / name
        if not path.exists():
            pytest.skip(f"no real test data {name!r} (JDANCE_TEST_DATA is its folder)")
        return path

    return find


def tiny_image(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns an image [96, 80, 3] of noise and discs at the joints of one person [1, 18, 3]."""
    rng = np.random.default_rng(number)
    image = rng.integers(0, 90, (96, 80, 3), np.uint8)
    keypoints = np.ones((1, skeleton.NUM_JOINTS, 3), np.float32)
    keypoints[0, :, 0] = rng.uniform(15, 65, skeleton.NUM_JOINTS)
    keypoints[0, :, 1] = rng.uniform(15, 80, skeleton.NUM_JOINTS)
    # The class is the height of the wrists, so it can be learned.
    keypoints[0, [skeleton.R_WRIST, skeleton.L_WRIST], 1] = 15 + 30 * (number % 3)
    for x, y, _ in keypoints[0]:
        cv2.circle(image, (round(float(x)), round(float(y))), 3, (250, 250, 250), -1)
    return image, keypoints


def train_batches(source, config, *arguments, **options):
    """`loader.train_batches` for the network of the configuration."""
    return loader.train_batches(source, config, models.inputs(config.model), *arguments, **options)


def eval_batches(source, config, *arguments, **options):
    """`loader.eval_batches` for the network of the configuration."""
    return loader.eval_batches(source, config, models.inputs(config.model), *arguments, **options)


def tiny_source(count: int = 60) -> Source:
    items = [
        Item(
            name=f"image {i}",
            people=(LabeledPerson("abc"[i % 3]),),
            load=lambda i=i: Loaded(*tiny_image(i)),
            split="train" if i % 4 else "val",
            group=str(i),
        )
        for i in range(count)
    ]
    return Source(items, list("abc"))


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """A prepared data set of 45 training and 15 validation images in 3 classes."""
    folder = tmp_path_factory.mktemp("tiny_data")
    prepare(tiny_source(), folder, None)
    return folder


def tiny_config(data: Path):
    """A configuration that trains in seconds."""
    config = defaults.base()
    config.data.dir = str(data)
    config.data.image_size = 32
    config.batch_size = 8
    config.epochs = 2.0
    config.log_every = 1
    config.model.update(
        width=4, stage_sizes=(1, 1), image_widths=(8,), keypoint_widths=(16,),
        fusion_widths=(16,),
    )  # fmt: skip
    return config
