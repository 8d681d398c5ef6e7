"""File helpers: atomic writes, natural order, unique names, and the cache folder."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


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


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """Unique names for the results of files: the stem, else the whole name, else with a number.

    They are unique for any combination of files (a.jpg, a.png, a.jpg.png), and on file systems that
    ignore case.
    """
    stems = Counter(path.stem.casefold() for path in paths)
    taken: set[str] = set()
    result = []
    for path in paths:
        name = first = path.stem if stems[path.stem.casefold()] == 1 else path.name
        number = 2
        while name.casefold() in taken:
            name, number = f"{first}-{number}", number + 1
        taken.add(name.casefold())
        result.append(name)
    return result


def atomic_write(path: Path, text: str) -> None:
    """Replaces a text file atomically: readers see the whole old or the whole new content."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())  # before the rename: a crash must not leave an empty file
    os.replace(partial, path)


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
