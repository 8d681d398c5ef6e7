"""Folders of training runs in stores.

Orbax can write to gs:// but not to s3://, and every reader here expects files. So a run is trained
in a local folder, and its files are copied to the store:

    ADDRESS/checkpoints/STEP/...  the files of a checkpoint
    ADDRESS/manifests/STEP.json   their sizes and checksums: written after them, removed before them
    ADDRESS/index.json            names of all files, for https://, which cannot list
    ADDRESS/lock                  the process that trains, see `lease`
    ADDRESS/...                   all other files of the run

Only a manifest makes a checkpoint: an interrupted upload leaves files that are never read, and
that the next training process removes. The other files are uploaded before the manifest, so that
they are never older than the newest checkpoint.
"""

import hashlib
import itertools
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from jdance import files, lock
from jdance.errors import UserError
from jdance.remote import copies, objects
from jdance.remote.lease import Lease
from jdance.remote.objects import join

_CHECKPOINTS, _MANIFESTS, _INDEX = "checkpoints", "manifests", "index.json"
_SNAPSHOTS, _RESTORED = ".uploading", ".restored"  # local folders
_RECORD = ".uploaded.json"  # local file: what this folder and the store have in common
_POLL = 0.5  # seconds between two looks for new checkpoints
_TRIES = 20  # to link the newest checkpoint before there is a newer one
_DELETION = 1.0  # seconds that the deletion of a local checkpoint may take

Manifest = dict[str, Any]  # {"step", "files": {name: {"size", "sha256"}}}


class _Run(NamedTuple):
    """What a store holds of a run."""

    names: list[str]  # files outside of checkpoints
    steps: list[int]  # finished checkpoints
    leftovers: list[str]  # files of checkpoints without a manifest


class Mirror:
    """Restores a run into a local folder and uploads what changes in it, until `close`.

    Args:
        address: of the run.
        folder: the local folder. Checkpoints in it that were never uploaded are kept if no other
            process has trained since, otherwise they are moved to another folder.
        on_loss: called if another process has taken over the run.

    Raises:
        UserError: another process trains the run, or the store fails.
    """

    def __init__(self, address: str, folder: Path, on_loss: Callable[[], None]):
        self._address, self._folder = address, folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lease = Lease(address, on_loss=on_loss)
        try:
            self._uploaded: dict[int, str] = {}  # checksums of the manifests by step
            self._sizes: dict[str, tuple[int, int]] = {}
            self._restore()
        except BaseException:
            self._lease.release()
            raise
        self._done, self._busy = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._upload_checkpoints, daemon=True)
        self._thread.start()

    def upload(self) -> None:
        """Uploads everything that has changed.

        Raises:
            UserError: the store fails, or another process has taken over the run.
        """
        with self._busy:
            snapshots = self._snapshots()
            self._lease.check()
            changed = self._upload_files()
            for step, snapshot in snapshots:
                self._upload_checkpoint(step, snapshot)
            removed = self._remove_deleted()
            if changed or snapshots or removed:
                self._write_record()
                _write_index(self._address)

    def close(self) -> None:
        """Ends the background uploads, uploads the rest, and gives the run free."""
        self._done.set()
        self._thread.join()
        try:
            self.upload()
        finally:
            shutil.rmtree(self._folder / _SNAPSHOTS, ignore_errors=True)
            self._lease.release()

    def _upload_checkpoints(self) -> None:
        """Uploads each new checkpoint; failures are reported once and tried again."""
        reported = False
        while not self._done.wait(_POLL):
            if set(_local_steps(self._folder)) <= self._uploaded.keys():
                continue
            try:
                self.upload()
                reported = False
            except UserError as error:
                if not reported:
                    print(f"warning: {error}; training goes on", file=sys.stderr, flush=True)
                reported = True
            except Exception as error:  # this thread must not die
                print(f"warning: {self._address}: not uploaded ({error!r})", file=sys.stderr)

    def _upload_files(self) -> bool:
        """Uploads the files outside of checkpoints that have changed; returns whether any has."""
        changed = _changed(self._folder, self._sizes)

        def send(name: str) -> None:
            with suppress(FileNotFoundError):  # removed meanwhile
                objects.write(join(self._address, name), (self._folder / name).read_bytes())

        list(objects.in_parallel(send, list(changed)))
        self._sizes |= changed
        return bool(changed)

    def _upload_checkpoint(self, step: int, snapshot: Path) -> None:
        names = sorted(str(p.relative_to(snapshot)) for p in snapshot.rglob("*") if p.is_file())
        manifest: Manifest = {"step": step, "files": {}}

        def send(name: str) -> None:
            objects.upload(snapshot / name, join(self._address, f"{_CHECKPOINTS}/{step}/{name}"))

        for name in names:
            path = snapshot / name
            entry = {"size": path.stat().st_size, "sha256": files.checksum(path)}
            manifest["files"][name] = entry
        list(objects.in_parallel(send, names))
        self._lease.check()
        content = json.dumps(manifest).encode()
        objects.write(_manifest_address(self._address, step), content)
        self._uploaded[step] = hashlib.sha256(content).hexdigest()
        self._write_record()
        shutil.rmtree(snapshot)

    def _snapshots(self) -> list[tuple[int, Path]]:
        """Hard links to the files of all new checkpoints, the newest first.

        Training may delete a checkpoint at any time. The newest one is never deleted, and older
        ones only after a newer one is complete: links made while a checkpoint is the newest are
        complete. Those of others are complete if their files still exist after a while.
        """
        for _ in range(_TRIES):
            steps = _local_steps(self._folder)
            new = [step for step in reversed(steps) if step not in self._uploaded]
            linked = [(step, path) for step in new if (path := self._link(step))]
            if _local_steps(self._folder)[-1:] == steps[-1:]:
                break
        else:
            steps = []  # none of the links is known to be complete yet
        older = [pair for pair in linked if pair[0] not in steps[-1:]]
        if older:
            time.sleep(_DELETION)
        return [pair for pair in linked if pair not in older or _all_exist(pair[1])]

    def _link(self, step: int) -> Path | None:
        """Hard links to the files of a checkpoint; None if it disappears."""
        source = self._folder / _CHECKPOINTS / str(step)
        target = self._folder / _SNAPSHOTS / str(step)
        shutil.rmtree(target, ignore_errors=True)
        try:
            shutil.copytree(source, target, copy_function=os.link)
        except (OSError, shutil.Error):
            time.sleep(_DELETION)
            if source.exists():
                raise
            return None
        return target

    def _remove_deleted(self) -> bool:
        """Removes checkpoints that training has deleted, once a newer one is uploaded."""
        local = set(_local_steps(self._folder))
        if not local & self._uploaded.keys():
            return False
        deleted = sorted(self._uploaded.keys() - local)
        for step in deleted:
            _remove_checkpoint(self._address, step)
            del self._uploaded[step]
        return bool(deleted)

    def _restore(self) -> None:
        run = _look_up(self._address)
        for name in run.leftovers:
            objects.delete(join(self._address, name))
        shutil.rmtree(self._folder / _SNAPSHOTS, ignore_errors=True)
        stored = {
            step: hashlib.sha256(objects.read(_manifest_address(self._address, step))).hexdigest()
            for step in run.steps
        }
        kept = self._keep_new(stored)
        for step in set(_local_steps(self._folder)) & self._uploaded.keys() - stored.keys():
            shutil.rmtree(self._folder / _CHECKPOINTS / str(step))
        for name in set(_file_names(self._folder)) - kept:  # perhaps deleted in the store
            (self._folder / name).unlink()
        _fetch_files(self._address, self._folder, [name for name in run.names if name not in kept])
        for step in run.steps:
            _fetch_checkpoint(self._address, self._folder, step)
        self._uploaded = stored
        sizes = _changed(self._folder, {})
        self._sizes = {name: size for name, size in sizes.items() if name not in kept}
        self._write_record()

    def _keep_new(self, stored: dict[int, str]) -> set[str]:
        """Decides what happens to a local state that is newer than the store's.

        It is kept if the store holds what this folder has left there. If others have trained or
        removed the run since, checkpoints that were never uploaded are moved aside.

        Args:
            stored: checksums of the store's manifests by step.

        Returns:
            The files outside of checkpoints that are newer than the store's.
        """
        record = self._read_record()
        self._uploaded, sizes = record or ({}, {})
        new = sorted(set(_local_steps(self._folder)) - self._uploaded.keys())
        steps = ", ".join(map(str, new))
        if (
            record is not None
            and stored.items() <= self._uploaded.items()
            and max(stored, default=0) == max(self._uploaded, default=0)
        ):
            if new:
                print(
                    f"{self._address}: the checkpoints of steps {steps} on this machine were not "
                    "uploaded yet; training goes on from them",
                    file=sys.stderr,
                    flush=True,
                )
            return set(_changed(self._folder, sizes))
        if new:
            name = f"{self._folder.name}-not-uploaded"
            paths = (self._folder.with_name(f"{name}-{number}") for number in itertools.count())
            aside = next(path for path in paths if not path.exists())
            os.replace(self._folder, aside)
            self._folder.mkdir()
            print(
                f"warning: {self._address}: has changed since this machine trained it; the "
                f"checkpoints of steps {steps}, which were not uploaded, are kept in {aside}",
                file=sys.stderr,
                flush=True,
            )
        return set()

    def _read_record(self) -> tuple[dict[int, str], dict[str, tuple[int, int]]] | None:
        """`_uploaded` and `_sizes` of the last process in this folder; None of the first one."""
        path = self._folder / _RECORD
        try:
            content = json.loads(path.read_text())
            manifests = {int(step): str(digest) for step, digest in content["manifests"].items()}
            sizes = {
                name: (int(size), int(when)) for name, (size, when) in content["files"].items()
            }
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: is damaged ({error!r}); remove it") from error
        return manifests, sizes

    def _write_record(self) -> None:
        record = {"manifests": self._uploaded, "files": self._sizes}
        files.atomic_write(self._folder / _RECORD, json.dumps(record))


@contextmanager
def reading(address: str, checkpoint: str, writes: bool = False) -> Iterator[Path]:
    """A local copy of a run, without writing to the store while others train it.

    Paths that are not addresses are yielded as they are.

    Args:
        address: of the run.
        checkpoint: "newest", "best" or a step, see `Checkpoints.resolve`; only what is needed for
            it is copied.
        writes: whether files that the block writes into the folder are uploaded.

    Raises:
        UserError: there is no run, it cannot be read, or not be written to.
    """
    if not objects.is_remote(address):
        yield Path(address)
        return
    address = address.rstrip("/")
    if writes:
        objects.check_writable(address, "workdir")
    folder = fetch(address, checkpoint)
    before = _changed(folder, {})
    yield folder
    if writes:
        for name in _changed(folder, before):
            objects.upload(folder / name, join(address, name))
        _write_index(address)


def local(path: str | Path, checkpoint: str) -> Path:
    """The path itself, or a local copy of a file of weights or a run in a store, see `reading`."""
    if not objects.is_remote(path):
        return Path(path)
    if objects.base_name(str(path)).endswith((".npz", ".pth", ".safetensors")):
        return copies.local(path)
    return fetch(str(path).rstrip("/"), checkpoint)


def fetch(address: str, checkpoint: str) -> Path:
    """Copies a run, see `reading`; returns the local folder."""
    folder = copies.folder(address, "run")
    folder.mkdir(parents=True, exist_ok=True)
    with lock.waiting(folder / ".lock"):
        run = _look_up(address)
        if not run.names and not run.steps:
            raise UserError(f"{address}: holds no run; train with launch/train.py first")
        for name in set(_file_names(folder)) - set(run.names):  # perhaps of a removed run
            (folder / name).unlink(missing_ok=True)
        _fetch_files(address, folder, run.names)
        wanted = run.steps
        if checkpoint == "newest":
            wanted = run.steps[-1:]
        elif checkpoint.isdecimal():
            wanted = [step for step in run.steps if step == int(checkpoint)]
        for step in wanted:
            with suppress(objects.Missing):  # deleted by training after it was listed
                _fetch_checkpoint(address, folder, step)
        # After the new ones are complete: readers try again if one disappears.
        for step in set(_local_steps(folder)) - set(run.steps):
            shutil.rmtree(folder / _CHECKPOINTS / str(step), ignore_errors=True)
    return folder


def _look_up(address: str) -> _Run:
    if objects.is_read_only(address):
        try:
            index = json.loads(objects.read(join(address, _INDEX)))
            return _Run(list(map(str, index["files"])), sorted(map(int, index["steps"])), [])
        except objects.Missing:
            raise UserError(f"{address}: holds no run (no {_INDEX})") from None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{address}/{_INDEX}: is damaged ({error!r})") from error
    names, steps, parts = [], [], []
    for name in objects.listing(address):
        first, _, rest = name.partition("/")
        stem = rest.removesuffix(".json")
        if first == _MANIFESTS:
            steps += [int(stem)] if stem.isdecimal() else []
        elif first == _CHECKPOINTS:
            parts.append(name)
        elif name != _INDEX and Path(name).name != "lock":
            names.append(name)
    known = set(map(str, steps))
    leftovers = [name for name in parts if name.split("/")[1] not in known]
    return _Run(names, sorted(steps), leftovers)


def _write_index(address: str) -> None:
    run = _look_up(address)
    content = {"files": run.names, "steps": run.steps}
    objects.write(join(address, _INDEX), json.dumps(content).encode())


def _fetch_files(address: str, folder: Path, names: list[str]) -> None:
    def get(name: str) -> None:
        with suppress(objects.Missing):  # deleted after it was listed
            copies.fetch(join(address, name), folder / name)

    list(objects.in_parallel(get, names))


def _fetch_checkpoint(address: str, folder: Path, step: int) -> None:
    """Makes the local checkpoint equal to the store's; it appears as a whole."""
    source = _manifest_address(address, step)
    try:
        wanted = {
            str(name): str(entry["sha256"])
            for name, entry in json.loads(objects.read(source))["files"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{source}: is damaged ({error!r}); remove it") from error
    if any({"", ".", ".."} & set(name.split("/")) for name in wanted):
        raise UserError(f"{source}: is damaged (names of files); remove it")
    final, staged = folder / _CHECKPOINTS / str(step), folder / _RESTORED / str(step)
    if final.exists():
        present = {str(p.relative_to(final)): p for p in final.rglob("*") if p.is_file()}
        if present.keys() == wanted.keys() and all(
            files.checksum(path) == wanted[name] for name, path in present.items()
        ):
            return
        shutil.rmtree(final)

    def get(name: str) -> None:
        objects.download(
            join(address, f"{_CHECKPOINTS}/{step}/{name}"), staged / name, wanted[name]
        )

    missing = [
        name
        for name, digest in wanted.items()
        if not (staged / name).is_file() or files.checksum(staged / name) != digest
    ]
    list(objects.in_parallel(get, missing))
    final.parent.mkdir(exist_ok=True)
    os.replace(staged, final)


def _remove_checkpoint(address: str, step: int) -> None:
    objects.delete(_manifest_address(address, step))
    root = join(address, f"{_CHECKPOINTS}/{step}")
    list(objects.in_parallel(objects.delete, [join(root, n) for n in objects.listing(root)]))


def _all_exist(snapshot: Path) -> bool:
    """Whether all files of a snapshot still exist in the checkpoint itself."""
    return all(path.stat().st_nlink > 1 for path in snapshot.rglob("*") if path.is_file())


def _manifest_address(address: str, step: int) -> str:
    return join(address, f"{_MANIFESTS}/{step}.json")


def _local_steps(folder: Path) -> list[int]:
    """Steps of the complete checkpoints in a local folder: orbax renames them at the end."""
    with suppress(FileNotFoundError):
        names = os.listdir(folder / _CHECKPOINTS)
        return sorted(int(name) for name in names if name.isdecimal())
    return []


def _file_names(folder: Path) -> list[str]:
    """The files of a local run outside of its checkpoints, without temporary ones."""
    result = []
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in name.parts)
        skipped = name.parts[0] in (_CHECKPOINTS, "damaged") or name.name == "lock"
        if not hidden and not skipped and path.suffix != ".partial" and path.is_file():
            result.append(str(name))
    return result


def _changed(folder: Path, before: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Size and time of the files that differ from `before`."""
    result = {}
    for name in _file_names(folder):
        with suppress(FileNotFoundError):
            status = (folder / name).stat()
            if before.get(name) != (status.st_size, status.st_mtime_ns):
                result[name] = status.st_size, status.st_mtime_ns
    return result
