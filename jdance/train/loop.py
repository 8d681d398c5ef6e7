"""The training loop: it owns every side effect. Read it from top to bottom."""

import math
import time
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from jdance import lock
from jdance.data import loader
from jdance.data.records import Dataset
from jdance.errors import Preempted, UserError
from jdance.progress import Progress
from jdance.train import compiled, distributed, experiment, init_from, state, steps, tasks
from jdance.train.checkpoints import NEWEST, Checkpoints, beside_training, has_checkpoint
from jdance.train.journal import Journal
from jdance.train.metrics import MetricWriter, NoMetrics
from jdance.train.sampler import Sampler
from jdance.train.tasks import Task
from jdance.train.watchdog import Watchdog


def train(
    config: ConfigDict, workdir: Path, *, resume: str = "auto", watchdog: float = 0.0
) -> dict[str, Any]:
    """Trains until the configured epoch and returns the last evaluation on `val`, if there is one.

    Running it again on the same folder continues from the newest checkpoint; the numbers are those
    of a run that was never interrupted.

    Args:
        config: the experiment, see `jdance.config.base`.
        workdir: gets config.json, metrics.jsonl, tensorboard/ and checkpoints/.
        resume: "auto" continues where there is a checkpoint, "must" demands one, "never" refuses
            a folder that has one.
        watchdog: seconds that a step may take before the process is ended; 0: any time.

    Raises:
        Preempted: the run was told to end; it is saved.
        UserError: the data set or the configuration cannot be used, the folder belongs to another
            experiment or is in use, or the loss is not finite.
    """
    dataset = Dataset(config.data.dir, tasks.data_kind(config))
    distributed.on_main_process(lambda: dataset.check(("train", "val")))  # once, whoever else reads them
    dataset.trust()
    train_source = dataset.source("train")
    task = tasks.make(config, dataset.classes)
    task.setup(dataset)
    experiment.check(task)
    distributed.check_batch_size(task.config.batch_size, task.config.accumulate)
    _check_resume(resume, workdir)
    initial = _initial_variables(task, workdir)
    with ExitStack() as stack:
        # All that is written once is written by the first process.
        distributed.on_main_process(lambda: stack.enter_context(lock.held(workdir)))
        distributed.on_main_process(lambda: experiment.claim(workdir, task.config, dataset))
        kept, best = config.checkpoints_kept, config.best_checkpoints_kept
        watchdog = stack.enter_context(closing(Watchdog(watchdog)))
        with watchdog.exempt():
            opened = Checkpoints(workdir, kept, best, owner=True)
        checkpoints = stack.enter_context(closing(opened))
        like = distributed.replicated_like(_abstract_state(task))
        with watchdog.exempt():
            say = Progress("", 0, stream=distributed.stream()).say
            restored = checkpoints.restore_newest(like, say)
        start_step = restored[0] if restored else 0
        writer = MetricWriter(workdir, start_step) if distributed.is_first() else NoMetrics()
        stack.enter_context(closing(writer))
        stack.callback(loader.close_processes)
        stack.enter_context(distributed.failing_at_once())
        return _train(
            task, workdir, dataset, train_source, initial, checkpoints, restored, writer, watchdog
        )


def _train(
    task: Task,
    workdir: Path,
    dataset: Dataset,
    train_source: Any,
    initial: init_from.Flat,
    checkpoints: Checkpoints,
    restored: tuple[int, Any] | None,
    writer: MetricWriter | NoMetrics,
    watchdog: Watchdog,
) -> dict[str, Any]:
    # --- Model and optimiser ------------------------------------------------------------------
    config = task.config
    steps_per_epoch = len(train_source) / config.batch_size
    total_steps = max(1, int(config.epochs * len(train_source) / config.batch_size))
    freeze_steps = math.ceil(config.freeze_epochs * steps_per_epoch)
    model = task.model(axis_name=steps.AXIS)
    frozen_model = task.model(axis_name=steps.AXIS, freeze_backbone=True)
    schedule = state.make_schedule(
        config.optimizer, steps_per_epoch, total_steps, config.batch_size
    )
    optimizer = state.make_optimizer(config.optimizer, schedule, freeze_steps, task.lr_multipliers)

    # --- Resumption: the newest checkpoint of this folder, else init_from, else from scratch -----
    if restored:
        start_step, current = restored
    else:
        with watchdog.exempt():
            fresh = state.create(model, optimizer, config.seed, task.inputs())
            start_step, current = 0, distributed.replicate(init_from.apply(fresh, initial))
    watchdog.step(start_step)
    packing = compiled.packing(task, optimizer)
    pack, unpack = jax.jit(packing.pack), jax.jit(packing.unpack)
    current = pack(current)

    # --- Images that stay on the devices, if they do -------------------------------------------
    with watchdog.exempt():
        images = distributed.replicate(task.resident(train_source))

    # --- Compiled steps -------------------------------------------------------------------------
    train_step, frozen_step = (
        compiled.train_step(task, variant, optimizer) for variant in (model, frozen_model)
    )
    train_steps, frozen_steps = (
        compiled.train_steps(task, variant, optimizer) for variant in (model, frozen_model)
    )

    # --- The loop -------------------------------------------------------------------------------
    progress = Progress("training", total_steps, start_step, distributed.stream())
    if start_step:
        progress.say(f"resuming from step {start_step} of {total_steps}")
    if not dataset.count("val"):
        progress.say(
            f"{dataset.folder}: has no val split: nothing is evaluated while training, and "
            "--checkpoint=best is the newest"
        )
    round_steps = max(1, round(config.eval_every * steps_per_epoch))
    sampler = Sampler(config, workdir, train_source, len(dataset.classes), round_steps)
    journal = Journal(workdir, config.on_nonfinite, total_steps, train_source, dataset.info["kind"])
    batches = None
    result: dict[str, Any] = {}
    metrics: dict[str, jax.Array] = {}
    clock = _Clock()
    step, dispatches = start_step, 0
    compiled_already: set[int] = set()

    def due(step: int) -> tuple[bool, bool, bool]:
        """Whether to log, to evaluate and to save after a step."""
        last = step == total_steps
        log = step % config.log_every == 0 or last
        evaluate = _due(step, config.eval_every, steps_per_epoch, last) and dataset.count("val") > 0
        # Every score has its checkpoint, from which the best is chosen.
        save = evaluate or _due(step, config.checkpoint_every, steps_per_epoch, last)
        return log, evaluate, save

    def together(first: int) -> int:
        """How many steps from `first` on go to the device at once: nothing is due in between."""
        last = first + config.steps_per_dispatch - 1
        between = range(first, last)
        free = not any(any(due(s)) or sampler.changes(s) or s == freeze_steps for s in between)
        return config.steps_per_dispatch if free and last <= total_steps else 1

    # Anything that goes to or from the device unasked would be slow: make it an error.
    with jax.transfer_guard("disallow"):
        while step < total_steps:
            if batches is None or sampler.changes(step):
                evaluate = partial(task.evaluate, unpack(current).variables, dataset, "train")
                with jax.transfer_guard("allow"), clock.paused(), watchdog.exempt():
                    shares = sampler.shares(step, evaluate)
                batches = task.train_batches(train_source, step, shares)
            number = together(step + 1)
            step += number
            log, evaluate, save = due(step)
            with clock.waiting():
                several = [next(batches) for _ in range(number)]
            for one, batch in enumerate(several, step - number + 1):
                journal.add(one, batch)
            previous = metrics
            if number > 1:
                update, share = train_steps, distributed.shard_several(several)
            else:
                update, share = train_step, distributed.shard(several[0])
            if step <= freeze_steps:
                update = frozen_steps if number > 1 else frozen_step
            compiles = id(update) not in compiled_already  # the first call does
            if compiles:
                progress.prepare("compiling")
            with watchdog.exempt(compiles):
                state_and_log, metrics = update((current, journal.nonfinite_log), share, images)
            current, journal.nonfinite_log = state_and_log
            if compiles:
                compiled_already.add(id(update))
                progress.resume(step)
            clock.images += number * config.batch_size
            # At most two dispatches in flight: batches must not pile up on the device.
            jax.block_until_ready(previous)
            watchdog.step(step)
            # Asked after every one: all processes must agree on the one at which they end.
            dispatches += 1
            preempted = distributed.preempted(dispatches) and step < total_steps
            save |= preempted

            values: dict[str, float] = {}
            if log or save:
                told, nonfinite_log = jax.device_get((metrics, journal.nonfinite_log))
                values = {name: float(value) for name, value in told.items()}
                with jax.transfer_guard("allow"):
                    for line in journal.look(nonfinite_log, schedule, checkpoints.latest_step() or 0):
                        progress.say(line)
            if log:
                with jax.transfer_guard("allow"):
                    values["learning_rate"] = float(schedule(step - 1))
                values["epoch"] = step / steps_per_epoch
                values |= clock.rates()
                learned = ", ".join(
                    f"{name} {values[name]:.3f}" for name in metrics if name != "gradient_norm"
                )
                progress.update(
                    step,
                    f"{learned}, {values['images_per_second']:.0f} images/s, "
                    f"{values['data_wait']:.0%} of the time waiting for data",
                )
            if evaluate:
                with jax.transfer_guard("allow"), clock.paused(), watchdog.exempt():
                    result = task.evaluate(unpack(current).variables, dataset, "val")
                values |= {f"val_{name}": result[name] for name in task.main_metrics}
                if not np.isfinite([result[name] for name in task.main_metrics]).all():
                    raise UserError(
                        f"{workdir}: at step {step} the network answers with numbers that are not "
                        "finite; lower --config.optimizer.learning_rate (nothing of it was saved)"
                    )
                name = task.main_metrics[0]
                progress.say(f"epoch {step / steps_per_epoch:.4g}: val {name} {result[name]:.4f}")
            if log or evaluate:
                writer.write(step, {k: v for k, v in values.items() if np.isfinite(v)})
            if save:
                with jax.transfer_guard("allow"), clock.paused(), watchdog.exempt():
                    score = result[task.main_metrics[0]] if evaluate else None
                    checkpoints.save(step, unpack(current), score)
            if preempted:
                with watchdog.exempt():
                    checkpoints.wait()
                raise Preempted(f"preempted: saved at step {step} of {total_steps}; start again")
    if start_step >= total_steps and dataset.count("val"):  # there was nothing left to train
        with watchdog.exempt():
            result = task.evaluate(unpack(current).variables, dataset, "val")
    if distributed.is_first():
        task.export_artifacts(unpack(current).variables, workdir)
    with watchdog.exempt():
        checkpoints.wait()
    return result | {"step": step} if result else {}


def _check_resume(resume: str, workdir: Path) -> None:
    """Raises UserError where a folder's checkpoints are not what `resume` expects."""
    if resume == "must" and not has_checkpoint(workdir):
        raise UserError(f"--resume=must: {workdir} has no checkpoint to continue from")
    if resume == "never" and has_checkpoint(workdir):
        raise UserError(
            f"--resume=never: {workdir} has checkpoints already; remove it or use another --workdir"
        )


def _initial_variables(task: Task, workdir: Path) -> init_from.Flat:
    """What a run that has no checkpoint starts from, if not from random numbers."""
    if has_checkpoint(workdir):
        return {}
    return task.initial(_abstract_state(task).variables)


class Restored(NamedTuple):
    """What a run has trained: its variables are on every device."""

    config: ConfigDict
    classes: list[str]
    variables: Any
    step: int


def load(workdir: Path, checkpoint: str = NEWEST) -> tuple[ConfigDict, list[str], Any]:
    """The configuration, classes and variables of a run, see `restore`."""
    return restore(workdir, checkpoint)[:3]


def restore(workdir: Path, checkpoint: str = NEWEST) -> Restored:
    """Reads a checkpoint of a run, and writes nothing.

    Args:
        workdir: the run's folder.
        checkpoint: see `Checkpoints.step_of`; in place of a newest one that is damaged the one
            before it is taken, with a warning.

    Raises:
        UserError: the folder holds no run, or no such checkpoint.
    """
    config, classes = experiment.read(workdir)
    like = distributed.replicated_like(_abstract_state(tasks.make(config, classes)))
    warnings, restored = beside_training(workdir, partial(_restored, workdir, checkpoint, like))
    for line in warnings:
        Progress("", 0).say(line)
    step, restored_state = restored
    return Restored(config, classes, restored_state.variables, step)


def _restored(workdir: Path, checkpoint: str, like: Any) -> tuple[list[str], tuple[int, Any]]:
    """Warnings, and the step and the state of the checkpoint called so."""
    warnings: list[str] = []
    with closing(Checkpoints(workdir)) as checkpoints:
        step = checkpoints.step_of(checkpoint)
        if checkpoint != NEWEST:
            return [], (step, distributed.of_this_process(checkpoints.restore(step, like)))
        newest = checkpoints.restore_newest(like, warnings.append)
    assert newest is not None, "there is a step"
    return warnings, newest


def _abstract_state(task: Task) -> Any:
    """The tree, shapes and dtypes of a run's state."""
    config = task.config
    schedule = state.make_schedule(config.optimizer, 1, 1)
    # Of freezing only whether it takes place shows in the tree.
    optimizer = state.make_optimizer(
        config.optimizer, schedule, config.freeze_epochs, task.lr_multipliers
    )
    return jax.eval_shape(
        partial(state.create, task.model(), optimizer, config.seed, task.inputs())
    )


def _due(step: int, epochs: float, steps_per_epoch: float, last: bool) -> bool:
    """Whether an event that happens every so many epochs falls on this step."""
    period = max(1, round(epochs * steps_per_epoch))
    return last or step % period == 0


class _Clock:
    """Speed, and the share of the time spent waiting for data, since the last look."""

    def __init__(self) -> None:
        self.images = 0
        self._waited = self._paused = 0.0
        self._start = time.monotonic()

    def waiting(self) -> "_Span":
        return _Span(self, "_waited")

    def paused(self) -> "_Span":
        return _Span(self, "_paused")

    def rates(self) -> dict[str, float]:
        elapsed = max(time.monotonic() - self._start - self._paused, 1e-9)
        result = {
            "images_per_second": self.images / elapsed,
            "data_wait": self._waited / elapsed,
        }
        self.images, self._waited, self._paused = 0, 0.0, 0.0
        self._start = time.monotonic()
        return result


class _Span:
    def __init__(self, clock: _Clock, name: str):
        self._clock, self._name = clock, name

    def __enter__(self) -> None:
        self._start = time.monotonic()

    def __exit__(self, *_: object) -> None:
        elapsed = time.monotonic() - self._start
        setattr(self._clock, self._name, getattr(self._clock, self._name) + elapsed)
