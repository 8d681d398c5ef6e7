"""File helpers: atomic writes, checksums, natural order, unique names, and the cache folder."""

import hashlib
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

_MAX_NAME = 230  # bytes; file systems have 255, and suffixes such as _joints.csv.partial follow


def natural_key(path: Path) -> tuple[object, ...]:
    """Sort key by the numbers in paths: frame_2 before frame_10.

    Folders precede their contents; ties of leading zeros are broken by the plain path.
    """
    parts = [re.split(r"([0-9]+)", part) for part in path.parts]
    numbered = [[int(text) if i % 2 else text for i, text in enumerate(part)] for part in parts]
    return numbered, str(path)


def list_visible(folder: Path) -> list[Path]:
    """Lists the entries of a folder that are not hidden, in natural order."""
    visible = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(visible, key=natural_key)


def find_below(folder: Path, suffix: str) -> list[Path]:
    """Lists the files with a suffix in a folder and those below it, in natural order.

    Hidden files and folders are left out.
    """
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, n) for n in names if n.endswith(suffix) and not n.startswith(".")]
    return sorted(found, key=natural_key)


def version(path: Path) -> tuple[int, int] | None:
    """Size in bytes and modification time in nanoseconds of a file; None if it is missing."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def named(path: Path) -> Path:
    """The path, or the absolute one of "." and "..", so that it has the folder's name."""
    return path.resolve() if path.name in ("", "..") else path


def distinct_names(paths: Sequence[Path], reserved: Iterable[str] = ()) -> list[str]:
    """Unique names for the results of files: the stem, else the whole name, else with a number.

    They are unique for any combination of files (a.jpg, a.png, a.jpg.png), and on file systems that
    ignore case. No name is in `reserved`, whose names are in lower case. Long names are cut, which
    leaves room for suffixes.
    """
    stems = Counter(path.stem.casefold() for path in paths)
    taken = set(reserved)
    result = []
    for path in paths:
        is_alone = stems[path.stem.casefold()] == 1
        name = first = _shortened(path.stem if is_alone else path.name)
        number = 2
        while name.casefold() in taken:
            name, number = f"{first}-{number}", number + 1
        taken.add(name.casefold())
        result.append(name)
    return result


def _shortened(name: str) -> str:
    encoded = os.fsencode(name)
    if len(encoded) <= _MAX_NAME:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:8]
    return f"{encoded[: _MAX_NAME - 9].decode('utf-8', 'ignore')}-{digest}"


class PartialFile:
    """A text file that is written under a temporary name until `commit`.

    Args:
        path: of the file.
        partial: the temporary file, on the same file system; None: beside `path`.

    Attributes:
        file: the open file, UTF-8.
    """

    def __init__(self, path: Path, partial: Path | None = None):
        self._path, self._partial = path, partial or path.with_name(path.name + ".partial")
        self.file = self._partial.open("w", encoding="utf-8", newline="")

    def commit(self) -> None:
        """Moves the file to its path, replacing an older one atomically."""
        self.file.flush()
        os.fsync(self.file.fileno())  # before the rename: a crash must not leave an empty file
        self.file.close()
        os.replace(self._partial, self._path)

    def close(self) -> None:
        """Deletes the file unless it was committed."""
        with suppress(OSError):  # a full disk, which has already been reported
            self.file.close()
        self._partial.unlink(missing_ok=True)


def atomic_write(path: Path, text: str, partial: Path | None = None) -> None:
    """Replaces a text file atomically: readers see the whole old or the whole new content.

    Args:
        path, partial: see `PartialFile`. Processes that may write a file at the same time need
            temporary files of their own.
        text: the new content.
    """
    with closing(PartialFile(path, partial)) as file:
        file.file.write(text)
        file.commit()


class Utf8Path:
    """A path for libraries that only take file names in UTF-8.

    Args:
        path: of the file that will be written.

    Attributes:
        path: the same, or a temporary one if that has bytes that are not UTF-8.
    """

    def __init__(self, path: Path):
        self._final, self.path = path, path
        try:
            str(path).encode()
        except UnicodeEncodeError:
            self.path = Path(tempfile.mkdtemp()) / f"file{path.suffix}"

    def close(self) -> None:
        """Moves a temporary file to its path."""
        if self.path != self._final:
            if self.path.exists():
                shutil.move(self.path, self._final)
            shutil.rmtree(self.path.parent, ignore_errors=True)


def checksum(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def with_suffix(stem: Path, suffix: str) -> Path:
    """Appends a suffix to a path, whose name may contain dots."""
    return stem.with_name(stem.name + suffix)


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Discards output of C code to stderr."""
    saved = os.dup(2)
    devnull = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(devnull, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(devnull)


def cache_folder() -> Path:
    """$JDANCE_CACHE, else ~/.cache/jdance."""
    folder = os.environ.get("JDANCE_CACHE")
    return Path(folder).expanduser() if folder else Path.home() / ".cache" / "jdance"
