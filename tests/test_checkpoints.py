"""Checkpoints: retention, damage and fallback, metadata, locks, and runs killed at random."""

import asyncio
import gc
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import tensorstore
from conftest import tiny_config
from test_cluster import TIMEOUT, assert_same, finish, output, start

from jdance import lock
from jdance.errors import UserError
from jdance.train import distributed, loop
from jdance.train.checkpoints import Checkpoints
from jdance.train.results import evaluate


def state(number):
    """A small state filled with `number`."""
    return distributed.replicate({"a": np.full(1000, number, np.float32), "step": np.int32(number)})


def save(folder, scores, kept=5, best=0):
    with closing(Checkpoints(folder, kept, best, owner=True)) as checkpoints:
        for step, score in scores.items():
            checkpoints.save(step, state(step), score)


def newest(folder, owner=True):
    warnings = []
    with closing(Checkpoints(folder, 5, owner=owner)) as checkpoints:
        found = checkpoints.restore_newest(distributed.replicated_like(state(0)), warnings.append)
    assert found is None or float(found[1]["a"][0]) == found[0]
    return found and found[0], warnings


def steps_in(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())


def test_newest_and_best_are_kept(tmp_path):
    save(tmp_path, {1: 0.3, 2: 0.9, 3: None, 4: 0.5, 5: 0.6, 6: None}, kept=2, best=1)
    assert steps_in(tmp_path) == [2, 5, 6]
    with closing(Checkpoints(tmp_path)) as checkpoints:
        assert checkpoints.best_step() == 2 and checkpoints.latest_step() == 6
    save(tmp_path, {7: 0.4, 8: 0.95}, kept=2, best=1)
    assert steps_in(tmp_path) == [7, 8]


def damage_truncate(folder):
    for path in (folder / "default").rglob("*"):
        if path.is_file() and "d" in path.parent.name:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_metadata(folder):
    (folder / "default" / "_METADATA").write_text("{")


def damage_empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def damage_item(folder):
    shutil.rmtree(folder / "default")


@pytest.mark.parametrize("damage", [damage_truncate, damage_metadata, damage_empty, damage_item])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, damage):
    save(tmp_path, {1: None, 2: None, 3: None})
    damage(tmp_path / "checkpoints" / "3")
    step, warnings = newest(tmp_path, owner=False)
    assert step == 2 and "checkpoints/3" in warnings[0] and "before it" in warnings[0]
    assert steps_in(tmp_path) == [1, 2, 3]  # a reader changes nothing
    assert newest(tmp_path)[0] == 2
    assert steps_in(tmp_path) == [1, 2] and (tmp_path / "damaged" / "3-0").is_dir()
    save(tmp_path, {3: None})  # its step is free again
    assert newest(tmp_path) == (3, [])


def test_missing_and_partial_checkpoints_are_ignored(tmp_path):
    assert newest(tmp_path) == (None, [])
    save(tmp_path, {1: None, 2: None})
    (tmp_path / "checkpoints" / "2").rename(
        tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp-1234"
    )
    assert newest(tmp_path) == (1, [])
    assert steps_in(tmp_path) == [1]  # the owner removes partial ones
    save(tmp_path, {2: None})
    for step in "12":
        damage_metadata(tmp_path / "checkpoints" / step)
    with pytest.raises(UserError, match="every checkpoint in it is damaged"):
        newest(tmp_path)


# --- Metadata of other versions of orbax ----------------------------------------------------------


def write_metadata(folder, step, **changes):
    path = folder / "checkpoints" / str(step) / "_CHECKPOINT_METADATA"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("steps", [(1,), (1, 2)])
def test_metadata_keys_of_a_newer_orbax_are_ignored(tmp_path, steps):
    save(tmp_path, {step: step / 2 for step in steps})
    for step in steps:
        write_metadata(tmp_path, step, checkpoint_format={"version": 2}, writer=None)
    metadata = (tmp_path / "checkpoints" / "1" / "_CHECKPOINT_METADATA").read_text()
    assert newest(tmp_path, owner=False) == (steps[-1], [])
    assert (tmp_path / "checkpoints" / "1" / "_CHECKPOINT_METADATA").read_text() == metadata
    assert newest(tmp_path) == (steps[-1], [])
    save(tmp_path, {9: None}, kept=1, best=1)
    assert steps_in(tmp_path) == [steps[-1], 9]  # the scores are preserved
    assert not (tmp_path / "damaged").exists()


def test_checkpoint_of_the_oldest_supported_orbax(tmp_path):
    """Written by orbax-checkpoint 0.11.30, the lowest version in pyproject.toml."""
    with zipfile.ZipFile(Path(__file__).with_name("orbax_0_11_30.zip")) as archive:
        archive.extractall(tmp_path)
    assert newest(tmp_path, owner=False) == (2, [])
    with closing(Checkpoints(tmp_path)) as checkpoints:
        assert checkpoints.score(1) == 0.5 and checkpoints.score(2) is None
        assert checkpoints.restore_numpy(1)["step"] == 1
    save(tmp_path, {3: None, 4: 0.3}, kept=2, best=1)
    assert steps_in(tmp_path) == [1, 3, 4] and newest(tmp_path) == (4, [])


WRONG = [{"commit_timestamp_nsecs": "soon"}, {"custom_metadata": {"crc32": 5}}, {"metrics": []}]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_invalid_metadata_sets_one_checkpoint_aside_but_never_the_only_one(tmp_path, wrong):
    save(tmp_path, {1: None})
    write_metadata(tmp_path, 1, **wrong)
    for owner in (False, True):
        with pytest.raises(UserError, match="every checkpoint in it is damaged"):
            newest(tmp_path, owner)
    assert steps_in(tmp_path) == [1] and not (tmp_path / "damaged").exists()
    shutil.rmtree(tmp_path / "checkpoints")
    save(tmp_path, {1: None, 2: None, 3: None})
    for step in (1, 3):  # newer and older than the one restored
        write_metadata(tmp_path, step, **wrong)
    step, warnings = newest(tmp_path, owner=False)
    assert step == 2 and "checkpoints/3: is damaged" in warnings[0]
    assert newest(tmp_path)[0] == 2 and steps_in(tmp_path) == [2]
    assert sorted(path.name for path in (tmp_path / "damaged").iterdir()) == ["1-0", "3-0"]


def test_no_restart_if_all_checkpoints_were_set_aside(tmp_path):
    save(tmp_path, {1: None})
    (tmp_path / "damaged").mkdir()
    (tmp_path / "checkpoints" / "1").rename(tmp_path / "damaged" / "1-0")
    with pytest.raises(UserError, match="damaged: holds all the checkpoints that there were"):
        newest(tmp_path)


def test_only_one_error_of_a_damaged_checkpoint_is_reported(tmp_path, caplog):
    Checkpoints(tmp_path)

    async def fail():
        raise ValueError("of another program")

    async def abandon_two_tasks():
        spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": str(tmp_path / "none")}}
        tasks = asyncio.ensure_future(tensorstore.open(spec)), asyncio.ensure_future(fail())
        await asyncio.wait(tasks)
        assert "tensorstore" in repr(tasks[0])

    asyncio.run(abandon_two_tasks())
    gc.collect()
    assert [str(record.exc_info[1]) for record in caplog.records] == ["of another program"]


def test_no_restart_if_all_checkpoints_are_damaged(tiny_data, tmp_path):
    config = tiny_config(tiny_data)
    config.epochs = 0.2
    config.model.branches = "keypoints"
    loop.train(config, tmp_path)
    kept = (tmp_path / "metrics.jsonl").read_text()
    (only,) = (tmp_path / "checkpoints").iterdir()
    (only / "_CHECKPOINT_METADATA").write_text("[")
    with pytest.raises(UserError, match="every checkpoint in it is damaged"):
        loop.train(config, tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == kept and only.is_dir()


def test_other_dtypes_or_shapes_are_errors(tmp_path):
    save(tmp_path, {1: None, 2: None})
    for leaf, message in [
        (np.zeros(1000, np.float16), "a has dtype float32, expected float16"),
        (np.zeros(3, np.float32), r"a has shape \(1000,\), expected \(3,\)"),
    ]:
        like = distributed.replicated_like({"a": leaf, "step": np.int32(0)})
        with (
            closing(Checkpoints(tmp_path)) as checkpoints,
            pytest.raises(UserError, match=message),
        ):
            checkpoints.restore_newest(like, pytest.fail)


def test_unwritable_checkpoint_is_a_user_error(tmp_path):
    save(tmp_path, {1: None})
    checkpoints = Checkpoints(tmp_path, 5)
    (tmp_path / "checkpoints").rename(tmp_path / "moved")
    (tmp_path / "checkpoints").write_text("not a folder")
    with pytest.raises(UserError, match=r"cannot be written .*before it are kept"):
        checkpoints.save(2, state(2))
        checkpoints.wait()


def test_full_disk_keeps_earlier_checkpoints(tmp_path):
    """A file size limit fails in the middle of a write, like a full disk."""
    rng = np.random.default_rng(0)
    before, after = ({"a": rng.random(100_000, np.float32)} for _ in range(2))
    with closing(Checkpoints(tmp_path, 5, owner=True)) as checkpoints:
        checkpoints.save(1, distributed.replicate(before))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpoints = Checkpoints(tmp_path, 5, owner=True)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        with pytest.raises(UserError, match=r"cannot be written .*before it are kept"):
            checkpoints.save(2, distributed.replicate(after))
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with closing(Checkpoints(tmp_path, 5, owner=True)) as checkpoints:
        step, found = checkpoints.restore_newest(distributed.replicated_like(before), pytest.fail)
    assert step == 1
    np.testing.assert_array_equal(found["a"], before["a"])


FULL = """
import sys
from contextlib import closing
from pathlib import Path
import numpy as np
from jdance import cli
from jdance.train import distributed
from jdance.train.checkpoints import Checkpoints

folder = Path(sys.argv.pop())

def main():
    with closing(Checkpoints(folder, 5, owner=True)) as checkpoints:
        for step, size in enumerate([1_000, 100_000]):
            rows = np.random.default_rng(0).random((40, size), np.float32)
            checkpoints.save(step, distributed.replicate({f"a{i}": x for i, x in enumerate(rows)}))
            checkpoints.wait()

cli.run(main)
"""


def test_full_disk_exits_with_status_74_and_one_line(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", tmp_path]
    if os.getuid() or subprocess.run(mount).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        ended = subprocess.run(
            [sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True
        )
        assert (tmp_path / "checkpoints" / "0").is_dir()
    finally:
        subprocess.run(["umount", tmp_path])
    assert ended.returncode == 74
    assert ended.stderr == (
        f"error: {tmp_path}/checkpoints: a checkpoint cannot be written (No space left on device); "
        "those before it are kept\n"
    )


# --- One job per folder ---------------------------------------------------------------------------

HOLDER = """
import sys, time
from pathlib import Path
from jdance import lock
with lock.held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_second_job_in_a_folder_is_refused(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"in use by process {holder.pid} on "):
            lock.held(tmp_path).__enter__()
        holder.kill()
        holder.wait()
        assert (tmp_path / "lock").exists()
        # The lock file of a dead process does not count.
        with lock.held(tmp_path), pytest.raises(UserError, match="is in use"):
            lock.held(tmp_path).__enter__()
        assert not (tmp_path / "lock").exists()
    finally:
        holder.kill()
        holder.communicate()


def test_holder_on_another_machine_counts_by_its_heartbeat(tmp_path):
    path = tmp_path / "lock"
    path.write_text(json.dumps({"host": "elsewhere", "process": 7}))
    with lock.held(tmp_path, silence=0.4):
        assert json.loads(path.read_text())["host"] != "elsewhere"
    path.write_text(json.dumps({"host": "elsewhere", "process": 7}))
    alive = subprocess.Popen(["sh", "-c", f"while sleep 0.05; do touch {path}; done"])
    try:
        with pytest.raises(UserError, match="in use by process 7 on elsewhere"):
            lock.held(tmp_path, silence=60.0).__enter__()
    finally:
        alive.kill()
        alive.wait()


def test_resume_must_and_never(tiny_data, tmp_path):
    config = tiny_config(tiny_data)
    config.epochs = 0.2
    config.model.branches = "keypoints"
    with pytest.raises(UserError, match=r"--resume=must: .* has no checkpoint"):
        loop.train(config, tmp_path / "run", resume="must")
    loop.train(config, tmp_path / "run", resume="never")
    with pytest.raises(UserError, match=r"--resume=never: .* has checkpoints already"):
        loop.train(config, tmp_path / "run", resume="never")
    loop.train(config, tmp_path / "run", resume="must")


def test_evaluation_during_training_is_safe(tiny_data, tmp_path):
    """A checkpoint at each step: some are deleted while they are read."""
    workdir = tmp_path / "run"
    runs = start(tiny_data, workdir, 1, 2, epochs=5.0, checkpoint_every=0.01, pause=0.3)
    while not any(path.name.isdigit() for path in (workdir / "checkpoints").glob("*")):
        assert runs[0].poll() is None, output(workdir)
        time.sleep(0.01)
    evaluated = 0
    while runs[0].poll() is None:
        result, _ = evaluate([workdir], "val")
        assert result["n"] == 15
        evaluated += 1
    finish(workdir, runs)
    assert evaluated > 1
    uninterrupted = tmp_path / "uninterrupted"
    finish(uninterrupted, start(tiny_data, uninterrupted, 1, 2, epochs=5.0, checkpoint_every=0.01))
    assert_same(uninterrupted, workdir, rtol=0, atol=0)


# --- Killed at random -----------------------------------------------------------------------------


def kill_repeatedly(data, folder, kills, seed, epochs):
    """Kills and resumes a run with a checkpoint at each step, and compares its final state."""
    uninterrupted = folder / "uninterrupted"
    flags = {"epochs": epochs, "checkpoint_every": 0.01}
    finish(uninterrupted, start(data, uninterrupted, 1, 2, **flags))
    rng, killed = random.Random(seed), folder / "killed"
    checkpoints = killed / "checkpoints"
    during_saves = 0
    for _ in range(kills):
        before = set(checkpoints.glob("[0-9]*"))
        (run,) = start(data, killed, 1, 2, **flags)
        deadline = time.monotonic() + TIMEOUT
        # Only after a new checkpoint, to make progress on slow machines, too.
        while not set(checkpoints.glob("[0-9]*")) - before and run.poll() is None:
            assert time.monotonic() < deadline, output(killed)
            time.sleep(0.01)
        time.sleep(rng.random() * 0.5)
        run.send_signal(signal.SIGKILL)
        run.wait()
        assert run.returncode in (0, -signal.SIGKILL), output(killed)
        during_saves += any(checkpoints.glob("*tmp*"))
        if run.returncode == 0:
            break
    finish(killed, start(data, killed, 1, 2, **flags))
    assert_same(uninterrupted, killed, rtol=0, atol=0)
    return during_saves


def test_a_run_killed_twice_ends_bit_identical(tiny_data, tmp_path):
    kill_repeatedly(tiny_data, tmp_path, kills=2, seed=0, epochs=10.0)


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_bit_identical(tiny_data, tmp_path):
    during_saves = kill_repeatedly(tiny_data, tmp_path, kills=20, seed=1, epochs=100.0)
    assert during_saves  # some kills interrupted a write
