"""Several steps per dispatch: the same results and log steps; and the layouts inside loops."""

import json
import re

import jax
import numpy as np
import pytest
from conftest import tiny_config

from jdance.bench import inputs
from jdance.models import fast_ops
from jdance.train import distributed, loop, tasks


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


def test_dispatches_end_where_something_is_due(tmp_path, tiny_data, monkeypatch):
    """Of 11 steps, every third is logged, and the sixth evaluated."""
    counts, shard_batches = [], distributed.shard_batches

    def counting(batches):
        counts.append(len(batches))
        return shard_batches(batches)

    monkeypatch.setattr(distributed, "shard_batches", counting)
    config = tiny_config(tiny_data)
    config.model.branches = "keypoints"
    config.steps_per_dispatch, config.log_every = 50, 3
    loop.train(config, tmp_path)
    assert counts == [3, 3, 3]


@pytest.mark.parametrize("branches", ["fused", "sequence"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_convolutions_have_a_layout_that_is_fast_on_the_cpu(branches, accumulate, monkeypatch):
    """XLA's CPU backend runs others as plain loops, which takes 20 times as long."""
    monkeypatch.setattr(fast_ops, "_WIDE", 0)  # so that small networks count
    config = tiny_config("")
    config.data.image_size = 64
    # The last stage and its attention have filters larger than their maps.
    config.model.update(branches=branches, stage_sizes=(1, 1, 1, 1))
    config.batch_size, config.accumulate = 2 * jax.device_count(), accumulate
    task = tasks.make(config, ["a", "b"])
    step, start = inputs.make_step(task)
    program = step.lower(start, inputs.device_batch(task), None).compile().as_text()
    layouts = re.findall(r"convolution\(.*dim_labels=(\S+?),? ", program)
    assert len(layouts) > 5
    assert set(layouts) == {"b0f_0io->b0f" if branches == "sequence" else "b01f_01io->b01f"}
