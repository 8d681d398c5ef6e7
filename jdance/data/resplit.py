"""Redistributes the examples of a data set, by video or (as in the paper) by frame."""

import json
from pathlib import Path
from typing import NamedTuple

from jdance.data import record_writer, records, shards, splits
from jdance.data.records import Dataset


class _Item(NamedTuple):
    data: bytes
    example: records.Example


def count_leaking_groups(dataset: Dataset) -> int:
    """Number of groups (videos) with examples in more than one split."""
    found: dict[str, set[str]] = {}
    for split in dataset.info["splits"]:
        for item in _items(dataset, split):
            found.setdefault(item.example.group, set()).add(split)
    return sum(len(names) > 1 for names in found.values())


def resplit(dataset: Dataset, output: Path, by: str, seed: int) -> None:
    """Writes a copy of a data set with newly drawn splits of the same sizes.

    Args:
        dataset: of persons.
        output: a new or empty folder, or that of an interrupted run with the same arguments.
        by: "video" keeps groups together; "frame" keeps only the examples of an image together, so
            that frames of a video leak into other splits (as in the paper).
        seed: of the splits.

    Raises:
        UserError: the folder is in use, or a split cannot be read.
    """
    names = [name for name in dataset.info["splits"] if dataset.count(name)]
    items = [item for name in names for item in _items(dataset, name)]
    fractions = {name: dataset.count(name) / len(items) for name in names}
    labels = [dataset.classes[item.example.label] for item in items]
    units = [item.example.group if by == "video" else item.example.source for item in items]
    drawn = splits.draw(labels, units, fractions, seed)

    partition = shards.Partition()
    with shards.output_folder(output, partition):
        with record_writer.open_writers(output, names) as writers:
            for (data, example), name in zip(items, drawn, strict=True):
                found = bool(example.keypoints.any())
                writers[name].add_packed(data, example.label, found, example.group)
        info = json.loads(json.dumps(dataset.info))
        info["splits"] = {name: writer.summary(dataset.classes) for name, writer in writers.items()}
        info["seed"] = seed
        shards.write_info(output, partition, info)


def _items(dataset: Dataset, split: str) -> list[_Item]:
    if not dataset.count(split):
        return []
    source = dataset.source(split)
    return [
        _Item(data, records.unpack(data)) for data in map(source.__getitem__, range(len(source)))
    ]
