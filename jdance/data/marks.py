"""Marks of files with verified checksums, which are then not computed at each start.

verified.json: {file name: [size in bytes, modification time in ns, inode, checksum]}.
"""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

_NAME = "verified.json"
_RACY = 2.0  # seconds; a file that was changed later than this before its check is not marked


class Marks:
    """The marks of a folder.

    Args:
        folder: with the files and verified.json; may be read-only, then there are no marks.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._unwritten: dict[str, list[Any]] = {}

    def read(self) -> dict[str, list[Any]]:
        """The marks by file name; none if verified.json is missing or damaged."""
        try:
            marks = json.loads((self._folder / _NAME).read_text())
            return dict(marks.items())
        except (OSError, ValueError, AttributeError, RecursionError):
            return {}  # then all files are verified

    def mark(self, file: str, digest: str) -> list[Any]:
        """The mark that a file with this checksum has now; [] if it is missing."""
        try:
            found = (self._folder / file).stat()
        except OSError:
            return []
        return [found.st_size, found.st_mtime_ns, found.st_ino, digest]

    def add(self, file: str, digest: str, checked: float) -> None:
        """Notes a file with a correct checksum for `write`.

        Args:
            file: its name.
            digest: its checksum.
            checked: when the check began, in seconds since the epoch; a file that was changed just
                before is not marked, since a later change might not change its time.
        """
        mark = self.mark(file, digest)
        if mark and mark[1] <= (checked - _RACY) * 1e9:
            self._unwritten[file] = mark

    def write(self) -> None:
        """Adds the noted files to verified.json, atomically."""
        marks, self._unwritten = self._unwritten, {}
        partial = self._folder / f"{_NAME}.{os.getpid()}.partial"
        if marks:
            with suppress(OSError):  # a read-only folder, which is verified at each start
                partial.write_text(json.dumps(self.read() | marks))
                os.replace(partial, self._folder / _NAME)
