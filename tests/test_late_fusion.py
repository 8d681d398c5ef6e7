"""Late fusion: branches that learn by themselves, and weights fitted on held-out examples."""

import jax
import numpy as np
import pytest
from conftest import eval_batches, tiny_config, tiny_image
from scipy import special

from jdance import models
from jdance.data.records import Dataset
from jdance.models import fused
from jdance.recognize import packed
from jdance.recognize.recognizer import Recognizer
from jdance.report import run as report
from jdance.train import calibration, init_from, loop, results, steps


def _late_config(tiny_data):
    config = tiny_config(tiny_data)
    config.model.fusion = "late"
    return config


def _apply(config, variables, batch, train=False):
    net = models.build(config.model)
    inputs = batch["image"], batch["features"], batch["valid"]
    if not train:
        return net.apply(variables, *inputs)
    out, _ = net.apply(
        variables, *inputs, train=True, rngs={"dropout": jax.random.key(0)}, mutable=["batch_stats"]
    )
    return out


@pytest.fixture(scope="module")
def network(tiny_data):
    config = _late_config(tiny_data)
    batch = next(iter(eval_batches(_source(tiny_data), config)))
    net = models.build(config.model)
    variables = net.init(jax.random.key(0), batch["image"], batch["features"])
    return config, variables, batch


def _source(tiny_data):
    return Dataset(tiny_data).source("train")


def test_logits_are_weighted_log_probabilities(network):
    config, variables, batch = network
    alone = [
        np.asarray(_apply(config, fused.with_branch_weights(variables, only), batch))
        for only in ([1, 0], [0, 1])
    ]
    for logits in alone:  # each branch's are normalized
        np.testing.assert_allclose(special.logsumexp(logits, -1), 0, atol=1e-5)
    weighted = _apply(config, fused.with_branch_weights(variables, [0.5, 2]), batch)
    np.testing.assert_allclose(weighted, 0.5 * alone[0] + 2 * alone[1], atol=1e-5)
    assert _apply(config, variables, batch, train=True).shape == (8, 2, 6)


def test_without_key_points_only_the_image_counts(network):
    config, variables, batch = network
    blind = batch | {"valid": np.zeros_like(batch["valid"])}
    image = _apply(config, fused.with_branch_weights(variables, [0, 1]), batch)
    np.testing.assert_allclose(_apply(config, variables, blind), image, atol=1e-6)


def test_branches_learn_by_themselves(network):
    config, variables, batch = network
    net = models.build(config.model)

    def loss(params, batch):
        whole = dict(variables) | {"params": params}
        return steps.motion_loss(net, whole, batch, jax.random.key(0))[0]

    gradient = jax.grad(loss)(variables["params"], batch)
    other = batch | {"image": np.zeros_like(batch["image"])}
    changed = jax.grad(loss)(variables["params"], other)
    # The key points' gradient does not depend on the image.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        gradient["keypoints"], changed["keypoints"],
    )  # fmt: skip
    assert np.abs(gradient["backbone"]["stem"]["kernel"]).max() > 0


def test_weights_follow_the_branches_worth():
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=400)
    good = rng.normal(0, 1, (400, 4))
    good[np.arange(400), labels] += 2
    noise = rng.normal(0, 3, (400, 4))  # sure of itself, and wrong
    logs = special.log_softmax(np.stack([2 * good, noise], 1), -1)
    weights = calibration.fit_branches(logs, labels)
    assert weights[0] == pytest.approx(1, abs=0.25)  # the right temperature of 2 * N(0, 1) + 4
    assert weights[1] == pytest.approx(0, abs=0.08)
    # The same branch twice shares its weight.
    twice = calibration.fit_branches(logs[:, [0, 0]], labels)
    assert twice.sum() == pytest.approx(weights[0], abs=0.1)


def test_calibration_reaches_evaluation_and_recognition(tiny_data, tmp_path, capsys):
    config = _late_config(tiny_data)
    config.epochs = 2.0
    workdir = tmp_path / "run"
    loop.train(config, workdir)
    before = loop.load(workdir)[2]["batch_stats"][fused.BRANCH_WEIGHTS]
    np.testing.assert_array_equal(before, 1)
    assert "calibration" not in results.evaluate([workdir], "val")[0]
    fitted, _ = results.calibrate(workdir, "val")
    weights = fitted["branch_weights"]
    assert len(weights) == 2 and weights != [1.0, 1.0]
    after = loop.load(workdir)[2]["batch_stats"][fused.BRANCH_WEIGHTS]
    np.testing.assert_allclose(after, weights, rtol=1e-6)
    again, _ = results.calibrate(workdir, "val")  # starts from the branches, not from the weights
    np.testing.assert_allclose(again["branch_weights"], weights, rtol=1e-3, atol=1e-3)
    stated = {"branch_weights": again["branch_weights"], "split": "val"}
    capsys.readouterr()
    assert results.evaluate([workdir], "train")[0]["calibration"] == stated
    assert not capsys.readouterr().err
    ensemble, path = results.evaluate([workdir, workdir], "val")
    assert "were fitted on val, the split that is evaluated" in capsys.readouterr().err
    assert "calibration" not in ensemble
    assert [member["calibration"] for member in ensemble["runs"]] == [stated, stated]
    page = report.write(workdir, path.parent).read_text()
    assert "weights of the branches fitted on val." in page
    file = tmp_path / "late.npz"
    packed.pack(workdir, file)
    image, people = tiny_image(1)
    # Another run does not start with them.
    loaded, _ = init_from.read(file, loop.load(workdir)[2], config.model, ["a", "b", "c"])
    assert loaded and not any(fused.BRANCH_WEIGHTS in path for path in loaded)
    motions = [Recognizer.load(m, None)(image, people)[0].probabilities for m in (workdir, file)]
    np.testing.assert_allclose(*motions, atol=5e-3)  # half precision
