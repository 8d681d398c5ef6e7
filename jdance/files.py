"""Files that appear at once, names that do not collide, and the folder for what is kept."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path


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


def write_at_once(path: Path, text: str) -> None:
    """Writes a text file; whoever looks sees all of the old content or all of the new."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())  # before the name: a machine that fails must not leave it empty
    os.replace(partial, path)


def cache_folder() -> Path:
    """$JDANCE_CACHE, else ~/.cache/jdance."""
    folder = os.environ.get("JDANCE_CACHE")
    return Path(folder).expanduser() if folder else Path.home() / ".cache" / "jdance"
