"""Data loader: one global order, independent of processes and threads."""

from itertools import islice

import numpy as np
import pytest
from absl import flags
from conftest import eval_batches, tiny_config, train_batches

from jdance import config as defaults
from jdance import features
from jdance.data import loader, records, sampling
from jdance.data.randomness import stream
from jdance.errors import UserError


@pytest.fixture
def source(tiny_data):
    return records.Dataset(tiny_data).source("train")


def take(iterator, count):
    return list(islice(iterator, count))


def assert_same(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_batch_shapes(tiny_data, source):
    config = tiny_config(tiny_data)
    batch = next(train_batches(source, config))
    expected = {
        "image": ((8, 32, 32, 3), np.uint8),
        "features": ((8, 18), np.float32),
        "valid": ((8,), np.bool_),
        "label": ((8,), np.int32),
        "index": ((8,), np.int32),
        "weight": ((8,), np.float32),
    }
    assert {name: (value.shape, value.dtype.type) for name, value in batch.items()} == expected
    labels = [records.unpack(source[int(i)]).label for i in batch["index"]]
    assert labels == batch["label"].tolist()


def test_random_streams_are_independent():
    draws = [
        stream(name, *numbers).random()
        for name in ("sampling", "augment", "views")
        for numbers in [(0, 0), (0, 1), (1, 0), (1, 1)]
    ]
    assert len(set(draws)) == len(draws)
    assert stream("augment", 3, 5).random() == stream("augment", 3, 5).random()


def test_sampling_and_augmentation_share_no_stream(monkeypatch, tiny_data, source):
    """Regression: epoch n of the sampler and example n of augmentation shared a generator."""
    states = {"sampling": [], "augment": []}

    def recorded(name, *numbers):
        rng = stream(name, *numbers)
        states[name].append(str(rng.bit_generator.state))
        return rng

    monkeypatch.setattr(loader, "stream", recorded)
    monkeypatch.setattr(sampling, "stream", recorded)
    fractions = np.full(3, 1 / 3)
    take(train_batches(source, tiny_config(tiny_data), fractions=fractions), 8)
    assert states["sampling"] and states["augment"]
    assert not set(states["sampling"]) & set(states["augment"])


@pytest.mark.parametrize("flip", [0.0, 0.5])
def test_evaluation_views_are_mild(tiny_data, source, flip):
    """Small rotations and scales, flipped if training flips, without other augmentation."""
    config = tiny_config(tiny_data)
    config.augment.update(
        flip=flip, rotation=40.0, joint_dropout=0.9, legs_dropout=1.0, erase=1.0, color=0.5,
        joint_noise=0.2, stretch=0.5, shear=0.5, shift=0.5,
    )  # fmt: skip
    mild = defaults.evaluation_views(config.augment)
    assert {name for name, value in mild.items() if value} == {
        "rotation", "scale", "time_crop", *(["flip"] if flip else []),
    }  # fmt: skip
    assert mild.rotation <= 5 and mild.scale <= 0.05 and mild.time_crop == 1
    plain, view = (next(eval_batches(source, config, view=n)) for n in (0, 3))
    np.testing.assert_array_equal(plain["valid"], view["valid"])
    assert not np.array_equal(plain["features"], view["features"])
    # The content barely moves.
    difference = np.abs(plain["image"].astype(float) - view["image"]).mean((1, 2, 3))
    flipped = np.abs(plain["image"][:, :, ::-1].astype(float) - view["image"]).mean((1, 2, 3))
    mirrored = flipped < difference
    assert mirrored.any() == bool(flip) and np.minimum(difference, flipped).max() < 40
    assert config.augment.rotation == 40.0  # the caller's configuration is unchanged


def test_resuming_continues_the_same_order(tiny_data, source):
    config = tiny_config(tiny_data)
    whole = take(train_batches(source, config), 12)
    assert_same(whole[7:], take(train_batches(source, config, start_step=7), 5))


def test_epochs_are_permutations(tiny_data, source):
    config = tiny_config(tiny_data)
    config.batch_size = 15
    epochs = [b["index"] for b in take(train_batches(source, config), 9)]
    epochs = np.concatenate(epochs).reshape(3, 45)
    assert (np.sort(epochs) == np.arange(45)).all()
    assert not (epochs[0] == epochs[1]).all()


def test_processes_share_global_batches(tiny_data, source):
    config = tiny_config(tiny_data)
    whole = take(train_batches(source, config, 3), 4)
    parts = [take(train_batches(source, config, 3, p, 2), 4) for p in range(2)]
    for step, batch in enumerate(whole):
        joined = {k: np.concatenate([part[step][k] for part in parts]) for k in batch}
        order, back = np.argsort(batch["index"]), np.argsort(joined["index"])
        assert_same(
            [{k: v[order] for k, v in batch.items()}], [{k: v[back] for k, v in joined.items()}]
        )


def test_batches_depend_on_the_seed_only(tiny_data, source):
    config = tiny_config(tiny_data)
    config.augment.color = 0.4
    first = take(train_batches(source, config), 3)
    config.data.threads = 1
    assert_same(first, take(train_batches(source, config), 3))
    config.data.workers = 2
    flags.FLAGS(["tests"])  # required by grain's processes
    assert_same(first, take(train_batches(source, config), 3))
    assert_same(first[1:], take(train_batches(source, config, start_step=1), 2))
    config.data.workers = 0
    config.seed = 1
    other = take(train_batches(source, config), 3)
    assert not np.array_equal(first[0]["index"], other[0]["index"])


def test_evaluation_sees_every_example_once(tiny_data, source):
    config = tiny_config(tiny_data)
    batches = list(eval_batches(source, config))
    assert len(batches) == 6 and all(len(b["label"]) == 8 for b in batches)
    real = np.concatenate([b["index"][b["weight"] > 0] for b in batches])
    assert real.tolist() == list(range(45))
    parts = [list(eval_batches(source, config, p, 4)) for p in range(4)]
    assert [len(part) for part in parts] == [6] * 4
    last = list(eval_batches(source, config, 7, 8))
    assert [b["weight"].sum() for b in last] == [1, 1, 1, 1, 1, 0]
    real = np.concatenate([b["index"][b["weight"] > 0] for part in parts for b in part])
    assert sorted(real.tolist()) == list(range(45))


def test_features_are_those_of_the_augmented_keypoints(tiny_data, source):
    config = tiny_config(tiny_data)
    plain = next(eval_batches(source, config))
    stored = np.stack([records.unpack(source[i]).keypoints for i in range(8)])
    np.testing.assert_allclose(plain["features"], features.compute("fused18", stored), atol=1e-4)
    config.augment.rotation = 0.0
    config.augment.flip = 1.0
    mirrored = next(train_batches(source, config))
    stored = np.stack([records.unpack(source[int(i)]).keypoints for i in mirrored["index"]])
    expected = features.compute("fused18", stored)[:, features.FUSED18_FLIP]
    np.testing.assert_allclose(mirrored["features"], expected * features.FUSED18_SIGN, atol=1e-4)


def test_dropped_keypoints(tiny_data, source):
    config = tiny_config(tiny_data)
    batch = next(eval_batches(source, config))
    dropped = next(eval_batches(source, config, drop="all"))
    assert not dropped["features"].any() and not dropped["valid"].any()
    np.testing.assert_array_equal(dropped["image"], batch["image"])
    # In fused18: x of the ankles, the hip angles and the leg extensions.
    legless = next(eval_batches(source, config, drop="legs"))
    legs = [8, 9, 12, 13, 16, 17]
    assert not legless["features"][:, legs].any()
    assert np.delete(legless["features"], legs, axis=1).any(0).all()
    kept = next(eval_batches(source, config, drop="0.0"))
    np.testing.assert_array_equal(kept["features"], batch["features"])


def test_skeletons_need_a_network_without_image_branch(tiny_data, source):
    data = records.pack(records.Example(np.ones((18, 3), np.float32), 0, source="s.npz"))
    config = tiny_config(tiny_data)
    with pytest.raises(UserError, match="branches=keypoints"):
        list(eval_batches([data] * 3, config))
    config.model.branches = "keypoints"
    (batch,) = eval_batches([data] * 3, config)
    assert "image" not in batch and batch["weight"].sum() == 3


def test_mixup_mixes_features_and_labels(tiny_data, source):
    config = tiny_config(tiny_data)
    config.augment.update(defaults.evaluation_views(config.augment), rotation=0.0, flip=0.0)
    config.augment.scale = 0.0
    plain = {}
    for batch in eval_batches(source, config):
        for index, values in zip(batch["index"], batch["features"], strict=True):
            plain[int(index)] = values
    config.augment.mixup = 0.4
    batch = next(train_batches(source, config))
    weights = batch["partner_weight"]
    assert weights.min() >= 0 and weights.max() <= 0.5 and len(set(weights)) > len(weights) / 2
    labels = records.read_labels(source)
    everyone = np.stack([plain[i] for i in range(len(source))])
    for row, index in enumerate(batch["index"]):
        assert batch["label"][row] == labels[index]
        candidates = (1 - weights[row]) * plain[int(index)] + weights[row] * everyone
        errors = abs(candidates - batch["features"][row]).max(-1)
        partners = {labels[i] for i in np.flatnonzero(errors < 1e-5)}
        assert batch["partner_label"][row] in partners
    # The same examples in any order of batches.
    again = list(islice(train_batches(source, config), 3))[2]
    resumed = next(train_batches(source, config, start_step=2))
    assert_same([again], [resumed])
    config.data.resident = True
    with pytest.raises(UserError, match="mixup"):
        next(train_batches(source, config))
