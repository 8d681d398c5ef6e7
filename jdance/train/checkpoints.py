"""Checkpoints of the training state: orbax, written asynchronously by all processes."""

import json
import logging
import os
import shutil
import sys
import threading
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import cache, cached_property
from operator import itemgetter
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

policies = ocp.checkpoint_managers.preservation_policy
NEWEST, BEST = "newest", "best"
_SCORE = "score"
_ITEM = "default"  # orbax's name for the only item of a checkpoint, the state
_METRICS = Path("metrics", "metrics")
_DAMAGED = "damaged"  # folder for damaged checkpoints
_METADATA = "_CHECKPOINT_METADATA"  # orbax's file in each checkpoint
# Types of the metadata that orbax reads when it opens a folder; other keys do not matter.
_METADATA_TYPES = {
    "item_handlers": dict | str, "metrics": dict, "performance_metrics": dict,
    "init_timestamp_nsecs": int, "commit_timestamp_nsecs": int, "custom_metadata": dict,
}  # fmt: skip
_CHECKSUMS = "crc32"
_RETRIES = 50
_T = TypeVar("_T")


class DamagedCheckpoint(UserError):
    """A checkpoint that cannot be read."""


class Checkpoints:
    """The checkpoints of one run, in folders named by their steps.

    Reading depends only on the files of the checkpoint itself and writes nothing. Saving, and
    choosing what to keep, is left to orbax's manager.

    Args:
        workdir: folder of the run.
        kept: number of newest checkpoints to keep.
        best: number of checkpoints with the highest scores to keep as well.
        owner: whether this is the training run, which may remove partial and move damaged
            checkpoints.
    """

    def __init__(self, workdir: Path, kept: int = 2, best: int = 0, owner: bool = False):
        self._folder, self._owner = (workdir / "checkpoints").absolute(), owner
        self._kept, self._best = kept, best
        _silence_orbax_threads()
        self._handler = ocp.StandardCheckpointHandler()

    @cached_property
    def _manager(self) -> ocp.CheckpointManager:
        """Orbax's manager; it refuses a folder that has a checkpoint with unreadable metadata."""
        if self._owner:
            distributed.on_main_process(lambda: _drop_unknown_metadata(self._folder))
        score = itemgetter(_SCORE)
        newest = policies.LatestN(self._kept)
        best = policies.BestN(
            get_metric_fn=score, n=self._best, keep_checkpoints_without_metrics=False
        )
        return ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy([newest, best]),
                best_fn=score,
                # Otherwise threads wait minutes for a folder that cannot be created.
                async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
            ),
            item_handlers=ocp.StandardCheckpointHandler(),
        )

    def steps(self) -> list[int]:
        """The steps of all checkpoints on disk, in ascending order."""
        return [int(path.name) for path in _step_folders(self._folder)]

    def latest_step(self) -> int | None:
        return max(self.steps(), default=None)

    def best_step(self) -> int | None:
        """The step with the highest score, the later one of equals; None without any score."""
        scores = {step: score for step in self.steps() if (score := self.score(step)) is not None}
        return max(scores, key=lambda step: (scores[step], step), default=None)

    def score(self, step: int) -> float | None:
        """The score saved with a checkpoint; None if there is none or it cannot be read."""
        try:
            return _read_score(self._path(step))
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None

    def resolve(self, which: str) -> int:
        """The step of a checkpoint given as NEWEST, BEST or a step's number.

        Raises:
            UserError: there is no such checkpoint.
        """
        steps = self.steps()
        if not steps:
            raise UserError(
                f"{self._folder.parent}: holds no checkpoint yet; train with launch/train.py first"
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
        """Starts to write a checkpoint, unless the step has one.

        Args:
            step: its name.
            state: replicated over this process's devices.
            score: of an evaluation at this step, the higher the better.

        Raises:
            UserError: this checkpoint or the previous one cannot be written.
        """
        with _write_errors(self._folder):
            if self._manager.latest_step() == step:
                return
            self._manager.save(
                step,
                args=ocp.args.StandardSave(distributed.to_global(state)),
                metrics=None if score is None else {_SCORE: score},
                custom_metadata={_CHECKSUMS: _checksums(state)},
            )

    def wait(self) -> None:
        """Waits until all checkpoints are on disk; raises UserError if one cannot be written."""
        if "_manager" in vars(self):
            with _write_errors(self._folder):
                self._manager.wait_until_finished()

    def close(self) -> None:
        """Like `wait`; nothing can be saved afterwards."""
        if "_manager" in vars(self):
            with _write_errors(self._folder):
                self._manager.wait_until_finished()
                self._manager.close()

    def restore_newest(self, like: Any, warn: Callable[[str], None]) -> tuple[int, Any] | None:
        """Restores the newest readable checkpoint.

        If there is one and this is the owner, damaged checkpoints move to DIR/damaged: newer ones,
        to free their steps, and older ones with unreadable metadata, which would keep orbax from
        saving.

        Args:
            like: as for `restore`.
            warn: receives a line for each damaged checkpoint.

        Returns:
            Its step and the state on this process's devices; None without any checkpoint.

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
            if distributed.all_true(state is not None):
                self._prepare_saving(damaged, steps)
                return step, distributed.local_data(state)
            damaged.append(step)
            warn(f"warning: {problem}; trying the checkpoint before it")
        if damaged:
            raise UserError(
                f"{self._folder}: every checkpoint in it is damaged; remove the folder to start "
                "again, or use another --workdir"
            )
        moved = self._folder.parent / _DAMAGED
        if self._owner and moved.is_dir():
            raise UserError(
                f"{moved}: holds all the checkpoints that there were; use another --workdir, or "
                "remove the folder to start again"
            )
        self._prepare_saving([], [])
        return None

    def _prepare_saving(self, damaged: list[int], older: list[int]) -> None:
        if self._owner:
            distributed.on_main_process(lambda: self._clean_up(damaged, older))

    def _clean_up(self, damaged: list[int], older: list[int]) -> None:
        """Moves damaged and unreadable older checkpoints to DIR/damaged; removes partial ones."""
        folder = self._folder.parent / _DAMAGED
        unreadable = [step for step in older if not _has_valid_metadata(self._path(step))]
        for step in damaged + unreadable:
            folder.mkdir(exist_ok=True)
            number = sum(1 for _ in folder.glob(f"{step}-*"))
            os.replace(self._path(step), folder / f"{step}-{number}")
        # Orbax would remove them in the background, in a race with the next save.
        for path in self._folder.glob(f"*{ocp.utils.TMP_DIR_SUFFIX}*"):
            shutil.rmtree(path)

    def restore(self, step: int, like: Any) -> Any:
        """Restores the state at a step, saved on any number of devices and processes.

        Args:
            step: of the checkpoint.
            like: tree with the shapes, dtypes and shardings to restore.

        Raises:
            DamagedCheckpoint: it cannot be read.
            UserError: it is of another network or configuration; the first difference is named.
        """
        path = self._path(step)
        if difference := first_difference(like, self._tree(step)):
            raise UserError(
                f"{path}: does not fit this configuration: {difference}; use another --workdir"
            )
        try:
            state = self._handler.restore(
                epath.Path(path / _ITEM), args=ocp.args.StandardRestore(like)
            )
        except Exception as error:
            raise DamagedCheckpoint(f"{path}: is damaged ({_reason(error)})") from error
        self._verify(step, distributed.local_data(state))
        return state

    def restore_numpy(self, step: int) -> dict[str, Any]:
        """Restores everything in a checkpoint as NumPy arrays, without knowing its tree.

        Raises:
            DamagedCheckpoint: it cannot be read.
        """
        return self.restore(
            step, jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), self._tree(step))
        )

    def newest_variables(self) -> dict[str, Any]:
        """`params` and `batch_stats` of the newest checkpoint, of any network, with NumPy leaves.

        Raises:
            UserError: there is no checkpoint, or it is damaged.
        """
        step = self.resolve(NEWEST)
        state = self.restore_numpy(step)
        try:
            return {name: state[name] for name in ("params", "batch_stats")}
        except KeyError as error:
            raise DamagedCheckpoint(f"{self._path(step)}: is damaged (no {error})") from error

    def _path(self, step: int) -> Path:
        return self._folder / str(step)

    def _tree(self, step: int) -> Any:
        """Shapes and dtypes of a checkpoint; raises DamagedCheckpoint if they cannot be read."""
        path = self._path(step)
        try:
            return self._handler.metadata(epath.Path(path / _ITEM)).tree
        except Exception as error:  # its type depends on the kind of damage
            problem = f"{path}: not a readable checkpoint ({_reason(error)})"
            raise DamagedCheckpoint(problem) from error

    def _verify(self, step: int, state: Any) -> None:
        """Raises DamagedCheckpoint, naming the first array whose checksum differs.

        The file format does not detect every flipped bit.
        """
        path = self._path(step)
        if not _has_valid_metadata(path):
            raise DamagedCheckpoint(f"{path}: is damaged (its description cannot be read)")
        expected = (_metadata(path).get("custom_metadata") or {}).get(_CHECKSUMS)
        if expected is None:  # written before there were checksums
            return
        actual = _checksums(state)
        for name in sorted(actual.keys() | expected.keys()):
            if actual.get(name) != expected.get(name):
                raise DamagedCheckpoint(f"{path}: is damaged ({name} is not as it was saved)")


@contextmanager
def _write_errors(folder: Path) -> Iterator[None]:
    """Converts errors of writing a checkpoint, such as a full disk, to a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{folder}: a checkpoint cannot be written ({_reason(error)}); those before it are kept"
        ) from error


def _reason(error: Exception) -> str:
    number = os_error(error)
    return os.strerror(number) if number else (str(error) or repr(error)).splitlines()[0]


@cache
def _silence_orbax_threads() -> None:
    """Silences tracebacks of orbax's threads and tasks; `Checkpoints` raises UserError instead.

    tensorstore's threads then find orbax's event loops closed, which no Python code can catch.
    """
    unraisable, thread = sys.unraisablehook, threading.excepthook

    def unraisable_hook(failed: Any) -> None:
        if not (failed.object is None and "Event loop is closed" in str(failed.exc_value)):
            unraisable(failed)

    def thread_hook(failed: threading.ExceptHookArgs) -> None:
        frames = traceback.extract_tb(failed.exc_traceback)
        if not any("orbax" in Path(frame.filename).parts for frame in frames):
            thread(failed)

    def keep_record(record: Any) -> bool:
        verbose = absl_logging.get_verbosity() >= absl_logging.INFO  # --verbosity
        return verbose or "orbax" not in Path(record.pathname).parts

    def keep_task_record(record: Any) -> bool:
        """Orbax raises one of a damaged checkpoint's errors; asyncio may log the others."""
        error = record.exc_info[1] if record.exc_info else None
        return not ("never retrieved" in record.msg and "tensorstore" in str(error))

    sys.unraisablehook, threading.excepthook = unraisable_hook, thread_hook
    absl_logging.get_absl_logger().addFilter(keep_record)
    logging.getLogger("asyncio").addFilter(keep_task_record)


def suffix(which: str) -> str:
    """Suffix of file names for results of one checkpoint: "", "_best" or "_stepN"."""
    return {NEWEST: "", BEST: "_best"}.get(which, f"_step{which}")


def has_checkpoint(workdir: Path) -> bool:
    """Whether a run can be resumed; creates no folders."""
    return newest_step(workdir) > 0


def newest_step(workdir: Path) -> int:
    """The step of a run's newest checkpoint, perhaps a damaged one; 0 without any."""
    folders = _step_folders(workdir / "checkpoints")
    return int(folders[-1].name) if folders else 0


def retry_during_training(workdir: Path, read: Callable[[], _T]) -> _T:
    """Calls `read`, which may fail because training deletes checkpoints at the same time.

    A failure is retried if any of the checkpoints has disappeared meanwhile.
    """
    folder = workdir / "checkpoints"
    for _ in range(_RETRIES):
        before = set(_step_folders(folder))
        try:
            return read()
        except (OSError, UserError):
            time.sleep(0.2)  # until the deletion has finished
            if before <= set(_step_folders(folder)):
                raise
    return read()


def _step_folders(folder: Path) -> list[Path]:
    """The folders of all checkpoints, ordered by step."""
    found = [path for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
    return sorted(found, key=lambda path: int(path.name))


def _has_valid_metadata(folder: Path) -> bool:
    """Whether orbax can read the metadata and the score of a checkpoint, as far as they exist."""
    try:
        if (folder / _METRICS).exists():
            _read_score(folder)
        content = _metadata(folder)
        checksums = (content.get("custom_metadata") or {}).get(_CHECKSUMS, {})
        return isinstance(checksums, dict) and all(
            isinstance(content.get(name), type_ | None) for name, type_ in _METADATA_TYPES.items()
        )
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError):
        return False


def _read_score(folder: Path) -> float:
    return float(json.loads((folder / _METRICS).read_bytes())[_SCORE])


def _metadata(folder: Path) -> dict[str, Any]:
    """Orbax's metadata of a checkpoint; empty if it has none."""
    try:
        return json.loads((folder / _METADATA).read_bytes())
    except FileNotFoundError:
        return {}


def _drop_unknown_metadata(checkpoints: Path) -> None:
    """Removes metadata keys of a newer orbax, with which this version would not open the folder."""
    known = {field.name for field in fields(ocp.metadata.StepMetadata)}
    for folder in _step_folders(checkpoints):
        content = _metadata(folder)
        if content.keys() - known:
            kept = {name: value for name, value in content.items() if name in known}
            files.atomic_write(folder / _METADATA, json.dumps(kept))


def _checksums(state: Any) -> dict[str, int]:
    """CRC-32 of each array of a replicated state, by its path."""

    def to_numpy(leaf: Any) -> np.ndarray:
        local = leaf.addressable_shards[0].data if isinstance(leaf, jax.Array) else leaf
        return np.ascontiguousarray(jax.device_get(local))

    return {path: zlib.crc32(to_numpy(leaf).tobytes()) for path, leaf in _leaves(state).items()}


def _leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths, such as "params/fusion/Dense_0/kernel"."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def first_difference(expected: Any, saved: Any) -> str:
    """Describes the first leaf whose path, shape or dtype differs; empty if none does."""
    wanted, found = _leaves(expected), _leaves(saved)
    for name in sorted(wanted.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing in the checkpoint"
        if name not in wanted:
            return f"{name} is not in the network"
        want, have = wanted[name], found[name]
        if tuple(want.shape) != tuple(have.shape):
            return f"{name} has shape {tuple(have.shape)}, expected {tuple(want.shape)}"
        if jax.numpy.dtype(want.dtype) != jax.numpy.dtype(have.dtype):
            return f"{name} has dtype {have.dtype}, expected {want.dtype}"
    return ""
