"""Files that appear at once."""

import os
from pathlib import Path


def write_at_once(path: Path, text: str) -> None:
    """Writes a text file; whoever looks sees all of the old content or all of the new."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())  # before the name: a machine that fails must not leave it empty
    os.replace(partial, path)
