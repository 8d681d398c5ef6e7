"""Files that appear at once, their order, names that do not collide, and the cache folder."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


def natural_key(path: Path) -> tuple[object, ...]:
    """A key that sorts paths by the numbers in them: frame_2 before frame_10.

    Folders come before what they hold; names that differ in leading zeros alone keep an order, too.
    """
    parts = [re.split(r"([0-9]+)", part) for part in path.parts]
    numbered = [[int(text) if i % 2 else text for i, text in enumerate(part)] for part in parts]
    return numbered, str(path)


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """A name for each file's results: its stem, or its whole name, or that with a number.

    No two are alike, whatever files lie beside each other (a.jpg, a.png, a.jpg.png), nor where
    capitals do not count.
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
    """Writes a text file; whoever looks sees all of the old content or all of the new."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())  # before the name: a machine that fails must not leave it empty
    os.replace(partial, path)


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Drops what C code writes to stderr."""
    kept = os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def cache_folder() -> Path:
    """$JDANCE_CACHE, else ~/.cache/jdance."""
    folder = os.environ.get("JDANCE_CACHE")
    return Path(folder).expanduser() if folder else Path.home() / ".cache" / "jdance"
