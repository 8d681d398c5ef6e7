"""Runs in an object store: restored elsewhere, killed while uploading, two at once."""

import json
import shutil
import signal
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import stores
from conftest import ROOT
from programs import Script
from stores import BUCKET, remote_data, server, store  # noqa: F401 (fixtures)
from test_cluster import TIMEOUT, assert_same, finish, start

from jdance.errors import UserError
from jdance.remote import lease, objects, runs

EPOCHS = 4.0  # 22 steps


@pytest.fixture(scope="module")
def undisturbed(tiny_data, tmp_path_factory):
    """A local run with a checkpoint after each step."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(folder, start(tiny_data, folder, 1, 2, epochs=EPOCHS, checkpoint_every=0.01))
    return folder


def begin(data, tmp_path, cache="cache", epochs=EPOCHS, pause=0.0):
    """Starts a run in the store; its output goes to TMP_PATH/log.out."""
    log = tmp_path / "log"
    log.mkdir(exist_ok=True)
    flags = {"data": data, "workdir": f"{BUCKET}/run", "devices": 2, "epochs": epochs,
             "checkpoint_every": 0.01, "pause": pause, "log": log}  # fmt: skip
    words = [ROOT / "tests" / "cluster_run.py", *(f"--{k}={v}" for k, v in flags.items())]
    environment = stores.variables() | {"JDANCE_CACHE": str(tmp_path / cache)}
    return Script(words, f"{log}.out", variables=environment)


def end(run, status=0):
    try:
        run.wait(TIMEOUT)
        assert run.returncode == status, run.stdout.read_text()
    finally:
        run.kill()
    return run.stdout.read_text()


def committed():
    """Steps of the finished checkpoints in the store."""
    names = objects.listing(f"{BUCKET}/run/manifests")
    return sorted(int(Path(name).stem) for name in names)


def wait_until(run, condition):
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert run.poll() is None and time.monotonic() < deadline, run.stdout.read_text()
        time.sleep(0.05)


def logged_steps(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def assert_equal_runs(undisturbed, tmp_path):
    """The run in the store, as another machine sees it, equals the local one."""
    with runs.reading(f"{BUCKET}/run", "newest") as folder:
        assert str(folder).startswith(str(tmp_path / "cache"))
        assert_same(undisturbed, folder, rtol=0, atol=0)
        assert logged_steps(folder) == logged_steps(undisturbed)
    names = objects.listing(f"{BUCKET}/run")
    assert "lock" not in names and len(committed()) == 2
    kept = {name.split("/")[1] for name in names if name.startswith("checkpoints/")}
    assert kept == set(map(str, committed()))  # nothing of deleted or interrupted ones


@pytest.mark.slow
def test_a_run_killed_during_an_upload_continues_elsewhere(
    store, remote_data, undisturbed, tmp_path
):
    store.faults(("503", "PUT", "/run/checkpoints/", 2), ("hold", "PUT", "/run/checkpoints/", 2))
    run = begin(remote_data, tmp_path, pause=0.2)
    wait_until(run, lambda: any("/run/checkpoints/" in line for line in store.log()[-1:]))
    time.sleep(0.5)
    run.kill()
    run.wait()
    store.faults()
    assert not committed() and objects.listing(f"{BUCKET}/run/checkpoints")
    run = begin(remote_data, tmp_path, pause=0.2)  # the lock of the dead process is replaced
    wait_until(run, lambda: len(committed()) > 1)
    run.kill()
    run.wait()
    resumed_from = committed()[-1]
    text = end(begin(remote_data, tmp_path, cache="other-machine"))
    assert f"resuming from step {resumed_from} of 22" in text
    assert_equal_runs(undisturbed, tmp_path)


@pytest.mark.slow
def test_preemption_uploads_the_checkpoint(store, remote_data, undisturbed, tmp_path):
    run = begin(remote_data, tmp_path, pause=0.5)
    wait_until(run, lambda: committed())
    run.send_signal(signal.SIGTERM)
    text = end(run, status=75)
    saved = int(text.split("preempted: saved at step ")[1].split()[0])
    assert committed()[-1] == saved and "lock" not in objects.listing(f"{BUCKET}/run")
    end(begin(remote_data, tmp_path, cache="other-machine"))
    assert_equal_runs(undisturbed, tmp_path)


@pytest.mark.slow
def test_a_store_that_fails_for_a_while_does_not_end_the_run(
    store, remote_data, tmp_path, monkeypatch
):
    store.faults(("503", "PUT", "/run/checkpoints/", 10**6))
    monkeypatch.setenv("JDANCE_RETRY_SECONDS", "1")
    run = begin(remote_data, tmp_path, pause=0.5)
    wait_until(run, lambda: run.stdout.exists() and "goes on" in run.stdout.read_text())
    assert not committed()
    store.faults(("cut", "PUT", "/run/", 2))
    end(run)
    assert committed() == [21, 22]


def test_two_holders_of_a_lock(store, monkeypatch):
    monkeypatch.setattr(lease, "_HEARTBEAT", 0.2)
    monkeypatch.setattr(lease, "_SETTLE", 0.1)
    address, lost = f"{BUCKET}/run", []
    first = lease.Lease(address, on_loss=lambda: lost.append(True))
    with pytest.raises(UserError, match=r"dances/run: is in use by process \d+ on .*--workdir"):
        lease.Lease(address)
    first.check()
    monkeypatch.setattr(lease, "_machine", lambda: "another machine")
    monkeypatch.setattr(lease, "_SILENCE", 0.5)
    monkeypatch.setattr(lease, "_HEARTBEAT", 30.0)
    first._done.set()  # as if it could not reach the store
    first._thread.join()
    second = lease.Lease(address)
    second.check()
    with pytest.raises(UserError, match="is in use by process"):
        first.check()
    first.release()  # leaves the lock of the other one alone
    second.check()
    second.release()
    assert "lock" not in objects.listing(address)
    assert not lost


def test_a_holder_notices_its_loss(store, monkeypatch):
    monkeypatch.setattr(lease, "_HEARTBEAT", 0.1)
    lost = threading.Event()
    held = lease.Lease(f"{BUCKET}/run", on_loss=lost.set)
    objects.write(f"{BUCKET}/run/lock", b'{"id": "other", "process": 7, "host": "far"}')
    assert lost.wait(10)
    with pytest.raises(UserError, match="process 7 on far"):
        held.check()
    held.release()
    assert "lock" in objects.listing(f"{BUCKET}/run")


def save(folder, step, content="state"):
    """Writes a row of the metrics and a checkpoint, which appears as a whole, as training does."""
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step}) + "\n")
    path = folder / "checkpoints" / f"{step}.partial"
    path.mkdir(parents=True)
    (path / "weights").write_text(content)
    path.rename(path.with_suffix(""))


@contextmanager
def training(folder):
    """A run in the store that this folder trains; the store may fail at its end."""
    mirror = runs.Mirror(f"{BUCKET}/run", folder, lambda: None)
    try:
        yield
    finally:
        mirror.close()


def train_without_store(store, folder, monkeypatch, *steps):
    """Trains while no checkpoint can be uploaded; only the newest one is kept."""
    monkeypatch.setenv("JDANCE_RETRY_SECONDS", "0.1")
    with pytest.raises(UserError, match="run the same command again"), training(folder):
        store.faults(("503", "PUT", "/run/", 10**6))
        for step in steps:
            shutil.rmtree(folder / "checkpoints")
            save(folder, step)
    store.faults()


def local_steps(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())


def test_checkpoints_that_were_not_uploaded_are_continued(store, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    with training(folder):
        save(folder, 6)
    train_without_store(store, folder, monkeypatch, 9, 12)
    assert committed() == [6]
    objects.write(f"{BUCKET}/run/eval_val.json", b"{}")  # meanwhile, by another program
    with training(folder):
        assert local_steps(folder) == [6, 12] and logged_steps(folder) == [6, 9, 12]
        assert (folder / "eval_val.json").exists()
        shutil.rmtree(folder / "checkpoints" / "6")
    assert "steps 12 on this machine were not uploaded yet" in capsys.readouterr().err
    assert committed() == [12]
    with runs.reading(f"{BUCKET}/run", "newest") as copy:
        assert local_steps(copy) == [12] and logged_steps(copy) == [6, 9, 12]


def test_checkpoints_that_were_not_uploaded_are_moved_if_others_trained(
    store, tmp_path, monkeypatch, capsys
):
    folder, other = tmp_path / "run", tmp_path / "other"
    with training(folder):
        save(folder, 6)
    for number, step in enumerate((12, 15)):
        train_without_store(store, folder, monkeypatch, step)
        with training(other):
            save(other, step, "of the other machine")
        with training(folder):
            assert local_steps(folder) == local_steps(other) and logged_steps(folder)[-1] == step
            assert (folder / f"checkpoints/{step}/weights").read_text() == "of the other machine"
        moved = tmp_path / f"run-not-uploaded-{number}"
        error = capsys.readouterr().err
        assert f"steps {step}, which were not uploaded, are kept in {moved}" in error
        assert (moved / f"checkpoints/{step}/weights").read_text() == "state"


def test_a_run_that_was_removed_from_the_store_is_not_continued(store, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    with training(folder):
        save(folder, 6)
    objects._filesystem("s3").rm(f"{BUCKET}/run", recursive=True)
    with training(folder):
        assert not local_steps(folder) and not (folder / "metrics.jsonl").exists()
        save(folder, 3)
    train_without_store(store, folder, monkeypatch, 9)
    objects._filesystem("s3").rm(f"{BUCKET}/run", recursive=True)
    with training(folder):
        assert not (folder / "checkpoints").exists()
    assert local_steps(tmp_path / "run-not-uploaded-0") == [9]


def test_nothing_remains_of_a_run_that_was_removed_from_the_store(store, tmp_path):
    for seed in range(2):
        with training(tmp_path / f"machine-{seed}"):
            save(tmp_path / f"machine-{seed}", 6)
        with runs.reading(f"{BUCKET}/run", "newest", writes=True) as copy:
            assert not (copy / "calibration.json").exists()
            (copy / "calibration.json").write_text("{}")
        with runs.reading(f"{BUCKET}/run", "newest") as copy:
            assert (copy / "calibration.json").exists()
        objects._filesystem("s3").rm(f"{BUCKET}/run", recursive=True)
