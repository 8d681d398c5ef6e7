"""Detection of damaged data sets and checkpoints; killed runs of prepare."""

import json
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, tiny_source
from programs import program

from jdance.data import images, journal, prepare, records, sources, verify
from jdance.data import shards as data_shards
from jdance.errors import UserError
from jdance.train import distributed
from jdance.train.checkpoints import Checkpoints

TIMEOUT = 300


def flip_bit(path, position):
    data = bytearray(path.read_bytes())
    data[int(position * len(data))] ^= 4
    path.write_bytes(data)


@pytest.fixture
def data(tmp_path):
    prepare.prepare(tiny_source(24), tmp_path / "data", None)
    return tmp_path / "data"


@pytest.mark.parametrize("position", [0.001, 0.3, 0.9])
def test_bit_flips_in_shards_are_detected(data, position):
    (shard,) = data.glob("val*")
    flip_bit(shard, position)
    dataset = records.Dataset(data)
    dataset.source("train")  # the other shards are intact
    with pytest.raises(UserError, match=rf"{shard.name}: a shard that is damaged"):
        dataset.source("val")
    good, problems = verify.verify(data)
    assert good == dataset.count("train") and len(problems) == 1 and shard.name in problems[0]


def test_verify_program(data):
    assert verify.verify(data) == (24, [])
    (shard,) = data.glob("val*")
    flip_bit(shard, 0.5)
    output, error = program("prepare", f"--verify={data}", status=1)
    assert f"{shard}: a shard that is damaged" in output and "is damaged (listed above)" in error


def test_data_sets_without_checksums_are_read(data):
    path = data / "dataset.json"
    info = json.loads(path.read_text())
    for split in info["splits"].values():
        del split["checksums"]
    path.write_text(json.dumps(info))
    assert len(records.Dataset(data).source("train")) == info["splits"]["train"]["count"]


def test_damaged_checkpoints_fall_back_to_the_previous_one(tmp_path):
    rng = np.random.default_rng(0)
    states = [
        {"a": rng.random(5000, np.float32), "b": rng.random(10, np.float32)} for _ in range(2)
    ]
    with closing(Checkpoints(tmp_path, 5, owner=True)) as checkpoints:
        for step, state in enumerate(states, start=1):
            checkpoints.save(step, distributed.replicate(state))
    whole = tmp_path / "checkpoints"
    found = 0
    for number, path in enumerate(sorted(p for p in (whole / "2").rglob("*") if p.is_file())):
        if not path.stat().st_size:
            continue
        folder = tmp_path / str(number)
        shutil.copytree(whole, folder / "checkpoints")
        flip_bit(folder / path.relative_to(tmp_path), 0.3)
        warnings: list[str] = []
        with closing(Checkpoints(folder, 5, owner=True)) as checkpoints:
            step, state = checkpoints.restore_newest(
                distributed.replicated_like(states[0]), warnings.append
            )
        for name, leaf in states[step - 1].items():
            np.testing.assert_array_equal(state[name], leaf)
        found += step == 1 and "checkpoints/2" in warnings[0]
    assert found


# Killed runs --------------------------------------------------------------------------------------


def photos(folder, count):
    rng = np.random.default_rng(0)
    for i in range(count):
        path = folder / "ab"[i % 2] / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        images.write(path, rng.integers(0, 256, (120, 100, 3), np.uint8))
    return folder


PREPARE = """
import sys, time
from pathlib import Path
import numpy as np
from jdance.data import prepare, record_writer, sources

record_writer._RECORDS_PER_SHARD = 7

def estimator(image):
    time.sleep(float(sys.argv[3]))
    people = np.ones((1, 18, 3), np.float32)
    people[0, :, :2] = image[10:28, 10, :2] / 4 + 5
    return people

print("ready", flush=True)
prepare.prepare(sources.open_source(sys.argv[1]), Path(sys.argv[2]), estimator)
"""


def start(source, output, pause):
    command = [sys.executable, "-c", PREPARE, str(source), str(output), str(pause)]
    run = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert run.stdout.readline() == "ready\n"
    return run


def content(folder):
    kept = (p for p in sorted(folder.iterdir()) if p.name != data_shards.LOCK)
    return {p.name: p.read_bytes() for p in kept if p.suffix != journal.SUFFIX}


def kill_repeatedly(tmp_path, kills, seed, count, pause, window):
    source = photos(tmp_path / "photos", count)
    undisturbed = start(source, tmp_path / "undisturbed", pause)
    undisturbed.communicate(timeout=TIMEOUT)
    rng, shards = random.Random(seed), set()
    for _ in range(kills):
        run = start(source, tmp_path / "killed", pause)
        time.sleep(rng.random() * window)
        run.send_signal(signal.SIGKILL)
        run.communicate(timeout=TIMEOUT)
        shards.add(len(list((tmp_path / "killed").glob("*.array_record"))))
        if (tmp_path / "killed" / "dataset.json").exists():
            break
    if not (tmp_path / "killed" / "dataset.json").exists():
        start(source, tmp_path / "killed", 0).communicate(timeout=TIMEOUT)
    assert content(tmp_path / "undisturbed") == content(tmp_path / "killed")
    assert "dataset.json" in content(tmp_path / "killed")
    return shards


def test_prepare_killed_twice_ends_byte_identical(tmp_path):
    kill_repeatedly(tmp_path, kills=2, seed=1, count=24, pause=0.02, window=0.48)


@pytest.mark.slow
def test_prepare_killed_twenty_times_ends_byte_identical(tmp_path):
    shards = kill_repeatedly(tmp_path, kills=20, seed=0, count=400, pause=0.02, window=0.7)
    assert len(shards) > 6  # each run continues where the one before was killed


# Concurrent runs ----------------------------------------------------------------------------------


def test_concurrent_prepares_into_one_folder_raise(tmp_path):
    waiting, go = threading.Event(), threading.Event()
    source = photos(tmp_path / "photos", 8)

    def slow(image):
        waiting.set()
        go.wait(TIMEOUT)
        return np.zeros((0, 18, 3), np.float32)

    first = threading.Thread(
        target=prepare.prepare,
        args=(sources.open_source(str(source)), tmp_path / "data", slow),
    )
    first.start()
    try:
        assert waiting.wait(TIMEOUT)
        with pytest.raises(UserError, match=r"data: is in use by process \d+ .*another --output"):
            prepare.prepare(sources.open_source(str(source)), tmp_path / "data", slow)
    finally:
        go.set()
        first.join()
    assert sum(s["count"] for s in records.Dataset(tmp_path / "data").info["splits"].values()) == 8
    assert not (Path(tmp_path) / "data" / data_shards.LOCK).exists()
