"""Training and evaluation of pose networks: loss, learning rates, resuming, AP."""

import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from ml_collections import ConfigDict

from jdance import config as defaults
from jdance import skeleton
from jdance.data import prepare_scenes
from jdance.data import scenes as pose_scenes
from jdance.errors import UserError
from jdance.models.pose_layers import DepthwiseConv
from jdance.models.pose_light import LightPose, space_to_depth
from jdance.pose import PoseEstimator, decode, evaluation, targets, weights
from jdance.pose.letterbox import fitted_size, to_image
from jdance.stagedance import stage
from jdance.train import checkpoints, experiment, init_from, loop, pose, state, tasks


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A data set of a few small scenes of StageDance."""
    folder = tmp_path_factory.mktemp("scenes") / "data"
    with pytest.MonkeyPatch.context() as patch:
        small = partial(stage.render_scene, width=160, height=120)
        patch.setattr(prepare_scenes.stage, "render_scene", small)
        prepare_scenes.prepare("stage:tiny", folder)
    return folder


def small_config(data):
    config = defaults.pose()
    config.data.update(dir=str(data), image_size=32, max_people=6)
    config.model = ConfigDict(dict(network="light", width=4, stages=1))
    config.update(batch_size=4, epochs=4.0, log_every=1, eval_every=100.0, checkpoint_every=0.5)
    config.optimizer.update(name="adamw", learning_rate=1e-3)
    config.augment.update(person_height=(15.0, 40.0), jitter=5.0)
    return config


# Networks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "stride", "dilation", "side"),
    [(3, 1, 1, 9), (3, 2, 1, 10), (3, 2, 1, 9), (3, 1, 3, 11), (1, 1, 1, 5)],
)
def test_depthwise_values_and_gradients(size, stride, dilation, side):
    x = np.random.default_rng(0).normal(size=(2, side, side + 1, 5)).astype(np.float32)
    module = DepthwiseConv(size, stride, dilation)
    variables = module.init(jax.random.key(0), x)

    def grouped(variables, x):
        return jax.lax.conv_general_dilated(
            x, variables["params"]["kernel"], (stride, stride), "SAME",
            rhs_dilation=(dilation, dilation), feature_group_count=5,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip

    def gradients(function):
        return jax.grad(lambda v, x: jnp.sin(function(v, x)).sum(), argnums=(0, 1))(variables, x)

    np.testing.assert_allclose(module.apply(variables, x), grouped(variables, x), atol=1e-5)
    for actual, expected in zip(
        jax.tree.leaves(gradients(module.apply)), jax.tree.leaves(gradients(grouped)), strict=True
    ):
        np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_light_network_shapes_and_size():
    net = LightPose(width=40, stages=3)
    image = jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32)
    stages, variables = jax.eval_shape(
        lambda x: net.init_with_output(jax.random.key(0), x, all_stages=True), image
    )
    assert [(h.shape, p.shape) for h, p in stages] == 3 * [((2, 8, 12, 19), (2, 8, 12, 38))]
    assert {k.split("_")[0] for k in variables["params"]} >= {"stage1", "stage2", "stage3"}


def test_space_to_depth():
    x = np.arange(4 * 6 * 2).reshape(1, 4, 6, 2)
    joined = space_to_depth(x, 2)
    assert joined.shape == (1, 2, 3, 8)
    np.testing.assert_array_equal(joined[0, 1, 2], x[0, 2:4, 4:6].ravel())


# Loss and rates -----------------------------------------------------------------------------------


class TwoStages(nn.Module):
    """A network whose maps are its parameters."""

    @nn.compact
    def __call__(self, images, train=False, all_stages=False):
        shape = (len(images), images.shape[1] // 8, images.shape[2] // 8)
        init = nn.initializers.normal(1.0)
        return [
            (self.param(f"stage{s}_heat", init, (*shape, 19)),
             self.param(f"stage{s}_paf", init, (*shape, 38)))
            for s in (1, 2)
        ]  # fmt: skip


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    keypoints = rng.uniform(0, 64, (3, 2, 18, 3)).astype(np.float32)
    mask = rng.uniform(0, 1, (3, 8, 8)).astype(np.float32)
    mask[:, 2:5] = 0
    return {"image": np.zeros((3, 64, 64, 3), np.uint8), "keypoints": keypoints, "mask": mask}


def test_loss_is_the_masked_squared_error_of_all_stages(batch):
    net = TwoStages()
    variables = net.init(jax.random.key(0), batch["image"])
    heat, paf = (np.asarray(m) for m in targets.encode(batch["keypoints"], (8, 8)))
    expected = 0.0
    for s in (1, 2):
        maps = (variables["params"][f"stage{s}_{name}"] for name in ("heat", "paf"))
        for weight, true, found in zip((4, 1), (heat, paf), maps, strict=True):
            error = (np.asarray(found) - true) ** 2
            expected += weight * (batch["mask"][..., None] * error).sum() / (2 * 3)
    loss = partial(pose.pose_loss, net, batch=batch, key=None, heat_weight=4.0)
    value, (metrics, statistics) = loss(variables)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert metrics.keys() == {"heat_loss", "paf_loss"} and statistics == {}
    gradient = jax.grad(lambda params: loss({"params": params})[0])(variables["params"])
    for leaf in jax.tree.leaves(gradient):
        assert not leaf[:, 2:5].any() and leaf[:, :2].all()  # masked cells teach nothing


def test_learning_rate_of_later_stages():
    params = {
        name: {"kernel": jnp.ones((2, 2))}
        for name in ("stride4", "stage1_maps", "stage2_block0", "stage12_heat")
    }
    config = defaults.pose().optimizer
    optimizer = state.make_optimizer(
        config,
        lambda _: 0.1,
        lr_multipliers=partial(pose.stage_multipliers, later=config.later_stages),
    )
    plain = state.make_optimizer(config, lambda _: 0.1)
    gradient = jax.tree.map(jnp.ones_like, params)
    actual, _ = optimizer.update(gradient, optimizer.init(params), params)
    same, _ = plain.update(gradient, plain.init(params), params)
    factors = {
        name: float((actual[name]["kernel"] / same[name]["kernel"])[0, 0]) for name in actual
    }
    assert factors == {"stride4": 1, "stage1_maps": 1, "stage2_block0": 4, "stage12_heat": 4}


# Runs ---------------------------------------------------------------------------------------------


def parameters(workdir):
    folder = max((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name))
    with checkpoints.ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(folder.absolute() / "default")["params"]


def test_interrupted_and_uninterrupted_runs_are_equal(scenes, tmp_path, monkeypatch):
    config = small_config(scenes)
    result = loop.train(config, tmp_path / "a")
    assert result.keys() >= {"AP", "AP50", "AP75", "AR"} and result["n"] == 7
    rows = [json.loads(r) for r in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 10))
    assert rows[-1]["loss"] < rows[0]["loss"] and "val_AP" in rows[-1]

    class Interrupted(Exception):
        pass

    def write(self, step, values):
        if step == 6:
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(loop.MetricWriter, "write", write)
        with pytest.raises(Interrupted):
            loop.train(config, tmp_path / "b")
    loop.train(config, tmp_path / "b")
    jax.tree.map(
        np.testing.assert_array_equal, parameters(tmp_path / "a"), parameters(tmp_path / "b")
    )
    # The run's packed weights are what --pose takes, and what another run can start from.
    packed = tmp_path / "a" / "pose.npz"
    estimator = PoseEstimator.load(packed)
    jax.tree.map(
        lambda actual, expected: np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-6),
        jax.device_get(estimator.variables["params"]), parameters(tmp_path / "a"),
    )  # fmt: skip
    config.init_from = str(packed)
    task = tasks.make(config, ["person"])
    optimizer = state.make_optimizer(
        config.optimizer, lambda _: 1e-2, lr_multipliers=task.lr_multipliers
    )
    fresh = state.create(task.model(), optimizer, 0, task.input_shapes())
    begun = init_from.apply(fresh, task.initial_variables(fresh.variables))
    jax.tree.map(np.testing.assert_array_equal, begun.params, estimator.variables["params"])
    config.model.width = 8
    with pytest.raises(UserError, match="it was made for another network"):
        tasks.make(config, ["person"]).initial_variables(fresh.variables)


def test_additional_stages_keep_their_initialization(tmp_path):
    """The third step of Lightweight OpenPose's recipe adds stages to a trained network."""
    config = defaults.pose()
    config.model.update(width=8, stages=1)
    shapes = weights.abstract_variables(weights.build(config.model))
    flat = {path: np.ones(leaf.shape, leaf.dtype) for path, leaf in shapes.items()}
    weights.pack(tmp_path / "pose.npz", config.model.to_dict(), weights.unflatten_dict(flat))
    config.init_from = str(tmp_path / "pose.npz")
    config.model.stages = 3
    loaded = tasks.make(config, ["person"]).initial_variables(None)
    assert loaded.keys() == flat.keys()
    beyond = weights.abstract_variables(weights.build(config.model)).keys() - flat.keys()
    assert beyond and all(path[1].startswith(("stage2", "stage3")) for path in beyond)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data.image_size", 40, "must be a multiple of 16"),
        ("model.network", "hourglass", "unknown pose network 'hourglass'"),
        ("task", "poses", "expected motion or pose"),
        ("freeze_epochs", 1.0, "freeze_epochs=1: pose networks cannot be frozen"),
        ("data.max_people", 0, "must be greater than 0"),
        ("model.width", 0, "model.width=0: must be greater than 0"),
        ("init_from", "nothing", "no such pose network"),
    ],
)
def test_mistakes_in_the_configuration(scenes, tmp_path, key, value, message):
    config = small_config(scenes)
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=message):
        loop.train(config, tmp_path / "run")


def test_damaged_packed_checkpoints(tmp_path):
    path = tmp_path / "pose.npz"
    path.write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"not a readable \.npz file"):
        PoseEstimator.load(path)
    np.savez(path, x=np.zeros(3))
    with pytest.raises(UserError, match="not a packed pose checkpoint"):
        PoseEstimator.load(path)
    np.savez(path, config=np.array('{"network": "light"}'), **{"params/x": np.zeros(3)})
    with pytest.raises(UserError, match=r"params/stride4/kernel is missing|is missing"):
        weights.unpack(path)


# Average precision --------------------------------------------------------------------------------


def stacked(a, b, height):
    """Two images of the same size stacked vertically."""
    below = b.people.copy()
    below[..., 1] += height * (below[..., 2] > 0)
    joined = {
        name: np.concatenate([getattr(a, name), getattr(b, name)])
        for name in ("boxes", "areas", "crowd")
    }
    return dataclasses.replace(a, people=np.concatenate([a.people, below]), **joined)


def test_average_precision_of_perfect_maps():
    """Ground truth of up to 12 people, encoded as maps and decoded."""
    width, height = 320, 240
    crowded = next(group for group in range(60) if stage._troupe_size(5, group) == 6)
    records_ = []
    for group in range(60):
        motions = range(6) if group == crowded else None
        pair = [
            prepare_scenes.record_from_scene(
                stage.render_scene(5, group, i, motions=motions, width=width, height=height), ""
            )
            for i in range(2)
        ]
        records_.append(stacked(*pair, height))
    assert max(len(record.people) for record in records_) == 12
    scale = np.array(fitted_size(2 * height, width))[::-1] / (width, 2 * height)
    draw = jax.jit(lambda people: targets.encode(people, (46, 46)))
    found = []
    for record in records_:
        people = np.zeros((1, 12, skeleton.NUM_JOINTS, 3), np.float32)
        people[0, : len(record.people)] = record.people
        people[..., :2] = (people[..., :2] + 0.5) * scale - 0.5
        result = jax.device_get(decode.decode(*draw(people)))
        valid = result.valid[0]
        keypoints = to_image(result.keypoints[0][valid], 2 * height, width)
        found.append((keypoints, result.score[0][valid]))
    assert evaluation.coco_metrics(records_, found)["AP"] >= 0.97


def test_coco_metrics_by_hand():
    person = np.ones((2, 18, 3), np.float32)
    person[..., 0] = np.linspace(10, 90, 18)
    person[..., 1] = np.linspace(20, 180, 18)
    person[1, :, 0] += 200
    truth = [
        prepare_scenes.scenes.SceneRecord(
            b"", person, np.zeros((2, 4)), np.full(2, 1e4), np.zeros(2, bool)
        )
    ]
    assert evaluation.coco_metrics(truth, [(person, np.ones(2))])["AP"] == pytest.approx(1)
    half = evaluation.coco_metrics(truth, [(person[:1], np.ones(1))])
    assert half["AR"] == pytest.approx(0.5) and half["AP"] == pytest.approx(51 / 101)
    assert evaluation.coco_metrics(truth, [(person[:0], np.ones(0))])["AP"] == 0
    far = person + np.float32([50, 50, 0])
    assert evaluation.coco_metrics(truth, [(far, np.ones(2))])["AP50"] == 0


def test_runs_keep_their_network_attributes(tmp_path):
    config = defaults.pose()
    config.model = ConfigDict(dict(network="mobilenet_v2_small", statistics="fixed"))
    text = json.dumps({"config": config.to_dict(), "classes": ["person"]})
    (tmp_path / "config.json").write_text(text)
    assert experiment.read(tmp_path)[0] == config


# What ships with the package ----------------------------------------------------------------------


def test_shipped_network_on_unseen_dancers():
    assert weights.SHIPPED["stage"].stat().st_size <= 4_000_000
    estimator = PoseEstimator.load("stage")
    packed = []
    for group in range(12):
        scene = stage.render_scene(2021, group, 0)
        packed.append(pose_scenes.pack(prepare_scenes.record_from_scene(scene, f"{group}")))
    assert evaluation.average_precision(estimator, packed)["AP"] >= 0.7
