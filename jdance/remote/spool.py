"""Copies of objects for one use each, so that inputs may be larger than the disk in total.

They are in a folder of the process in the cache folder. The folders of killed processes are removed
by the next one.
"""

import os
import shutil
import socket
import tempfile
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path

from jdance import files, lock
from jdance.remote import objects
from jdance.remote.objects import Entry

_LOCK = ".lock"
_OLD = 7 * 86400.0  # seconds without a new copy after which a process elsewhere counts as dead


class Stopped(BaseException):  # as KeyboardInterrupt: no damage of the object
    """The process stops, and the copy with it."""


class Copy:
    """A copy of an object with its own name, which a thread downloads.

    Args:
        address: of the object.
        entry: size and version that it must have; None: any.
        parent: folder for a folder of the copy.
    """

    def __init__(self, address: str, entry: Entry | None, parent: Path):
        self.address, self._entry, self._parent = address, entry, parent
        self._folder: Path | None = None
        self._error: BaseException | None = None
        self._is_unwanted, self._has_ended = threading.Event(), threading.Event()
        self._is_stopped = False
        # Must not delay the end of the process.
        threading.Thread(target=self._download, daemon=True).start()

    def wait(self) -> Path:
        """The path of the complete copy.

        Raises:
            UserError: the object has another size or version, or cannot be read.
            OSError: the disk is full.
            Stopped: by `stop`.
        """
        self._has_ended.wait()
        if self._is_stopped:
            raise Stopped
        if self._error:
            raise self._error
        assert self._folder
        return self._folder / objects.base_name(self.address)

    def has_failed(self) -> bool:
        """Whether the download has ended with an error."""
        return self._has_ended.is_set() and self._error is not None

    def stop(self) -> None:
        """Makes `wait` raise `Stopped`."""
        self._is_stopped = True
        self.close()
        self._has_ended.set()

    def close(self) -> None:
        """Removes the copy, at once or when the current request has ended."""
        self._is_unwanted.set()
        if self._has_ended.is_set() and self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Path:
        try:
            return self.wait()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def _download(self) -> None:
        try:
            self._folder = Path(tempfile.mkdtemp(dir=self._parent))
            path = self._folder / objects.base_name(self.address)
            objects.download(
                self.address, path, expected=self._entry, stop=self._is_unwanted.is_set
            )
        except BaseException as error:
            self._error = error
        self._has_ended.set()
        if self._is_unwanted.is_set() and self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)


class Spool:
    """The copies of this process: those in use, and the next one."""

    def __init__(self) -> None:
        root = files.cache_folder().absolute() / "remote" / "spool"
        root.mkdir(parents=True, exist_ok=True)
        own = f"{socket.gethostname()}-"
        with lock.waiting(root / _LOCK):
            for old in root.glob("*"):
                # Machines may share a folder but no locks.
                with suppress(OSError):
                    if old.name.startswith(own) or time.time() - old.stat().st_mtime > _OLD:
                        lock.remove_unlocked(old, _LOCK)
            self._folder = Path(tempfile.mkdtemp(prefix=own, dir=root))
            self._lock = lock.take(self._folder / _LOCK)
        self._ahead: Copy | None = None
        self._taken: weakref.WeakSet[Copy] = weakref.WeakSet()

    def fetch_ahead(self, address: str, entry: Entry | None) -> None:
        """Begins to copy the object that will be taken next."""
        if self._ahead:
            self._ahead.close()
        self._ahead = Copy(address, entry, self._folder)

    def take(self, address: str, entry: Entry | None) -> Copy:
        """A copy, which the caller closes; perhaps the one that was begun ahead.

        Args:
            address: of the object.
            entry: its size and version; None: any.
        """
        copy, self._ahead = self._ahead, None
        # There may have been no room beside the other copies.
        if copy and (copy.address != address or copy.has_failed()):
            copy.close()
            copy = None
        copy = copy or Copy(address, entry, self._folder)
        self._taken.add(copy)
        return copy

    def stop(self) -> None:
        """Makes threads that wait for copies raise `Stopped`."""
        for copy in list(self._taken):
            copy.stop()

    def close(self) -> None:
        """Removes all copies."""
        for copy in [self._ahead, *self._taken]:
            if copy:
                copy.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
