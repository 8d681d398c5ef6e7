"""Writers of data sets, see `records` for the format."""

import os
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from jdance import files
from jdance.data import records
from jdance.data.journal import Entry, Journal
from jdance.data.journal import path as journal_path
from jdance.errors import UserError

_RECORDS_PER_SHARD = 2048


class RecordWriter:
    """Writes and counts the examples of one split: shards, and an index of labels and groups.

    Args:
        folder: of the data set.
        split: its name.
        prefix: of the file names.
        journal: records finished shards, so that an interrupted run can go on; None: nothing is
            kept of it.

    Attributes:
        first_item: the first item whose examples are missing; those before it are in kept shards.
        notes: {item: note} of items with a note, see `start_item`.
    """

    def __init__(self, folder: Path, split: str, prefix: str = "", journal: Journal | None = None):
        self._folder, self._split, self._name = folder, split, prefix + split
        self._index = f"{prefix}index-{split}.msgpack"
        self._writer: ArrayRecordWriter | None = None
        self._journal = journal
        self.shards: list[str] = []
        self.checksums: list[str] = []
        self.labels = array("i")
        self._groups = array("i")
        self._group_names: dict[str, int] = {}
        self.people_found = 0
        self.first_item = self._item = 0
        self._added = 0  # examples of the current item
        self._kept = 0  # of these, the number in kept shards
        self.notes: dict[int, Any] = {}
        self._unsaved: dict[int, Any] = {}

    def restore(self, entry: Entry) -> None:
        """Goes on after a finished shard of an interrupted run."""
        self.shards.append(entry["shard"])
        self.checksums.append(entry["checksum"])
        names = entry["groups"]
        for label, group in zip(entry["label"], entry["group"], strict=True):
            self._count(label, names[group])
        self.people_found = entry["people_found"]
        self.first_item, self._kept = entry["item"], entry["added"]
        self.notes |= {int(item): note for item, note in entry["notes"].items()}

    def start_item(self, item: int, note: Any = None) -> None:
        """Precedes the examples of an item; items start in their order.

        Args:
            item: its index.
            note: what else to remember of the item, as JSON; None: nothing.
        """
        if item != self.first_item:
            self._kept = 0
        self._item, self._added = item, 0
        if note is not None:
            self.notes[item] = self._unsaved[item] = note

    def add(self, example: records.Example) -> None:
        """Writes an example."""
        found = bool(example.keypoints.any())
        self.add_packed(records.pack(example), example.label, found, example.group)

    def add_packed(self, record: bytes, label: int, people_found: bool, group: str = "") -> None:
        """Writes a serialized example, unless a kept shard has it."""
        self._added += 1
        if self._added <= self._kept:
            return
        if len(self.labels) % _RECORDS_PER_SHARD == 0:
            if self._writer is not None:
                self.close()
                self._save(self._added - 1)
            name = f"{self._name}-{len(self.shards):05}.array_record"
            self.shards.append(name)
            self._writer = ArrayRecordWriter(str(self._folder / name), "group_size:1")
        assert self._writer is not None
        try:
            self._writer.write(record)
        except RuntimeError as error:  # a full disk, for instance
            raise UserError(
                f"{self._folder / self.shards[-1]}: cannot be written ({error})"
            ) from error
        self._count(label, group)
        self.people_found += people_found

    def _count(self, label: int, group: str) -> None:
        self.labels.append(label)
        self._groups.append(self._group_names.setdefault(group, len(self._group_names)))

    def _save(self, added: int) -> None:
        """Adds the shard that was closed to the journal; it ends within or before this item."""
        if self._journal is None:
            return
        last = slice(len(self.labels) - _RECORDS_PER_SHARD, None)
        used, positions = np.unique(np.array(self._groups[last]), return_inverse=True)
        names = list(self._group_names)
        entry = {
            "split": self._split,
            "shard": self.shards[-1],
            "checksum": self.checksums[-1],
            "label": list(self.labels[last]),
            "group": positions.tolist(),
            "groups": [names[i] for i in used],
            "people_found": self.people_found,
            "item": self._item,
            "added": added,
            "notes": self._unsaved,
        }
        self._journal.add(entry)
        self._unsaved = {}

    def close(self) -> None:
        """Finishes the current shard and computes its checksum."""
        if self._writer is not None:
            path = self._folder / self.shards[-1]
            try:
                self._writer.close()
            except RuntimeError as error:
                raise UserError(f"{path}: cannot be written ({error})") from error
            self._writer = None
            with path.open("rb+") as file:
                os.fsync(file.fileno())
            self.checksums.append(files.checksum(path))

    def summary(self, classes: list[str]) -> dict[str, Any]:
        """Writes the index, and returns the split's entry in dataset.json."""
        path = self._folder / self._index
        with path.open("wb") as file:
            file.write(records.pack_index(self.labels, self._groups, self._group_names))
            file.flush()
            os.fsync(file.fileno())
        counts = np.bincount(self.labels, minlength=len(classes))
        return {
            "count": len(self.labels),
            "people_found": self.people_found,
            "per_class": dict(zip(classes, counts.tolist(), strict=True)),
            "shards": self.shards,
            "checksums": self.checksums,
            "index": [self._index],
            "index_checksums": [files.checksum(path)],
        }


@contextmanager
def open_writers(
    folder: Path, splits: Iterable[str], prefix: str = "", plan: str = ""
) -> Iterator[dict[str, RecordWriter]]:
    """Opens a writer per split, and closes them if the block succeeds.

    Args:
        folder: of the data set; what an interrupted run left in it is kept or deleted.
        splits: their names.
        prefix: of the file names.
        plan: identifies items and arguments; the finished shards of a run with the same plan are
            kept, so that it goes on. "": none are kept.
    """
    plan = f"{plan} in shards of {_RECORDS_PER_SHARD}" if plan else ""
    journal = Journal(journal_path(folder, prefix), plan) if plan else None
    writers = {name: RecordWriter(folder, name, prefix, journal) for name in splits}
    if journal is not None:
        kept, ended = [], set()
        for entry in journal.entries:
            file = folder / entry["shard"]
            if not file.is_file() or files.checksum(file) != entry["checksum"]:
                ended.add(entry["split"])  # what follows in this split is written again
            if entry["split"] not in ended:
                writers[entry["split"]].restore(entry)
                kept.append(entry)
        journal.begin(kept)
    known = {shard for writer in writers.values() for shard in writer.shards}
    for pattern in ("*.array_record", "index-*.msgpack"):
        for leftover in folder.glob(prefix + pattern):
            if leftover.name not in known:
                leftover.unlink()
    yield writers
    for writer in writers.values():
        writer.close()
