"""The training step, mapped over the devices; what the loop runs, and what is profiled."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import optax

from jdance.data import resident
from jdance.training import nonfinite, steps
from jdance.training.state import TrainState
from jdance.training.tasks import Task

# The state, and the account of steps that were not finite, by `nonfinite`.
Carry = tuple[TrainState, nonfinite.Account]
# (carry, batch by `devices.shard`, pictures) -> (carry, metrics); has `lower`, like any jitted
# function. The pictures are those of `Task.resident`, on every device, or None.
Step = Any


def train_step(task: Task, model: nn.Module, optimizer: optax.GradientTransformation) -> Step:
    """`steps.guarded_step` of a task for all devices; what it carries is used up.

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

    def several(carry: Carry, batches: Any, pictures: Any) -> tuple[Carry, dict[str, jax.Array]]:
        carry, metrics = jax.lax.scan(lambda c, b: step(c, b, pictures), carry, batches)
        return carry, jax.tree.map(lambda values: values[-1], metrics)

    return _mapped(several)


def _step(task: Task, model: nn.Module, optimizer: optax.GradientTransformation) -> Any:
    config = task.config
    update = partial(
        steps.guarded_step,
        skip=config.on_nonfinite == "skip",
        model=model,
        optimizer=optimizer,
        seed=config.seed,
        loss=task.loss,
        accumulate=config.accumulate,
    )

    def step(carry: Carry, batch: Any, pictures: Any) -> tuple[Carry, dict[str, jax.Array]]:
        whole = resident.with_pictures(batch, pictures, config.data.image_size)
        state, account, metrics = update(*carry, whole)
        return (state, account), metrics

    return step


def _mapped(step: Any) -> Step:
    return jax.pmap(
        step, axis_name=steps.AXIS, in_axes=(None, 0, None), out_axes=None, donate_argnums=0
    )
