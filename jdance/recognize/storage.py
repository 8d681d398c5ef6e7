"""Where results and their records are kept: a folder, or a folder in an object store.

Names are paths relative to the output folder, with "/".
"""

import os
import shutil
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Protocol

from jdance import files
from jdance.errors import UserError
from jdance.remote import copies, objects
from jdance.remote.lease import Lease

FOLDER = ".jdance"  # hidden, for records and claims


class Storage(Protocol):
    """An output folder. Methods raise OSError, or UserError from a store.

    Attributes:
        path: the folder; of a store the same as `scratch`.
        scratch: local folder for claims, logs, and results being written.
    """

    path: Path
    scratch: Path

    def __str__(self) -> str:
        """The folder or its address, for messages."""

    def load(self, names: Iterable[str]) -> None:
        """Announces files that will be read."""

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if there is none."""

    def write(self, name: str, text: str, partial: Path) -> None:
        """Replaces a file atomically; `partial` is a name for a temporary one, in `scratch`."""

    def create(self, name: str, text: str) -> bool:
        """Writes a file unless there is one; returns whether it did."""

    def remove(self, name: str) -> None:
        """Removes a file, if there is one."""

    def names(self, folder: str) -> list[str]:
        """The files of a folder, sorted."""

    def size(self, name: str) -> int | None:
        """Size of a file in bytes, or number of entries of a folder; None if there is none."""

    def begin(self) -> None:
        """Checks that this process may still write, before it replaces a result."""

    def put(self, path: Path, name: str) -> None:
        """Moves a file or a folder from `scratch` to a name, replacing an older one."""


class Folder:
    """A folder on a disk or a network file system.

    Args:
        path: is created if necessary.

    Raises:
        UserError: it cannot be written to.
    """

    def __init__(self, path: Path):
        self.path, self.scratch = path, path / FOLDER
        try:
            (self.scratch / "work").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{path}: cannot be written to ({error.strerror})") from error

    def __str__(self) -> str:
        return str(self.path)

    def load(self, names: Iterable[str]) -> None:
        pass

    def read(self, name: str) -> bytes | None:
        with suppress(FileNotFoundError):
            return (self.path / name).read_bytes()
        return None

    def write(self, name: str, text: str, partial: Path) -> None:
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        files.atomic_write(self.path / name, text, partial)

    def create(self, name: str, text: str) -> bool:
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            with (self.path / name).open("x") as file:
                file.write(text)
        except FileExistsError:
            return False
        return True

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def names(self, folder: str) -> list[str]:
        return sorted(f"{folder}/{path.name}" for path in (self.path / folder).glob("*"))

    def size(self, name: str) -> int | None:
        with suppress(OSError):
            return size(self.path / name)
        return None

    def begin(self) -> None:
        pass

    def put(self, path: Path, name: str) -> None:
        final = self.path / name
        final.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() and final.exists():
            # A folder that is not empty cannot be replaced.
            older = path.with_name(f"{path.name}.old")
            os.replace(final, older)
            os.replace(path, final)
            shutil.rmtree(older)
        else:
            os.replace(path, final)


class Store:
    """A folder in an object store, which this process alone writes to.

    It is listed once. Results are uploaded and not kept.

    Args:
        address: of the folder.
        lease: of this process on the folder.
    """

    def __init__(self, address: str, lease: Lease):
        self._address, self._lease = address.rstrip("/"), lease
        self.path = self.scratch = copies.folder(address, "output")
        self.scratch.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.scratch / "work", ignore_errors=True)  # of a process that was killed
        listed = objects.listing(self._address)
        self._sizes = {name: entry.size for name, entry in listed.items()}
        self._entries = Counter(str(PurePosixPath(name).parent) for name in listed)
        self._loaded: dict[str, bytes] = {}
        self._lock = threading.Lock()  # of these; several inputs are recognized at once

    def __str__(self) -> str:
        return self._address

    def load(self, names: Iterable[str]) -> None:
        found = [name for name in names if name in self._sizes and name not in self._loaded]
        contents = objects.in_parallel(objects.read, [self._at(name) for name in found])
        self._loaded.update(zip(found, contents, strict=True))

    def read(self, name: str) -> bytes | None:
        data = self._loaded.get(name)
        if data is None and name in self._sizes:
            data = objects.read(self._at(name))
        return data

    def write(self, name: str, text: str, partial: Path) -> None:
        data = text.encode()
        objects.write(self._at(name), data)
        self._note(name, len(data))

    def create(self, name: str, text: str) -> bool:
        if name in self._sizes:
            return False
        data = text.encode()
        objects.write(self._at(name), data)  # there are no other processes
        self._note(name, len(data))
        return True

    def remove(self, name: str) -> None:
        if name in self._sizes:
            objects.delete(self._at(name))
            self._forget(name)

    def names(self, folder: str) -> list[str]:
        with self._lock:
            return sorted(name for name in self._sizes if name.startswith(f"{folder}/"))

    def size(self, name: str) -> int | None:
        return self._sizes.get(name, self._entries.get(name))

    def begin(self) -> None:
        self._lease.check()

    def put(self, path: Path, name: str) -> None:
        parts = {name: path}
        if path.is_dir():
            found = [part for part in path.rglob("*") if part.is_file()]
            parts = {f"{name}/{part.relative_to(path).as_posix()}": part for part in found}
            for old in set(self.names(name)) - parts.keys():
                self.remove(old)

        def upload(part: tuple[str, Path]) -> None:
            objects.upload(part[1], self._at(part[0]))

        list(objects.in_parallel(upload, list(parts.items())))
        for part, file in parts.items():
            self._note(part, file.stat().st_size)

    def _note(self, name: str, size: int) -> None:
        with self._lock:
            if name not in self._sizes:
                self._entries[str(PurePosixPath(name).parent)] += 1
            self._sizes[name] = size
            self._loaded.pop(name, None)

    def _forget(self, name: str) -> None:
        with self._lock:
            self._entries[str(PurePosixPath(name).parent)] -= 1
            del self._sizes[name]
            self._loaded.pop(name, None)

    def _at(self, name: str) -> str:
        return objects.join(self._address, name)


@contextmanager
def opened(output: str) -> Iterator[Storage]:
    """The storage for --output.

    Args:
        output: a folder, or the address of one in a store.

    Raises:
        UserError: it cannot be written to, or another process writes to the address.
    """
    if not objects.is_remote(output):
        yield Folder(Path(output))
        return
    objects.check_writable(output, "output")
    lease = Lease(output.rstrip("/"), "--output", name=f"{FOLDER}/lock")
    try:
        yield Store(output, lease)
    finally:
        lease.release()


def size(path: Path) -> int:
    """Size of a file in bytes, or number of entries of a folder."""
    return len(os.listdir(path)) if path.is_dir() else path.stat().st_size
