"""Objects in a store: failures and their messages, copies, and the programs that use addresses."""

import functools
import http.server
import json
import threading
from contextlib import contextmanager

import jax
import numpy as np
import pytest
from conftest import ROOT, tiny_config, tiny_image
from programs import program
from stores import BUCKET, remote_data, server, store, variables  # noqa: F401 (fixtures)

from jdance.data import images, record_writer, records, shards
from jdance.data.records import Dataset
from jdance.errors import UserError, exit_status
from jdance.remote import copies, objects, runs
from jdance.train import loop, workdirs

A = f"{BUCKET}/folder/a.bin"


def test_addresses():
    assert objects.is_remote("s3://a/b") and objects.is_remote("https://a/b")
    assert not objects.is_remote("runs/s3") and not objects.is_remote("stage:paper")
    assert objects.base_name("https://host/a%20b.mp4?key=/x") == "a b.mp4"
    assert objects.base_name("s3://bucket/folder/") == "folder"
    with pytest.raises(UserError, match="read only"):
        objects.check_writable("https://host/x", "workdir")


def test_objects(store):
    objects.write(A, b"12345")
    assert objects.read(A) == b"12345" and objects.stat(A).size == 5
    assert not objects.create(A, b"other") and objects.read(A) == b"12345"
    assert objects.create(f"{BUCKET}/folder/sub/b", b"")
    assert objects.listing(f"{BUCKET}/folder").keys() == {"a.bin", "sub/b"}
    assert objects.listing(f"{BUCKET}/fold") == {}
    objects.delete(A)
    objects.delete(A)
    with pytest.raises(objects.Missing, match=f"{A}: no such bucket or object"):
        objects.read(A)
    with pytest.raises(objects.Missing, match="bucket does not exist"):
        objects.listing("s3://no-such-bucket/x")


@pytest.mark.parametrize("fault", ["503", "cut", "slow"])
def test_failures_that_pass(store, tmp_path, fault):
    content = np.random.default_rng(0).bytes(100_000)
    store.faults((fault, "PUT", "/folder/", 2))
    objects.write(A, content)
    store.faults((fault, "GET", "/folder/", 2), (fault, "HEAD", "/folder/", 1))
    objects.download(A, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["a"]


@pytest.mark.parametrize("fault", ["503", "cut"])
def test_failures_that_stay(store, monkeypatch, fault):
    objects.write(A, b"12345")
    monkeypatch.setenv("JDANCE_RETRY_SECONDS", "0.5")
    store.faults((fault, "GET", "/folder/", 1000))
    with pytest.raises(UserError, match=f"{A}: the store or the network failed for") as caught:
        objects.read(A)
    assert exit_status(caught.value) == 74


def test_no_answer(store, monkeypatch):
    objects.write(A, b"12345")
    monkeypatch.setenv("JDANCE_RETRY_SECONDS", "0.5")
    monkeypatch.setattr(objects, "_READ_TIMEOUT", 0.5)
    objects._filesystem.cache_clear()
    store.faults(("hold", "GET", "/folder/", 1000))
    with pytest.raises(UserError, match=r"(?i)timeout"):
        objects.read(A)


def test_no_credentials_and_no_server(store, monkeypatch):
    monkeypatch.setenv("JDANCE_RETRY_SECONDS", "0.5")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    objects._filesystem.cache_clear()
    with pytest.raises(UserError, match=f"{A}: no credentials") as caught:
        objects.read(A)
    assert exit_status(caught.value) == 1
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        objects._filesystem.cache_clear()
        with pytest.raises(UserError, match="Could not connect"):
            objects.read(A)
    objects._filesystem.cache_clear()


def test_a_missing_package(monkeypatch):
    objects._filesystem.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[remote\]'"):
        objects.read(A)


def test_a_cut_download_continues(store, tmp_path, monkeypatch):
    monkeypatch.setattr(objects, "_CHUNK", 1000)
    content = np.random.default_rng(0).bytes(5500)
    objects.write(A, content)
    monkeypatch.setenv("JDANCE_RETRY_SECONDS", "0")
    written = []
    read_range = objects._read_range

    def interrupted(address, start, size):
        written.append(start)
        if written == [0, 1000, 2000, 3000]:
            raise UserError("cut")
        return read_range(address, start, size)

    monkeypatch.setattr(objects, "_read_range", interrupted)
    with pytest.raises(UserError, match="cut"):
        objects.download(A, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    objects.download(A, tmp_path / "a")
    assert written == [0, 1000, 2000, 3000, 3000, 4000, 5000]
    assert (tmp_path / "a").read_bytes() == content


def test_shards_are_checked_and_shared(store, remote_data, tiny_data):
    local = Dataset(tiny_data)
    store.faults(("wrong", "GET", "array_record", 1))
    dataset = Dataset(remote_data)
    assert dataset.fingerprint() == local.fingerprint()
    source = dataset.source("train")  # the second copy is right
    assert [source[i] for i in range(len(source))] == [
        local.source("train")[i] for i in range(len(source))
    ]
    store.faults()
    Dataset(remote_data).source("train")
    assert not [line for line in store.log() if line.startswith("GET") and "train" in line]
    (dataset.folder / dataset.info["splits"]["train"]["shards"][0]).write_bytes(b"damaged")
    Dataset(remote_data).source("train")  # copied again
    objects.write(f"{remote_data}/{dataset.info['splits']['val']['shards'][0]}", b"other bytes")
    with pytest.raises(UserError, match=rf"{remote_data}/val-\S+: has wrong bytes"):
        Dataset(remote_data).source("val")


def test_no_data_set(store):
    with pytest.raises(UserError, match=r"dances/none/dataset\.json: no such bucket or object"):
        Dataset(f"{BUCKET}/none")


def test_a_data_set_by_two_processes(store, tiny_data):
    info = json.loads((tiny_data / "dataset.json").read_text())
    for process in range(2):
        partition = shards.Partition(process, 2)
        with shards.stored(f"{BUCKET}/made", partition) as folder:
            with (
                shards.output_folder(folder, partition),
                record_writer.open_writers(folder, info["splits"], partition.prefix) as writers,
            ):
                source = Dataset(tiny_data).source("train")
                for number in range(process, 10, 2):
                    writers["train"].add(records.unpack(source[number]))
            splits = {name: writer.summary(info["classes"]) for name, writer in writers.items()}
            shards.write_info(folder, partition, info | {"splits": splits})
        assert ("dataset.json" in objects.listing(f"{BUCKET}/made")) == (process == 1)
    assert len(Dataset(f"{BUCKET}/made").source("train")) == 10
    names = objects.listing(f"{BUCKET}/made")
    assert not [name for name in names if "lock" in name or "partial" in name]


def test_an_interrupted_upload_leaves_no_data_set(store, tiny_data, monkeypatch):
    monkeypatch.setenv("JDANCE_RETRY_SECONDS", "0.3")
    store.faults(("cut", "PUT", "array_record", 1000))
    with (
        pytest.raises(UserError, match="the store or the network failed"),
        shards.stored(f"{BUCKET}/made", shards.Partition()) as folder,
    ):
        for path in tiny_data.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
    assert not objects.listing(f"{BUCKET}/made")


def test_training_and_evaluation_by_the_programs(store, remote_data, tmp_path):
    config = tiny_config(remote_data)
    config.model.branches = "keypoints"
    config.epochs = 1.0
    with workdirs.opened(f"{BUCKET}/run") as workdir:
        loop.train(config, workdir)
    run = f"--workdir={BUCKET}/run"
    output, _ = program("evaluate", run, "--split=val", variables=variables())
    assert f"wrote {BUCKET}/run/eval_val.json" in output
    result = json.loads(objects.read(f"{BUCKET}/run/eval_val.json"))
    assert result["n"] == 15 and result["data"] == remote_data
    program("evaluate", run, "--split=val", "--calibrate", variables=variables())
    photo = tmp_path / "photo.jpg"
    images.write(photo, tiny_image(1)[0])
    objects.upload(photo, f"{BUCKET}/photos/photo.jpg")
    output, _ = program(
        "recognize", f"--model={BUCKET}/run", "--pose=stage", f"--input={BUCKET}/photos",
        f"--output={BUCKET}/results", variables=variables(),
    )  # fmt: skip
    assert f"wrote 1 result to {BUCKET}/results" in output
    assert json.loads(objects.read(f"{BUCKET}/results/photo.json"))["classes"] == ["a", "b", "c"]
    hidden = [name for name in objects.listing(f"{BUCKET}/results") if name.startswith(".")]
    assert hidden == [".jdance/records/photo.json"]
    words = (f"--input={BUCKET}/photos", f"--output={BUCKET}/results", "--num_processes=2")
    _, error = program(
        "recognize", "--process_id=0", *words, status=1, errors=1, variables=variables()
    )
    assert "several processes need a folder" in error
    with served(copies.local(f"{BUCKET}/run/")) as web:
        of_web = loop.load(runs.fetch(web, "newest"))[2]
        with runs.reading(f"{BUCKET}/run", "newest") as folder:
            jax.tree.map(np.testing.assert_array_equal, of_web, loop.load(folder)[2])
    _, error = program("evaluate", "--workdir=s3://no-such-bucket/run", status=1,
                       variables=variables())  # fmt: skip
    assert "s3://no-such-bucket/run" in error and "bucket" in error


@contextmanager
def served(folder):
    """The address of a web server for a folder."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{web.server_port}"
        web.shutdown()


def test_web_servers_are_read_only(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setenv("JDANCE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("JDANCE_RETRY_SECONDS", "0.5")
    objects._filesystem.cache_clear()
    with served(tiny_data) as address:
        assert len(Dataset(address).source("val")) == 15
        assert copies.local(f"{address}/dataset.json").name == "dataset.json"
        with pytest.raises(UserError, match=r"none\.mp4: no such bucket or object"):
            copies.local(f"{address}/none.mp4")
        with pytest.raises(UserError, match="read only"), copies.output(address):
            pass
    config = ROOT / "configs" / "quickstart.py"
    _, error = program("train", f"--config={config}", "--workdir=https://host/run", status=1)
    assert "--workdir=https://host/run: https:// is read only" in error
