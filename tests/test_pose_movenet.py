"""MoveNet MultiPose: TensorFlow.js files, network, decoder, and their use."""

import json
import shutil

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from jdance import config as defaults
from jdance import skeleton
from jdance.errors import UserError
from jdance.models import pose_layers, pose_movenet
from jdance.pose import DecodeConfig, PoseEstimator, importers, movenet_decode, zoo
from jdance.train.pose import PoseTask
from jdance.weights import tfjs

PUBLISHED = "pose/movenet_multipose/movenet-multipose.json"
NAMES = ("p1", "p2", "apink3", "handsup1")
HEADS = ("center_0", "kpt_heatmap_0", "kpt_regress_0", "kpt_offset_0")


# Files --------------------------------------------------------------------------------------------


def write_model(path, arrays, shards=1, extra=b"", **changes):
    """Writes {name: array}; float16 and uint8 arrays (q / 2 - 3) are quantized."""
    weights = []
    for name, array in arrays.items():
        entry = {"name": name, "shape": list(array.shape), "dtype": array.dtype.name}
        if array.dtype in (np.float16, np.uint8):
            entry |= {"dtype": "float32", "quantization": {"dtype": array.dtype.name}}
        if array.dtype == np.uint8:
            entry["quantization"] |= {"scale": 0.5, "min": -3}
        weights.append(entry | changes)
    data = b"".join(array.tobytes() for array in arrays.values()) + extra
    cut = -(-len(data) // shards)
    names = [f"{path.stem}{i}.bin" for i in range(shards)]
    for i, name in enumerate(names):
        (path.parent / name).write_bytes(data[i * cut : (i + 1) * cut])
    manifest = [{"paths": names, "weights": weights}]
    path.write_text(json.dumps({"format": "graph-model", "weightsManifest": manifest}))
    return path


def arrays():
    rng = np.random.default_rng(0)
    return {
        "a": rng.normal(size=(2, 3)).astype(np.float32),
        "b": rng.normal(size=(4,)).astype(np.float16),
        "c": rng.integers(0, 255, (3, 1, 2), np.uint8),
        "d": np.int32(7),
    }


def test_reads_all_types(tmp_path):
    found = tfjs.read(write_model(tmp_path / "m.json", arrays(), shards=3))
    assert {name: array.dtype.name for name, array in found.items()} == {
        "a": "float32", "b": "float32", "c": "float32", "d": "int32",
    }  # fmt: skip
    np.testing.assert_array_equal(found["a"], arrays()["a"])
    np.testing.assert_array_equal(found["b"], arrays()["b"].astype(np.float32))
    np.testing.assert_array_equal(found["c"], arrays()["c"] / np.float32(2) - 3)
    assert found["d"] == 7 and found["d"].shape == ()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"extra": b"more"}, "4 bytes are left over"),
        ({"shape": [10**9]}, "more than .* values in all"),
        ({"shape": [100]}, r"'a' of shape \[100\] does not fit its file"),
        ({"shape": [-2, -3]}, "no possible shape"),
        ({"dtype": "string"}, "has an unknown type"),
        ({"name": "a"}, "two weights are called 'a'"),
        ({"quantization": {"dtype": "uint8", "scale": float("nan"), "min": 0}}, "has no scale"),
    ],
)
def test_damaged_models(tmp_path, changes, reason):
    path = write_model(tmp_path / "m.json", arrays(), **changes)
    with pytest.raises(UserError, match=reason) as error:
        tfjs.read(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("paths", "reason"),
    [
        (["../m0.bin"], "an invalid weights file name '../m0.bin'"),
        (["/etc/passwd"], "an invalid weights file name '/etc/passwd'"),
        (["absent.bin"], r"absent\.bin: cannot be read"),
        (["m0.bin", "m0.bin"], "an invalid weights file name 'm0.bin'"),
        ([3], "an invalid weights file name '3'"),
    ],
)
def test_only_files_in_the_same_folder_are_read(tmp_path, paths, reason):
    (tmp_path / "below").mkdir()
    write_model(tmp_path / "m.json", arrays())
    path = write_model(tmp_path / "below" / "m.json", arrays())
    model = json.loads(path.read_text())
    model["weightsManifest"][0]["paths"] = paths
    path.write_text(json.dumps(model))
    with pytest.raises(UserError, match=reason):
        tfjs.read(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weightsManifest": [3]}', "[" * 100000])
def test_other_files(tmp_path, text):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(UserError, match=r"m\.json: not a TensorFlow\.js model"):
        tfjs.read(tmp_path / "m.json")


def test_other_networks(tmp_path):
    path = write_model(tmp_path / "m.json", arrays())
    with pytest.raises(UserError, match=r"not the weights of movenet_multipose, .* is missing"):
        PoseEstimator.load(path)


# The network --------------------------------------------------------------------------------------


def test_upsample_half_pixel():
    x = np.random.default_rng(0).normal(size=(2, 5, 3, 4)).astype(np.float32)
    expected = jax.image.resize(x, (2, 10, 6, 4), "bilinear")
    np.testing.assert_allclose(pose_layers.upsample_half_pixel(jnp.asarray(x)), expected, atol=1e-6)


def test_cannot_be_trained():
    config = defaults.pose()
    config.model = ConfigDict({"network": "movenet_multipose"})
    with pytest.raises(UserError, match="movenet_multipose: can be used, but not trained"):
        PoseTask(config).check()


# The decode ---------------------------------------------------------------------------------------

CELLS = (40, 48)
CONFIG = DecodeConfig(max_people=6)


def logit(probability):
    return np.log(probability / (1 - probability))


def scene(*people, misplaced=0.0, cells=CELLS):
    """Heads with people [17, 3] in pixels; `misplaced` is the error of the regression in cells."""
    center = np.full((*cells, 1), -9.0, np.float32)
    heat = np.full((*cells, 17), -9.0, np.float32)
    regress = np.zeros((*cells, 17, 2), np.float32)
    offset = np.zeros((*cells, 17, 2), np.float32)
    for number, person in enumerate(people):
        position = (person[:, 1::-1] + 0.5) / 4  # y, x in cells
        middle = np.round(position.mean(0)).astype(int)
        center[tuple(middle)] = logit(0.9 - 0.1 * number)
        regress[tuple(middle)] = position - middle + misplaced
        for joint, (y, x) in enumerate(position):
            cell = int(y), int(x)
            heat[(*cell, joint)] = logit(person[joint, 2])
            offset[(*cell, joint)] = y - cell[0], x - cell[1]
    flat = (*cells, 34)
    return pose_movenet.Heads(center, heat, regress.reshape(flat), offset.reshape(flat))


def one(x, y, seed=0):
    rng = np.random.default_rng(seed)
    xy = rng.uniform(-20, 20, (17, 2)) + [x, y]
    return np.concatenate([xy, rng.uniform(0.3, 0.9, (17, 1))], 1).astype(np.float32)


def decoded(*scenes, config=CONFIG, min_joints=4):
    heads = jax.tree.map(lambda *x: jnp.stack(x), *scenes)
    return jax.device_get(jax.jit(movenet_decode.decode, static_argnums=1)(
        heads, config, min_joints))  # fmt: skip


def test_joints_are_refined_to_their_heat():
    first, second = one(50, 60), one(130, 90, seed=1)
    found = decoded(scene(first, second, misplaced=0.6), scene(second))
    assert found.keypoints.shape == (2, 6, 18, 3)
    assert found.valid.sum(1).tolist() == [2, 1]
    for row, person in ((found.keypoints[0, 0], first), (found.keypoints[1, 0], second)):
        np.testing.assert_allclose(row, skeleton.to_coco18(person), atol=2e-3)
    assert not found.keypoints[0, 2:].any() and not found.score[0, 2:].any()


def test_sequential_and_parallel_refinement_are_equal():
    """CPUs refine people sequentially, GPUs in parallel."""
    heads = jax.tree.map(lambda x: jnp.asarray(x)[None], scene(one(50, 60), one(130, 90, seed=1)))
    rough = movenet_decode._from_centers(heads, 6)
    heat = jax.nn.sigmoid(heads.heat).transpose(0, 3, 1, 2)
    sequential = movenet_decode._refine_sequentially(heat, heads.offset, rough)
    parallel = movenet_decode._refine_all(heat, heads.offset, rough)
    for a, b in zip(sequential, parallel, strict=True):
        np.testing.assert_allclose(a[:, :2], b[:, :2], atol=1e-5)


def test_duplicate_centers_are_suppressed():
    person = one(80, 80)
    heads = scene(person)
    y, x = np.argwhere(heads.center[..., 0] > 0)[0]
    heads.center[y, x + 3] = logit(0.5)
    heads.regress[y, x + 3] = (heads.regress[y, x].reshape(17, 2) - [0, 3]).reshape(-1)
    assert decoded(heads).valid.sum() == 1


def test_joints_without_heat_are_missing():
    person = one(80, 80)
    person[3:9, 2] = 0.03
    found = decoded(scene(person))
    shoulder = skeleton.to_coco18(person)[..., 2] < 0.05
    np.testing.assert_array_equal(found.keypoints[0, 0, :, 2] == 0, shoulder)
    assert not found.keypoints[0, 0, shoulder].any()
    assert decoded(scene(person), min_joints=18).valid.sum() == 0


def test_empty_image_and_crowd():
    people = [one(20 + 50 * (i % 3), 30 + 60 * (i // 3), seed=i) for i in range(6)]
    found = decoded(scene(), scene(*people), config=DecodeConfig(max_people=4))
    assert found.valid.sum(1).tolist() == [0, 4]


# The published weights ----------------------------------------------------------------------------


def test_equals_the_reference_on_real_images(real_data):
    estimator = PoseEstimator(*importers.import_file(real_data(PUBLISHED)))
    assert estimator.size == 384
    with np.load(real_data("pose/movenet_multipose/reference_heads.npz")) as reference:
        for name in NAMES:
            heads = estimator.maps(reference[f"{name}/input_rgb"][None])
            for actual, kind in zip(heads, HEADS, strict=True):
                # The reference is stored in half precision: 2**-11 of a value is its rounding.
                expected = reference[f"{name}/{kind}"].astype(np.float32)
                np.testing.assert_allclose(actual[0], expected, atol=2e-3, rtol=2**-11)


@pytest.mark.parametrize(("name", "people"), [("p1.jpg", 1), ("p2.jpg", 2), ("apink3.jpg", 6)])
def test_real_photos(real_data, monkeypatch, name, people):
    monkeypatch.setattr(zoo, "find", lambda name: real_data(PUBLISHED))
    estimator = PoseEstimator.load("movenet_multipose")
    image = cv2.imread(str(real_data(f"photos/{name}")))[..., ::-1]
    keypoints = estimator.people(np.ascontiguousarray(image))
    assert len(keypoints) == people and (keypoints[..., 2] > 0).sum(-1).min() >= 12


def test_folder_with_the_published_files(real_data, tmp_path):
    for suffix in (".json", ".bin"):
        shutil.copy(real_data(PUBLISHED).with_suffix(suffix), tmp_path)
    assert PoseEstimator.load(tmp_path).config == {"network": "movenet_multipose"}
