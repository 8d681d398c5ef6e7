"""Files that appear at once."""

import os
from pathlib import Path


def write_at_once(path: Path, text: str) -> None:
    """Writes a text file; whoever looks sees all of the old content or all of the new."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)
