"""The index of labels and groups, and the marks of verified files."""

import json
import os
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from conftest import tiny_image, tiny_source

from jdance import files
from jdance.data import images, prepare, record_writer, records
from jdance.data.shards import Partition
from jdance.data.sources import open_source
from jdance.errors import UserError


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setattr(record_writer, "_RECORDS_PER_SHARD", 7)
    prepare.prepare(tiny_source(40), tmp_path / "data", None)
    return tmp_path / "data"


def age(folder):
    """Makes all files older, so that verified ones are marked."""
    for path in folder.iterdir():
        os.utime(path, (time.time() - 100,) * 2)


def without_index(folder):
    info = json.loads((folder / "dataset.json").read_text())
    for split in info["splits"].values():
        del split["index"], split["index_checksums"]
    (folder / "dataset.json").write_text(json.dumps(info))


def test_labels_and_groups_are_read_without_the_records(data, monkeypatch):
    source = records.Dataset(data).source("train")
    with monkeypatch.context() as patch:
        patch.setattr(records.Shards, "__getitem__", None)
        labels, groups = records.read_labels(source), records.read_groups(source)
    assert labels.dtype == np.int64 and len(labels) == len(source) == 30
    without_index(data)
    plain = records.Dataset(data).source("train")
    assert not plain.index
    np.testing.assert_array_equal(records.read_labels(plain), labels)
    np.testing.assert_array_equal(records.read_groups(plain), groups)


def test_the_index_of_partitions_is_in_the_order_of_their_shards(tmp_path):
    for number in (1, 0, 2):
        prepare.prepare(tiny_source(20), tmp_path, None, partition=Partition(number, 3))
    source = records.Dataset(tmp_path).source("train")
    examples = [records.unpack(source[i]) for i in range(len(source))]
    assert len(source.index) == 3
    assert records.read_labels(source).tolist() == [example.label for example in examples]
    assert records.read_groups(source).tolist() == [example.group for example in examples]


def test_a_damaged_index_is_found(data):
    path = data / "index-train.msgpack"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match=r"index-train\.msgpack: .*damaged \(wrong checksum\)"):
        records.Dataset(data).source("train")
    for content in (b"", b"\x80", records.pack_index([1], [0, 0], ["a"]),
                    records.pack_index([1], [3], ["a"])):  # fmt: skip
        with pytest.raises(UserError, match="damaged record"):
            records.unpack_index(content)


def test_unchanged_files_are_hashed_once(data, monkeypatch):
    hashed = []
    checksum = files.checksum
    monkeypatch.setattr(files, "checksum", lambda path: hashed.append(path.name) or checksum(path))
    records.Dataset(data).verify_checksums()
    assert len(hashed) == 9 and not (data / "verified.json").exists()  # too new to be marked
    age(data)
    records.Dataset(data).verify_checksums()
    assert len(hashed) == 18
    records.Dataset(data).verify_checksums()
    assert len(hashed) == 18
    shard = data / "train-00001.array_record"
    changed = bytearray(shard.read_bytes())
    changed[500] ^= 1
    shard.write_bytes(changed)
    with pytest.raises(UserError, match=r"train-00001.array_record: a shard that is damaged"):
        records.Dataset(data).verify_checksums()
    assert hashed[18:] == [shard.name]
    # The whole check trusts no mark.
    list(records.Dataset(data).find_damage(trust_marks=False))
    assert len(hashed) == 19 + 9


def test_damaged_marks_are_ignored(data):
    age(data)
    for text in ("", "[]", '{"train-00000.array_record": 1}', "{"):
        (data / "verified.json").write_text(text)
        records.Dataset(data).verify_checksums()


# Interrupted preparations -------------------------------------------------------------------------


class Interrupted(Exception):
    """Stands for the end of the process."""


def stopping_source(count, loaded, stop):
    """A source whose items note that they are read; the one called `stop` ends the run."""
    source = tiny_source(count)

    def load(item):
        if item.name == f"image {stop}":
            raise Interrupted
        loaded.append(item.name)
        if item.name.endswith("5"):
            raise UserError(f"{item.name}: a damaged image")
        return item.load()

    source.items = [replace(item, load=partial(load, item)) for item in source.items]
    return source


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("number", [0, 1])
def test_an_interrupted_run_goes_on_after_its_finished_shards(tmp_path, monkeypatch, number):
    monkeypatch.setattr(record_writer, "_RECORDS_PER_SHARD", 7)
    run = partial(prepare.prepare, estimator=None, also_whole=True, partition=Partition(number, 2))
    run(stopping_source(120, [], None), tmp_path / "undisturbed")
    loaded: list[str] = []
    for stop in (30 + number, 30 + number, 70 + number, 100 + number):
        with pytest.raises(Interrupted):
            run(stopping_source(120, loaded, stop), tmp_path / "killed")
    # A line that is cut, and a shard that is not in the journal.
    prefix = Partition(number, 2).prefix
    with (tmp_path / "killed" / f"{prefix}prepare.journal").open("a") as file:
        file.write('{"split": "tr')
    run(stopping_source(120, loaded, None), tmp_path / "killed")
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "undisturbed")
    # With shards of 7, at most 7 examples a split are read again at each of the 4 restarts.
    assert 60 < len(loaded) <= 60 + 4 * (7 + 7 + 2)


def test_shards_of_other_arguments_or_damaged_ones_are_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(record_writer, "_RECORDS_PER_SHARD", 7)
    folder = tmp_path / "killed"
    with pytest.raises(Interrupted):
        prepare.prepare(stopping_source(60, [], 50), folder, None)
    loaded: list[str] = []
    with pytest.raises(Interrupted):  # other arguments
        prepare.prepare(stopping_source(60, loaded, 50), folder, None, min_joints=5)
    assert loaded[0] == "image 0" and len(loaded) == 50
    shard = folder / "train-00001.array_record"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    loaded.clear()
    prepare.prepare(stopping_source(60, loaded, None), folder, None, min_joints=5)
    assert "image 1" not in loaded and "image 12" not in loaded and "image 14" in loaded
    assert len(records.Dataset(folder).source("train")) == 39  # six of 45 are unreadable


def test_shards_of_changed_files_are_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(record_writer, "_RECORDS_PER_SHARD", 3)
    for i in range(20):
        (tmp_path / "in" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        images.write(tmp_path / "in" / "ab"[i % 2] / f"{i}.png", tiny_image(i)[0])
    seen = 0

    def detect(image):
        nonlocal seen
        seen += 1
        if seen == 12:
            raise Interrupted
        return tiny_image(0)[1]

    def run():
        return prepare.prepare(open_source(str(tmp_path / "in")), tmp_path / "out", detect)

    with pytest.raises(Interrupted):
        run()
    images.write(tmp_path / "in" / "a" / "0.png", tiny_image(9)[0])
    seen = 100
    run()
    assert seen == 120  # all are read again
