"""Resource use stays constant over twenty minutes of training with loader processes."""

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


def _resources(group):
    """Total resources of a process group, by `_NAMES`."""
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
            continue  # the process has exited
        if "VmRSS" not in fields:
            continue  # the process is exiting
        kib = [int(fields[name].split()[0]) for name in ("RssAnon", "RssShmem")]
        total += [kib[0] / 1024, kib[1] / 1024, int(fields["Threads"]), files, 1]
    return total


def _in_shared_memory():
    return {path.name for path in Path("/dev/shm").iterdir()}


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux's /proc")
def test_resources_do_not_grow(tmp_path):
    program("prepare", "--source=stage:tiny", f"--output={tmp_path / 'data'}")
    before = _in_shared_memory()
    with open(tmp_path / "log", "w") as log:
        run = subprocess.Popen(
            [
                sys.executable, ROOT / "launch" / "train.py", "--config=configs/quickstart.py",
                f"--workdir={tmp_path / 'run'}", f"--config.data.dir={tmp_path / 'data'}",
                "--config.data.workers=2", "--config.epochs=1e6", "--config.batch_size=16",
                "--config.eval_every=50.0", "--config.checkpoint_every=50.0",
            ],
            cwd=ROOT, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    samples, start = [], time.monotonic()
    try:
        while time.monotonic() - start < 60 * _MINUTES:
            time.sleep(2)
            assert run.poll() is None, (tmp_path / "log").read_text()
            samples.append(_resources(run.pid))
        run.send_signal(signal.SIGINT)
        assert run.wait(60) == 130, (tmp_path / "log").read_text()
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
    # Without the first tenth, before the first evaluation and checkpoint.
    values = np.array(samples[len(samples) // 10 :])
    parts = np.array([part.mean(0) for part in np.array_split(values, 9)])
    for name, means, highest in zip(_NAMES, parts.T, values.max(0), strict=True):
        print(f"{name}: {np.round(means, 1)}, at most {highest:.1f}")
    print((tmp_path / "log").read_text().splitlines()[-1])
    time.sleep(1)
    assert not _resources(run.pid).any(), "stray processes"
    assert _in_shared_memory() <= before
    assert (parts[-1] <= 1.1 * parts[0] + [10, 10, 1, 2, 0.5]).all()
