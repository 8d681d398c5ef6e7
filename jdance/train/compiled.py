"""The compiled training step, mapped over the devices; used by the loop and the profiler."""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jdance.data import device_cache
from jdance.train import nonfinite, state, steps
from jdance.train.packing import Packing
from jdance.train.state import TrainState
from jdance.train.tasks import Task


class StepState(NamedTuple):
    """Input and output of a compiled step, which donates it; checkpoints hold `train_state` only.

    Attributes:
        train_state: packed, see `packing`.
        nonfinite_log: see `nonfinite`.
    """

    train_state: TrainState
    nonfinite_log: nonfinite.NonfiniteLog


# (StepState, batch by `distributed.shard`, images) -> (StepState, metrics), with `lower` like any
# jitted function. `images` are those of `Task.cached_images` on every device, or None.
Step = Any


def packing(task: Task, optimizer: optax.GradientTransformation) -> Packing:
    """Layout of a task's packed state in the compiled step."""
    create = partial(state.create, task.model(), optimizer, task.config.seed, task.input_shapes())
    return Packing(jax.eval_shape(create))


def train_step(task: Task, model: nn.Module, optimizer: optax.GradientTransformation) -> Step:
    """`steps.guarded_step` of a task, mapped over all devices.

    Args:
        task: the experiment.
        model: its network, with the axis name `steps.AXIS`.
        optimizer: see `state.make_optimizer`.
    """
    return _pmap(per_device_step(task, model, optimizer))


def train_steps(task: Task, model: nn.Module, optimizer: optax.GradientTransformation) -> Step:
    """Several training steps in one dispatch, on batches by `distributed.shard_batches`.

    The metrics are those of the last step.
    """
    step = per_device_step(task, model, optimizer)

    def scan(
        step_state: StepState, batches: Any, images: Any
    ) -> tuple[StepState, dict[str, jax.Array]]:
        step_state, metrics = jax.lax.scan(lambda s, b: step(s, b, images), step_state, batches)
        return step_state, jax.tree.map(lambda values: values[-1], metrics)

    return _pmap(scan)


def per_device_step(task: Task, model: nn.Module, optimizer: optax.GradientTransformation) -> Any:
    """The training step of one device, to be mapped with the axis name `steps.AXIS`."""
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

    def step(
        step_state: StepState, batch: Any, images: Any
    ) -> tuple[StepState, dict[str, jax.Array]]:
        batch = device_cache.add_views(batch, images, config.data.image_size)
        train_state, nonfinite_log, metrics = update(*step_state, batch)
        return StepState(train_state, nonfinite_log), metrics

    return step


def _pmap(step: Any) -> Step:
    return jax.pmap(
        step, axis_name=steps.AXIS, in_axes=(None, 0, None), out_axes=None, donate_argnums=0
    )


def on_mesh(step: Any, mesh: Mesh, *arguments: Any) -> jax.stages.Lowered:
    """Lowers a per-device step for an abstract mesh, as pmap would for present devices.

    Args:
        step: see `per_device_step`.
        mesh: of the single axis `steps.AXIS`.
        arguments: shapes of the step state, the whole batch [B, ...], and the cached images.
    """
    replicated, sharded = PartitionSpec(), PartitionSpec(steps.AXIS)
    specs = (replicated, sharded, replicated)
    mapped = jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=replicated, check_vma=False)
    abstract = [
        jax.tree.map(
            lambda x, spec=spec: jax.ShapeDtypeStruct(
                x.shape, x.dtype, sharding=NamedSharding(mesh, spec)
            ),
            argument,
        )
        for argument, spec in zip(arguments, specs, strict=True)
    ]
    return jax.jit(mapped, donate_argnums=0).lower(*abstract)
