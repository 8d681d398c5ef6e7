"""Twenty minutes of training with loader processes take no more of anything than two do."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from programs import program

_MINUTES = float(os.environ.get("JDANCE_TEST_MINUTES", 20))
_NAMES = ("MiB of memory", "MiB of shared memory", "threads", "open files", "processes")


def _used(group):
    """What the processes of a group hold together, by `_NAMES`."""
    total = np.zeros(len(_NAMES))
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(folder.name)) != group:
                continue
            fields = dict(
                line.split(":", 1) for line in (folder / "status").read_text().splitlines()
            )
            files = len(list((folder / "fd").iterdir()))
        except OSError:
            continue  # it has just ended
        if "VmRSS" not in fields:
            continue  # it is about to
        kib = [int(fields[name].split()[0]) for name in ("RssAnon", "RssShmem")]
        total += [kib[0] / 1024, kib[1] / 1024, int(fields["Threads"]), files, 1]
    return total


def _in_shared_memory():
    return {path.name for path in Path("/dev/shm").iterdir()}


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux's /proc")
def test_nothing_grows(tmp_path):
    program("prepare", "--source=stage:tiny", f"--output={tmp_path / 'data'}")
    before = _in_shared_memory()
    with open(tmp_path / "told", "w") as told:
        run = subprocess.Popen(
            [
                sys.executable, ROOT / "launch" / "train.py", "--config=configs/quickstart.py",
                f"--workdir={tmp_path / 'run'}", f"--config.data.dir={tmp_path / 'data'}",
                "--config.data.workers=2", "--config.epochs=1e6", "--config.batch_size=16",
                "--config.eval_every=50.0", "--config.checkpoint_every=50.0",
            ],
            cwd=ROOT, stdout=told, stderr=told, start_new_session=True,
        )  # fmt: skip
    found, start = [], time.monotonic()
    try:
        while time.monotonic() - start < 60 * _MINUTES:
            time.sleep(2)
            assert run.poll() is None, (tmp_path / "told").read_text()
            found.append(_used(run.pid))
        run.send_signal(signal.SIGINT)
        assert run.wait(60) == 130, (tmp_path / "told").read_text()
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
    # After a tenth of the time everything has been done once: steps, evaluations, checkpoints.
    values = np.array(found[len(found) // 10 :])
    parts = np.array([part.mean(0) for part in np.array_split(values, 9)])
    for name, of_part, most in zip(_NAMES, parts.T, values.max(0), strict=True):
        print(f"{name}: {np.round(of_part, 1)}, at most {most:.1f}")
    print((tmp_path / "told").read_text().splitlines()[-1])
    time.sleep(1)
    assert not _used(run.pid).any(), "stray processes"
    assert _in_shared_memory() <= before
    assert (parts[-1] <= 1.1 * parts[0] + [10, 10, 1, 2, 0.5]).all()
