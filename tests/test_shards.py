"""Data sets written by several processes."""

import json
from dataclasses import replace
from functools import partial

import pytest
from conftest import tiny_image, tiny_source

from jdance.data import records, shards
from jdance.data.items import Loaded
from jdance.data.prepare import prepare, summary
from jdance.data.shards import Partition
from jdance.errors import UserError


def contents(folder):
    """{split: sorted packed examples}."""
    dataset = records.Dataset(folder)
    result = {}
    for split in ("train", "val"):
        source = dataset.source(split)
        result[split] = sorted(source[i] for i in range(len(source)))
    return result


def test_partitions_are_merged_in_any_order(tmp_path):
    whole = prepare(tiny_source(12), tmp_path / "whole", None)
    folder = tmp_path / "shared"
    part = prepare(tiny_source(12), folder, None, partition=Partition(2, 3))
    assert part["splits"] != whole["splits"]
    # Interrupted: shards without a description.
    (folder / f"{Partition(0, 3).prefix}train-00000.array_record").write_bytes(b"half")
    prepare(tiny_source(12), folder, None, partition=Partition(0, 3))
    assert not (folder / "dataset.json").exists()
    info = prepare(tiny_source(12), folder, None, partition=Partition(1, 3))
    assert json.loads((folder / "dataset.json").read_text()) == info
    for split in ("train", "val"):
        for key in ("count", "people_found", "per_class"):
            assert info["splits"][split][key] == whole["splits"][split][key]
    assert contents(folder) == contents(tmp_path / "whole")
    # Finished partitions return at once, and merging is repeatable.
    before = (folder / "dataset.json").read_bytes()
    (folder / "dataset.json").unlink()
    assert prepare(tiny_source(12), folder, None, partition=Partition(2, 3)) == info
    assert (folder / "dataset.json").read_bytes() == before


def test_copies_and_unmatched_boxes_are_summed(tmp_path):
    for partition in (Partition(0, 2), Partition(1, 2)):
        source = tiny_source(12)
        for i in (0, 1):  # a box without detections
            person = replace(source.items[i].people[0], box=(70.0, 0.0, 9.0, 9.0))
            load = partial(_load_detected, i)
            source.items[i] = replace(source.items[i], people=(person,), load=load)
        info = prepare(source, tmp_path / "data", None, also_whole=True, partition=partition)
    assert sorted(info["unmatched"]) == [f"image {i}, box 70,0,9,9" for i in (0, 1)]
    train = info["splits"]["train"]
    assert (train["count"], train["whole_copies"], train["people_found"]) == (17, 8, 8)
    assert info["splits"]["val"]["whole_copies"] == 0
    assert summary(info)[0].startswith("train: 9 examples, people detected in 8; 8 more")


def _load_detected(number):
    image, people = tiny_image(number)
    people[..., :2] = people[..., :2] / 2 + [0, 40]
    return Loaded(image, detected=people)


def test_invalid_partitions_raise(tmp_path):
    assert shards.partition(None, None) == Partition() and shards.partition(1, 2) == Partition(1, 2)
    for process, processes in [(0, None), (None, 2), (2, 2), (-1, 2)]:
        with pytest.raises(UserError, match="give both"):
            shards.partition(process, processes)
    folder = tmp_path / "data"
    prepare(tiny_source(12), folder, None, partition=Partition(0, 2))
    with pytest.raises(UserError, match="not part of a data set of 3 processes"):
        prepare(tiny_source(12), folder, None, partition=Partition(0, 3))
    with pytest.raises(UserError, match="the parts differ: seed is 0 in one and 5 in another"):
        prepare(tiny_source(12), folder, None, partition=Partition(1, 2), seed=5)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(UserError, match=r"holds notes\.txt"):
        prepare(tiny_source(12), tmp_path / "other", None, partition=Partition(0, 2))


def test_parts_of_a_source_that_has_changed_are_not_merged(tmp_path):
    prepare(tiny_source(12), tmp_path, None, partition=Partition(0, 2))
    larger = tiny_source(15)
    with pytest.raises(UserError, match="the source has changed in between"):
        prepare(larger, tmp_path, None, partition=Partition(1, 2))
