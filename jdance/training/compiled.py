"""The training step, mapped over the devices; what the loop runs, and what is profiled."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import optax

from jdance.data import resident
from jdance.training import steps
from jdance.training.state import TrainState
from jdance.training.tasks import Task

# (state, batch by `devices.shard`, pictures) -> (state, metrics); has `lower`, like any jitted
# function. The pictures are those of `Task.resident`, on every device, or None.
Step = Any


def train_step(task: Task, model: nn.Module, optimizer: optax.GradientTransformation) -> Step:
    """`steps.train_step` of a task for all devices; the state that it is given is used up.

    Args:
        task: the experiment.
        model: its network, with the axis name `steps.AXIS`.
        optimizer: see `state.make_optimizer`.
    """
    return _mapped(_step(task, model, optimizer))


def train_steps(task: Task, model: nn.Module, optimizer: optax.GradientTransformation) -> Step:
    """Several such steps, one after the other, of batches by `devices.shard_several`.

    The metrics are those of the last one.
    """
    step = _step(task, model, optimizer)

    def several(
        state: TrainState, batches: Any, pictures: Any
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        state, metrics = jax.lax.scan(lambda s, b: step(s, b, pictures), state, batches)
        return state, jax.tree.map(lambda values: values[-1], metrics)

    return _mapped(several)


def _step(task: Task, model: nn.Module, optimizer: optax.GradientTransformation) -> Any:
    config = task.config
    update = partial(
        steps.train_step,
        model=model,
        optimizer=optimizer,
        seed=config.seed,
        loss=task.loss,
        accumulate=config.accumulate,
    )

    def step(
        state: TrainState, batch: Any, pictures: Any
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        return update(state, resident.with_pictures(batch, pictures, config.data.image_size))

    return step


def _mapped(step: Any) -> Step:
    return jax.pmap(
        step, axis_name=steps.AXIS, in_axes=(None, 0, None), out_axes=None, donate_argnums=0
    )
