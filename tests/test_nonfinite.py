"""Non-finite losses and gradients: the run stops, or skips the step."""

import json

import jax
import numpy as np
import pytest
from conftest import tiny_config

from jdance.errors import UserError
from jdance.train import distributed, loop, nonfinite, steps
from jdance.train.state import TrainState


@pytest.fixture
def config(tiny_data):
    config = tiny_config(tiny_data)
    config.model.branches = "keypoints"
    config.log_every = 4
    config.epochs = 2.0
    return config


@pytest.fixture
def bad_examples(monkeypatch):
    """A list of examples that make the loss of their steps NaN."""
    bad: list[int] = []
    good_loss = steps.motion_loss

    def loss(model, variables, batch, key, *, smoothing=0.0):
        value, rest = good_loss(model, variables, batch, key, smoothing=smoothing)
        hit = (batch["index"][:, None] == np.array(bad or [-1])).any()
        return value * jax.numpy.where(hit, np.nan, 1.0), rest

    monkeypatch.setattr("jdance.train.steps.motion_loss", loss)
    return bad


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_nonfinite_step_stops_the_run_and_is_recorded(config, bad_examples, tmp_path):
    bad_examples.append(7)
    with pytest.raises(UserError, match=r"at step (\d+): the loss .*on_nonfinite=skip") as error:
        loop.train(config, tmp_path)
    ((path),) = (tmp_path / "nonfinite").iterdir()
    assert str(path) in str(error.value)
    record = json.loads(path.read_text())
    assert record["step"] == int(path.stem) <= 6 and 7 in record["examples"]
    assert record["learning_rate"] == pytest.approx(1e-3)
    assert len(record["sources"]) == 8 and record["sources"][0].startswith("image ")


def test_nonfinite_steps_are_skipped_on_request(config, bad_examples, tmp_path):
    config.on_nonfinite = "skip"
    bad_examples.append(7)
    loop.train(config, tmp_path)
    skipped = sorted(int(path.stem) for path in (tmp_path / "nonfinite").iterdir())
    assert len(skipped) == 2  # once per epoch
    assert np.isfinite([row["loss"] for row in rows(tmp_path) if "loss" in row]).all()
    _, _, variables = loop.load(tmp_path)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(variables)))


def test_run_ends_if_no_step_is_finite(config, bad_examples, tmp_path):
    config.on_nonfinite = "skip"
    config.epochs = 10.0
    bad_examples += range(45)
    with pytest.raises(UserError, match=r"\d+ steps were not finite and skipped"):
        loop.train(config, tmp_path)


def test_guard_accepts_finite_steps_only():
    old = TrainState(np.int32(3), {"a": np.ones(2, np.float32)}, {}, np.int32(3))
    new = TrainState(np.int32(4), {"a": np.full(2, 5, np.float32)}, {}, np.int32(4))
    for loss, norm, kept in ((1.0, 1.0, 5), (np.inf, 1.0, 1), (1.0, np.nan, 1)):
        metrics = {"loss": np.float32(loss), "gradient_norm": np.float32(norm)}
        for skip in (True, False):
            nonfinite_log = jax.tree.map(jax.numpy.asarray, nonfinite.empty())
            state, nonfinite_log = nonfinite.guard(old, new, metrics, nonfinite_log, skip)
            # The optimizer's counter, which the schedule depends on, goes on in any case.
            assert state.params["a"][0] == kept and state.step == state.opt_state == 4
            assert nonfinite_log["count"] == (kept == 1) and nonfinite_log["steps"][0] == 4 * (
                kept == 1
            )
            # The next finite step is accepted only with skip.
            good = {"loss": np.float32(1), "gradient_norm": np.float32(1)}
            after, _ = nonfinite.guard(old, new, good, nonfinite_log, skip)
            assert after.params["a"][0] == (5 if skip or kept == 5 else 1)


def test_unknown_policy(config, tmp_path):
    config.on_nonfinite = "ignore"
    with pytest.raises(UserError, match="on_nonfinite=ignore: expected one of stop, skip"):
        loop.train(config, tmp_path)
    assert distributed.is_main_process()


def test_runs_are_deterministic(config, tmp_path):
    config.epochs = 1.0
    found = []
    for name in "ab":
        loop.train(config, tmp_path / name)
        found.append(jax.device_get(loop.load(tmp_path / name)[2]))
    jax.tree.map(np.testing.assert_array_equal, *found)


@pytest.mark.slow
def test_bfloat16_stays_near_float32_over_200_steps(config, tmp_path):
    """Losses of the two differ by less than 0.05 on average, and no parameter by more than 0.1."""
    config.model.branches = "fused"
    config.epochs = 200 * 8 / 45 + 0.01
    config.log_every = 1
    losses, ends = [], []
    for dtype in ("float32", "bfloat16"):
        config.model.dtype = dtype
        loop.train(config, tmp_path / dtype)
        losses.append([row["loss"] for row in rows(tmp_path / dtype) if "loss" in row][:200])
        ends.append(jax.device_get(loop.load(tmp_path / dtype)[2]["params"]))
    difference = np.abs(np.subtract(*losses))
    farthest = max(
        float(np.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, ends), strict=True)
    )
    print(f"losses differ by {difference.mean():.4f} on average, at most {difference.max():.4f}")
    print(f"parameters by at most {farthest:.4f}; last losses {losses[0][-1]}, {losses[1][-1]}")
    assert len(losses[0]) == 200 and difference.mean() < 0.05 and farthest < 0.1
