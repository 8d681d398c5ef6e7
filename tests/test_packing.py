"""Packed states: round trip, and steps equal to those of unpacked states."""

from functools import partial
from itertools import islice

import jax
import numpy as np
import optax
import pytest
from conftest import tiny_config, train_batches

from jdance import models
from jdance.data import records
from jdance.train import distributed, state, steps
from jdance.train.motion import MotionTask
from jdance.train.packing import Packing


@pytest.mark.parametrize(
    ("name", "freeze_steps"), [("sgd", 0), ("sgd", 2), ("adamw", 2), ("adam", 0)]
)
def test_packed_steps_equal_unpacked_ones(monkeypatch, tiny_data, name, freeze_steps):
    # Adam divides the rounding errors of gradients that are zero by eps, 1e-8 by default. They
    # depend on the CPU: 1e-6 of a parameter with eps=1e-3 where there is no AVX-512.
    for optimizer in ("adam", "adamw"):
        monkeypatch.setattr(optax, optimizer, partial(getattr(optax, optimizer), eps=1e-2))
    config = tiny_config(tiny_data)
    config.model.classes = 3
    config.optimizer.update(name=name, weight_decay=0.1)
    model = models.build(config.model, axis_name=steps.AXIS)
    optimizer = state.make_optimizer(config.optimizer, lambda _: 0.05, freeze_steps)
    fresh = state.create(
        model, optimizer, config.seed, MotionTask(config, list("abc")).input_shapes()
    )
    packing = Packing(jax.eval_shape(lambda: fresh))
    unpack = jax.jit(packing.unpack)
    packed = packing.pack(fresh)
    assert len(jax.tree.leaves(packed)) < len(jax.tree.leaves(fresh)) / 3
    assert jax.tree.structure(unpack(packed)) == jax.tree.structure(fresh)
    jax.tree.map(np.testing.assert_array_equal, unpack(packed), fresh)

    plain = partial(steps.train_step, model=model, optimizer=optimizer, seed=7)
    step, packed_step = (
        jax.pmap(step, axis_name=steps.AXIS, in_axes=(None, 0), out_axes=None)
        for step in (plain, partial(plain, packing=packing))
    )
    source = records.Dataset(config.data.dir).source("train")
    for batch in islice(train_batches(source, config), 3):
        args = distributed.shard(batch)
        (fresh, expected), (packed, metrics) = step(fresh, args), packed_step(packed, args)
        for key, value in expected.items():
            np.testing.assert_allclose(metrics[key], value, rtol=1e-4)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
        jax.device_get(unpack(packed)), jax.device_get(fresh),
    )  # fmt: skip
