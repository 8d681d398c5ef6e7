"""Records of what has been recognized into an output folder, and of what failed.

Results are written in a local folder of one claim and moved to their places when they are complete;
the record is written last. It says what the results depend on, so that they are not computed again.

In the folder .jdance of the output folder:

records/NAME.json     a result: its input, settings and files
failures/KEY.json     an input that failed or was read in part, and why
work/CLAIM/           results being written; of an output in a store, in the cache folder
"""

import csv
import hashlib
import io
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import jax
import numpy as np

from jdance.data import images, videos
from jdance.recognize import inputs, storage
from jdance.recognize.claims import Claims, key_of
from jdance.recognize.inputs import Job
from jdance.recognize.storage import FOLDER, Storage

FAILURES_FILE = "failures.csv"
_FAILURES = f"{FOLDER}/failures"
_VERSION = 1  # of the records
_COLUMNS = ("path", "start", "end", "output", "status", "reason")


class Failure(NamedTuple):
    """An input without a complete result.

    Attributes:
        job: the input.
        reason: one line that names the file.
        partial: whether there is a result of what could be read.
    """

    job: Job
    reason: str
    partial: bool = False


class State(NamedTuple):
    """What is known about an input.

    Attributes:
        seconds: duration of the video; 0 for an image or without a result.
        failure: None if the result is complete.
    """

    seconds: float
    failure: Failure | None = None


def digest(*values: Any) -> str:
    """SHA-256 in hexadecimal of pytrees of arrays and of values that JSON can hold, or `str`."""
    result = hashlib.sha256()
    for value in values:
        for path, leaf in jax.tree_util.tree_leaves_with_path(value):
            result.update(jax.tree_util.keystr(path).encode())
            if isinstance(leaf, np.ndarray | jax.Array):
                array = np.asarray(leaf)
                result.update(f"{array.dtype}{array.shape}".encode())
                result.update(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
            else:
                result.update(json.dumps(leaf, sort_keys=True, default=str).encode())
    return result.hexdigest()


class Ledger:
    """The records of an output folder.

    Args:
        output: where the results are kept.
        settings: everything besides the input that the results depend on, for JSON.
        outputs: kinds of files that are wanted; a result with more of them is complete, too.
        version: describes the content of an input; raises OSError if it cannot be read.
        video_settings: those that results of images do not depend on.
    """

    def __init__(
        self,
        output: Storage,
        settings: Mapping[str, Any],
        outputs: Iterable[str],
        version: Callable[[Job], Any],
        video_settings: Sequence[str] = (),
    ):
        self.output, self._version = output, version
        self._video_settings = frozenset(video_settings)
        self._settings, self._outputs = json.loads(json.dumps(settings)), sorted(outputs)
        self._work = output.scratch / "work"
        self._work.mkdir(parents=True, exist_ok=True)

    def load(self, jobs: Iterable[Job]) -> None:
        """Announces the inputs whose state will be asked for."""
        paths = (self._record_path, self._failure_path)
        self.output.load(path(job) for job in jobs if not job.problem for path in paths)

    def state(self, job: Job, run: str, overwrite: bool = False) -> State | None:
        """Returns what is known about an input; None if it has to be recognized.

        Args:
            job: the input.
            run: failures of other runs do not count.
            overwrite: results of other runs do not count either.
        """
        if job.problem:
            return State(0.0, Failure(job, f"{job.label}: {job.problem}"))
        dependencies = self.dependencies(job)
        if record := self._read(self._record_path(job), dependencies, run if overwrite else ""):
            complete = set(self._outputs) <= set(record.get("outputs", ()))
            if complete and self._has_files(record.get("files", {})):
                failure = Failure(job, record["problem"], True) if record["problem"] else None
                return State(record["seconds"], failure)
        if not overwrite and (other := self._owner(job)):
            reason = (
                f"{job.label}: {self.output}/{job.name}.json is the result of {other}; choose "
                "another --output, or a pattern that keeps the folders ('photos/**/*.jpg')"
            )
            return State(0.0, Failure(job, reason))
        if failed := self._read(self._failure_path(job), dependencies, run):
            return State(0.0, Failure(job, failed["reason"], failed["partial"]))
        return None

    def _owner(self, job: Job) -> str:
        """Another input, which still exists, whose result has the name of this one's; or ""."""
        record = self._record(job)
        origin = str(record.get("source") or job.origin)
        if origin == job.origin or videos.is_camera(str(job.source)):
            return ""
        other = inputs.from_origin(origin, job.name, None, None)
        is_same = not (job.address or other.address) and _is_same_file(other.source, job.source)
        return origin if inputs.exists(other) and not is_same else ""

    def _record(self, job: Job) -> dict[str, Any]:
        """The record of a result; {} if there is none."""
        with suppress(OSError, ValueError):
            content = json.loads(self.output.read(self._record_path(job)) or b"{}")
            return content if isinstance(content, dict) else {}
        return {}

    def dependencies(self, job: Job) -> dict[str, Any]:
        """Returns what the result of an input depends on, the input's current content included."""
        try:
            version = self._version(job)
        except OSError as error:
            version = error.strerror
        unused = self._video_settings if inputs.listed_kind(job) == "image" else ()
        settings = {name: value for name, value in self._settings.items() if name not in unused}
        return {
            "format": _VERSION,
            "input": job.source.name,
            "version": json.loads(json.dumps(version)),
            "settings": settings | {"start": job.start, "end": job.end},
        }

    def _read(self, name: str, dependencies: Mapping[str, Any], run: str) -> dict[str, Any] | None:
        try:
            content = json.loads(self.output.read(name) or b"{}")
            settings = content.get("settings", {}).items()
        except (OSError, ValueError, AttributeError):
            return None
        expected = {**dependencies, "run": run} if run else dependencies
        # A record may have settings that the result does not depend on.
        is_equal = expected["settings"].items() <= settings
        is_equal &= expected.items() <= (content | {"settings": expected["settings"]}).items()
        return content if is_equal else None

    def _has_files(self, sizes: Mapping[str, int]) -> bool:
        return all(self.output.size(name) == size for name, size in sizes.items())

    @contextmanager
    def work_folder(self, claim_id: str) -> Iterator[Path]:
        """Creates an empty folder for the results of a claim; removes it after the block."""
        folder = self._work / claim_id
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def commit(
        self,
        job: Job,
        dependencies: Mapping[str, Any],
        work: Path,
        problem: str,
        seconds: float,
        run: str,
    ) -> State:
        """Moves the results of an input from its work folder to their paths, and records them.

        Args:
            job: the input.
            dependencies: before the input was read.
            work: the folder of the results.
            problem: what could not be read; "": nothing.
            seconds: duration of the video.
            run: the current run.

        Raises:
            OSError, UserError: the results cannot be written.
        """
        self.output.begin()
        self.output.remove(self._record_path(job))
        sizes = {}
        for entry in sorted(work.iterdir()):
            name = (PurePosixPath(job.name).parent / entry.name).as_posix()
            sizes[name] = storage.size(entry)
            self.output.put(entry, name)
        self.output.remove(self._failure_path(job))
        self._remove_former(job)
        failure = Failure(job, problem, True) if problem else None
        record = dict(dependencies) | {
            "source": job.origin, "host": socket.gethostname(), "run": run,
            "outputs": self._outputs, "files": sizes, "seconds": round(seconds, 3),
            "problem": problem,
        }  # fmt: skip
        if failure:
            self._write_failure(failure, dependencies, work, run)
        self.output.write(
            self._record_path(job), json.dumps(record) + "\n", work / "record.partial"
        )
        return State(seconds, failure)

    def _remove_former(self, job: Job) -> None:
        """Removes the results that an input had under another name.

        It gets another name when a file with its stem is added beside it, or removed.
        """
        for name in {job.source.stem, job.source.name} - {PurePosixPath(job.name).name}:
            former = replace(job, name=(PurePosixPath(job.name).parent / name).as_posix())
            record = self._record(former)
            times = [record.get("settings", {}).get(key) for key in ("start", "end")]
            if record.get("source") == job.origin and times == [job.start, job.end]:
                for file in record.get("files", {}):
                    with suppress(OSError):  # a folder
                        self.output.remove(file)
                self.output.remove(self._record_path(former))

    def fail(self, job: Job, reason: str, work: Path, run: str) -> State:
        """Records that an input could not be recognized."""
        failure = Failure(job, reason)
        self._write_failure(failure, self.dependencies(job), work, run)
        return State(0.0, failure)

    def _write_failure(
        self, failure: Failure, dependencies: Mapping[str, Any], work: Path, run: str
    ) -> None:
        job = failure.job
        content = dict(dependencies) | {
            "source": job.origin, "host": socket.gethostname(), "run": run,
            "name": job.name, "start": job.start, "end": job.end,
            "reason": failure.reason, "partial": failure.partial,
        }  # fmt: skip
        text = json.dumps(content) + "\n"
        self.output.write(self._failure_path(job), text, work / "failure.partial")

    @staticmethod
    def _record_path(job: Job) -> str:
        return f"{FOLDER}/records/{job.name}.json"

    @staticmethod
    def _failure_path(job: Job) -> str:
        return f"{_FAILURES}/{key_of(job.name)}.json"

    def record_text(self, job: Job) -> str:
        """The record of a result, for works that depend on it; "" if there is none."""
        return (self.output.read(self._record_path(job)) or b"").decode()

    def remove_leftovers(self, claims: Claims) -> None:
        """Removes the work folders of processes that have died."""
        folders = list(self._work.iterdir())
        claims.refresh()  # afterwards, since a claim is older than its folder
        for folder in folders:
            if not claims.is_live(folder.name):
                shutil.rmtree(folder, ignore_errors=True)

    def write_failures(self, failures: Sequence[Failure], jobs: Iterable[Job]) -> bool:
        """Writes failures.csv, with those of other commands whose inputs still exist.

        Args:
            failures: of this command, in the order of the inputs.
            jobs: all inputs of this command.

        Returns:
            Whether there are any; without, the file is removed.
        """
        rows = {f.job.name or f.job.label: _row(f) for f in failures}
        own = {job.name for job in jobs}
        for name in self.output.names(_FAILURES):
            with suppress(OSError, ValueError, KeyError, TypeError):
                entry = json.loads(self.output.read(name) or b"")
                job = inputs.from_origin(
                    entry["source"], entry["name"], entry["start"], entry["end"]
                )
                if job.name not in own and inputs.exists(job):
                    rows[job.name] = _row(Failure(job, entry["reason"], entry["partial"]))
        if not rows:
            self.output.remove(FAILURES_FILE)
            return False
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(rows.values())
        partial = f"{FAILURES_FILE}.{socket.gethostname()}-{os.getpid()}.partial"
        self.output.write(FAILURES_FILE, text.getvalue(), self.output.scratch / partial)
        return True


def _is_same_file(a: Path, b: Path) -> bool:
    with suppress(OSError):
        return a.samefile(b)
    return False


def _row(failure: Failure) -> list[Any]:
    job = failure.job
    return [
        images.printable(job.origin),
        "" if job.start is None else job.start,
        "" if job.end is None else job.end,
        images.printable(job.name),
        "read in part" if failure.partial else "failed",
        images.printable(failure.reason),
    ]
