"""Jobs under a real Slurm: preemption, requeueing and cancellation."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from test_cluster import TIMEOUT, assert_same, final_state

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch")
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(shutil.which(name, path=PATH) for name in PROGRAMS),
        reason="needs slurmctld, slurmd, slurm-client and munge",
    ),
]

CONFIG = """
from jdance import config as defaults

def get_config():
    config = defaults.base()
    config.data.update(dir={data!r}, image_size=32, threads=1)
    config.update(batch_size=8, epochs=120.0, eval_every=1000.0, checkpoint_every=2.0)
    config.model.update(branches="keypoints", keypoint_widths=(16,), fusion_widths=(16,))
    return config
"""


class Slurm:
    """Client of a local Slurm that runs jobs of two tasks."""

    def __init__(self, folder, config):
        self.folder, self.config = folder, config
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith("SLURM_")
        } | {
            "SLURM_CONF": str(folder / "slurm" / "slurm.conf"),
            "PATH": PATH,
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        }

    def __call__(self, *command, check=True):
        """Runs one of Slurm's programs and returns its standard output."""
        return subprocess.run(
            [str(word) for word in command],
            check=check, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=self._environment,
        ).stdout.strip()  # fmt: skip

    def submit(self, workdir):
        """Submits a job of two tasks and returns its number."""
        return self(
            "sbatch", "--parsable", "--nodes=1", "--ntasks-per-node=2", "--gpus-per-node=2",
            "--cpus-per-task=1", f"--output={workdir}.log", "launch/slurm.sh",
            f"--config={self.config}", f"--workdir={workdir}",
        )  # fmt: skip

    def describe(self, job):
        """A job's properties: {"JobState": "RUNNING", "Restarts": "1", ...}."""
        words = self("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, job, workdir, states=("COMPLETED",)):
        """Waits until a job is in one of the states; other final states fail."""
        deadline = time.monotonic() + TIMEOUT
        while (state := self.describe(job)["JobState"]) not in states:
            text = log(workdir)
            assert state in ("PENDING", "RUNNING", "COMPLETING", "REQUEUED"), (state, text)
            assert time.monotonic() < deadline, (state, text)
            time.sleep(0.2)

    def wait_for_checkpoint(self, job, workdir, after):
        """Waits until a running job has saved a checkpoint after step `after`."""
        deadline = time.monotonic() + TIMEOUT
        while newest_step(workdir) <= after or self.describe(job)["JobState"] != "RUNNING":
            assert time.monotonic() < deadline, log(workdir)
            time.sleep(0.05)


@pytest.fixture(scope="module")
def slurm(tiny_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    config = folder / "config.py"
    config.write_text(CONFIG.format(data=str(tiny_data)))
    script = ["bash", str(ROOT / "tests" / "start_slurm.sh"), str(folder / "slurm")]
    subprocess.run(script, check=True)
    try:
        yield Slurm(folder, config)
    finally:
        subprocess.run([*script, "stop"], check=True)


def log(workdir):
    path = Path(f"{workdir}.log")
    return path.read_text() if path.exists() else ""


def newest_step(workdir):
    """The step of the newest checkpoint; 0 if there is none."""
    names = (path.name for path in (workdir / "checkpoints").glob("*"))
    return max((int(name) for name in names if name.isdigit()), default=0)


def test_preempted_job_is_requeued_and_ends_bit_identical(slurm):
    uninterrupted, interrupted = slurm.folder / "uninterrupted", slurm.folder / "interrupted"
    slurm.wait(slurm.submit(uninterrupted), uninterrupted)
    job = slurm.submit(interrupted)

    # A signal to the tasks alone, as ahead of the time limit: the script requeues the job.
    slurm.wait_for_checkpoint(job, interrupted, after=0)
    slurm("scancel", "--signal=TERM", job)
    deadline = time.monotonic() + TIMEOUT
    while slurm.describe(job)["Restarts"] != "1":
        assert time.monotonic() < deadline, log(interrupted)
        time.sleep(0.2)
    text = log(interrupted)
    assert text.count("preempted: saved at step ") == 2  # both tasks, the same step
    step = newest_step(interrupted)
    assert text.count(f"preempted: saved at step {step} of 675") == 2, text
    assert text.count(f"preempted: requeueing job {job}") == 1

    # Requeued by Slurm itself: the script must not requeue the job a second time.
    slurm.wait_for_checkpoint(job, interrupted, after=step)
    slurm("scontrol", "requeue", job)
    slurm.wait(job, interrupted)
    text = log(interrupted)
    assert slurm.describe(job)["Restarts"] == "2"
    assert text.count("preempted: requeueing") == 1
    assert f"resuming from step {step} of 675" in text and text.count("resuming from step") == 2
    assert final_state(interrupted)[0] == 675
    assert_same(uninterrupted, interrupted, rtol=0, atol=0)


def test_cancelled_job_stays_cancelled(slurm):
    workdir = slurm.folder / "cancelled"
    job = slurm.submit(workdir)
    slurm.wait_for_checkpoint(job, workdir, after=0)
    slurm("scancel", job)
    slurm.wait(job, workdir, states=("CANCELLED",))
    time.sleep(8)  # a requeued job would start after 6
    assert slurm.describe(job)["JobState"] == "CANCELLED" and slurm.describe(job)["Restarts"] == "0"
