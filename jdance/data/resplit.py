"""Redistributes the examples of a data set, by video or (as in the paper) by frame."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jdance.data import record_writer, records, shards, splits
from jdance.data.records import Dataset


def count_leaking_groups(dataset: Dataset) -> int:
    """Number of groups (videos) with examples in more than one split."""
    found: dict[str, set[str]] = {}
    for split in dataset.info["splits"]:
        if dataset.count(split):
            for group in np.unique(records.read_groups(dataset.source(split))):
                found.setdefault(str(group), set()).add(split)
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
    labels, units = [], []
    for _, example in _examples(dataset, names):
        labels.append(dataset.classes[example.label])
        units.append(example.group if by == "video" else example.source)
    fractions = {name: dataset.count(name) / len(labels) for name in names}
    drawn = splits.draw(labels, units, fractions, seed)

    partition = shards.Partition()
    with shards.output_folder(output, partition):
        with record_writer.open_writers(output, names) as writers:
            for (data, example), name in zip(_examples(dataset, names), drawn, strict=True):
                found = bool(example.keypoints.any())
                writers[name].add_packed(data, example.label, found, example.group)
        info = json.loads(json.dumps(dataset.info))
        info["splits"] = {name: writer.summary(dataset.classes) for name, writer in writers.items()}
        info["seed"] = seed
        shards.write_info(output, partition, info)


def _examples(dataset: Dataset, names: list[str]) -> Iterator[tuple[bytes, records.Example]]:
    """Reads the examples of splits one by one, packed and unpacked."""
    for name in names:
        source = dataset.source(name)
        for i in range(len(source)):
            data = source[i]
            yield data, records.unpack(data)
