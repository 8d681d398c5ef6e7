"""Fuzzes the readers of jdance: mutated files may only be read or rejected with a UserError.

python tests/fuzz.py                            12,000 inputs over all readers
python tests/fuzz.py --only=pth --inputs=500    one reader
python tests/fuzz.py --only=pth --first=123 --inputs=1 --keep=found      one input, kept

Readers run in child processes. A finding is an input with which a reader raises anything but a
UserError of one line, exceeds its time or memory, crashes, writes outside its output folder, starts
a process, or unpickles an unexpected class. Runs are reproducible by seed. The exit status is 1 if
there are findings.
"""

import argparse
import json
import multiprocessing
import os
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

INPUTS, SECONDS, MEMORY = 12_000, 20.0, 3 * 2**30  # additional bytes of an input
_ROOT = Path(__file__).resolve().parent.parent


def counts(names: list[str], inputs: int) -> dict[str, int]:
    """Divides the inputs among the targets by their weights."""
    from fuzz_targets import TARGETS

    total = sum(TARGETS[name].weight for name in names)
    return {name: -(-int(1000 * inputs * TARGETS[name].weight / total) // 1000) for name in names}


# Child process ------------------------------------------------------------------------------------


def child(name: str, seed: int, first: int, last: int, keep: str, pipe: int) -> None:
    """Reads the inputs first to last - 1 of a target, and reports progress through the pipe."""
    import resource

    import numpy as np
    from fuzz_mutations import mutate
    from fuzz_targets import TARGETS

    from jdance.errors import UserError

    def send(**message: object) -> None:
        os.write(pipe, json.dumps(message).encode() + b"\n")

    target = TARGETS[name]
    root = Path(tempfile.mkdtemp(prefix="fuzz-"))
    (root / "samples").mkdir()
    samples = target.samples(root / "samples")
    forbidden: list[str] = []
    _warm_up(target, samples, root)
    sys.addaudithook(_auditor(root, forbidden))
    _limit_memory(resource)
    try:
        for number in range(first, last):
            rng = np.random.default_rng([seed, zlib.crc32(name.encode()), number])
            folder = root / "input"
            sample = dict(samples[int(rng.integers(len(samples)))])
            mutable = [file for file in sample if target.mutable(file)]
            file = mutable[int(rng.integers(len(mutable)))]
            sample[file] = mutate(rng, sample[file], file)
            _write(folder, sample)
            send(input=number)
            forbidden.clear()
            outcome = ""
            try:
                target.read(folder)
                rejected = False
            except UserError as error:
                rejected = True
                if "\n" in str(error):
                    outcome = f"a message of several lines: {error}"
            except BaseException as error:
                rejected = False
                lines = traceback.format_exception(error)
                outcome = "".join(lines)[-700:]
                del error, lines  # frees the memory held by the frames
            if forbidden:
                outcome = f"forbidden: {forbidden[0]}"
            if outcome and keep:
                shutil.copytree(folder, Path(keep) / f"{name}-{number}", dirs_exist_ok=True)
            if outcome:
                send(finding=number, file=file, what=outcome)
            send(done=number, rejected=rejected)
            shutil.rmtree(folder)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _write(folder: Path, sample: dict[str, bytes]) -> None:
    for file, content in sample.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(content)


def _warm_up(target: object, samples: list[dict[str, bytes]], root: Path) -> None:
    """Checks that all samples can be read, and triggers lazy imports."""
    for sample in samples:
        _write(root / "input", sample)
        try:
            target.read(root / "input")  # type: ignore[attr-defined]
        finally:
            shutil.rmtree(root / "input")


def _limit_memory(resource: object) -> None:
    """Limits the data segment to MEMORY bytes more than now; beyond, MemoryError is raised."""
    status = Path("/proc/self/status").read_text()
    now = 1024 * int(status.partition("VmData:")[2].split()[0])
    resource.setrlimit(resource.RLIMIT_DATA, (now + MEMORY, -1))  # type: ignore[attr-defined]


# Classes that readers of weights may unpickle, see jdance/weights/pth.py.
_UNPICKLED = {"collections.OrderedDict", "torch._utils._rebuild_tensor_v2",
              "torch._utils._rebuild_parameter"}  # fmt: skip


def _auditor(root: Path, forbidden: list[str]):
    inside = os.path.realpath(root)
    starts = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn",
              "socket.connect", "os.fork")  # fmt: skip

    def audit(event: str, arguments: tuple) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = (isinstance(mode, str) and set(mode) & set("wax+")) or (
                isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            )
            if writes and isinstance(path, str | bytes):
                real = os.path.realpath(os.fsdecode(path))
                if not real.startswith((inside, "/dev/", "/proc/")):
                    forbidden.append(f"opens {real} for writing")
        elif event in ("os.remove", "os.rename", "os.mkdir", "os.rmdir"):
            real = os.path.realpath(os.fsdecode(arguments[0]))
            if not real.startswith((inside, "/dev/")):
                forbidden.append(f"{event} {real}")
        elif event in starts:
            forbidden.append(f"{event} {arguments[:2]}")
        elif event == "pickle.find_class":
            wanted = ".".join(map(str, arguments))
            if wanted not in _UNPICKLED and not wanted.startswith("torch."):
                forbidden.append(f"unpickles {wanted}")

    return audit


# Parent process -----------------------------------------------------------------------------------


class Report:
    """Results of one target: numbers of accepted and rejected inputs, and the findings."""

    def __init__(self, name: str):
        self.name, self.accepted, self.rejected = name, 0, 0
        self.findings: list[tuple[int, str]] = []
        self.seconds = 0.0

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.accepted + self.rejected + len(self.findings)} inputs, "
            f"{self.rejected} rejected, {self.accepted} read, {len(self.findings)} findings, "
            f"{self.seconds:.0f} s"
        )


def fuzz(name: str, seed: int, first: int, count: int, keep: str = "") -> Report:
    """Reads `count` mutated inputs of a target in child processes, restarted after crashes."""
    report, start, number = Report(name), time.monotonic(), first
    while number < first + count:
        number = _run_child(report, name, seed, number, first + count, keep)
    report.seconds = time.monotonic() - start
    return report


def _run_child(report: Report, name: str, seed: int, first: int, last: int, keep: str) -> int:
    """Runs one child process; returns the number of the first input that it did not read."""
    read, write = os.pipe()
    with tempfile.TemporaryFile() as log:
        process = os.fork()  # inherits all imports
        if not process:
            os.close(read)
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            status = 1
            try:
                child(name, seed, first, last, keep, write)
                status = 0
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            os._exit(status)
        os.close(write)
        number, found, slow = first - 1, -1, False
        for message in _messages(read, process):
            if "input" in message:
                number = message["input"]
            elif "finding" in message:
                found = number
                report.findings.append((number, f"{message['file']}: {message['what']}"))
            elif "slow" in message:
                slow = True
            elif found != message["done"]:
                report.rejected += message["rejected"]
                report.accepted += not message["rejected"]
        os.close(read)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if status == 0 and number == last - 1:
            return last
        log.seek(0)
        output = log.read().decode(errors="replace")[-2000:]
    if number < first:  # reading the valid samples failed
        raise RuntimeError(f"{name}: the reader does not start\n{output}")
    what = f"took longer than {SECONDS:.0f} s" if slow else f"ended with status {status}"
    report.findings.append((number, f"{what}\n{output}"))
    return number + 1


def _messages(pipe: int, process: int) -> Iterator[dict]:
    """Yields the messages of a child until it exits; kills it if an input takes too long.

    The limit is on the child's CPU time, without its start, to be independent of other load.
    """
    buffer, since, began = b"", _used(process), False
    idle = time.monotonic()
    while True:
        ready, _, _ = select.select([pipe], [], [], 2.0)
        used = _used(process)
        if not ready:
            if (began and used - since > SECONDS) or time.monotonic() - idle > 600:
                os.kill(process, signal.SIGKILL)
                yield {"slow": True}
                return
            continue
        idle = time.monotonic()
        data = os.read(pipe, 65536)
        if not data:
            return
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            yield json.loads(line)
        since, began = used, True


def _used(process: int) -> float:
    """Returns the CPU seconds used by a process."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    from fuzz_targets import TARGETS

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=INPUTS, help="over all readers")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--only", nargs="*", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--keep", default="", help="folder for inputs with findings")
    options = parser.parse_args()
    start, reports = time.monotonic(), []
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("fork")) as pool:
        waiting = [
            pool.submit(fuzz, name, options.seed, options.first, count, options.keep)
            for name, count in counts(options.only, options.inputs).items()
        ]
        for future in as_completed(waiting):
            reports.append(future.result())
            print(reports[-1], flush=True)
            for number, what in reports[-1].findings:
                print(f"  input {number}: {what.strip()}", flush=True)
    inputs = sum(r.accepted + r.rejected + len(r.findings) for r in reports)
    findings = sum(len(r.findings) for r in reports)
    print(f"{inputs} inputs in {time.monotonic() - start:.0f} s, {findings} findings")
    sys.exit(findings > 0)


if __name__ == "__main__":
    sys.path.insert(0, str(_ROOT))
    main()
