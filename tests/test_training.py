"""Training: steps, schedules, metrics, checkpoints and configuration errors."""

import json
from contextlib import closing
from functools import partial
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import eval_batches, tiny_config, tiny_source, train_batches

from jdance import models
from jdance.data import records
from jdance.data.prepare import prepare
from jdance.errors import UserError
from jdance.train import (
    checkpoints,
    distributed,
    evaluation,
    experiment,
    intervals,
    loop,
    state,
    steps,
    tasks,
)
from jdance.train.metrics import MetricWriter
from jdance.train.motion import MotionTask


def setup(config, axis_name=steps.AXIS):
    model = models.build(config.model, axis_name=axis_name)
    optimizer = state.make_optimizer(config.optimizer, lambda _: 0.05)
    fresh = state.create(
        model, optimizer, config.seed, MotionTask(config, list("abc")).input_shapes()
    )
    step = partial(steps.train_step, model=model, optimizer=optimizer, seed=7)
    return fresh, step


@pytest.fixture
def config(tiny_data):
    config = tiny_config(tiny_data)
    config.model.classes = 3
    return config


@pytest.fixture
def batches(config):
    source = records.Dataset(config.data.dir).source("train")
    return list(islice(train_batches(source, config), 3))


def assert_trees_close(a, b, **tolerance):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


def test_four_devices_equal_one_with_the_whole_batch(config, batches):
    """Synchronized batch norm, averaged gradients, and dropout seeded by the example."""
    fresh, step = setup(config)
    mapped = jax.pmap(step, axis_name=steps.AXIS, in_axes=(None, 0), out_axes=None)
    many = distributed.replicate(fresh)
    one = fresh
    single = jax.pmap(
        step, axis_name=steps.AXIS, in_axes=(None, 0), out_axes=None, devices=jax.devices()[:1]
    )
    for batch in batches:
        many, metrics = mapped(many, distributed.shard(batch))
        whole = {name: value[None] for name, value in batch.items()}
        one, expected = single(one, whole)
        assert_trees_close(metrics, expected, rtol=1e-4, atol=1e-5)
    assert_trees_close(jax.device_get(many), jax.device_get(one), rtol=2e-3, atol=2e-5)
    assert int(many.step) == 3


def test_batch_norm_per_device(config, batches):
    """Updates differ from synchronized batch norm, with fewer all-reduces."""
    updated, collectives = [], []
    for sync in (True, False):
        config.model.sync_batch_norm = sync
        fresh, step = setup(config)
        mapped = jax.pmap(step, axis_name=steps.AXIS, in_axes=(None, 0), out_axes=None)
        batch = distributed.shard(batches[0])
        updated.append(jax.device_get(mapped(fresh, batch)[0].params))
        collectives.append(mapped.lower(fresh, batch).as_text().count("stablehlo.all_reduce"))
    differences = jax.tree.map(lambda a, b: np.abs(a - b).max(), *updated)
    assert max(jax.tree.leaves(differences)) > 1e-6
    assert collectives[1] < collectives[0]


def test_state_is_identical_on_all_devices(config, batches):
    fresh, step = setup(config)
    mapped = jax.pmap(
        step, axis_name=steps.AXIS, in_axes=(None, 0)
    )  # out_axes=0: one state per device
    new, metrics = mapped(fresh, distributed.shard(batches[0]))
    for leaf in jax.tree.leaves((new, metrics)):
        leaf = np.asarray(leaf)
        assert len(leaf) == 4
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))


def test_sgd_step_matches_its_definition(config, batches):
    config.model.update(dropout=0.0, stage_dropout=0.0)
    config.optimizer.update(momentum=0.9, weight_decay=0.1)
    model = models.build(config.model)
    optimizer = state.make_optimizer(config.optimizer, lambda _: 0.05)
    fresh = state.create(
        model, optimizer, config.seed, MotionTask(config, list("abc")).input_shapes()
    )

    def loss(params):
        logits, _ = model.apply(
            {"params": params, "batch_stats": fresh.batch_stats}, batches[0]["image"],
            batches[0]["features"], train=True, mutable=["batch_stats"],
        )  # fmt: skip
        probabilities = jax.nn.softmax(logits)[np.arange(8), batches[0]["label"]]
        return -jnp.log(probabilities).mean()

    gradient = jax.jit(jax.grad(loss))(fresh.params)
    expected = jax.tree.map(
        lambda p, g: p - 0.05 * (g + (0.1 * p if p.ndim > 1 else 0)), fresh.params, gradient
    )
    step = partial(steps.train_step, model=model, optimizer=optimizer, seed=7)
    mapped = jax.pmap(
        step, axis_name=steps.AXIS, in_axes=(None, 0), out_axes=None, devices=jax.devices()[:1]
    )
    new, _ = mapped(fresh, {name: value[None] for name, value in batches[0].items()})
    assert_trees_close(new.params, expected, rtol=1e-3, atol=1e-5)


def test_schedules_of_the_paper_and_cosine():
    from jdance import config as defaults

    optimizer = defaults.base().optimizer
    schedule = state.make_schedule(optimizer, steps_per_epoch=50, total_steps=1500)
    learning_rates = [float(schedule(step)) for step in (0, 499, 500, 999, 1000, 1499)]
    np.testing.assert_allclose(learning_rates, [1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5], rtol=1e-5)
    optimizer.update(schedule="cosine", warmup=2.0)
    schedule = state.make_schedule(optimizer, 50, 1500)
    assert float(schedule(0)) == pytest.approx(1e-5, rel=1e-3)
    assert float(schedule(750)) == pytest.approx(5e-4, rel=1e-2)
    assert float(schedule(1500)) == pytest.approx(0, abs=1e-9)


def test_mixed_examples_have_mixed_targets():
    logits = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    labels, others = np.array([0, 3, 1, 1, 2]), np.array([1, 3, 0, 2, 2])
    weights = np.array([0.5, 0.3, 0.0, 0.2, 0.1], np.float32)
    each = [np.asarray(steps.cross_entropy(logits, which)) for which in (labels, others)]
    expected = (1 - weights) * each[0] + weights * each[1]
    mixed = steps.cross_entropy(logits, labels, partners=(others, weights))
    np.testing.assert_allclose(mixed, expected, rtol=1e-5)


def test_label_smoothing_matches_its_definition():
    logits = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    labels = np.array([0, 3, 1, 1, 2])
    targets = np.full((5, 4), 0.1 / 4)
    targets[np.arange(5), labels] += 0.9
    log = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    np.testing.assert_allclose(
        steps.cross_entropy(logits, labels, 0.1), -(targets * log).sum(-1), rtol=1e-5
    )


def test_summary_counts():
    probabilities = (0.7 * np.eye(3)[[0, 0, 1, 2, 1]] + 0.1).astype(np.float32)
    predictions = {
        "probabilities": probabilities,
        "label": np.array([0, 1, 1, 0, 1]),
        "valid": np.array([True, True, False, False, True]),
        "index": np.arange(5),
    }
    groups = np.array(["0", "1", "2", "3", "4"])
    result = evaluation.summarize(predictions, ["a", "b", "c"], "data", "val", groups)
    assert result["interval"] == list(intervals.wilson(3 / 5, 5))
    assert result["interval_method"] == "Wilson"
    assert result["data"] == "data" and [m["index"] for m in result["mistakes"]] == [1, 3]
    assert result["n"] == 5 and result["accuracy"] == pytest.approx(3 / 5)
    assert result["mean_class_accuracy"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert result["loss"] == pytest.approx(-(3 * np.log(0.8) + 2 * np.log(0.1)) / 5)
    assert result["confusion"] == [[1, 0, 1], [1, 2, 0], [0, 0, 0]]
    assert result["per_class"]["c"] == {"accuracy": None, "interval": None, "n": 0}
    assert result["per_class"]["b"]["interval"] == list(intervals.wilson(2 / 3, 3))
    assert result["found"] == {"n": 3, "accuracy": pytest.approx(2 / 3)}


def test_only_prediction():
    def only(*confusion):
        result = {"confusion": confusion, "classes": ["jump", "stand", "walk"]}
        return evaluation.only_prediction(result)

    assert only([0, 4, 0], [0, 3, 0], [0, 2, 0]) == "stand"
    assert not only([1, 3, 0], [0, 3, 0], [0, 2, 0])
    assert not only([0, 0, 0], [0, 3, 0], [0, 0, 0])  # val has no other class


def test_training_learns_and_writes_metrics(tiny_data, tmp_path):
    config = tiny_config(tiny_data)
    config.epochs = 30.0
    config.model.update(dropout=0.0, branches="keypoints")
    config.optimizer.update(learning_rate=0.05, boundaries=(20.0,))
    config.augment.update(rotation=2.0)
    result = loop.train(config, tmp_path)
    assert result["accuracy"] > 0.6  # the class is the height of the wrists; by chance 0.33
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    training = [row for row in rows if "loss" in row]
    assert [row["step"] for row in training] == list(range(1, 169))
    assert training[-1]["learning_rate"] == pytest.approx(0.005)
    assert {"images_per_second", "data_wait", "accuracy", "epoch"} <= training[0].keys()
    assert any((tmp_path / "tensorboard").iterdir())
    read, classes, variables = loop.load(tmp_path)
    assert classes == ["a", "b", "c"] and read.model.classes == 3
    source = records.Dataset(tiny_data).source("val")
    again = evaluation.summarize(
        evaluation.predict(evaluation.make_eval_step(read), variables, eval_batches(source, read)),
        *(classes, str(tiny_data), "val", records.read_groups(source)),
    )
    assert again | {"step": 168} == result


def test_nonfinite_loss_is_not_saved(tiny_data, tmp_path):
    config = tiny_config(tiny_data)
    config.optimizer.learning_rate = 1e30
    config.update(log_every=1000, checkpoint_every=0.2, epochs=4.0)
    with pytest.raises(UserError, match="lower --config"):
        loop.train(config, tmp_path)
    for folder in (tmp_path / "checkpoints").iterdir():
        with checkpoints.ocp.StandardCheckpointer() as checkpointer:
            saved = checkpointer.restore(folder.absolute() / "default")
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(saved["params"]))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("batch_size", 6, "batch_size=6: not divisible by 4 devices"),
        ("optimizer.schedule", "linear", "expected piecewise or cosine"),
        ("optimizer.name", "lion", "expected sgd, adam or adamw"),
        ("model.features", "foo", "expected one of fused18, pos18, full"),
        ("model.branches", "foo", "model.branches='foo': expected one of fused"),
        ("model.version", "v3", "expected v1 or v1.5"),
        ("model.attention_place", "block", "expected end or blocks"),
        ("model.attention", 3, "expected 0, 1, 2"),
        ("model.dtype", "float33", "float33"),
        ("log_every", 0, "log_every=0: must be greater than 0"),
        ("seed", -1, "seed=-1: must not be negative"),
        ("optimizer.boundaries", (1.0, -2.0), "-2.0.: must not be negative"),
        ("optimizer.boundaries", (float("inf"),), "must be finite"),
        ("optimizer.momentum", 1.5, "must be less than 1"),
        ("model.image_widths", (0,), "image_widths=.0,.: must be greater than 0"),
        ("model.stage_sizes", (1, -1), "must be greater than 0"),
        ("model.sequence.reduction", 0, "must be greater than 0"),
        ("epochs", float("nan"), "epochs=nan"),
        ("data.dir", "nothing", "no such file"),
        ("model.dropout", 1.5, "must be less than 1"),
        ("augment.flip", 7.0, "a fraction, must be at most 1"),
    ],
)
def test_invalid_configurations(tiny_data, tmp_path, key, value, message):
    config = tiny_config(tiny_data)
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=message) as error:
        loop.train(config, tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()  # no folder is created


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(keypoint_dropout=0.7, image_dropout=0.6), "at most 1 together with"),
        (dict(keypoint_dropout=0.3, fusion="late"), "keypoint_dropout=0.3: has no effect"),
        (dict(image_dropout=0.3, fusion="late"), "image_dropout=0.3: has no effect"),
    ],
)
def test_invalid_branch_dropout(tiny_data, changes, message):
    config = tiny_config(tiny_data)
    config.model.update(changes)
    with pytest.raises(UserError, match=message):
        experiment.check(tasks.make(config, list("abc")))
    config.model.update(keypoint_dropout=0.4, image_dropout=0.6, fusion="joint")
    experiment.check(tasks.make(config, list("abc")))


def test_folder_belongs_to_one_experiment(tiny_data, tmp_path):
    config = tiny_config(tiny_data)
    config.epochs = 0.5
    first = loop.train(config, tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    for key, value in {"model.attention": 2, "model.fusion_widths": (12,), "seed": 3}.items():
        other = tiny_config(tiny_data)
        other.update_from_flattened_dict({"epochs": 0.5, key: value})
        with pytest.raises(UserError, match=f"this run has {key}="):
            loop.train(other, tmp_path)
        assert (tmp_path / "config.json").read_bytes() == before
    assert loop.train(config, tmp_path) == first  # only evaluates
    other = tmp_path / "other_data"
    prepare(tiny_source(64), other, None)
    config.data.dir = str(other)
    with pytest.raises(UserError, match="trained on other data"):
        loop.train(config, tmp_path)
    config.data.dir = str(tiny_data)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match="not the configuration of a run"):
        loop.train(config, tmp_path)


def test_a_run_is_not_shortened(tiny_data, tmp_path):
    config = tiny_config(tiny_data)
    config.model.branches = "keypoints"
    loop.train(config, tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    config.epochs = 0.5
    with pytest.raises(UserError, match=r"has step 11, but --config.epochs=0.5 ends at step 2"):
        loop.train(config, tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before


def test_folder_without_checkpoints_may_be_reused(tiny_data, tmp_path):
    config = tiny_config(tiny_data)
    config.optimizer.learning_rate = float(np.finfo(np.float32).max)
    with pytest.raises(UserError, match="lower --config"):
        loop.train(config, tmp_path)
    config.update(epochs=0.5)
    config.optimizer.learning_rate = 1e-3
    assert loop.train(config, tmp_path)["n"] == 15


def test_rows_of_an_interrupted_run_are_not_repeated(tmp_path):
    first = MetricWriter(tmp_path, 0)
    for step in range(1, 8):
        first.write(step, {"loss": float(step)})
    first.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')
    again = MetricWriter(tmp_path, 5)
    again.write(6, {"loss": 0.5})
    again.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6] and rows[5]["loss"] == 0.5


def test_checkpoints_of_another_network_or_damaged_are_errors(config, tmp_path):
    fresh, _ = setup(config)
    with closing(checkpoints.Checkpoints(tmp_path)) as saved:
        saved.save(3, fresh)
    config.model.fusion_widths = (12,)
    other, _ = setup(config)
    with (
        closing(checkpoints.Checkpoints(tmp_path)) as saved,
        pytest.raises(UserError, match=r"fusion/Dense_0/bias has shape \(16,\), expected \(12,\)"),
    ):
        saved.restore(3, other)
    (tmp_path / "checkpoints" / "3" / "default" / "_METADATA").write_text("{")
    with (
        closing(checkpoints.Checkpoints(tmp_path)) as saved,
        pytest.raises(UserError, match="checkpoints/3"),
    ):
        saved.restore(3, fresh)


def test_first_difference_names_dtype_and_missing_leaves():
    a = {"x": np.zeros(3, np.float32), "y": np.zeros(2, np.float32)}
    assert checkpoints.first_difference(a, a) == ""
    assert "y is missing" in checkpoints.first_difference(a, {"x": a["x"]})
    assert "y is not in the network" in checkpoints.first_difference({"x": a["x"]}, a)
    half = {"x": a["x"], "y": a["y"].astype(np.float16)}
    assert "y has dtype float16" in checkpoints.first_difference(a, half)
