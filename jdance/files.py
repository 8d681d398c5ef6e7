"""Files that appear at once, and the folder for what programs keep."""

import os
from pathlib import Path


def write_at_once(path: Path, text: str) -> None:
    """Writes a text file; whoever looks sees all of the old content or all of the new."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)


def cache_folder() -> Path:
    """$JDANCE_CACHE, else ~/.cache/jdance."""
    folder = os.environ.get("JDANCE_CACHE")
    return Path(folder) if folder else Path.home() / ".cache" / "jdance"
