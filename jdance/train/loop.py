"""The training loop, which owns all side effects of training."""

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from jdance import lock, xla
from jdance.data import loader
from jdance.data.records import Dataset
from jdance.errors import Preempted, UserError
from jdance.models import fused
from jdance.progress import Progress
from jdance.train import (
    calibration,
    compiled,
    distributed,
    experiment,
    init_from,
    state,
    steps,
    tasks,
)
from jdance.train.checkpoints import (
    NEWEST,
    Checkpoints,
    has_checkpoint,
    newest_step,
    retry_during_training,
)
from jdance.train.compiled import StepState
from jdance.train.journal import Journal
from jdance.train.metrics import MetricWriter, NoMetrics
from jdance.train.sampler import Sampler
from jdance.train.tasks import Task
from jdance.train.watchdog import Watchdog


def train(
    config: ConfigDict, workdir: Path, *, resume: str = "auto", watchdog: float = 0.0
) -> dict[str, Any]:
    """Trains for the configured epochs and returns the last evaluation on `val`, if there is one.

    If the folder has checkpoints, training resumes from the newest; the result equals that of an
    uninterrupted run.

    Args:
        config: the experiment, see `jdance.config.base`.
        workdir: receives config.json, metrics.jsonl, tensorboard/ and checkpoints/.
        resume: "auto" resumes if there is a checkpoint, "must" requires one, "never" refuses one.
        watchdog: timeout per step in seconds, after which the process exits; 0: none.

    Raises:
        Preempted: SIGTERM was received, and a checkpoint is saved.
        UserError: the data set or the configuration is unusable, the folder belongs to another
            experiment or is in use, or the loss is not finite.
    """
    dataset = Dataset(config.data.dir, tasks.data_kind(config))
    if dataset.remote:  # copied to each machine
        dataset.verify_checksums(("train", "val"))
    else:  # checks all files once, not once per process
        distributed.on_main_process(lambda: dataset.verify_checksums(("train", "val")))
        dataset.mark_verified()
    train_source = dataset.source("train")
    task = tasks.make(config, dataset.classes)
    task.setup(dataset)
    experiment.check(task)
    distributed.check_batch_size(task.config.batch_size, task.config.accumulate)
    total_steps = max(1, int(config.epochs * len(train_source) / config.batch_size))
    _check_resume(resume, workdir)
    if newest_step(workdir) > total_steps:
        raise UserError(
            f"{workdir}: has step {newest_step(workdir)}, but --config.epochs={config.epochs:g} "
            f"ends at step {total_steps}; raise it, or use another --workdir"
        )
    initial = _initial_variables(task, workdir)
    with ExitStack() as stack:
        distributed.on_main_process(lambda: stack.enter_context(lock.held(workdir)))
        distributed.on_main_process(lambda: experiment.claim(workdir, task.config, dataset))
        timer = stack.enter_context(closing(Watchdog(watchdog)))
        kept, best = config.checkpoints_kept, config.best_checkpoints_kept
        with timer.exempt():
            opened = Checkpoints(workdir, kept, best, owner=True)
        checkpoints = stack.enter_context(closing(opened))
        like = distributed.replicated_like(_abstract_state(task))
        with timer.exempt():
            say = Progress("", 0, stream=distributed.progress_stream()).say
            restored = checkpoints.restore_newest(like, say)
        start_step = restored[0] if restored else 0
        is_main = distributed.is_main_process()
        writer = MetricWriter(workdir, start_step) if is_main else NoMetrics()
        stack.enter_context(closing(writer))
        stack.callback(loader.close_processes)
        stack.enter_context(distributed.exit_on_failure())
        return _train(
            task, workdir, dataset, train_source, total_steps, initial, checkpoints, restored,
            writer, timer,
        )  # fmt: skip


def _train(
    task: Task,
    workdir: Path,
    dataset: Dataset,
    train_source: Any,
    total_steps: int,
    initial: init_from.Flat,
    checkpoints: Checkpoints,
    restored: tuple[int, Any] | None,
    writer: MetricWriter | NoMetrics,
    watchdog: Watchdog,
) -> dict[str, Any]:
    # --- Model and optimizer ------------------------------------------------------------------
    config = task.config
    steps_per_epoch = len(train_source) / config.batch_size
    freeze_steps = math.ceil(config.freeze_epochs * steps_per_epoch)
    model = task.model(axis_name=steps.AXIS)
    frozen_model = task.model(axis_name=steps.AXIS, freeze_backbone=True)
    schedule = state.make_schedule(
        config.optimizer, steps_per_epoch, total_steps, config.batch_size
    )
    optimizer = state.make_optimizer(config.optimizer, schedule, freeze_steps, task.lr_multipliers)

    # --- Initial state: newest checkpoint of this folder, else init_from, else random ------------
    if restored:
        start_step, train_state = restored
    else:
        with watchdog.exempt():
            fresh = state.create(model, optimizer, config.seed, task.input_shapes())
            fresh = distributed.broadcast(init_from.apply(fresh, initial))
            start_step, train_state = 0, distributed.replicate(fresh)
    watchdog.step(start_step)
    packing = compiled.packing(task, optimizer)
    pack, unpack = jax.jit(packing.pack), jax.jit(packing.unpack)
    train_state = pack(train_state)

    # --- Images cached on the devices (data.resident), or None ----------------------------------
    with watchdog.exempt():
        images = distributed.replicate(task.cached_images(train_source))

    # --- Compiled steps -------------------------------------------------------------------------
    train_step, frozen_step = (
        compiled.train_step(task, variant, optimizer) for variant in (model, frozen_model)
    )
    train_steps, frozen_steps = (
        compiled.train_steps(task, variant, optimizer) for variant in (model, frozen_model)
    )

    # --- The loop -------------------------------------------------------------------------------
    progress = Progress("training", total_steps, start_step, distributed.progress_stream())
    if start_step:
        progress.say(f"resuming from step {start_step} of {total_steps}")
    if not dataset.count("val"):
        progress.say(
            f"{dataset.name}: has no val split: nothing is evaluated while training, and "
            "--checkpoint=best is the newest"
        )
    round_steps = _period(config.eval_every, steps_per_epoch)
    sampler = Sampler(config, workdir, train_source, len(dataset.classes), round_steps)
    journal = Journal(workdir, config.on_nonfinite, total_steps, train_source, dataset.info["kind"])
    batches = None
    result: dict[str, Any] = {}
    metrics: dict[str, jax.Array] = {}
    throughput = _Throughput()
    step, dispatches = start_step, 0
    compiled_steps: set[int] = set()

    def due(step: int) -> tuple[bool, bool, bool]:
        """Whether to log, to evaluate and to save after a step."""
        last = step == total_steps
        log = step % config.log_every == 0 or last
        evaluate = _due(step, config.eval_every, steps_per_epoch, last) and dataset.count("val") > 0
        # Every evaluation saves a checkpoint: --checkpoint=best chooses among them.
        save = evaluate or _due(step, config.checkpoint_every, steps_per_epoch, last)
        return log, evaluate, save

    # A constant, as each size is compiled; a dispatch over more steps than a period is never free.
    save_steps = _period(config.checkpoint_every, steps_per_epoch)
    several = min(config.steps_per_dispatch, config.log_every, round_steps, save_steps)

    def dispatch_size(first: int) -> int:
        """Number of steps from `first` on in one dispatch: nothing may be due in between."""
        last = first + several - 1
        between = range(first, last)
        free = not any(any(due(s)) or sampler.changes(s) or s == freeze_steps for s in between)
        return several if free and last <= total_steps else 1

    # Implicit transfers are slow: the guard makes them errors.
    with jax.transfer_guard("disallow"):
        while step < total_steps:
            if batches is None or sampler.changes(step):
                evaluate_train = partial(
                    task.evaluate, unpack(train_state).variables, dataset, "train"
                )
                with jax.transfer_guard("allow"), throughput.paused(), watchdog.exempt():
                    fractions = sampler.class_fractions(step, evaluate_train)
                batches = task.train_batches(train_source, step, fractions)
            count = dispatch_size(step + 1)
            step += count
            log, evaluate, save = due(step)
            with throughput.waiting():
                host_batches = [next(batches) for _ in range(count)]
            for number, batch in enumerate(host_batches, step - count + 1):
                journal.add(number, batch)
            previous_metrics = metrics
            if count > 1:
                update, sharded = train_steps, distributed.shard_batches(host_batches)
            else:
                update, sharded = train_step, distributed.shard(host_batches[0])
            if step <= freeze_steps:
                update = frozen_steps if count > 1 else frozen_step
            compiles = id(update) not in compiled_steps  # on its first call
            if compiles:
                progress.prepare("compiling")
            with watchdog.exempt(compiles):
                step_state = StepState(train_state, journal.nonfinite_log)
                step_state, metrics = update(step_state, sharded, images)
            train_state, journal.nonfinite_log = step_state
            if compiles:
                compiled_steps.add(id(update))
                progress.resume(step)
            throughput.images += count * config.batch_size
            # At most two dispatches in flight: batches must not pile up on the device.
            jax.block_until_ready(previous_metrics)
            xla.release_freed_memory()
            watchdog.step(step)
            # On every dispatch: all processes must agree on the one after which they exit.
            dispatches += 1
            preempted = distributed.preempted(dispatches) and step < total_steps
            save |= preempted

            values: dict[str, float] = {}
            if log or save:
                host_metrics, nonfinite_log = jax.device_get((metrics, journal.nonfinite_log))
                values = {name: float(value) for name, value in host_metrics.items()}
                with jax.transfer_guard("allow"):
                    latest = checkpoints.latest_step() or 0
                    for line in journal.check(nonfinite_log, schedule, latest):
                        progress.say(line)
            if log:
                with jax.transfer_guard("allow"):
                    values["learning_rate"] = float(schedule(step - 1))
                values["epoch"] = step / steps_per_epoch
                values |= throughput.read()
                learned = ", ".join(
                    f"{name} {values[name]:.3f}" for name in metrics if name != "gradient_norm"
                )
                progress.update(
                    step,
                    f"{learned}, {values['images_per_second']:.0f} images/s, "
                    f"{values['data_wait']:.0%} of the time waiting for data",
                )
            if evaluate:
                with jax.transfer_guard("allow"), throughput.paused(), watchdog.exempt():
                    result = task.evaluate(unpack(train_state).variables, dataset, "val")
                values |= {f"val_{name}": result[name] for name in task.main_metrics}
                if not np.isfinite([result[name] for name in task.main_metrics]).all():
                    raise UserError(
                        f"{workdir}: at step {step} the network's outputs on val are not finite; "
                        "lower --config.optimizer.learning_rate (this step is not saved)"
                    )
                name = task.main_metrics[0]
                progress.say(f"epoch {step / steps_per_epoch:.4g}: val {name} {result[name]:.4f}")
            if log or evaluate:
                writer.write(step, {k: v for k, v in values.items() if np.isfinite(v)})
            if save:
                with jax.transfer_guard("allow"), throughput.paused(), watchdog.exempt():
                    score = result[task.main_metrics[0]] if evaluate else None
                    checkpoints.save(step, unpack(train_state), score)
            if preempted:
                with watchdog.exempt():
                    checkpoints.wait()
                raise Preempted(f"preempted: saved at step {step} of {total_steps}; start again")
    if start_step >= total_steps and dataset.count("val"):  # the run was already complete
        with watchdog.exempt():
            result = task.evaluate(unpack(train_state).variables, dataset, "val")
    if distributed.is_main_process():
        task.export_artifacts(unpack(train_state).variables, workdir)
    with watchdog.exempt():
        checkpoints.wait()
    return result | {"step": step} if result else {}


def _check_resume(resume: str, workdir: Path) -> None:
    """Raises UserError if `resume` contradicts the checkpoints of the folder."""
    if resume == "must" and not has_checkpoint(workdir):
        raise UserError(f"--resume=must: {workdir} has no checkpoint to continue from")
    if resume == "never" and has_checkpoint(workdir):
        raise UserError(
            f"--resume=never: {workdir} has checkpoints already; remove it or use another --workdir"
        )


def _initial_variables(task: Task, workdir: Path) -> init_from.Flat:
    """Variables of config.init_from for a new run; empty for one that resumes."""
    if has_checkpoint(workdir):
        return {}
    return task.initial_variables(_abstract_state(task).variables)


class Restored(NamedTuple):
    """A trained run; its variables are replicated over the devices."""

    config: ConfigDict
    classes: list[str]
    variables: Any
    step: int


def load(workdir: Path, checkpoint: str = NEWEST) -> tuple[ConfigDict, list[str], Any]:
    """Configuration, classes and variables of a run, see `restore`."""
    return restore(workdir, checkpoint)[:3]


def restore(workdir: Path, checkpoint: str = NEWEST) -> Restored:
    """Reads a checkpoint of a run without writing anything.

    Args:
        workdir: folder of the run.
        checkpoint: see `Checkpoints.resolve`. If the newest is damaged, the previous one is used,
            with a warning. A calibration of another step is not applied, with a warning, too.

    Raises:
        UserError: the folder holds no run or no such checkpoint, or its network cannot be built.
    """
    config, classes = experiment.read(workdir)
    try:
        like = distributed.replicated_like(_abstract_state(tasks.make(config, classes)))
    # Such as a missing file of `model.attention_block`, or a layer of width 0.
    except (ValueError, ArithmeticError) as error:
        raise UserError(f"{workdir}: the network cannot be built: {error}") from error
    read = partial(_restore_state, workdir, checkpoint, like)
    warnings, (step, restored) = retry_during_training(workdir, read)
    if outdated := calibration.warning(workdir, checkpoint, step):
        warnings.append(outdated)
    for line in warnings:
        Progress("", 0).say(line)
    weights = calibration.load_branch_weights(workdir, checkpoint, step)
    variables = fused.with_branch_weights(restored.variables, weights)
    return Restored(config, classes, variables, step)


def _restore_state(
    workdir: Path, checkpoint: str, like: Any
) -> tuple[list[str], tuple[int, state.TrainState]]:
    """Warnings, and the step and the state of a checkpoint."""
    warnings: list[str] = []
    with closing(Checkpoints(workdir)) as checkpoints:
        step = checkpoints.resolve(checkpoint)
        if checkpoint != NEWEST:
            return [], (step, distributed.local_data(checkpoints.restore(step, like)))
        newest = checkpoints.restore_newest(like, warnings.append)
    assert newest is not None, "resolve has found a checkpoint"
    return warnings, newest


def _abstract_state(task: Task) -> Any:
    """Tree, shapes and dtypes of a run's state."""
    config = task.config
    schedule = state.make_schedule(config.optimizer, 1, 1)
    # The tree depends on whether the backbone is frozen at first, not on the number of steps.
    optimizer = state.make_optimizer(
        config.optimizer, schedule, config.freeze_epochs, task.lr_multipliers
    )
    return jax.eval_shape(
        partial(state.create, task.model(), optimizer, config.seed, task.input_shapes())
    )


def _period(epochs: float, steps_per_epoch: float) -> int:
    """A period in steps."""
    return max(1, round(epochs * steps_per_epoch))


def _due(step: int, epochs: float, steps_per_epoch: float, last: bool) -> bool:
    """Whether an event with a period in epochs falls on this step."""
    return last or step % _period(epochs, steps_per_epoch) == 0


class _Throughput:
    """Images per second, and the fraction of time spent waiting for data, since the last `read`."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self.images = 0
        self._waited = self._paused = 0.0
        self._start = time.monotonic()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts a block as waiting for data."""
        start = time.monotonic()
        yield
        self._waited += time.monotonic() - start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves a block out of the measurement."""
        start = time.monotonic()
        yield
        self._paused += time.monotonic() - start

    def read(self) -> dict[str, float]:
        elapsed = max(time.monotonic() - self._start - self._paused, 1e-9)
        result = {
            "images_per_second": self.images / elapsed,
            "data_wait": self._waited / elapsed,
        }
        self._reset()
        return result
