"""Journal of a running preparation: its finished shards, kept if the run is interrupted.

A file of JSON lines beside the shards: first {"plan"}, then a line for each finished shard, written
once the shard is safe on the disk. The last line may be cut.
"""

import json
import os
from pathlib import Path
from typing import Any

from jdance import files

Entry = dict[str, Any]  # of a shard, see `record_writer.RecordWriter`

SUFFIX = ".journal"


def path(folder: Path, prefix: str) -> Path:
    """Path of a partition's journal."""
    return folder / f"{prefix}prepare{SUFFIX}"


class Journal:
    """Reads the journal of an interrupted run, and continues it.

    Args:
        path: of the file.
        plan: identifies items and arguments; the shards of another plan are not kept.

    Attributes:
        entries: of the kept shards, in the order in which they were finished.
    """

    def __init__(self, path: Path, plan: str):
        self._path, self._plan = path, plan
        self.entries: list[Entry] = []
        try:
            lines = path.read_text().splitlines()
            if lines and json.loads(lines[0]) == {"plan": plan}:
                for line in lines[1:]:
                    self.entries.append(json.loads(line))
        except (FileNotFoundError, ValueError):  # none, or cut
            pass

    def begin(self, kept: list[Entry]) -> None:
        """Reduces the journal to some of its entries, for a run that goes on from them."""
        self.entries = kept
        lines = [json.dumps(entry) + "\n" for entry in ({"plan": self._plan}, *kept)]
        files.atomic_write(self._path, "".join(lines))

    def add(self, entry: Entry) -> None:
        """Appends the entry of a finished shard."""
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())
