"""Skeleton sequences: files, layouts, resampling, motion features, the network, runs."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import eval_batches, tiny_config, train_batches

from jdance import features, models, skeleton
from jdance.config import augment as no_augment
from jdance.data import augment, crop, records, skeleton_npz, temporal
from jdance.data.prepare import prepare
from jdance.data.randomness import BatchRandom
from jdance.data.sources import open_source
from jdance.errors import UserError
from jdance.train import loop, results

JHMDB_FLIP = [0, 1, 2, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13]
SHORT_NAMES = [
    "neck", "belly", "face", "rsho", "lsho", "rhip", "lhip", "relb", "lelb", "rkne", "lkne",
    "rwri", "lwri", "rank", "lank",
]  # fmt: skip


def clips(count=24, joints=15, seed=0):
    """Returns clips of three classes: the body moves right, left, or stays still."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(5, 30, count)
    frames = []
    for i, length in enumerate(lengths):
        body = rng.normal(0, 0.3, (1, joints, 2))
        speed = (0.05, -0.05, 0.0)[i % 3]
        shift = np.stack([speed * np.arange(length), np.zeros(length)], -1)
        frames.append(body + shift[:, None] + rng.normal(0, 0.005, (length, joints, 2)))
    return {
        "poses": np.concatenate(frames).astype(np.float32),
        "lengths": lengths,
        "label": np.array(["right", "left", "still"])[np.arange(count) % 3],
        "split2": np.where(np.arange(count) % 4, "train", "val"),
        "joints": np.array(SHORT_NAMES),
    }


@pytest.fixture
def clip_file(tmp_path):
    np.savez(tmp_path / "clips.npz", **clips())
    return tmp_path / "clips.npz"


def test_flip_permutations_of_layouts():
    assert skeleton.JHMDB15.flip.tolist() == JHMDB_FLIP
    expected = [0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16]
    assert skeleton.COCO18.flip.tolist() == expected
    for layout in skeleton.LAYOUTS.values():
        assert set(sum(layout.limbs, ())) <= set(layout.joints)
        assert len(set(layout.joints)) == len(layout)


def test_features_of_shared_joints_are_equal_in_all_layouts():
    rng = np.random.default_rng(0)
    body = np.concatenate([rng.uniform(0, 99, (7, 15, 2)), np.ones((7, 15, 1))], -1)
    body = body.astype(np.float32)
    coco = np.zeros((7, 18, 3), np.float32)
    for i, name in enumerate(skeleton.COCO18.joints):
        if name in skeleton.JHMDB15.joints:
            coco[:, i] = body[:, skeleton.JHMDB15.joints.index(name)]
    for name in ("fused18", "pos18"):
        np.testing.assert_allclose(
            features.compute(name, body, skeleton.JHMDB15), features.compute(name, coco), atol=1e-6
        )
    assert features.size("full", skeleton.COCO18) == 99
    assert features.size("full", skeleton.JHMDB15) == 30 + 16 + 14 + 10 + 4 + 1 + 1 + 15


def test_motion_features_by_hand():
    rng = np.random.default_rng(1)
    layout = skeleton.JHMDB15
    clip = np.concatenate([rng.uniform(0, 1, (6, 15, 2)), np.ones((6, 15, 1))], -1)
    clip = clip.astype(np.float32)
    clip[2, 4] = 0
    actual = features.sequence("full", clip, layout)
    assert actual.shape == (6, features.size("full", layout) + 60)
    np.testing.assert_array_equal(actual[:, :-60], features.compute("full", clip, layout))
    neck, hips = clip[:, 0, :2], (clip[:, 5, :2] + clip[:, 6, :2]) / 2
    unit = np.linalg.norm(neck - hips, axis=-1).mean()
    for velocity, lag in ((actual[:, -60:-30], 1), (actual[:, -30:], 2)):
        expected = np.zeros((6, 15, 2))
        expected[:-lag] = np.clip((clip[lag:, :, :2] - clip[:-lag, :, :2]) / unit, -3, 3)
        expected[2, 4] = expected[2 - lag, 4] = 0
        np.testing.assert_allclose(velocity, expected.reshape(6, -1), atol=1e-5)
    compiled = jax.jit(lambda x: features.sequence("full", x, layout))(jnp.asarray(clip)[None])
    np.testing.assert_allclose(compiled[0], actual, atol=1e-5)


def test_temporal_resampling_and_smoothing():
    clip = np.ones((9, 15, 3), np.float32)
    clip[..., 0] = np.arange(9)[:, None]
    (even,) = temporal.sample_times([9], 17, None, no_augment())
    np.testing.assert_allclose(temporal.resample(clip, even)[:, 3, 0], np.arange(17) / 2)
    one = temporal.resample(clip[:1], *temporal.sample_times([1], 5, None, no_augment()))
    np.testing.assert_array_equal(one, np.repeat(clip[:1], 5, 0))
    gap = clip.copy()
    gap[4, 2] = 0
    at = np.array([3.25, 3.75, 4.0, 4.6])
    np.testing.assert_allclose(temporal.resample(gap, at)[:, 2], [[3, 1, 1], [0] * 3, [0] * 3,
                                                               [5, 1, 1]])  # fmt: skip
    wild = clip.copy()
    wild[4, 7, 0] = 90
    np.testing.assert_allclose(temporal.median_filter(wild)[:, 7, 0], [0, 1, 2, 3, 5, 6, 6, 7, 8])
    config = no_augment()
    config.update(time_crop=0.6, time_warp=0.3)
    rng = BatchRandom([np.random.default_rng(seed) for seed in range(50)])
    for count, drawn in zip(
        [31, 5] * 25, temporal.sample_times([31, 5] * 25, 16, rng, config), strict=True
    ):
        last = count - 1
        assert drawn.min() >= 0 and drawn.max() <= last and (np.diff(drawn) >= 0).all()
        assert np.ptp(drawn) >= 0.6 * last - 1e-9


def test_clips_from_a_file(clip_file):
    data = skeleton_npz.read(clip_file, split_column="split2")
    assert data.sequences and data.layout is skeleton.JHMDB15
    raw = clips()
    assert [len(clip) for clip in data.keypoints] == raw["lengths"].tolist()
    np.testing.assert_array_equal(data.keypoints[1][..., :2], raw["poses"][raw["lengths"][0] :][
        : raw["lengths"][1]])  # fmt: skip
    assert data.splits == raw["split2"].tolist()
    with pytest.raises(UserError, match="--split_column=split9"):
        skeleton_npz.read(clip_file, split_column="split9")
    filtered = skeleton_npz.read(clip_file, where="label=left")
    assert set(filtered.labels) == {"left"} and len(filtered.keypoints) == 8
    with pytest.raises(UserError, match="has the columns label, lengths, split2"):
        skeleton_npz.read(clip_file, where="colour=red")


def test_named_joints_are_reordered(tmp_path):
    raw = clips()
    order = np.random.default_rng(0).permutation(15)
    np.savez(tmp_path / "a.npz", **raw)
    shuffled = raw | {"poses": raw["poses"][:, order], "joints": raw["joints"][order]}
    np.savez(tmp_path / "b.npz", **shuffled)
    a, b = (skeleton_npz.read(tmp_path / name) for name in ("a.npz", "b.npz"))
    np.testing.assert_array_equal(np.concatenate(a.keypoints), np.concatenate(b.keypoints))


def test_mediapipe_is_converted_to_coco18(tmp_path):
    points = np.arange(66, dtype=np.float32).reshape(1, 33, 2)
    np.savez(tmp_path / "m.npz", xy=points, label=np.array(["a"]))
    (keypoints,) = skeleton_npz.read(tmp_path / "m.npz").keypoints
    assert keypoints[skeleton.L_ANKLE, 0] == 54 and keypoints[skeleton.R_WRIST, 0] == 32
    assert keypoints[skeleton.NECK, 0] == (24 + 22) / 2


def test_fitting_of_skeletons_is_scale_invariant():
    rng = np.random.default_rng(0)
    body = np.concatenate([rng.uniform(0, 0.01, (4, 15, 2)), np.ones((4, 15, 1))], -1)
    fitted = crop.fit_keypoints(body.astype(np.float32))
    large = crop.fit_keypoints((body * [1e4, 1e4, 1] + [77, -5, 0]).astype(np.float32))
    np.testing.assert_allclose(fitted, large, atol=1e-2)
    box = np.ptp(fitted[..., :2].reshape(-1, 2), axis=0)
    assert box.max() == pytest.approx(256 / 1.25, rel=1e-3)
    assert not crop.fit_keypoints(np.zeros((15, 3), np.float32)).any()


def test_classes_are_selected_and_renamed(clip_file):
    source = open_source(str(clip_file), labels={"left": "sideways", "right": "sideways"})
    assert source.classes == ["sideways"] and len(source.items) == 16
    with pytest.raises(UserError, match="no class 'up'"):
        open_source(str(clip_file), labels={"up": "up"})


@pytest.fixture
def clip_data(clip_file, tmp_path):
    np.savez(clip_file, **clips(96))
    source = open_source(str(clip_file), split_column="split2")
    prepare(source, tmp_path / "data", None)
    return tmp_path / "data"


def sequence_config(data):
    config = tiny_config(data)
    config.model.update(branches="sequence", layout="jhmdb15")
    config.model.sequence.update(
        frames=8, stem_width=8, width=16, blocks=1, reduction=4, dense_widths=(16,)
    )
    config.augment.update(time_crop=0.7, time_warp=0.2, shear=0.1, joint_noise=0.01)
    return config


def test_batches_of_sequences(clip_data):
    config = sequence_config(clip_data)
    dataset = records.Dataset(clip_data)
    assert dataset.sequences and dataset.layout == "jhmdb15"
    batch = next(train_batches(dataset.source("train"), config))
    assert batch["features"].shape == (8, *models.inputs(config.model).shape)
    assert "image" not in batch and batch["valid"].all()
    (plain, *_) = eval_batches(dataset.source("val"), config)
    (again, *_) = eval_batches(dataset.source("val"), config, view=0)
    np.testing.assert_array_equal(plain["features"], again["features"])
    (other, *_) = eval_batches(dataset.source("val"), config, view=1)
    assert not np.allclose(plain["features"], other["features"])
    np.testing.assert_array_equal(plain["label"], other["label"])


def test_mirroring_swaps_sides_in_every_frame(clip_data):
    record = records.unpack(records.Dataset(clip_data).source("train")[0])
    affine = np.array([[-1.0, 0, 255], [0, 1, 0]])
    (mirrored,) = augment.warp_keypoints(
        record.keypoints[None], affine[None], np.array([True]), skeleton.JHMDB15
    )
    expected = record.keypoints[:, JHMDB_FLIP].copy()
    expected[..., 0] = 255 - expected[..., 0]
    np.testing.assert_allclose(mirrored, expected, atol=1e-4)


def test_sequence_network_trains_resumes_and_learns_directions(clip_data, tmp_path):
    config = sequence_config(clip_data)
    config.update(epochs=10.0, eval_every=10.0, checkpoint_every=10.0)
    config.augment.flip = 0.0  # the classes are directions
    config.model.dropout = 0.1
    config.optimizer.update(name="adamw", learning_rate=1e-2, schedule="cosine")
    result = loop.train(config, tmp_path / "run")
    assert result["accuracy"] >= 0.8
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(rows[-1])["step"] == 90
    assert loop.train(config, tmp_path / "run") == result


@pytest.mark.parametrize("order", [-1, 0, 1, 2])
def test_architecture_of_the_sequence_network(order):
    config = tiny_config("")
    config.model.update(branches="sequence", layout="jhmdb15", features="full", attention=order)
    net = models.build(config.model)
    shape = models.inputs(config.model).shape
    assert shape == (32, 151)
    variables = jax.eval_shape(net.init, jax.random.key(0), None, jnp.zeros((1, *shape)))
    params = variables["params"]
    assert params["stem"]["kernel"].shape == (5, 151, 64)
    assert params["block1"]["conv"]["kernel"].shape == (3, 32, 32)
    assert ("attention" in params) == (order >= 0)
    assert params["dense"]["Dense_0"]["kernel"].shape == (8 * 128, 256)  # 32 frames, two pools


@pytest.mark.parametrize(("spreads", "means"), [(True, False), (False, True), (True, True)])
def test_dense_layers_get_statistics_over_time(spreads, means):
    config = tiny_config("")
    config.model.update(branches="sequence", layout="jhmdb15", features="full")
    config.model.sequence.update(spreads=spreads, means=means)
    net = models.build(config.model)
    clip = np.random.default_rng(0).normal(size=(1, *models.inputs(config.model).shape))
    variables = jax.device_get(net.init(jax.random.key(0), None, clip))
    first = variables["params"]["dense"]["Dense_0"]
    assert first["kernel"].shape == (8 * 128 + 151 * (spreads + means), 256)
    first["kernel"] = np.array(first["kernel"])
    first["kernel"][: 8 * 128] = 0  # only the statistics are left

    def logits(features, valid=True):
        return np.asarray(net.apply(variables, None, features, np.array([valid])))

    np.testing.assert_allclose(logits(clip[:, ::-1]), logits(clip), rtol=1e-4, atol=1e-6)
    still = np.repeat(clip.mean(1, keepdims=True), clip.shape[1], 1)
    assert np.allclose(logits(still), logits(clip), atol=1e-4) == (not spreads)
    assert np.allclose(logits(clip + 1), logits(clip), atol=1e-4) == (not means)
    np.testing.assert_array_equal(logits(clip, False), logits(2 * clip, False))


def test_mismatch_of_stills_and_sequences(clip_data, tiny_data, tmp_path):
    config = sequence_config(tiny_data)
    with pytest.raises(UserError, match="holds stills; train with"):
        loop.train(config, tmp_path / "run")
    config = tiny_config(clip_data)
    with pytest.raises(UserError, match="branches=sequence"):
        loop.train(config, tmp_path / "run")


def test_evaluation_on_data_that_does_not_fit(clip_data, tiny_data, tmp_path):
    stills, sequences = tiny_config(tiny_data), sequence_config(clip_data)
    stills.model.branches = "keypoints"
    for name, config in (("stills", stills), ("sequences", sequences)):
        config.epochs = 0.1
        loop.train(config, tmp_path / name)
    with pytest.raises(UserError, match=r"holds sequences; train with .* a data set of stills"):
        results.evaluate([tmp_path / "stills"], "val", data=str(clip_data))
    with pytest.raises(UserError, match=r"holds stills; train with .* a data set of sequences"):
        results.evaluate([tmp_path / "sequences"], "val", data=str(tiny_data))
    other = tmp_path / "other"
    shutil.copytree(tiny_data, other)
    info = json.loads((other / "dataset.json").read_text()) | {"layout": "jhmdb15"}
    (other / "dataset.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match="of jhmdb15, but the network takes coco18"):
        results.calibrate(tmp_path / "stills", "val", data=str(other))
