"""Sixty videos recognized by four processes that are killed at random, by hand and under Slurm."""

import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from contextlib import closing, suppress

import pytest
from conftest import ROOT
from test_slurm import PATH, PROGRAMS

from jdance import files
from jdance.data import videos
from jdance.recognize import timeline

pytestmark = pytest.mark.slow

VIDEOS, PROCESSES, KILLS = 60, 4, 20
BAD = {"bad_empty.mp4", "bad_text.mp4", "bad_cut.webm"}
TIMEOUT = 3600  # seconds
ENVIRONMENT = {
    name: value for name, value in os.environ.items() if not name.startswith("SLURM_")
} | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT), "PATH": PATH}


def command(archive, output):
    return [
        f"--input={archive / 'in'}", f"--output={output}", "--pose=stage", "--claim_timeout=30",
    ]  # fmt: skip


def recognize(archive, output, log, *words):
    """Starts a process of recognition."""
    with log.open("a") as file:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "launch" / "recognize.py"), *command(archive, output),
             *words],
            stdout=file, stderr=subprocess.STDOUT, env=ENVIRONMENT, cwd=ROOT,
        )  # fmt: skip


def claim_ten_hours(path):
    """Sets the duration in the header of a WebM file (a double in milliseconds)."""
    data = path.read_bytes()
    at = data.index(b"\x44\x89\x88") + 3
    path.write_bytes(data[:at] + struct.pack(">d", 36e6) + data[at + 8 :])


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A folder with the videos in "in", and the results of one undisturbed process in "one"."""
    folder = tmp_path_factory.mktemp("archive")
    subprocess.run(
        [sys.executable, str(ROOT / "launch" / "stage.py"), f"--output={folder / 'in'}", "--video",
         f"--scenes={VIDEOS}", "--seconds=2", "--fps=8", "--width=320", "--height=240",
         "--dancers=1"],
        check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT, cwd=ROOT,
    )  # fmt: skip
    assert (folder / "in" / "manifest.csv").exists()  # is not an input that fails
    source = videos.output_path(folder / "in" / "scene-0")
    (folder / "in" / "bad_empty.mp4").touch()
    (folder / "in" / "bad_text.mp4").write_text("no video")
    cut = folder / "in" / "bad_cut.webm"
    cut.write_bytes(source.read_bytes()[: source.stat().st_size // 3])
    if source.suffix == ".webm":
        long = folder / "in" / "long.webm"
        long.write_bytes(videos.output_path(folder / "in" / "scene-1").read_bytes())
        claim_ten_hours(long)
    began = time.monotonic()
    assert recognize(folder, folder / "one", folder / "one.log").wait() == 1
    print(f"\none undisturbed process: {time.monotonic() - began:.0f} s")
    return folder


def holders(output):
    """The numbers of the processes that have a claim, dead or alive."""
    found = set()
    for path in (output / ".jdance" / "claims").glob("*"):
        with suppress(OSError, ValueError):
            found.add(json.loads(path.read_text())["process"])
    return found


def kill_at_random(output, restart):
    """Kills a random process that is recognizing, KILLS times; returns how often it could."""
    rng, killed = random.Random(0), set()
    deadline = time.monotonic() + TIMEOUT
    while len(killed) < KILLS:
        while not (running := sorted(holders(output) - killed)):
            assert time.monotonic() < deadline
            restart()
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.3))
        victim = rng.choice(running)
        with suppress(ProcessLookupError):  # it has just finished
            os.kill(victim, signal.SIGKILL)
            killed.add(victim)
        restart()
        done = list((output / ".jdance" / "records").glob("*.json"))
        if len(done) > VIDEOS - PROCESSES:
            break
    return len(killed)


def assert_equal_results(archive, output):
    """Every video has exactly one complete result, equal to the undisturbed ones."""
    one = archive / "one"
    names = {path.name for path in files.list_visible(one)}
    assert {path.name for path in files.list_visible(output)} == names
    for name in sorted(names):
        path = output / name
        if path.suffix in (".json", ".csv", ".html") and name != "failures.csv":
            assert path.read_bytes() == (one / name).read_bytes(), name
    for i in range(VIDEOS):
        frames = len(json.loads((output / f"scene-{i}.json").read_text())["frames"])
        assert frames == 16
        timeline.read_csv(output / f"scene-{i}.csv")
        with closing(videos.Video(videos.output_path(output / f"scene-{i}"))) as video:
            assert sum(1 for _ in video) == frames and not video.problem
    listed = (output / "failures.csv").read_text()
    assert all(f"/{name}," in listed for name in BAD) and listed.count("\n") == 1 + len(BAD)
    hidden = output / ".jdance"
    assert len(list((hidden / "records").iterdir())) == len(
        [n for n in names if n.endswith("json")]
    )
    for folder in ("claims", "work", "runs"):
        assert not list((hidden / folder).iterdir()), folder


def test_killed_processes_of_a_shared_folder(archive):
    output, log = archive / "shared", archive / "shared.log"

    def start(number):
        words = f"--process_id={number}", f"--num_processes={PROCESSES}"
        return recognize(archive, output, log, *words)

    began, starts = time.monotonic(), PROCESSES
    runs = [start(number) for number in range(PROCESSES)]

    def restart():
        nonlocal starts
        for number, run in enumerate(runs):
            if run.poll() == -signal.SIGKILL:
                runs[number] = start(number)
                starts += 1

    kills = kill_at_random(output, restart)
    while any(run.poll() is None for run in runs):
        restart()
        time.sleep(0.1)
        assert time.monotonic() - began < TIMEOUT, log.read_text()
    restart()
    assert [run.wait() for run in runs] == [1] * PROCESSES, log.read_text()  # bad files
    print(f"\n{kills} kills, {starts} starts: {time.monotonic() - began:.0f} s")
    assert kills == KILLS and starts == PROCESSES + KILLS
    assert_equal_results(archive, output)


@pytest.mark.skipif(
    not all(shutil.which(name, path=PATH) for name in PROGRAMS),
    reason="needs slurmctld, slurmd, slurm-client and munge",
)
def test_killed_tasks_of_slurm(archive):
    output, folder = archive / "slurm-out", archive / "slurm"
    script = ["bash", str(ROOT / "tests" / "start_slurm.sh"), str(folder)]
    subprocess.run(script, check=True)
    environment = ENVIRONMENT | {"SLURM_CONF": str(folder / "slurm.conf"), "JAX_PLATFORMS": "cpu"}

    def slurm(*words):
        return subprocess.run(
            words, check=True, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
        ).stdout.strip()

    try:
        began = time.monotonic()
        job = slurm(
            "sbatch", "--parsable", f"--array=0-{PROCESSES - 1}", "--cpus-per-task=1",
            f"--output={archive}/slurm-%a.log", "launch/slurm_recognize.sh",
            *command(archive, output),
        )  # fmt: skip
        kills = kill_at_random(output, lambda: None)
        while slurm("squeue", "--noheader"):
            time.sleep(1)
            assert time.monotonic() - began < TIMEOUT
        logs = [(archive / f"slurm-{i}.log").read_text() for i in range(PROCESSES)]
        requeued = sum(text.count("ended with status 137: requeueing") for text in logs)
        print(f"\nSlurm job {job}, {kills} kills: {time.monotonic() - began:.0f} s")
        assert kills == KILLS and requeued == KILLS, logs
        assert all("error: 2 of " in text for text in logs)  # inputs skipped, which are listed
        assert_equal_results(archive, output)
    finally:
        subprocess.run([*script, "stop"], check=True)
