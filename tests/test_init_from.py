"""Imported weights and fine-tuning: loaded, initialized and frozen variables."""

import json
from contextlib import closing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, tiny_config
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from jdance import config as defaults
from jdance import models
from jdance.errors import UserError
from jdance.train import init_from, loop, state
from jdance.train.checkpoints import Checkpoints
from jdance.train.motion import MotionTask
from jdance.weights import checkpoint, resnet


def abstract_state(config):
    classes = [str(number) for number in range(config.model.classes)]
    return loop._abstract_state(MotionTask(config, classes))


def shapes(config):
    return abstract_state(config).variables


def read(path, config, classes="abc"):
    """`init_from.read` for the network of a configuration."""
    return init_from.read(path, shapes(config), config.model, list(classes))


def describe(folder, config):
    """Writes the part of a run's config.json that describes its network."""
    content = {"config": config.to_dict(), "classes": list("abc")}
    (folder / "config.json").write_text(json.dumps(content))


def tensors(model, **changes):
    """Random weights of a network under torchvision's names."""
    rng = np.random.default_rng(0)
    found = {
        resnet._torch_name(path): rng.uniform(0.5, 1, resnet._torch_shape(path, leaf.shape)).astype(
            np.float32
        )
        for path, leaf in resnet.abstract_variables(model).items()
    }
    found.pop("", None)
    return found | changes


def write(path, arrays):
    save_file(arrays, path)
    return path


@pytest.fixture
def config(tiny_data):
    config = tiny_config(tiny_data)
    config.model.classes = 3
    return config


@pytest.fixture
def plain(config):
    """The backbone with a classifier, as in published files."""
    model = config.copy_and_resolve_references().model
    model.update(branches="image", attention=-1, image_widths=(), fusion_widths=(), classes=10)
    return model


@pytest.fixture
def kind(config, monkeypatch):
    sizes = {name: config.model[name] for name in ("block", "stage_sizes", "width")}
    monkeypatch.setitem(resnet.KINDS, "tiny", sizes)
    return "tiny"


# Import -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cbam", [False, True])
@pytest.mark.parametrize("classifier", [False, True])
def test_import_detects_classifier_and_cbam(kind, plain, tmp_path, cbam, classifier):
    if cbam:
        plain.update(attention=0, attention_place="blocks", gate_norm=True)
    arrays = tensors(plain)
    arrays = {name: a for name, a in arrays.items() if classifier or not name.startswith("fc.")}
    path = write(tmp_path / "net.safetensors", {f"module.{name}": a for name, a in arrays.items()})
    config, variables = resnet.import_file(kind, path)
    assert (config.attention, config.gate_norm) == ((0, True) if cbam else (-1, False))
    assert config.classes == (10 if classifier else 0)
    assert ("logits" in variables["params"]) == classifier
    resnet.save(tmp_path / "imported", kind, config, variables)
    content = json.loads((tmp_path / "imported" / "model.json").read_text())
    assert content["network"] == kind and content["model"]["width"] == 4
    again = checkpoint.read_variables(tmp_path / "imported", "ResNet")
    jax.tree.map(np.testing.assert_array_equal, again, variables)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"layer1.0.conv2.weight": np.zeros((4, 4, 5, 5), np.float32)},
         r"layer1.0.conv2.weight has shape \(4, 4, 5, 5\), but the network \(4, 4, 3, 3\)"),
        ({"layer1.1.conv1.weight": np.zeros((4, 16, 1, 1), np.float32)},
         "layer1.1.conv1.weight is not in the network"),
        ({"conv1.weight": None}, "params/backbone/stem/kernel is missing"),
        ({"fc.weight": None}, "params/logits/kernel is missing"),
    ],
)  # fmt: skip
def test_import_names_the_first_difference(kind, plain, tmp_path, change, reason):
    arrays = {name: a for name, a in tensors(plain, **change).items() if a is not None}
    path = write(tmp_path / "net.safetensors", arrays)
    with pytest.raises(UserError, match=reason):
        resnet.import_file(kind, path)


# Initialization -----------------------------------------------------------------------------------


def test_file_folder_and_run_give_the_same_start(kind, config, plain, tmp_path):
    path = write(tmp_path / "net.safetensors", tensors(plain))
    resnet.save(tmp_path / "imported", kind, *resnet.import_file(kind, path))
    loaded, message = read(path, config)
    assert {name[1] for name in loaded} == {"backbone"}
    assert message.startswith(f"starting from {path}: ") and message.endswith(
        "fresh: backbone/attention, fusion, image, keypoints, logits"
    )
    fresh = abstract_state(config)
    fresh = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), fresh)
    with closing(Checkpoints(tmp_path / "run")) as run:
        run.save(1, init_from.apply(fresh, loaded))
    describe(tmp_path / "run", config)
    from_folder, _ = read(tmp_path / "imported", config)
    from_run, message = read(tmp_path / "run", config)
    assert message.endswith("fresh: none") and from_folder.keys() == loaded.keys()
    assert from_run.keys() == flatten_dict(shapes(config)).keys()
    for name, array in loaded.items():
        np.testing.assert_array_equal(from_folder[name], array)
        np.testing.assert_array_equal(from_run[name], array)


def test_the_head_is_loaded_if_it_fits(config, plain, tmp_path):
    path = write(tmp_path / "net.safetensors", tensors(plain))
    config.model.update(branches="image", attention=-1, image_widths=(), fusion_widths=())
    for classes, whole in ((10, True), (3, False)):
        config.model.classes = classes
        loaded, _ = read(path, config)
        assert any(name[1] == "logits" for name in loaded) == whole


@pytest.fixture
def run(config, tmp_path):
    """The folder of a run of the configuration, as initialized at random."""
    config = config.copy_and_resolve_references()
    with closing(Checkpoints(tmp_path / "run")) as checkpoints:
        made = state.create(
            models.build(config.model), state.make_optimizer(config.optimizer, lambda _: 0.1),
            0, MotionTask(config, list("abc")).input_shapes(),
        )  # fmt: skip
        checkpoints.save(1, made)
    describe(tmp_path / "run", config)
    return tmp_path / "run"


def test_classifiers_follow_the_names_of_the_classes(run, config):
    same, message = read(run, config)
    assert message.endswith("fresh: none")
    other, message = read(run, config, "cab")
    assert message.endswith("fresh: none")
    for name, value in same.items():
        expected = value[..., [2, 0, 1]] if name[1] == "logits" else value
        np.testing.assert_array_equal(other[name], expected)
    other, message = read(run, config, "abd")
    assert {name[1] for name in same} - {name[1] for name in other} == {"logits"}
    assert message.endswith("fresh: logits; it has other classes")


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("features", "pos18", "fused18 of coco18, the network pos18 of coco18"),
        ("layout", "jhmdb15", "fused18 of coco18, the network fused18 of jhmdb15"),
    ],
)
def test_other_key_point_features_leave_all_but_the_image_branch(run, config, key, value, reason):
    config.model[key] = value
    loaded, message = read(run, config)
    assert {name[1] for name in loaded} == {"backbone", "image"}
    assert message.endswith(f"fresh: fusion, keypoints, logits; it has the features {reason}")
    config.model.branches = "image"  # which has no key points
    config.model.fusion_widths = ()
    assert {name[1] for name in read(run, config)[0]} == {"backbone", "image"}


def test_dance6_is_not_loaded_for_other_features():
    config = defaults.load(str(ROOT / "configs" / "own_images.py"))
    config.model.features = "pos18"
    with pytest.raises(UserError, match="nothing in it fits the network; it has the features full"):
        read("dance6", config)


def test_keys_that_change_no_shape(kind, run, config, plain, tmp_path):
    path = write(tmp_path / "net.safetensors", tensors(plain))
    resnet.save(tmp_path / "imported", kind, *resnet.import_file(kind, path))
    config.model.version = "v1"
    for source in (run, path, tmp_path / "imported"):
        with pytest.raises(UserError, match=r"has model.version=v1.5, the network v1; set"):
            read(source, config)
    config.model.update(version="v1.5", attention=2)
    with pytest.raises(UserError, match=r"has model.attention=1, the network 2; set --config"):
        read(run, config)
    assert read(path, config)  # without attention


def test_errors(config, plain, tmp_path):
    path = write(tmp_path / "net.safetensors", tensors(plain))
    cases = [
        (dict(width=8), r"\S+ has shape \(4,.*, but the network \(8,"),
        (dict(stage_sizes=(1,)), r"layer2.0.\S+ is not in the network"),
        (dict(stage_sizes=(1, 2)), r"stage2_block2/\S+ is missing; its backbone"),
        (dict(branches="keypoints"), "not in the network"),
    ]
    for changes, reason in cases:
        other = config.copy_and_resolve_references()
        other.model.update(changes)
        with pytest.raises(UserError, match=reason):
            read(path, other)
    run = config.copy_and_resolve_references()
    run.update(epochs=0.2)
    run.model.branches = "keypoints"
    loop.train(run, tmp_path / "run")
    loaded, _ = read(tmp_path / "run", config)  # the backbone stays fresh
    assert {name[1] for name in loaded} == {"keypoints", "logits"}
    config.model.update(branches="image", fusion_widths=(7,))
    with pytest.raises(UserError, match="nothing in it fits the network"):
        read(tmp_path / "run", config)
    for path, reason in ((tmp_path / "no", "no such file"), (tmp_path, "neither a run nor")):
        with pytest.raises(UserError, match=reason):
            read(path, config)


def test_errors_leave_no_files(config, tmp_path):
    config.init_from = "nothing"
    with pytest.raises(UserError, match=r"--config\.init_from=nothing: no such file"):
        loop.train(config, tmp_path / "run")
    config.update(init_from="", freeze_epochs=1.0)
    config.model.branches = "keypoints"
    with pytest.raises(UserError, match="no backbone to freeze"):
        loop.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# Freezing -----------------------------------------------------------------------------------------


def test_freeze_epochs(config, plain, tmp_path):
    """A run that resumes during the freeze, without its source, ends the same."""
    for model in (config.model, plain):
        model.update(stage_sizes=(1,), branches="image")
    config.update(
        init_from=str(write(tmp_path / "net.safetensors", tensors(plain))),
        freeze_epochs=1.0, epochs=1.6, checkpoint_every=0.8, checkpoints_kept=9,
    )  # fmt: skip
    config.optimizer.update(name="adamw", learning_rate=1e-3, weight_decay=0.1)
    loaded, _ = read(config.init_from, config)
    loop.train(config, tmp_path / "run")

    first = config.copy_and_resolve_references()
    first.epochs = 0.8
    loop.train(first, tmp_path / "again")
    frozen, _ = read(tmp_path / "again", config)
    for path, array in loaded.items():
        np.testing.assert_array_equal(frozen[path], array)
    (tmp_path / "net.safetensors").unlink()
    loop.train(config, tmp_path / "again")

    a, _ = read(tmp_path / "run", config)
    b, _ = read(tmp_path / "again", config)
    assert all(np.array_equal(a[path], b[path]) for path in a)
    moved = [path for path in loaded if not np.array_equal(a[path], loaded[path])]
    assert len(moved) == len(loaded)
    # The whole state, the optimizer's memory with it, can be read by other programs.
    variables = loop.load(tmp_path / "run")[2]
    assert models.count_parameters(variables) == models.count_parameters(shapes(config))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_optimizer_of_an_unfrozen_backbone(config, name):
    config.optimizer.update(name=name, momentum=0.5, weight_decay=0.1)
    params = {"backbone": {"a": jnp.ones((2, 2))}, "logits": jnp.ones((2, 2))}

    def updates(rate, freeze_steps, steps):
        optimizer = state.make_optimizer(config.optimizer, rate, freeze_steps)
        memory, result = optimizer.init(params), []
        for _ in range(steps):
            new, memory = optimizer.update(params, memory, params)
            result.append(new)
        return result

    frozen = updates(lambda step: 10.0 + step, 3, 6)
    plain = updates(lambda step: 10.0 + step, 0, 6)
    later = updates(lambda step: 13.0 + step, 0, 3)
    for step in range(6):
        np.testing.assert_allclose(frozen[step]["logits"], plain[step]["logits"], rtol=1e-6)
        expected = later[step - 3]["backbone"]["a"] if step >= 3 else 0
        np.testing.assert_allclose(frozen[step]["backbone"]["a"], expected, rtol=1e-6)


def test_run_without_a_checkpoint(config, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="holds no checkpoint"):
        read(tmp_path, config)
    Checkpoints(tmp_path).close()
