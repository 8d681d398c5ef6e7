"""The same examples divided anew: by video, or by frame as the paper divides them."""

import json
from pathlib import Path
from typing import NamedTuple

from jdance.data import records, shards, splits
from jdance.data.prepare import claimed, finish
from jdance.data.records import Dataset


class _Item(NamedTuple):
    data: bytes
    example: records.Example


def divided_groups(dataset: Dataset) -> int:
    """How many groups (videos) have examples in more than one split."""
    places: dict[str, set[str]] = {}
    for split in dataset.info["splits"]:
        for item in _items(dataset, split):
            places.setdefault(item.example.group, set()).add(split)
    return sum(len(found) > 1 for found in places.values())


def resplit(dataset: Dataset, output: Path, by: str, seed: int) -> None:
    """Writes a data set of all examples of another one, with splits of the same sizes drawn anew.

    Args:
        dataset: of persons.
        output: a new or empty folder, or one in which this was interrupted.
        by: "video" keeps groups together, "frame" only the examples of one image: the frames of
            a video are then in several splits (the paper's way, which leaks).
        seed: of the draw.

    Raises:
        UserError: the folder is in use, or a split cannot be read.
    """
    names = [name for name in dataset.info["splits"] if dataset.count(name)]
    items = [item for name in names for item in _items(dataset, name)]
    fractions = {name: dataset.count(name) / len(items) for name in names}
    labels = [dataset.classes[item.example.label] for item in items]
    units = [item.example.group if by == "video" else item.example.source for item in items]
    drawn = splits.draw(labels, units, fractions, seed)

    with claimed(output, shards.Partition()) as marker:
        assert isinstance(marker, Path)  # there is one share
        writers = {name: records.RecordWriter(output, name) for name in names}
        for (data, example), name in zip(items, drawn, strict=True):
            writers[name].add_packed(data, example.label, bool(example.keypoints.any()))
        for writer in writers.values():
            writer.close()
        info = json.loads(json.dumps(dataset.info))
        info["splits"] = {name: writer.summary(dataset.classes) for name, writer in writers.items()}
        info["seed"] = seed
        finish(marker, info, shards.Partition())


def _items(dataset: Dataset, split: str) -> list[_Item]:
    if not dataset.count(split):
        return []
    source = dataset.source(split)
    return [
        _Item(data, records.unpack(data)) for data in map(source.__getitem__, range(len(source)))
    ]
