"""Checkpoints of the training state, by orbax: written in the background, by all processes."""

import json
import os
import shutil
import sys
import threading
import time
import traceback
import zlib
from collections.abc import Callable
from dataclasses import fields
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging as absl_logging
from etils import epath

from jdance import files
from jdance.errors import UserError, exit_status, os_error
from jdance.train import distributed
from jdance.train.distributed import of_this_process, over_processes

policies = ocp.checkpoint_managers.preservation_policy
NEWEST, BEST = "newest", "best"
_SCORE = "score"
_ITEM = "default"  # orbax's name for the only thing in a checkpoint, the state
_DAMAGED = "damaged"  # where damaged checkpoints go
_DESCRIPTION = "_CHECKPOINT_METADATA"  # orbax's file in each checkpoint
# What orbax must be able to read in it, where it is there; whatever else there is does not matter.
_TYPES = {
    "item_handlers": dict | str, "metrics": dict, "performance_metrics": dict,
    "init_timestamp_nsecs": int, "commit_timestamp_nsecs": int, "custom_metadata": dict,
}  # fmt: skip
_CHECKSUMS = "crc32"
_PATIENCE = 50
_T = TypeVar("_T")


class DamagedCheckpoint(UserError):
    """A checkpoint that cannot be read."""


class Checkpoints:
    """The checkpoints of one run, a folder each, named by the step.

    Reading needs nothing but a checkpoint's own files: it neither depends on the other checkpoints
    nor writes anything. Saving, and deciding what is kept, is left to orbax's manager.

    Args:
        workdir: of the run.
        kept: how many of the newest stay.
        best: how many of those with the highest score stay, too.
        owner: whether this is the run itself, which may tidy up what was half written or damaged.
    """

    def __init__(self, workdir: Path, kept: int = 2, best: int = 0, owner: bool = False):
        self._folder, self._owner = (workdir / "checkpoints").absolute(), owner
        self._kept, self._best = kept, best
        _silence_threads()
        self._handler = ocp.StandardCheckpointHandler()

    @cached_property
    def _manager(self) -> ocp.CheckpointManager:
        """What saves; it opens no folder with a checkpoint whose description it cannot read."""
        if self._owner:
            distributed.on_main_process(lambda: _drop_unknown_keys(self._folder))
        return ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(
                    [
                        policies.LatestN(self._kept),
                        policies.BestN(
                            get_metric_fn=_score,
                            n=self._best,
                            keep_checkpoints_without_metrics=False,
                        ),
                    ]
                ),
                best_fn=_score,
                # Else threads wait minutes for a folder that cannot be made, at the end, too.
                async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
            ),
            item_handlers=ocp.StandardCheckpointHandler(),
        )

    def steps(self) -> list[int]:
        """The steps that have a checkpoint on the disk, in their order."""
        return [int(path.name) for path in _steps(self._folder)]

    def latest_step(self) -> int | None:
        return max(self.steps(), default=None)

    def best_step(self) -> int | None:
        """The step with the highest score, of equals the later one; None where none has one."""
        scores = {step: score for step in self.steps() if (score := self.score(step)) is not None}
        return max(scores, key=lambda step: (scores[step], step), default=None)

    def score(self, step: int) -> float | None:
        """The score that a checkpoint was saved with; None: without any, or not to be read."""
        try:
            path = self._folder / str(step) / "metrics" / "metrics"
            return float(json.loads(path.read_bytes())[_SCORE])
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None

    def step_of(self, which: str) -> int:
        """The step of the checkpoint called `which`: NEWEST, BEST, or a step's number.

        Raises:
            UserError: there is no such checkpoint.
        """
        steps = self.steps()
        if not steps:
            raise UserError(
                f"{self._folder.parent}: has no checkpoint yet; train with launch/train.py first"
            )
        if which == NEWEST:
            return steps[-1]
        if which == BEST:
            return self.best_step() or steps[-1]
        if not which.isdecimal() or int(which) not in steps:
            raise UserError(
                f"{self._folder}: holds no checkpoint {which!r}; there are {NEWEST}, {BEST} and "
                f"the steps {', '.join(map(str, steps))}"
            )
        return int(which)

    def save(self, step: int, state: Any, score: float | None = None) -> None:
        """Starts to write a checkpoint; does nothing if the step has one.

        Args:
            step: names it.
            state: on every device of this process.
            score: of the evaluation at this step, if there was one; the higher, the better.

        Raises:
            UserError: this checkpoint or the one before cannot be written.
        """
        metrics = None if score is None else {_SCORE: score}
        with _Writing(self._folder):
            if self._manager.latest_step() == step:
                return
            whole = ocp.args.StandardSave(over_processes(state))
            sums = {_CHECKSUMS: _checksums(state)}
            self._manager.save(step, args=whole, metrics=metrics, custom_metadata=sums)

    def wait(self) -> None:
        """Returns when all that was saved is on the disk; raises UserError if it cannot be."""
        if "_manager" in vars(self):
            with _Writing(self._folder):
                self._manager.wait_until_finished()

    def restore_newest(self, like: Any, warn: Callable[[str], None]) -> tuple[int, Any] | None:
        """The newest checkpoint that can be read: its step and the state on this process's devices.

        Damaged ones after it are moved to DIR/damaged, so that their steps can be saved again, and
        older ones whose description is damaged, which would keep orbax from saving, if this is the
        run itself. Nothing is moved unless there is one to continue from.

        Args:
            like: as for `restore`.
            warn: gets a line about each that is damaged.

        Returns:
            None if there are no checkpoints.

        Raises:
            UserError: the newest is of another network or configuration, or all are damaged.
        """
        steps, damaged = self.steps(), list[int]()
        while steps:
            step = steps.pop()
            problem, state = "cannot be read by another process", None
            try:
                state = self.restore(step, like)
            except DamagedCheckpoint as error:
                if exit_status(error) != 1:  # the disk fails, not the checkpoint
                    raise
                problem = str(error)
            if distributed.all_of(state is not None):
                self._tidy(damaged, steps)
                return step, of_this_process(state)
            damaged.append(step)
            warn(f"warning: {problem}; trying the checkpoint before it")
        if damaged:
            raise UserError(
                f"{self._folder}: every checkpoint in it is damaged; remove the folder to start "
                "again, or use another --workdir"
            )
        aside = self._folder.parent / _DAMAGED
        if self._owner and aside.is_dir():
            raise UserError(
                f"{aside}: holds all the checkpoints that there were; use another --workdir, or "
                "remove the folder to start again"
            )
        self._tidy([], [])
        return None

    def _tidy(self, damaged: list[int], older: list[int]) -> None:
        """Makes the folder ready for saving, if this is the run itself."""
        if self._owner:
            distributed.on_main_process(lambda: self._set_aside(damaged, older))
            distributed.on_main_process(self._remove_half_written)

    def _remove_half_written(self) -> None:
        # Orbax would do so in the background, where it meets what is saved meanwhile.
        for path in self._folder.glob(f"*{ocp.utils.TMP_DIR_SUFFIX}*"):
            shutil.rmtree(path)

    def _set_aside(self, damaged: list[int], older: list[int]) -> None:
        """Moves checkpoints to DIR/damaged: some, and those older ones that orbax cannot read."""
        folder = self._folder.parent / _DAMAGED
        for step in damaged + [
            step for step in older if not _is_described(self._folder / str(step))
        ]:
            folder.mkdir(exist_ok=True)
            number = sum(1 for _ in folder.glob(f"{step}-*"))
            os.replace(self._folder / str(step), folder / f"{step}-{number}")

    def restore(self, step: int, like: Any) -> Any:
        """The state at a step, with the tree, shapes, dtypes and places of `like`.

        It may have been saved by any number of devices and processes.

        Raises:
            Damaged: it cannot be read.
            UserError: the checkpoint is of another network or configuration; the first difference
                is named.
        """
        place = self._folder / str(step)
        difference = first_difference(like, self._tree(step))
        if difference:
            raise UserError(
                f"{place}: does not fit this configuration: {difference}; use another --workdir"
            )
        try:
            state = self._handler.restore(
                epath.Path(place / _ITEM), args=ocp.args.StandardRestore(like)
            )
        except Exception as error:
            raise DamagedCheckpoint(f"{place}: is damaged ({_reason(error)})") from error
        self._compare(step, of_this_process(state))
        return state

    def _tree(self, step: int) -> Any:
        """Shapes and dtypes of what a checkpoint holds; raises Damaged if it does not tell."""
        place = self._folder / str(step)
        try:
            return self._handler.metadata(epath.Path(place / _ITEM)).tree
        except Exception as error:  # of many kinds, depending on what is damaged
            raise DamagedCheckpoint(f"{place}: not a readable checkpoint ({_reason(error)})") from error

    def _compare(self, step: int, state: Any) -> None:
        """Raises Damaged, naming the first array that is not as it was saved.

        The files' own format would not notice a changed bit in every place.
        """
        place = self._folder / str(step)
        if not _is_described(place):
            raise DamagedCheckpoint(f"{place}: is damaged (its description cannot be read)")
        expected = (_description(place).get("custom_metadata") or {}).get(_CHECKSUMS)
        if expected is None:  # from before there were checksums
            return
        found = _checksums(state)
        for name in sorted(found.keys() | expected.keys()):
            if found.get(name) != expected.get(name):
                raise DamagedCheckpoint(f"{place}: is damaged ({name} is not as it was saved)")

    def newest_variables(self) -> dict[str, Any]:
        """Parameters and batch-norm statistics of the newest checkpoint, of whatever network.

        Returns:
            `params` and `batch_stats`, with NumPy leaves.

        Raises:
            UserError: there is no checkpoint, or it is damaged.
        """
        step = self.latest_step()
        if step is None:
            raise UserError(f"{self._folder}: holds no checkpoint")
        whole = self.as_numpy(step)
        try:
            return {name: whole[name] for name in ("params", "batch_stats")}
        except KeyError as error:
            raise DamagedCheckpoint(f"{self._folder / str(step)}: is damaged (no {error})") from error

    def as_numpy(self, step: int) -> dict[str, Any]:
        """Everything in a checkpoint, as NumPy arrays, whatever devices it was saved on.

        Raises:
            Damaged: it cannot be read.
        """
        return self.restore(
            step, jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), self._tree(step))
        )

    def close(self) -> None:
        """Returns when all that was saved is on the disk; raises UserError if it cannot be."""
        if "_manager" in vars(self):
            with _Writing(self._folder):
                self._manager.wait_until_finished()
                self._manager.close()


class _Writing:
    """Tells what prevented a checkpoint from being written, such as a full disk, in one line."""

    def __init__(self, folder: Path):
        self._folder = folder

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, UserError):
            raise UserError(
                f"{self._folder}: a checkpoint cannot be written ({_reason(error)}); those before "
                "it are kept"
            ) from error


def _score(metrics: Any) -> float:
    return metrics[_SCORE]


def _reason(error: Exception) -> str:
    number = os_error(error)
    return os.strerror(number) if number else (str(error) or repr(error)).splitlines()[0]


@cache
def _silence_threads() -> None:
    """Keeps orbax's threads from printing what `_Writing` and `Damaged` tell in one line.

    They log each failed read or write, with a traceback, and end with it; tensorstore's own threads
    then find orbax's event loops closed, which no Python code can catch.
    """
    unraisable, thread = sys.unraisablehook, threading.excepthook

    def is_orbax(trace: Any) -> bool:
        return any("orbax" in Path(frame.filename).parts for frame in traceback.extract_tb(trace))

    def of_tensorstore(failed: Any) -> None:
        if not (failed.object is None and "Event loop is closed" in str(failed.exc_value)):
            unraisable(failed)

    def in_thread(failed: threading.ExceptHookArgs) -> None:
        if not is_orbax(failed.exc_traceback):
            thread(failed)

    def is_logged(record: Any) -> bool:
        asked_for = absl_logging.get_verbosity() >= absl_logging.INFO  # by --verbosity
        return asked_for or "orbax" not in Path(record.pathname).parts

    sys.unraisablehook, threading.excepthook = of_tensorstore, in_thread
    absl_logging.get_absl_logger().addFilter(is_logged)


def suffix(which: str) -> str:
    """What the names of files end in that are about one checkpoint of a run; of the newest, ""."""
    return {NEWEST: "", BEST: "_best"}.get(which, f"_step{which}")


def has_checkpoint(workdir: Path) -> bool:
    """Whether a run has a checkpoint to continue from; makes no folders."""
    return bool(_steps(workdir / "checkpoints"))


def beside_training(workdir: Path, read: Callable[[], _T]) -> _T:
    """`read()` from a run's checkpoints, which its training may be writing and deleting meanwhile.

    Whatever fails is tried again where one of the checkpoints that there were has gone.
    """
    folder = workdir / "checkpoints"
    for _ in range(_PATIENCE):
        before = set(_steps(folder))
        try:
            return read()
        except (OSError, UserError):
            time.sleep(0.2)  # until what is being deleted is gone
            if before <= set(_steps(folder)):
                raise
    return read()


def _steps(folder: Path) -> list[Path]:
    """The folders of checkpoints, in the order of their steps."""
    found = [path for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
    return sorted(found, key=lambda path: int(path.name))


def _is_described(folder: Path) -> bool:
    """Whether orbax can read its description of a checkpoint, and its score, if they are there."""
    metrics = folder / "metrics" / "metrics"
    try:
        if metrics.exists():
            float(json.loads(metrics.read_bytes())[_SCORE])
        content = _description(folder)
        sums = (content.get("custom_metadata") or {}).get(_CHECKSUMS, {})
        return isinstance(sums, dict) and all(
            isinstance(content.get(name), kind | None) for name, kind in _TYPES.items()
        )
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError):
        return False


def _description(folder: Path) -> dict[str, Any]:
    """Orbax's description of a checkpoint; empty where there is none."""
    try:
        return json.loads((folder / _DESCRIPTION).read_bytes())
    except FileNotFoundError:
        return {}


def _drop_unknown_keys(checkpoints: Path) -> None:
    """Takes from descriptions what a newer orbax has added: this one would open no such folder."""
    known = {field.name for field in fields(ocp.metadata.StepMetadata)}
    for folder in _steps(checkpoints):
        content = _description(folder)
        if content.keys() - known:
            kept = {name: value for name, value in content.items() if name in known}
            files.atomic_write(folder / _DESCRIPTION, json.dumps(kept))


def _checksums(state: Any) -> dict[str, int]:
    """CRC-32 of each array of a replicated state, by its name."""

    def bytes_of(leaf: Any) -> np.ndarray:
        local = leaf.addressable_shards[0].data if isinstance(leaf, jax.Array) else leaf
        return np.ascontiguousarray(jax.device_get(local))

    return {name: zlib.crc32(bytes_of(leaf).tobytes()) for name, leaf in _leaves(state).items()}


def _leaves(tree: Any) -> dict[str, Any]:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        "/".join(
            str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))) for key in path
        ): leaf
        for path, leaf in flat
    }


def first_difference(expected: Any, saved: Any) -> str:
    """Describes the first leaf whose name, shape or dtype differs; empty if none does."""
    ours, theirs = _leaves(expected), _leaves(saved)
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in theirs:
            return f"{name} is missing in the checkpoint"
        if name not in ours:
            return f"{name} is not in the network"
        want, have = ours[name], theirs[name]
        if tuple(want.shape) != tuple(have.shape):
            return f"{name} has shape {tuple(have.shape)}, expected {tuple(want.shape)}"
        if jax.numpy.dtype(want.dtype) != jax.numpy.dtype(have.dtype):
            return f"{name} has dtype {have.dtype}, expected {want.dtype}"
    return ""
