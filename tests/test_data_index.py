"""The index of labels and groups, and the marks of verified files."""

import json
import os
import time

import numpy as np
import pytest
from conftest import tiny_source

from jdance.data import prepare, record_writer, records
from jdance.data.shards import Partition
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
    checksum = records.checksum
    monkeypatch.setattr(
        records, "checksum", lambda path: hashed.append(path.name) or checksum(path)
    )
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
