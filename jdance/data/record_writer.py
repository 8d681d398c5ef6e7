"""Writers of data sets, see `records` for the format."""

import os
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from jdance.data import records
from jdance.errors import UserError

_RECORDS_PER_SHARD = 2048


class RecordWriter:
    """Writes and counts the examples of one split: shards, and an index of labels and groups."""

    def __init__(self, folder: Path, split: str, prefix: str = ""):
        self._folder, self._name = folder, prefix + split
        self._index = f"{prefix}index-{split}.msgpack"
        self._writer: ArrayRecordWriter | None = None
        self.shards: list[str] = []
        self.checksums: list[str] = []
        self.labels = array("i")
        self._groups = array("i")
        self._group_names: dict[str, int] = {}
        self.people_found = 0

    def add(self, example: records.Example) -> None:
        """Writes an example."""
        found = bool(example.keypoints.any())
        self.add_packed(records.pack(example), example.label, found, example.group)

    def add_packed(self, record: bytes, label: int, people_found: bool, group: str = "") -> None:
        """Writes a serialized example."""
        if len(self.labels) % _RECORDS_PER_SHARD == 0:
            self.close()
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
        self.labels.append(label)
        self._groups.append(self._group_names.setdefault(group, len(self._group_names)))
        self.people_found += people_found

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
            self.checksums.append(records.checksum(path))

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
            "index_checksums": [records.checksum(path)],
        }


@contextmanager
def open_writers(
    folder: Path, splits: Iterable[str], prefix: str = ""
) -> Iterator[dict[str, RecordWriter]]:
    """Opens a writer per split, and closes them if the block succeeds."""
    writers = {name: RecordWriter(folder, name, prefix) for name in splits}
    yield writers
    for writer in writers.values():
        writer.close()
