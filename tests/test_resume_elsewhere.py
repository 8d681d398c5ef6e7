"""A run saved on four devices resumes on two or eight with the same losses."""

import json
import shutil

import numpy as np
import pytest
from test_cluster import assert_same, finish, output, start, steps_seen

_FIRST, _ALL = 20, 50  # steps
_STEPS_PER_EPOCH = 45 / 8


def curve(workdir):
    """The loss float [steps]."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
    assert list(losses) == list(range(1, len(losses) + 1))
    return np.array(list(losses.values()))


def train(data, workdir, devices, steps, **flags):
    epochs = (steps + 0.5) / _STEPS_PER_EPOCH
    finish(workdir, start(data, workdir, 1, devices, epochs=epochs, **flags))


@pytest.mark.slow
def test_resumed_losses_equal_those_of_an_uninterrupted_run(tiny_data, tmp_path):
    whole, first = tmp_path / "whole", tmp_path / "first"
    train(tiny_data, whole, 4, _ALL)
    train(tiny_data, first, 4, _FIRST)
    expected = curve(whole)
    assert len(expected) == _ALL and expected[-5:].mean() < expected[:5].mean()
    for devices in (2, 8):
        resumed = tmp_path / str(devices)
        shutil.copytree(first, resumed)
        train(tiny_data, resumed, devices, _ALL, resume="must")
        assert f"resuming from step {_FIRST} of {_ALL}" in output(resumed)
        assert steps_seen(resumed)[_ALL] == steps_seen(whole)[_ALL]
        np.testing.assert_allclose(curve(resumed), expected, rtol=1e-4)
        assert_same(whole, resumed, rtol=0, atol=1e-5)
