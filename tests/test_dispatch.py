"""Several steps per dispatch: the same results and log steps."""

import json

import jax
import numpy as np
from conftest import tiny_config

from jdance.train import loop


def run(folder, tiny_data, steps_per_dispatch):
    config = tiny_config(tiny_data)
    config.model.dropout = 0.1
    config.steps_per_dispatch, config.log_every = steps_per_dispatch, 4
    loop.train(config, folder)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return rows, jax.device_get(loop.load(folder)[2])


def test_steps_per_dispatch_do_not_change_results(tmp_path, tiny_data):
    """11 steps in two epochs: 1 to 3 in one dispatch, 4 (logged) and 5 (evaluated) alone, etc."""
    rows, variables = run(tmp_path / "one", tiny_data, 1)
    others, other_variables = run(tmp_path / "three", tiny_data, 3)
    assert [row["step"] for row in rows] == [row["step"] for row in others]
    for row, other in zip(rows, others, strict=True):
        assert row.keys() == other.keys()
        np.testing.assert_allclose(row.get("loss", 0), other.get("loss", 0), rtol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        variables, other_variables,
    )  # fmt: skip
