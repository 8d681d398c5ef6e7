"""Regression tests of fuzzer findings and decompression bombs: readers reject them cleanly."""

import json
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import msgpack
import numpy as np
import pytest
from conftest import ROOT, tiny_image, tiny_source
from protobuf_writer import field
from test_pose_data import annotation
from test_pose_weights import constant, shape_message
from test_weights import archive, tensor

from jdance import config as defaults
from jdance import files, npz, weights
from jdance.data import (
    images,
    prepare,
    prepare_scenes,
    records,
    scenes,
    skeleton_npz,
    sources,
    workers,
)
from jdance.errors import UserError
from jdance.pose import weights as pose_weights
from jdance.train import experiment, posture, tasks
from jdance.weights import caffemodel, graphdef


def rejected(read, *arguments, match=""):
    with pytest.raises(UserError, match=match) as error:
        read(*arguments)
    assert "\n" not in str(error.value)


# --- Bombs: small files that claim to be large ----------------------------------------------------


def giant_png(path, side):
    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body))


@pytest.mark.parametrize("side", [12_000, 60_000, 2**31 - 1])
def test_image_that_claims_to_be_giant(tmp_path, side):
    giant_png(tmp_path / "x.png", side)
    rejected(images.read, tmp_path / "x.png", match=r"x\.png: not a readable image")


def npz_of(path, header, data=b"", compression=zipfile.ZIP_STORED):
    text = header.encode().ljust(117) + b"\n"
    npy = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("xy.npy", npy)


@pytest.mark.parametrize("read", [skeleton_npz.read, pose_weights.unpack,
                                  posture.PostureModel.load])  # fmt: skip
@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296, 4294967296)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (6,), } n_order': False}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}",
    ],
)
def test_npz_with_invalid_headers(tmp_path, read, header):
    npz_of(tmp_path / "x.npz", header, bytes(8))
    rejected(read, tmp_path / "x.npz", match=r"x\.npz")


@pytest.mark.parametrize("order", "<>")
def test_npz_text_that_is_not_unicode(tmp_path, order):
    header = f"{{'descr': '{order}U1', 'fortran_order': False, 'shape': (2,)}}"
    npz_of(tmp_path / "x.npz", header, np.array([65, 2**31 - 1], f"{order}u4").tobytes())
    rejected(npz.read, tmp_path / "x.npz", match="text that is not Unicode")


def test_decompression_bomb(tmp_path):
    shape = f"({2**24},)"
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}"
    npz_of(tmp_path / "x.npz", header, bytes(2**27), zipfile.ZIP_DEFLATED)
    assert (tmp_path / "x.npz").stat().st_size < 2**18
    rejected(npz.read, tmp_path / "x.npz", match="would unpack to 134217")


def test_npz_round_trip(tmp_path):
    arrays = {"a": np.arange(6).reshape(2, 3), "b": np.asfortranarray(np.eye(3)[:2]),
              "c": np.array(["x", "yy"]), "d": np.array("text"), "e": np.zeros((0, 3))}  # fmt: skip
    for write in (np.savez, np.savez_compressed):
        write(tmp_path / "x.npz", **arrays)
        found = npz.read(tmp_path / "x.npz")
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)


def test_graph_constants_that_expand(tmp_path):
    one = constant("{}", field(1, 1) + field(2, shape_message([2**24])) + field(5, bytes(4)))
    graph = b"".join(one.replace(b"{}", b"%02d" % i) for i in range(20))
    (tmp_path / "x.pb").write_bytes(graph)
    rejected(graphdef.read_constants, tmp_path / "x.pb", match="values in all")


def test_weights_with_impossible_shapes(tmp_path):
    shape = (0, 2**32, 2**32)
    (tmp_path / "x.pth").write_bytes(archive({"a": tensor(shape=shape, strides=(0, 0, 0))}))
    rejected(weights.read, tmp_path / "x.pth", match="no possible shape")
    for sizes in ([1] * 70, [0, 2**62]):
        blob = field(7, b"".join(field(1, n) for n in sizes)) + field(
            5, bytes(4 * (0 not in sizes))
        )
        layer = field(100, field(1, b"conv") + field(7, blob))
        (tmp_path / "x.caffemodel").write_bytes(layer)
        rejected(caffemodel.read, tmp_path / "x.caffemodel", match="impossible shape")


def test_pose_configurations_of_impossible_size(tmp_path):
    for config in ({"network": "light", "stages": 10**6}, {"network": "light", "width": 10**9},
                   {"network": ["light"]}, {"network": "light", "stages": "2"}):  # fmt: skip
        np.savez(tmp_path / "x.npz", config=np.array(json.dumps(config)))
        rejected(pose_weights.unpack, tmp_path / "x.npz", match=r"x\.npz")


# --- Records, data sets, labels -------------------------------------------------------------------


@pytest.mark.parametrize("change", [
    {"keypoints": bytes(5)}, {"shape": [10**9, 18, 3]}, {"shape": "x"}, {"label": "a"},
    {"label": -1}, {"label": 2**40}, {"image": 5}, {"person": None}, {"group": None, "shape": []},
])  # fmt: skip
def test_damaged_records(change):
    keypoints = tiny_image(0)[1][0]
    record = msgpack.unpackb(records.pack(records.Example(keypoints, 1, b"x")))
    rejected(records.unpack, msgpack.packb(record | change), match="damaged record")
    for data in (b"", b"\xc1", b"\x93\x01\x02\x03", msgpack.packb(5)):
        rejected(records.unpack, data, match="record")
        rejected(scenes.unpack, data, match="record")


def test_coordinates_outside_of_any_image_are_dropped():
    keypoints = tiny_image(0)[1][0]
    keypoints[3, 0], keypoints[4, 1] = np.nan, 1e30
    found = records.unpack(records.pack(records.Example(keypoints, 1)))
    assert np.isfinite(found.keypoints).all() and not found.keypoints[3:5].any()


@pytest.mark.parametrize("change", [
    {"splits": {"../../x": {"count": 1, "shards": []}}},
    {"splits": {"train": {"count": 1, "shards": ["../train-00000.array_record"]}}},
    {"splits": {"train": {"count": "1", "shards": []}}}, {"splits": {"train": None}},
    {"splits": []}, {"classes": "ab"}, {"classes": [1]}, {"layout": ["coco18"]}, {"sequences": 3},
    {"kind": "dogs"},
    {"splits": {"train": {"count": 1, "shards": ["a.array_record"], "checksums": []}}},
])  # fmt: skip
def test_invalid_data_set_descriptions(tmp_path, change):
    info = {"version": records.VERSION, "kind": "persons", "classes": ["a"], "layout": "coco18",
            "sequences": False, "splits": {}}  # fmt: skip
    (tmp_path / "dataset.json").write_text(json.dumps(info | change))
    rejected(records.Dataset, tmp_path, match=r"dataset\.json: not a data set")


@pytest.mark.parametrize("change", [
    {"file_name": 5}, {"file_name": ["x"]}, {"bbox": [[1, 2], [3, 4]], "keep": True},
    {"bbox": [1, 2, 3]}, {"area": [1]}, {"iscrowd": 1e400}, {"image_id": [0]},
    {"segmentation": {"counts": [-5, 12005], "size": [120, 100]}},
    {"segmentation": [[1, 2, float("nan"), 3]]}, {"segmentation": [[]], "keep": True},
    {"segmentation": [[1e300, 1, 2, 3, 4, 5]], "iscrowd": 1, "keep": True},
])  # fmt: skip
def test_invalid_coco_annotations(tmp_path, change):
    joints = np.random.default_rng(0).uniform(5, 95, (17, 3))
    change = dict(change)
    keep = change.pop("keep", False)
    image = {"id": 0, "file_name": "0.jpg"} | {k: v for k, v in change.items() if "file" in k}
    content = {
        "images": [image, {"id": 1, "file_name": "0.jpg"}],
        "annotations": [annotation(1, 0, joints) | change, annotation(2, 1, joints)],
    }
    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    (tmp_path / "coco" / "train").mkdir()
    images.write(tmp_path / "coco" / "train" / "0.jpg", np.zeros((120, 100, 3), np.uint8))
    path = tmp_path / "coco" / "annotations" / "person_keypoints_train.json"
    path.write_text(json.dumps(content))
    if keep:
        info = prepare_scenes.prepare(str(tmp_path / "coco"), tmp_path / "out")
        assert info["splits"]["train"]["count"] == 2
    else:
        rejected(prepare_scenes.prepare, str(tmp_path / "coco"), tmp_path / "out", match="not COCO")


def test_deeply_nested_json(tmp_path):
    (tmp_path / "dataset.json").write_text("[" * 100_000)
    rejected(records.Dataset, tmp_path, match=r"dataset\.json: cannot be read")


def test_coco_without_annotations(tmp_path):
    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    path = tmp_path / "coco" / "annotations" / "person_keypoints_train.json"
    path.write_text('{"images": [], "annotations": []}')
    rejected(
        prepare_scenes.prepare,
        str(tmp_path / "coco"),
        tmp_path / "out",
        match="no usable training examples",
    )


def test_invalid_file_names(tmp_path):
    images.write(tmp_path / "p.png", tiny_image(0)[0])
    rows = f"p.png,a,{'9' * 400}\np.png,a,train\np.png,a,train\np\x01\n.png,b,train\n"
    (tmp_path / "m.csv").write_text(
        f"path,label,split\n{rows}../../\ud800.png,b,\n", errors="replace"
    )
    source = sources.open_source(str(tmp_path / "m.csv"))
    assert len(source.items) == 2
    assert "50 at most" in source.skipped[0][1]
    assert images.printable("a\ud800") == "a?"
    assert str(UserError("a\nb\x1b[2J")) == "a b [2J"
    rejected(images.read, tmp_path / "a\0b.png", match="cannot be read")


def test_results_of_similar_file_names_are_distinct():
    paths = ["a.jpg", "a.png", "a.jpg.png", "b/x.jpg", "c/x.jpg", "Y.jpg", "y.png", "z.jpg"]
    names = files.distinct_names([Path(path) for path in paths])
    assert len({name.casefold() for name in names}) == 8
    assert names[0] == "a.jpg" and names[-1] == "z"


def crash():
    os.kill(os.getpid(), 11)


def succeed():
    return 5


def reject():
    raise UserError("bad")


def test_a_crash_of_a_reader_process_costs_one_file():
    found = list(workers.load_all([succeed, crash, reject, succeed], 1))
    assert (found[0], found[3]) == (5, 5)
    assert str(found[1]) == "the decoder crashes on it; replace or remove the file"
    assert str(found[2]) == "bad"


def test_damaged_shards_are_not_parsed(tmp_path, monkeypatch):
    prepare.prepare(tiny_source(8), tmp_path / "data", None)
    (shard,) = (tmp_path / "data").glob("train*")
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x01\x02")
    monkeypatch.setattr(records, "Shards", lambda paths: pytest.fail("it was read"))
    rejected(records.Dataset(tmp_path / "data").source, "train", match="is damaged")


@pytest.mark.parametrize("key", ["batch_size", "augment.flip", "model.dropout"])
def test_configurations_with_missing_numbers(key):
    config = defaults.base()
    *parts, last = key.split(".")
    section = config[parts[0]] if parts else config
    with section.ignore_type():
        section[last] = None
    with pytest.raises(UserError, match=f"{key}=None: must be a number"):
        experiment.check(tasks.make(config, ["a", "b"]))


def test_short_fuzzer_run_has_no_findings():
    readers = ["pth", "safetensors", "graph", "caffemodel", "skeletons", "posture", "openpose",
               "persons", "people", "images"]  # fmt: skip
    command = [sys.executable, "tests/fuzz.py", "--inputs=600", "--jobs=1", "--seed=1", "--only"]
    done = subprocess.run(
        [*command, *readers], capture_output=True, text=True, cwd=ROOT, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 findings" in done.stdout.splitlines()[-1]
