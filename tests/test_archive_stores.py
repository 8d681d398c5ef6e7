"""Recognition of archives in object stores: inputs are copied, results uploaded one by one."""

import json
import random
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT
from programs import Script, program
from stores import BUCKET, server, store, variables  # noqa: F401 (fixtures)
from test_archive_programs import add_photo, add_video

from jdance.errors import UserError, exit_status
from jdance.recognize import inputs, listing, storage
from jdance.recognize.archive import Archive, Options
from jdance.recognize.inputs import Job
from jdance.recognize.ledger import Ledger
from jdance.recognize.storage import Folder
from jdance.remote import copies, lease, objects, spool

IN, OUT = f"{BUCKET}/in", f"{BUCKET}/out"


def put(*names, folder=IN):
    for name in names:
        objects.write(f"{folder}/{name}", f"content of {name}".encode())


# --- Copies -------------------------------------------------------------------------------------


class Fake:
    """Recognizes objects by writing their content in capitals; notes what it sees.

    Attributes:
        log: names of the recognized inputs.
        held: numbers of copies on the disk during each.
        effect: called for each.
    """

    def __init__(self, folder):
        self.folder, self.log, self.held, self.effect = folder, [], [], lambda job: None

    def __call__(self, job, stem):
        self.log.append(job.name)
        assert job.source.name == f"{job.name}.mp4"
        self.held.append(len(self.copies()))
        self.effect(job)
        if job.source.read_bytes().startswith(b"bad"):
            raise UserError(f"{job.source}: not a video")
        stem.with_suffix(".txt").write_text(job.source.read_text().upper())
        return f"{job.source} is cut" if job.source.read_bytes().endswith(b"cut") else ""

    def copies(self):
        return list((self.folder / "cache" / "remote" / "spool").glob("*/*/*.mp4"))

    def run(self, output, **options):
        """Returns the outcome, and the inputs that were recognized, in order."""
        self.log, self.held = [], []
        with storage.opened(str(output)) as opened:
            ledger = Ledger(opened, {}, [], inputs.version)
            jobs = listing.jobs(f"{IN}/**/*.mp4", OUT)
            outcome = Archive(jobs, ledger, self, lambda job: 1.0, Options("r", **options)).run()
        assert not self.copies()
        return outcome, self.log


@pytest.fixture
def fake(store, tmp_path):
    return Fake(tmp_path)


def downloads(store):
    return [line for line in store.log() if line.startswith("GET") and line.endswith(".mp4")]


def test_inputs_are_copied_one_by_one(store, fake):
    for i in range(5):
        objects.write(f"{IN}/{i}.mp4", f"number {i}".encode() * (i + 1))
    outcome, log = fake.run(fake.folder / "out")
    assert log == ["4", "3", "2", "1", "0"] and not outcome.failures
    assert max(fake.held) <= 2
    assert (fake.folder / "out" / "2.txt").read_text() == "NUMBER 2" * 3
    record = json.loads((fake.folder / "out" / ".jdance" / "records" / "2.json").read_text())
    assert record["source"] == f"{IN}/2.mp4" and record["version"]["size"] == 24
    store.faults()
    assert fake.run(fake.folder / "out")[1] == [] and not downloads(store)
    objects.write(f"{IN}/2.mp4", b"NUMBER 2" * 3)  # of the same size
    assert fake.run(fake.folder / "out")[1] == ["2"] and len(downloads(store)) == 1


def test_several_inputs_at_once(store, fake):
    put(*(f"{i}.mp4" for i in range(9)))
    barrier = threading.Barrier(3, timeout=60)
    fake.effect = lambda job: barrier.wait()
    outcome, log = fake.run(OUT, at_once=3)
    assert sorted(log) == [str(i) for i in range(9)] and not outcome.failures
    assert 3 <= max(fake.held) <= 4
    for i in range(9):
        assert objects.read(f"{OUT}/{i}.txt") == f"CONTENT OF {i}.MP4".encode()
    store.faults()
    assert fake.run(OUT, at_once=3)[1] == [] and not downloads(store)


def test_a_stop_does_not_wait_for_copies(store, fake):
    put("0.mp4")
    store.faults(("hold", "GET", r"/in/0\.mp4", 1))
    copies_of_process = spool.Spool()
    copy = copies_of_process.take(f"{IN}/0.mp4", None)
    timer = threading.Timer(0.2, copies_of_process.stop)
    timer.start()
    with pytest.raises(spool.Stopped):
        copy.wait()
    timer.join()
    copies_of_process.close()


def test_parts_of_an_input_and_the_copies_of_killed_processes(store, fake):
    put("a.mp4", "b.mp4")
    rows = "path,start,end,output\na.mp4,,,x\na.mp4,1,,y\nb.mp4,,,\n"
    objects.write(f"{BUCKET}/in/list.csv", rows.encode())
    seen = []

    def recognize(job, stem):
        seen.append((job.name, job.source.read_text()))
        stem.with_suffix(".txt").write_text("x")
        return ""

    ledger = Ledger(Folder(fake.folder / "out"), {}, [], inputs.version)
    jobs = listing.jobs(f"{IN}/list.csv", OUT)
    Archive(jobs, ledger, recognize, lambda job: 1.0, Options("r")).run()
    assert sorted(seen) == [
        ("b", "content of b.mp4"), ("x", "content of a.mp4"), ("y", "content of a.mp4"),
    ]  # fmt: skip
    alive = spool.Spool()
    entry = objects.stat(f"{IN}/a.mp4")
    with alive.take(f"{IN}/a.mp4", entry) as path:
        dead = path.parents[1].with_name(path.parents[1].name + "dead")
        dead.mkdir()
        (dead / "a.mp4").touch()
        spool.Spool().close()
        assert path.exists() and not dead.exists()
    alive.close()


@pytest.mark.parametrize("fault", ["503", "cut", "wrong"])
def test_faults_that_pass(store, fake, fault):
    put(*(f"{i}.mp4" for i in range(4)))
    store.faults((fault, "GET", r"/in/\d\.mp4", 3))
    outcome, log = fake.run(OUT)
    assert sorted(log) == ["0", "1", "2", "3"] and not outcome.failures
    for i in range(4):
        assert objects.read(f"{OUT}/{i}.txt") == f"CONTENT OF {i}.MP4".encode()


def test_failures_of_single_inputs(store, fake, monkeypatch):
    put("0.mp4", "1.mp4", "2.mp4")
    objects.write(f"{IN}/3.mp4", b"bad")
    objects.write(f"{IN}/4.mp4", b"is cut")
    monkeypatch.setenv("JDANCE_RETRY_SECONDS", "0.3")
    store.faults(("503", "GET", r"/in/1\.mp4", 1000))
    fake.effect = lambda job: objects.delete(f"{IN}/2.mp4") if job.name == "0" else None
    outcome, log = fake.run(OUT)
    assert log == ["0", "4", "3"] and exit_status(outcome.transient) == 74
    reasons = {failure.job.name: failure.reason for failure in outcome.failures}
    assert reasons.keys() == {"1", "2", "3", "4"}
    assert reasons["1"].startswith(f"{IN}/1.mp4: the store or the network failed")
    assert reasons["2"].startswith(f"{IN}/2.mp4: no such bucket or object")
    assert reasons["3"] == f"{IN}/3.mp4: not a video"
    assert reasons["4"] == (f"{IN}/4.mp4: {IN}/4.mp4 is cut; what was read is in {OUT}/4.json")
    listed = objects.read(f"{OUT}/failures.csv").decode()
    assert f"{IN}/3.mp4,,,3,failed,{IN}/3.mp4: not a video" in listed
    store.faults()
    outcome, log = fake.run(OUT)
    assert sorted(log) == ["1", "3"]
    assert {failure.job.name for failure in outcome.failures} == {"3", "4"}


def test_wrong_bytes_that_stay(store, fake):
    put("0.mp4", "1.mp4")
    store.faults(("wrong", "GET", r"/in/1\.mp4", 1), ("cut", "GET", r"/in/1\.mp4", 0))
    entry = objects.stat(f"{IN}/1.mp4")
    objects.download(f"{IN}/1.mp4", fake.folder / "copy", expected=entry)
    assert (fake.folder / "copy").read_text() == "content of 1.mp4"  # the second copy
    objects.write(f"{IN}/1.mp4", b"other content")
    with pytest.raises(UserError, match="has changed since it was listed"):
        objects.download(f"{IN}/1.mp4", fake.folder / "copy", expected=entry)


def test_etags_that_are_not_the_md5(store, tmp_path, monkeypatch):
    """Two different wrong copies are refused; two equal ones show that the ETag is no MD5."""
    put("0.mp4")
    read_range, damage = objects._read_range, iter(b"ab")

    def damaged(address, start, size):
        return bytes([next(damage)]) + read_range(address, start, size)[1:]

    monkeypatch.setattr(objects, "_without_md5", set())
    monkeypatch.setattr(objects, "_read_range", damaged)
    with pytest.raises(UserError, match=r"wrong bytes \(its MD5 is not its ETag\)"):
        objects.download(f"{IN}/0.mp4", tmp_path / "0.mp4")
    assert not list(tmp_path.glob("*0.mp4*"))
    damage = iter(b"aaa")
    for _ in range(2):  # the second time, one copy suffices
        objects.download(f"{IN}/0.mp4", tmp_path / "0.mp4")
    assert (tmp_path / "0.mp4").read_bytes() == b"aontent of 0.mp4"


# --- Results ------------------------------------------------------------------------------------


def test_results_go_up_one_by_one_and_the_record_last(store, fake):
    put("0.mp4", "1.mp4")
    fake.run(OUT)
    writes = [line for line in store.log() if line.startswith("PUT") and "lock" not in line]
    writes = [line.removeprefix("PUT /dances/") for line in writes if ".token" not in line]
    assert writes == [
        "in/0.mp4", "in/1.mp4", "out/0.txt", "out/.jdance/records/0.json", "out/1.txt",
        "out/.jdance/records/1.json",
    ]  # fmt: skip
    assert objects.listing(OUT).keys() == {
        "0.txt", "1.txt", ".jdance/records/0.json", ".jdance/records/1.json",
    }  # fmt: skip
    folder = copies.folder(OUT, "output")
    assert not [path for path in folder.rglob("*") if path.is_file()]  # uploaded, and not kept
    objects.delete(f"{OUT}/1.txt")
    objects.write(f"{OUT}/0.txt", b"shorter")
    assert sorted(fake.run(OUT)[1]) == ["0", "1"]
    assert sorted(fake.run(OUT, overwrite=True)[1]) == ["0", "1"]


def test_another_machine_continues(store, fake, monkeypatch):
    put("0.mp4", "1.mp4", "2.mp4")

    def interrupted(job, stem):
        if len(fake.log) == 2:
            raise KeyboardInterrupt
        return Fake.__call__(fake, job, stem)

    jobs = listing.jobs(f"{IN}/**/*.mp4", OUT)
    with pytest.raises(KeyboardInterrupt), storage.opened(OUT) as opened:
        ledger = Ledger(opened, {}, [], inputs.version)
        Archive(jobs, ledger, interrupted, lambda job: 1.0, Options("r", overwrite=True)).run()
    assert len(fake.log) == 2
    monkeypatch.setenv("JDANCE_CACHE", str(fake.folder / "cache2"))
    fake.copies = list
    assert len(fake.run(OUT, overwrite=True)[1]) == 1  # continues the same run
    assert fake.run(OUT)[1] == []


def test_a_store_that_fails_ends_the_run(store, fake, monkeypatch):
    put("0.mp4", "1.mp4")
    monkeypatch.setenv("JDANCE_RETRY_SECONDS", "0.3")
    store.faults(("503", "PUT", r"/out/1\.txt", 1000))
    with pytest.raises(UserError, match=r"/out/1\.txt: the store or the network failed") as caught:
        fake.run(OUT)
    assert exit_status(caught.value) == 74 and not fake.copies()
    store.faults()
    assert objects.listing(OUT).keys() == {
        "0.txt",
        ".jdance/records/0.json",
        ".jdance/runs/r.token",
    }
    assert not list((copies.folder(OUT, "output") / "claims").iterdir())  # no attempt is counted
    assert fake.run(OUT)[1] == ["1"]


def test_folders_of_results(store, tmp_path):
    count = 3

    def recognize(job, stem):
        folder = stem.with_name(f"{stem.name}_keypoints")
        folder.mkdir()
        for i in range(count):
            (folder / f"{i}.json").write_text(f"{count}")
        return ""

    def run(settings):
        with storage.opened(OUT) as output:
            ledger = Ledger(output, {"s": settings}, [], lambda job: 0)
            job = Job(tmp_path / "a.mp4", "x/a")
            return Archive([job], ledger, recognize, lambda job: 1.0, Options("r")).run().own

    assert run(1) == ["x/a"] and run(1) == []
    count = 2
    assert run(2) == ["x/a"]
    names = [name for name in objects.listing(OUT) if not name.startswith(".")]
    assert names == ["x/a_keypoints/0.json", "x/a_keypoints/1.json"]
    objects.delete(f"{OUT}/x/a_keypoints/1.json")
    assert run(2) == ["x/a"]


def test_one_process_writes_to_an_address(store, fake, monkeypatch):
    put("0.mp4")
    monkeypatch.setattr(lease, "_HEARTBEAT", 0.1)
    monkeypatch.setattr(lease, "_SILENCE", 5.0)
    with storage.opened(OUT) as opened:
        with pytest.raises(UserError, match=r"is in use by process .* or use another --output"):
            fake.run(OUT)
        lock, taken = f"{OUT}/.jdance/lock", b'{"id": "another"}'
        for _ in range(10):  # a heartbeat at the same time replaces it
            objects.write(lock, taken)
            time.sleep(0.5)
            if objects.read(lock) == taken:
                break
        ledger = Ledger(opened, {}, [], inputs.version)
        jobs = listing.jobs(f"{IN}/*.mp4", OUT)
        with pytest.raises(UserError, match="is in use by"):
            Archive(jobs, ledger, fake, lambda job: 1.0, Options("r")).run()
    assert "0.txt" not in objects.listing(OUT)
    with pytest.raises(UserError, match="read only"), storage.opened("https://host/out"):
        pass


def test_killed_processes_lose_the_input_at_hand(store, tmp_path):
    """Each process has a cache of its own, as on another machine."""
    count, log = 16, tmp_path / "log"
    for i in range(count):
        objects.write(f"{IN}/file{i}.bin", f"content {i} ".encode() * (1 + i % 7))
    rng, kills = random.Random(0), 0

    def start(number):
        own = {"JDANCE_CACHE": str(tmp_path / f"cache{number}")}
        return Script(
            [ROOT / "tests" / "archive_run.py", f"--input={IN}", f"--output={OUT}",
             f"--log={log}", "--pause=0.1"],
            tmp_path / f"stdout-{number}", variables=variables() | own,
        )  # fmt: skip

    while True:
        lines = log.read_text().count("\n") if log.exists() else 0
        run = start(kills)
        deadline = time.monotonic() + 300
        while kills < 5 and (log.read_text().count("\n") if log.exists() else 0) < lines + 2:
            assert time.monotonic() < deadline and run.poll() is None, run.stdout.read_text()
            time.sleep(0.01)
        if kills == 5:
            break
        time.sleep(rng.uniform(0, 0.15))  # while it is recognized or uploaded
        run.kill()
        run.wait()
        kills += 1
    assert run.wait() == 0, run.stdout.read_text()
    worked_at = Counter(log.read_text().split())
    assert worked_at.keys() == {f"file{i}" for i in range(count)}
    assert count <= sum(worked_at.values()) <= count + kills
    names = {f"file{i}{suffix}" for i in range(count) for suffix in (".txt", ".second")}
    names |= {f".jdance/records/file{i}.json" for i in range(count)}
    assert objects.listing(OUT).keys() == names
    for i in range(count):
        text = objects.read(f"{OUT}/file{i}.txt").decode()
        assert text == f"CONTENT {i} " * (1 + i % 7)
    spools = Path(tmp_path, f"cache{kills}", "remote", "spool")
    assert [path.name for path in spools.iterdir()] == [".lock"]


def test_processes_with_a_shared_folder_copy_from_a_store(store, tmp_path):
    count, log = 30, tmp_path / "log"
    for i in range(count):
        objects.write(f"{IN}/file{i}.bin", f"content {i} ".encode() * (1 + i % 7))

    def start(number):
        return Script(
            [ROOT / "tests" / "archive_run.py", f"--input={IN}", f"--output={tmp_path / 'out'}",
             f"--log={log}", "--pause=0.2"],
            tmp_path / f"stdout-{number}", variables=variables(),
        )  # fmt: skip

    runs = [start(number) for number in range(3)]
    deadline = time.monotonic() + 300
    while not log.exists() or log.read_text().count("\n") < 8:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    runs[1].kill()
    runs.append(start(3))
    assert [runs[number].wait() for number in (0, 2, 3)] == [0, 0, 0], runs[0].stdout.read_text()
    worked_at = Counter(log.read_text().split())
    assert len(worked_at) == count and sum(worked_at.values()) <= count + 1
    for i in range(count):
        text = (tmp_path / "out" / f"file{i}.txt").read_text()
        assert text == f"CONTENT {i} " * (1 + i % 7)
    spool.Spool().close()
    assert [path.name for path in (tmp_path / "cache/remote/spool").iterdir()] == [".lock"]


# --- Programs -----------------------------------------------------------------------------------


def test_the_programs(store, tmp_path):
    points = add_video(tmp_path, 4)
    add_photo(points, 1)
    add_photo(points, 2)
    for path in (tmp_path / "a.webm", points / "1.png", points / "2.png"):
        (tmp_path / "in" / "2020").mkdir(parents=True, exist_ok=True)
        path.rename(tmp_path / "in" / "2020" / path.name)
    copies.upload_folder(tmp_path / "in", IN)
    objects.write(f"{IN}/bad.mp4", b"no video")
    words = f"--keypoints={points}", "--format=coco"

    def recognize(cache, **kwargs):
        own = variables() | {"JDANCE_CACHE": str(tmp_path / cache)}
        return program("recognize", f"--input={IN}/**/*.*", f"--output={OUT}", *words,
                       variables=own, status=1, **kwargs)  # fmt: skip

    captured, error = recognize("cache")
    assert f"wrote 3 results to {OUT}" in captured
    assert f"skipped {IN}/bad.mp4: " in captured and "cache" not in captured
    assert f"1 of 4 inputs skipped (listed above and in {OUT}/failures.csv)" in error
    store.faults()
    captured, _ = recognize("cache2")
    assert f"wrote 0 results to {OUT}; 3 done by earlier runs" in captured
    assert not [line for line in store.log() if line.startswith("GET") and "/2020/" in line
                and "records" not in line and "/out/" not in line]  # fmt: skip
    # Equal to the results of a local archive.
    local = tmp_path / "out"
    program("recognize", f"--input={tmp_path}/in/**/*.*", f"--output={local}", *words)
    names = objects.listing(OUT)
    for name in ("2020/a.csv", "2020/a_coco.json", "images_coco.json"):
        assert objects.read(f"{OUT}/{name}") == (local / name).read_bytes()
    for name in ("2020/a.webm", "2020/1.png"):
        result = Path(name).with_suffix(".json")
        of_store = json.loads(objects.read(f"{OUT}/{result}"))
        of_folder = json.loads((local / result).read_text())
        assert of_store.pop("source") == f"{IN}/{name}"
        assert of_folder.pop("source") == f"{tmp_path}/in/{name}"
        assert of_store == of_folder
    page = objects.read(f"{OUT}/2020/a.html").decode()
    (annotated,) = (name for name in names if name in ("2020/a.webm", "2020/a.mp4"))
    assert Path(annotated).name in page
    # The table over all.
    program("summarize", f"--input={local}", "--tables=csv")
    captured, _ = program("summarize", f"--input={OUT}", "--tables=csv", variables=variables())
    assert f"wrote summary.csv, summary.html to {OUT}" in captured
    assert objects.read(f"{OUT}/summary.csv") == (local / "summary.csv").read_bytes()
    page = objects.read(f"{OUT}/summary.html").decode()
    assert f"{IN}/bad.mp4" in page and "data:image/jpeg" in page
    # Wrong use ends with one line.
    _, error = program(
        "recognize", f"--input={OUT}/2020/*.png", f"--output={OUT}/2020", "--pose=stage", status=1,
        variables=variables(),
    )  # fmt: skip
    assert "is a folder of the inputs" in error or "no object matches" in error
