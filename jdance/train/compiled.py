"""The training step, mapped over the devices; what the loop runs, and what is profiled."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jdance.data import device_cache
from jdance.train import nonfinite, state, steps
from jdance.train.packing import Packing
from jdance.train.state import TrainState
from jdance.train.tasks import Task

# The packed state, and the log of steps that were not finite, by `nonfinite`.
StepState = tuple[TrainState, nonfinite.NonfiniteLog]
# (carry, batch by `distributed.shard`, images) -> (carry, metrics); has `lower`, like any jitted
# function. The images are those of `Task.resident`, on every device, or None.
Step = Any


def packing(task: Task, optimizer: optax.GradientTransformation) -> Packing:
    """How the state of a task is packed in the compiled step."""
    create = partial(state.create, task.model(), optimizer, task.config.seed, task.inputs())
    return Packing(jax.eval_shape(create))


def train_step(task: Task, model: nn.Module, optimizer: optax.GradientTransformation) -> Step:
    """`steps.guarded_step` of a task for all devices; its carry is donated.

    Args:
        task: the experiment.
        model: its network, with the axis name `steps.AXIS`.
        optimizer: see `state.make_optimizer`.
    """
    return _mapped(per_device_step(task, model, optimizer))


def train_steps(task: Task, model: nn.Module, optimizer: optax.GradientTransformation) -> Step:
    """Several such steps, one after the other, of batches by `distributed.shard_several`.

    The metrics are those of the last one.
    """
    step = per_device_step(task, model, optimizer)

    def several(state_and_log: StepState, batches: Any, images: Any) -> tuple[StepState, dict[str, jax.Array]]:
        state_and_log, metrics = jax.lax.scan(lambda c, b: step(c, b, images), state_and_log, batches)
        return state_and_log, jax.tree.map(lambda values: values[-1], metrics)

    return _mapped(several)


def per_device_step(task: Task, model: nn.Module, optimizer: optax.GradientTransformation) -> Any:
    """The step as each device runs it, to be mapped with the axis name `steps.AXIS`."""
    config = task.config
    update = partial(
        steps.guarded_step,
        skip=config.on_nonfinite == "skip",
        model=model,
        optimizer=optimizer,
        seed=config.seed,
        loss=task.loss,
        accumulate=config.accumulate,
        packing=packing(task, optimizer),
    )

    def step(state_and_log: StepState, batch: Any, images: Any) -> tuple[StepState, dict[str, jax.Array]]:
        whole = device_cache.with_images(batch, images, config.data.image_size)
        new_state, log, metrics = update(*state_and_log, whole)
        return (new_state, log), metrics

    return step


def _mapped(step: Any) -> Step:
    return jax.pmap(
        step, axis_name=steps.AXIS, in_axes=(None, 0, None), out_axes=None, donate_argnums=0
    )


def on_mesh(step: Any, mesh: Mesh, *arguments: Any) -> jax.stages.Lowered:
    """Lowers a per-device step for devices that need not be there; like `pmap` otherwise.

    Args:
        step: see `per_device_step`.
        mesh: of one axis, `steps.AXIS`.
        arguments: shapes of the carry, of the whole batch [B, ...], and of the resident images.
    """
    replicated, sharded = PartitionSpec(), PartitionSpec(steps.AXIS)
    specs = (replicated, sharded, replicated)
    mapped = jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=replicated, check_vma=False)
    placed = [
        jax.tree.map(
            lambda x, spec=spec: jax.ShapeDtypeStruct(
                x.shape, x.dtype, sharding=NamedSharding(mesh, spec)
            ),
            argument,
        )
        for argument, spec in zip(arguments, specs, strict=True)
    ]
    return jax.jit(mapped, donate_argnums=0).lower(*placed)
