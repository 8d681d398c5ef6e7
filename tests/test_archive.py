"""Recognition of many inputs by several processes: claims, records, failures, preemption."""

import csv
import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from programs import Script

from jdance import files
from jdance.errors import UserError
from jdance.recognize import gather, inputs, listing
from jdance.recognize.archive import MAX_ATTEMPTS, Archive, Options, this_process
from jdance.recognize.claims import Claims, key_of
from jdance.recognize.inputs import Job
from jdance.recognize.ledger import Ledger, digest
from jdance.recognize.runs import Run
from jdance.recognize.storage import Folder


class Clock:
    """A clock that a test sets."""

    def __init__(self, now=0.0):
        self.now = now

    def __call__(self):
        return self.now


# --- Claims -------------------------------------------------------------------------------------


def foreign(claims):
    """Makes the claims of a folder look like those of another machine."""
    for path in claims.iterdir():
        times = path.stat().st_atime_ns, path.stat().st_mtime_ns
        path.write_text(json.dumps(json.loads(path.read_text()) | {"machine": "another"}))
        os.utime(path, ns=times)


def test_a_claim_excludes_others_until_released(tmp_path):
    first, second = Claims(tmp_path, 10), Claims(tmp_path, 10)
    claim = first.take("a/b.mp4")
    assert claim.attempt == 1 and second.take("a/b.mp4") is None
    second.refresh()
    assert second.is_held("a/b.mp4") and not second.is_held("a") and second.count() == 1
    first.release(claim)
    assert not list(tmp_path.iterdir())
    second.refresh()
    assert second.take("a/b.mp4").attempt == 1


@pytest.mark.parametrize("skew", [-1e6, 0.0, 1e6])
def test_a_claim_expires_by_the_clock_of_the_observer(tmp_path, skew):
    """Modification times are of another machine, whose clock may be wrong."""
    clock = Clock()
    holder, observer = Claims(tmp_path, 10), Claims(tmp_path, 10, clock=clock)
    claim = holder.take("x")
    foreign(tmp_path)
    for renewal in range(3):
        os.utime(claim.path, (time.time() + skew, time.time() + skew + renewal))
        observer.refresh()
        clock.now += 9.9
        observer.refresh()
        assert observer.take("x") is None and observer.is_live(claim.id)
    clock.now += 0.2
    observer.refresh()
    assert not observer.is_live(claim.id) and not claim.is_lost()
    taken = observer.take("x")
    assert taken.attempt == 2 and claim.is_lost() and not taken.is_lost()
    # The first holder wakes up: it must not remove the claim of the second.
    holder.release(claim)
    observer.refresh()
    assert observer.is_live(taken.id)
    observer.release(taken)
    assert not list(tmp_path.iterdir())


def test_claims_are_renewed_by_a_thread(tmp_path):
    calls = []
    claims = Claims(tmp_path, 0.2, on_renewal=lambda: calls.append(1))
    with claims.renewing():
        path = claims.take("x").path
        os.utime(path, (1, 1))
        deadline = time.monotonic() + 60
        while path.stat().st_mtime < 2 or not calls:
            assert time.monotonic() < deadline
            time.sleep(0.01)


TAKE = (
    "import sys, pathlib; from jdance.recognize.claims import Claims; "
    "Claims(pathlib.Path(sys.argv[1]), 1000).take('x')"
)


def test_the_claim_of_a_dead_process_of_this_machine_expires_at_once(tmp_path):
    subprocess.run([sys.executable, "-c", TAKE, tmp_path], check=True, cwd=ROOT)
    claims = Claims(tmp_path, 1000)
    claims.refresh()
    assert claims.take("x").attempt == 2
    # The same number, but another process.
    claims = Claims(tmp_path, 1000)
    holder = tmp_path / f"{key_of('x')}.2"
    holder.write_text(json.dumps(json.loads(holder.read_text()) | {"started": "1"}))
    claims.refresh()
    assert claims.take("x").attempt == 3


def test_a_claim_has_the_holder_that_took_it_last(tmp_path):
    """Between two looks, one process gives work back, and another one takes it and is killed."""
    observer, first = Claims(tmp_path, 1000), Claims(tmp_path, 1000)
    claim = first.take("x")
    observer.refresh()
    first.release(claim)
    subprocess.run([sys.executable, "-c", TAKE, tmp_path], check=True, cwd=ROOT)
    observer.refresh()
    assert not observer.is_held("x") and observer.take("x").attempt == 2


def test_a_process_killed_while_it_claims(tmp_path):
    clock = Clock()
    observer = Claims(tmp_path, 1000, clock=clock)
    (tmp_path / f"{key_of('x')}.1").touch()
    observer.refresh()
    clock.now = 4.9
    observer.refresh()
    assert observer.is_held("x")  # perhaps being written
    clock.now = 5.1
    observer.refresh()
    assert observer.take("x").attempt == 2


def test_expired_claims_are_taken_over_once(tmp_path):
    """All observers see the same claims expire, and take them over at the same time."""
    works = [f"work {i}" for i in range(50)]
    holder = Claims(tmp_path, 10)
    for work in works:
        holder.take(work)
    foreign(tmp_path)
    barrier = threading.Barrier(8)

    def take(number):
        clock = Clock()
        claims = Claims(tmp_path, 10, clock=clock)
        claims.refresh()
        clock.now = 11
        claims.refresh()
        barrier.wait()
        order = random.Random(number).sample(works, len(works))
        return [work for work in order if claims.take(work)]

    with ThreadPoolExecutor(8) as pool:
        taken = Counter(work for own in pool.map(take, range(8)) for work in own)
    assert taken == dict.fromkeys(works, 1)


# --- Runs with several processes ----------------------------------------------------------------


def make_inputs(folder, count):
    folder.mkdir()
    for i in range(count):
        (folder / f"file{i}.bin").write_text(f"content {i} " * (1 + i % 7))


def assert_complete(output, count):
    names = {f"file{i}{suffix}" for i in range(count) for suffix in (".txt", ".second")}
    assert {path.name for path in files.list_visible(output)} == names
    for i in range(count):
        assert (output / f"file{i}.txt").read_text() == f"CONTENT {i} " * (1 + i % 7)
    assert not list((output / ".jdance" / "work").iterdir())
    assert not list((output / ".jdance" / "claims").iterdir())
    assert not list((output / ".jdance" / "runs").iterdir())


def failures(output):
    """The rows of failures.csv."""
    with (output / "failures.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def start(tmp_path, number, *words):
    return Script(
        [ROOT / "tests" / "archive_run.py", f"--input={tmp_path / 'in'}",
         f"--output={tmp_path / 'out'}", f"--log={tmp_path / 'out.log'}", *words],
        tmp_path / f"stdout-{number}",
    )  # fmt: skip


def worked_at(tmp_path):
    return Counter((tmp_path / "out.log").read_text().split())


def test_eight_processes_do_every_file_once(tmp_path):
    make_inputs(tmp_path / "in", 200)
    runs = [start(tmp_path, i, "--pause=0.005") for i in range(8)]
    assert [run.wait() for run in runs] == [0] * 8, runs[0].stdout.read_text()
    assert worked_at(tmp_path) == {f"file{i}": 1 for i in range(200)}
    assert_complete(tmp_path / "out", 200)
    own = [run.stdout.read_text().splitlines()[-1].split()[1:] for run in runs]
    assert Counter(name for names in own for name in names) == worked_at(tmp_path)
    assert sum(map(bool, own)) >= 4  # not all by the process that started first


def test_killed_processes_lose_nothing(tmp_path):
    make_inputs(tmp_path / "in", 40)
    rng = random.Random(0)
    runs = [start(tmp_path, i, "--pause=0.03") for i in range(3)]
    started = len(runs)
    for _ in range(8):
        time.sleep(rng.uniform(0.05, 0.3))
        victim = rng.randrange(3)
        if runs[victim].poll() is None:
            runs[victim].kill()
            runs[victim] = start(tmp_path, started, "--pause=0.03")
            started += 1
    assert [run.wait() for run in runs] == [0] * 3
    assert_complete(tmp_path / "out", 40)
    assert sum(worked_at(tmp_path).values()) <= 40 + 8


def test_sigterm_gives_the_file_back(tmp_path):
    make_inputs(tmp_path / "in", 3)
    run = start(tmp_path, 0, "--pause=600")
    deadline = time.monotonic() + 60
    while not (tmp_path / "out.log").exists():
        assert time.monotonic() < deadline and run.poll() is None
        time.sleep(0.01)
    run.send_signal(signal.SIGTERM)
    assert run.wait() == 75
    assert "run the same command again" in run.stdout.read_text()
    hidden = tmp_path / "out" / ".jdance"
    assert not list((hidden / "claims").iterdir()) and not list((hidden / "work").iterdir())
    assert not files.list_visible(tmp_path / "out")
    run = start(tmp_path, 1)
    assert run.wait() == 0
    assert_complete(tmp_path / "out", 3)


def test_a_failure_is_not_repeated_by_other_processes(tmp_path):
    make_inputs(tmp_path / "in", 6)
    (tmp_path / "in" / "file3.bin").write_text("bad")
    runs = [start(tmp_path, i, "--pause=1") for i in range(3)]  # all start before it ends
    assert [run.wait() for run in runs] == [1] * 3
    assert worked_at(tmp_path)["file3"] == 1
    (row,) = failures(tmp_path / "out")
    assert row["output"] == "file3" and row["status"] == "failed"
    assert row["path"] == str(tmp_path / "in" / "file3.bin") and "cannot be read" in row["reason"]
    # The next command tries it again, and only it.
    assert start(tmp_path, 3).wait() == 1
    assert worked_at(tmp_path) == {f"file{i}": 1 + (i == 3) for i in range(6)}
    (tmp_path / "in" / "file3.bin").write_text("content 3 " * 4)
    assert start(tmp_path, 4).wait() == 0
    assert_complete(tmp_path / "out", 6)


# --- Records ------------------------------------------------------------------------------------


class Fake:
    """Recognizes files by writing their content; logs them.

    Args:
        folder: of the inputs "0.bin", "1.bin", ... in its subfolder "in"; results are in "out".
    """

    def __init__(self, folder, count=3):
        self.folder, self.log, self.effect = folder, [], lambda job: ""
        (folder / "in").mkdir()
        for i in range(count):
            (folder / "in" / f"{i}.bin").write_text(f"{i}")

    def jobs(self):
        return [Job(path, path.stem) for path in sorted((self.folder / "in").iterdir())]

    def __call__(self, job, stem):
        self.log.append(job.name)
        problem = self.effect(job)
        files.with_suffix(stem, ".txt").write_text(job.source.read_text())
        return problem

    def run(self, settings=(), outputs=(), jobs=None, **options):
        """Returns the outcome, and the inputs that were recognized."""
        self.log = []
        ledger = Ledger(Folder(self.folder / "out"), dict(settings), outputs,
                        inputs.version)  # fmt: skip
        options.setdefault("run", "run")
        archive = Archive(
            self.jobs() if jobs is None else jobs, ledger, self, lambda job: 2.0, Options(**options)
        )
        return archive.run(), sorted(self.log)


@pytest.fixture
def fake(tmp_path):
    (tmp_path / "out").mkdir()
    return Fake(tmp_path)


def test_what_is_done_is_skipped(fake):
    outcome, log = fake.run()
    assert log == ["0", "1", "2"] == sorted(outcome.own) and not outcome.failures
    record = json.loads((fake.folder / "out" / ".jdance" / "records" / "1.json").read_text())
    assert record["files"] == {"1.txt": 1} and record["seconds"] == 2
    outcome, log = fake.run()
    assert log == outcome.own == [] and outcome.results == {"0", "1", "2"}


def test_what_has_changed_is_done_again(fake):
    fake.run({"model": "a"}, ["srt"])
    source, result = fake.folder / "in" / "1.bin", fake.folder / "out" / "1.txt"
    os.utime(source, (5, 5))
    assert fake.run({"model": "a"}, ["srt"])[1] == ["1"]
    result.write_text("longer")
    assert fake.run({"model": "a"}, ["srt"])[1] == ["1"] and result.read_text() == "1"
    result.unlink()
    assert fake.run({"model": "a"}, ["srt"])[1] == ["1"]
    record = fake.folder / "out" / ".jdance" / "records" / "2.json"
    record.write_text("{")
    assert fake.run({"model": "a"}, ["srt"])[1] == ["2"]
    assert fake.run({"model": "a"}, [])[1] == []  # fewer files are wanted
    assert fake.run({"model": "a"}, ["srt", "vtt"])[1] == ["0", "1", "2"]
    assert fake.run({"model": "b"}, ["vtt"])[1] == ["0", "1", "2"]
    part = [Job(fake.folder / "in" / "0.bin", "0", 1.0, 2.0)]
    assert fake.run({"model": "b"}, ["vtt"], part)[1] == ["0"]


def test_images_do_not_depend_on_settings_of_videos(tmp_path):
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    for name in ("a.jpg", "b.mp4"):
        (tmp_path / "in" / name).touch()
    jobs, log = listing.jobs(str(tmp_path / "in"), "out"), []

    def run(settings, video_settings=("sequence",)):
        log.clear()
        ledger = Ledger(Folder(tmp_path / "out"), settings, [], lambda job: 0, video_settings)
        write = lambda job, stem: log.append(job.name)  # noqa: E731
        Archive(jobs, ledger, write, lambda job: 0.0, Options("run")).run()
        return sorted(log)

    assert run({"model": 1, "sequence": "x"}, ()) == ["a", "b"]  # a record with all settings
    assert run({"model": 1, "sequence": "x"}) == []
    assert run({"model": 1, "sequence": "y"}) == ["b"]
    assert run({"model": 2, "sequence": "y"}) == ["a", "b"]
    assert run({"model": 2, "sequence": "z"}) == ["b"]


def test_overwrite_does_everything_once_a_run(fake):
    fake.run()
    assert fake.run(overwrite=True)[1] == ["0", "1", "2"]
    assert fake.run(overwrite=True)[1] == ["0", "1", "2"]

    def interrupt(job):
        if len(fake.log) == 2:
            raise KeyboardInterrupt
        return ""

    fake.effect = interrupt
    with pytest.raises(KeyboardInterrupt):
        fake.run(overwrite=True)
    first = fake.log[0]
    fake.effect = lambda job: ""
    assert fake.run(overwrite=True)[1] == sorted({"0", "1", "2"} - {first})  # continues
    assert fake.run(overwrite=True)[1] == ["0", "1", "2"]


def test_older_results_are_replaced_as_a_whole(fake):
    """A result is complete even if the process dies while its files are moved."""
    fake.run({"model": "a"})
    replace, moved = os.replace, []

    def dies(source, target):
        if Path(target).name == "1.txt":
            raise SystemExit(1)
        moved.append(target)
        replace(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", dies)
        with pytest.raises(SystemExit):
            fake.run({"model": "b"})
    assert not (fake.folder / "out" / ".jdance" / "records" / "1.json").exists()
    assert "1" in fake.run({"model": "b"})[1]


def test_results_of_another_file_are_not_replaced(fake):
    fake.run()
    other = fake.folder / "other"
    other.mkdir()
    (other / "1.bin").write_text("new")
    jobs = [Job(other / "1.bin", "1"), Job(fake.folder / "in" / "2.bin", "2")]
    outcome, log = fake.run({"model": "b"}, jobs=jobs)
    (failure,) = outcome.failures
    assert "1.json is the result of" in failure.reason and "in/1.bin" in failure.reason
    assert log == ["2"] and (fake.folder / "out" / "1.txt").read_text() == "1"
    # If it was moved, or --overwrite is given, they are.
    assert fake.run({"model": "b"}, jobs=jobs, overwrite=True, run="again")[1] == ["1", "2"]
    (fake.folder / "in" / "1.bin").write_text("other content")
    (other / "1.bin").rename(fake.folder / "elsewhere.bin")
    assert fake.run({"model": "b"})[1] == ["0", "1"]


def test_results_under_a_former_name_are_removed(fake):
    """A second file with the stem changes the name of the first one's results."""
    fake.run()
    (fake.folder / "in" / "1.wav").write_text("x")
    jobs = [Job(fake.folder / "in" / name, name) for name in ("1.bin", "1.wav")]
    assert fake.run(jobs=jobs)[1] == ["1.bin", "1.wav"]
    folder = fake.folder / "out"
    assert not (folder / "1.txt").exists()
    records = sorted(path.name for path in (folder / ".jdance" / "records").iterdir())
    assert records == ["0.json", "1.bin.json", "1.wav.json", "2.json"]


def test_folders_and_longer_names(tmp_path):
    (tmp_path / "out").mkdir()
    fake = Fake(tmp_path, 1)
    job = Job(tmp_path / "in" / "0.bin", "2021/tape.1")

    def write(job, stem):
        stem.with_name(stem.name + ".txt").write_text("x")
        (stem.parent / "tape.1_keypoints").mkdir()
        (stem.parent / "tape.1_keypoints" / "a.json").write_text(str(len(fake.log)))
        return ""

    for settings in ({"model": 1}, {"model": 2}):
        ledger = Ledger(Folder(tmp_path / "out"), settings, [], lambda job: 0)
        fake.log.append("x")
        Archive([job], ledger, write, lambda job: 0.0, Options("run")).run()
    folder = tmp_path / "out" / "2021"
    assert sorted(p.name for p in folder.iterdir()) == ["tape.1.txt", "tape.1_keypoints"]
    assert (folder / "tape.1_keypoints" / "a.json").read_text() == "2"


def test_failures_are_listed(fake):
    def effect(job):
        if job.name == "0":
            raise UserError(f"{job.source}: not a video")
        if job.name == "1":
            raise FileNotFoundError(errno.ENOENT, "No such file", "weights")
        return "3 of 9 frames can be read"

    fake.effect = effect
    jobs = [*fake.jobs(), Job(Path("notes.txt"), "", problem="not a supported format")]
    outcome, log = fake.run(jobs=jobs)
    assert log == ["0", "1", "2"] and outcome.own == ["2"]
    rows = failures(fake.folder / "out")
    assert [row["status"] for row in rows] == ["failed", "failed", "read in part", "failed"]
    assert [row["reason"].split(": ", 1)[1] for row in rows] == [
        "not a video", "weights: No such file",
        f"3 of 9 frames can be read; what was read is in {fake.folder / 'out' / '2'}.json",
        "not a supported format",
    ]  # fmt: skip
    # What was read in part is not read again, but still listed.
    outcome, log = fake.run(jobs=jobs)
    assert log == ["0", "1"] and len(outcome.failures) == 4
    # Another command leaves failures of other inputs in the list, unless these are gone.
    fake.effect = lambda job: ""
    fake.run(jobs=fake.jobs()[:1], run="other")
    assert [row["output"] for row in failures(fake.folder / "out")] == ["1", "2"]
    os.utime(fake.folder / "in" / "2.bin", (5, 5))
    fake.run()
    assert not (fake.folder / "out" / "failures.csv").exists()


def test_max_failures(fake):
    def effect(job):
        raise UserError("bad")

    fake.effect = effect
    outcome, log = fake.run(max_failures=1)
    assert outcome.stopped and len(log) == 2 and outcome.missing == 1
    assert len(fake.run(max_failures=1)[1]) == 2  # tries again
    outcome, log = fake.run(max_failures=3)
    assert not outcome.stopped and len(log) == 3


def test_a_full_disk_stops(fake):
    def effect(job):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out/0.json")

    fake.effect = effect
    outcome, log = fake.run()
    assert len(log) == 1 and outcome.full and "No space left" in outcome.failures[0].reason
    assert not list((fake.folder / "out" / ".jdance" / "claims").iterdir())
    fake.effect = lambda job: ""
    assert fake.run()[1] == ["0", "1", "2"]


def test_transient_failures_are_tried_by_other_processes(fake):
    def effect(job):
        if job.name == "1":
            raise OSError(errno.ESTALE, "Stale file handle", "in/1.bin")
        return ""

    fake.effect = effect
    outcome, _ = fake.run()
    assert outcome.transient and [f.job.name for f in outcome.failures] == ["1"]
    assert not (fake.folder / "out" / ".jdance" / "failures").exists()


def test_inputs_that_kill_their_processes_fail(fake):
    folder = fake.folder / "out" / ".jdance" / "claims"
    folder.mkdir(parents=True)
    holder = {"machine": "another", "token": "x"}
    (folder / f"{key_of('1')}.{MAX_ATTEMPTS}").write_text(json.dumps(holder))
    outcome, log = fake.run(claim_timeout=0.5)
    assert log == ["0", "2"] and "5 processes were killed or crashed" in outcome.failures[0].reason
    assert not list(folder.iterdir())


def test_inputs_on_which_processes_died_come_last(fake):
    folder = fake.folder / "out" / ".jdance" / "claims"
    folder.mkdir(parents=True)
    (fake.folder / "in" / "0.bin").write_text("the largest")
    dead = json.dumps(Claims.holder("0") | {"process": 2**22 + 1})  # above the highest number
    (folder / f"{key_of('0')}.1").write_text(dead)
    order = []
    fake.effect = lambda job: order.append(job.name) or ""
    fake.run()
    assert order[-1] == "0" and len(order) == 3


def test_without_waiting_the_claims_of_others_are_left(fake):
    other = Claims(fake.folder / "out" / ".jdance" / "claims", 100)
    claim = other.take("1")
    outcome, log = fake.run(wait=False)
    assert log == ["0", "2"] and outcome.missing == 1
    other.release(claim)
    assert fake.run(wait=False)[1] == ["1"]


def test_crashes_count_as_attempts(fake):
    def effect(job):
        if job.name == "1":
            raise RuntimeError("out of memory")
        return ""

    fake.effect = effect
    with pytest.raises(RuntimeError):
        fake.run()
    claims = Claims(fake.folder / "out" / ".jdance" / "claims", 0)
    claims.refresh()
    assert claims.take("1").attempt == 2


def test_runs_share_what_is_finished(tmp_path):
    first, second, other = (Run(Folder(tmp_path), name) for name in ("a", "a", "b"))
    assert first.token == second.token != other.token
    job = Job(Path("x.mp4"), "x")
    state = Ledger(Folder(tmp_path / "out"), {}, [], lambda job: 0).fail(
        job, "x.mp4: bad", tmp_path, "run"
    )  # fmt: skip
    first.add(job, state)
    (entry,) = second.poll()
    assert (entry["name"], entry["reason"]) == ("x", "x.mp4: bad")
    assert not list(second.poll()) and not list(first.poll()) and not list(other.poll())
    first.end()
    third = Run(Folder(tmp_path), "a")
    assert third.token != second.token and not list(third.poll())
    for run in (first, second, third, other):
        run.close()


def test_digest_distinguishes_networks():
    tree = {"a": np.zeros((2, 3), np.float32), "b": [np.ones(2), "name"]}
    same = {"b": [np.ones(2), "name"], "a": np.zeros((2, 3), np.float32)}
    assert digest(tree, ["x"]) == digest(same, ["x"])
    others = [
        {**tree, "a": np.zeros((3, 2), np.float32)},
        {**tree, "a": np.zeros((2, 3), np.int32)},
        {**tree, "a": tree["a"] + np.float32(1e-7)},
        {**tree, "b": [np.ones(2), "other"]},
        {**tree, "c": tree["a"]},
    ]
    assert len({digest(other, ["x"]) for other in [tree, *others]}) == 6


# --- Inputs and launchers -----------------------------------------------------------------------


def test_inputs_of_a_pattern_keep_their_folders(tmp_path):
    out = tmp_path / "archive" / "out"
    for name in ("2020/a.mp4", "2021/a.mp4", "2021/a.avi", "2021/b.txt", "c.mp4", "out/d.mp4"):
        (tmp_path / "archive" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "archive" / name).touch()
    found = listing.jobs(f"{tmp_path}/archive/**/*.*", str(out))
    assert [job.name for job in found if not job.problem] == [
        "2020/a", "2021/a.avi", "2021/a.mp4", "c",
    ]  # fmt: skip
    assert [job.source.name for job in found if job.problem] == ["b.txt"]
    with pytest.raises(UserError, match="no file matches"):
        listing.jobs(f"{tmp_path}/archive/*.mkv", str(out))
    with pytest.raises(UserError, match="matches folders only"):
        listing.jobs(f"{tmp_path}/archive/202*", str(out))
    (tmp_path / "archive" / "2020").rename(tmp_path / "archive" / "My [HD] videos")
    (job,) = listing.jobs(f"{tmp_path}/archive/My [HD] videos/*.mp4", str(out))
    assert job.name == "a"


def test_long_names_are_cut():
    names = ["踊" * 80 + f"{i}.mp4" for i in range(2)]
    first, second = files.distinct_names([Path(name) for name in names])
    assert first != second and first.startswith("踊踊")
    assert len(f"{first}_joints.csv.partial".encode()) < 255


def test_results_do_not_have_the_names_of_files_about_all_results(tmp_path):
    archive = tmp_path / "archive"
    (archive / "2020").mkdir(parents=True)
    for name in ("failures.mp4", "failures-2.mp4", "Summary.mp4", "2020/summary.mp4"):
        (archive / name).touch()
    expected = ["Summary-2", "failures-2", "failures-3"]
    for text in (str(archive), f"{archive}/**/*.mp4"):
        found = [job.name for job in listing.jobs(text, "out") if not job.problem]
        assert [name for name in found if name != "2020/summary"] == expected
    assert found[0] == "2020/summary" or found[-1] == "2020/summary"
    assert listing.jobs(str(archive / "failures.mp4"), "out")[0].name == "failures-2"
    (archive / "list.csv").write_text("path,output\nfailures.mp4,\na.mp4,Failures\n")
    first, second = listing.jobs(str(archive / "list.csv"), "out")
    assert first.name == "failures-2" and "choose another" in second.problem
    for names, stem in ((["a", "2020/images"], "images"), (["Images"], "images_"),
                        (["images_coco", "images_"], "images__")):  # fmt: skip
        assert gather.stem_name(names) == stem


def test_inputs_of_a_csv_file(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    archive = tmp_path / "archive"
    archive.mkdir()
    lines = [
        "path;start;end;output", "2020/a.mp4;;;", "2020/a.mp4;1,5;3;solo", f"{tmp_path}/x.mp4;;4;",
        "../y.mp4;;;", "2020/b.jpg;1;2;", "c.mp4;5;4;", ";;;x", ";;;", "d.mp4;;;../d",
        "e.mp4;;;2021/e",
    ]  # fmt: skip
    (archive / "list.csv").write_text("\n".join(lines))
    found = listing.jobs(str(archive / "list.csv"), str(tmp_path / "out"))
    good = [(job.name, job.start, job.end) for job in found if not job.problem]
    assert good == [
        ("2020/a", None, None), ("solo", 1.5, 3.0), ("x", None, 4.0), ("y", None, None),
        ("2021/e", None, None),
    ]  # fmt: skip
    problems = {str(job.source).split(", ")[-1]: job.problem for job in found if job.problem}
    assert problems.keys() == {"line 6", "line 7", "line 8", "line 10"}
    assert "for videos" in problems["line 6"] and "inside --output" in problems["line 10"]
    (archive / "empty").mkdir()
    (archive / "clip").mkdir()
    (archive / "clip" / "0.json").touch()
    (archive / "list.csv").write_text("path\nempty\nclip\n")
    empty, clip = listing.jobs(str(archive / "list.csv"), str(tmp_path / "out"))
    assert "empty: a folder without OpenPose JSON files" in empty.problem and clip.name == "clip"
    for text, message in (
        ("path,output\na.mp4,x\nb.mp4,X\n", "lines 2 and 3 have the same results"),
        ("file\na.mp4\n", "must name the column path"),
        ("path\n", "lists no inputs"),
    ):
        (archive / "list.csv").write_text(text)
        with pytest.raises(UserError, match=message):
            listing.jobs(str(archive / "list.csv"), str(tmp_path / "out"))


def test_results_do_not_lie_among_the_inputs(tmp_path, monkeypatch):
    for name in ("archive/2020/a.jpg", "orig/b.jpg", "clip/f_000000000000_keypoints.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "b.jpg").symlink_to(tmp_path / "orig" / "b.jpg")
    monkeypatch.chdir(tmp_path)

    def check(source, output):
        listing.check_output(listing.jobs(source, output), Folder(Path(output)))

    def check_list(rows, output):
        (tmp_path / "archive" / "list.csv").write_text(f"path,output\n{rows}")
        check("archive/list.csv", output)

    for source, output in (
        ("orig", "orig"), ("orig", "./links/../orig"), ("links", "orig"), ("links", "links"),
        ("clip", "clip"), ("clip", "."),
    ):  # fmt: skip
        with pytest.raises(UserError, match="is a folder of the inputs"):
            check(source, output)
    with pytest.raises(UserError, match="archive/2020: is a folder of the inputs"):
        check_list("2020/a.jpg,", "archive")
    with pytest.raises(UserError, match="archive/2020: is a folder of the inputs"):
        check_list("../orig/b.jpg,2020/a\n2020/a.jpg,x/a", "archive")
    check_list("2020/a.jpg,results/a", "out")
    for source, output in (("orig", "orig/out"), ("links", "out"), ("archive/*/*.jpg", "out")):
        check(source, output)


def test_a_clip_in_the_current_folder_has_its_name(tmp_path, monkeypatch):
    (tmp_path / "clip" / "sub").mkdir(parents=True)
    (tmp_path / "clip" / "f_000000000000_keypoints.json").write_text("{}")
    monkeypatch.chdir(tmp_path / "clip")
    assert [job.name for job in listing.jobs(".", "../out")] == ["clip"]
    monkeypatch.chdir(tmp_path / "clip" / "sub")
    assert [job.name for job in listing.jobs("..", "../../out")] == ["clip"]


def test_key_points_of_inputs_in_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def found(*listed):
        jobs = [Job(Path(path), name) for path, name in listed]
        return [
            str(job.keypoints or job.problem) for job in inputs.with_keypoints(jobs, Path("kp"))
        ]

    def put(*names):
        for name in names:
            file = Path("kp") / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("{}")

    photos = ("in/2020/x.jpg", "2020/x"), ("in/2021/x.jpg", "2021/x"), ("in/2021/y.jpg", "2021/y")
    put("x_keypoints.json", "y_keypoints.json")
    problem = "2 inputs are called x; its key points must be kp/{}/x_keypoints.json"
    assert found(*photos) == [
        problem.format(2020), problem.format(2021), "kp/y_keypoints.json"
    ]  # fmt: skip
    put("2021/x_keypoints.json", "2021/y_keypoints.json")
    assert found(*photos)[1:] == ["kp/2021/x_keypoints.json", "kp/2021/y_keypoints.json"]
    assert found(photos[0], photos[2]) == ["kp/x_keypoints.json", "kp/2021/y_keypoints.json"]
    assert found(("in/2020/z.jpg", "2020/z")) == ["kp/2020/z_keypoints.json"]
    # Results of the same stem are called by the whole name; parts of a video share key points.
    put("a_keypoints.json", "a.jpg_keypoints.json")
    pair = found(("in/a.jpg", "a.jpg"), ("in/a.png", "a.png"))
    assert pair[0] == "kp/a.jpg_keypoints.json" and "must be kp/a.png_key" in pair[1]
    assert found(("in/a.jpg", "a.jpg"), ("in/a.mp4", "a.mp4")) == ["kp/a_keypoints.json", "kp"]
    put("x_0_keypoints.json", "x_1_000_keypoints.json", "a.mp4_keypoints/a_0_keypoints.json")
    assert found(("in/x.mp4", "one"), ("in/x.mp4", "two")) == ["kp", "kp"]
    films = ("in/2020/x.mp4", "2020/x"), ("in/2021/x.mp4", "2021/x")
    assert found(*films)[0] == problem.format(2020).replace("x_key", "x_000000000000_key")
    put("2020/x_0_keypoints.json", "2021/x_keypoints/x_0_keypoints.json")
    assert found(*films) == ["kp/2020", "kp/2021/x_keypoints"]
    pair = found(("in/a.mp4", "a.mp4"), ("in/a.webm", "a.webm"))
    assert pair[0] == "kp/a.mp4_keypoints" and "a.webm_keypoints/a_0" in pair[1]
    for clip in ("in/2020/clip", "in/2021/clip"):  # with key points of its own
        (tmp_path / clip).mkdir(parents=True)
    assert found(("in/2020/clip", "2020/clip"), ("in/2021/clip", "2021/clip")) == ["", ""]
    before = inputs.version(Job(Path("kp"), "", keypoints=Path("kp/a_keypoints.json")))
    assert before["keypoints"]["files"] == 1


def test_versions_of_inputs(tmp_path):
    video, points = tmp_path / "a.mp4", tmp_path / "points"
    job = Job(video, "", keypoints=points)
    points.mkdir()
    video.write_text("x")
    (points / "a_000_keypoints.json").write_text("{}")
    before = inputs.version(job)
    assert before["size"] == 1 and before["keypoints"]["size"] == 2
    (points / "a_001_keypoints.json").write_text("{}")
    assert inputs.version(job) != before
    (points / "other_001_keypoints.json").write_text("{}")
    assert inputs.version(job)["keypoints"]["files"] == 2
    assert inputs.version(Job(points, ""))["files"] == 3
    with pytest.raises(OSError, match="No such file"):
        inputs.version(Job(tmp_path / "none.mp4", ""))


def test_processes_are_detected():
    step = dict.fromkeys(("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_LOCALID"), "1")
    step |= {"SLURM_NTASKS": "4", "SLURM_PROCID": "3"}
    names = {"ID": "14", "MIN": "10", "STEP": "2", "COUNT": "5"}
    array = {f"SLURM_ARRAY_TASK_{name}": value for name, value in names.items()}
    mpi = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}
    for environment, expected in (
        ({}, (0, 1)), (step, (3, 4)), (array, (2, 5)), (array | step, (11, 20)), (mpi, (1, 2)),
        ({"JOB_COMPLETION_INDEX": "3"}, (0, 1)),
    ):  # fmt: skip
        assert this_process(None, None, environment) == expected
    assert this_process(1, 3, array) == (1, 3)
    assert this_process(None, 5, {"JOB_COMPLETION_INDEX": "3"}) == (3, 5)
    for flags in ((None, 3), (3, 3), (1, None)):
        with pytest.raises(UserError, match="give both"):
            this_process(*flags, {})
