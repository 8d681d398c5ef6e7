"""A job under a real Slurm: preempted in every way, it comes back by itself and ends the same."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from test_cluster import PATIENCE, assert_same, final_state

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
    """A Slurm of this machine's own, with two tasks' worth of jobs to run."""

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
        """The standard output of one of Slurm's programs."""
        return subprocess.run(
            [str(word) for word in command],
            check=check, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=self._environment,
        ).stdout.strip()  # fmt: skip

    def submit(self, workdir):
        """Puts a job of two tasks into the queue; returns its number."""
        return self(
            "sbatch", "--parsable", "--nodes=1", "--ntasks-per-node=2", "--gpus-per-node=2",
            "--cpus-per-task=1", f"--output={workdir}.log", "launch/slurm.sh",
            f"--config={self.config}", f"--workdir={workdir}",
        )  # fmt: skip

    def about(self, job):
        """What Slurm knows of a job: {"JobState": "RUNNING", "Restarts": "1", ...}."""
        words = self("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, job, workdir, states=("COMPLETED",)):
        """Waits until a job is in one of the states; another end of it is a failure."""
        deadline = time.monotonic() + PATIENCE
        while (state := self.about(job)["JobState"]) not in states:
            told = log(workdir)
            assert state in ("PENDING", "RUNNING", "COMPLETING", "REQUEUED"), (state, told)
            assert time.monotonic() < deadline, (state, told)
            time.sleep(0.2)

    def wait_for_checkpoint(self, job, workdir, after):
        """Waits for a running job to have saved a checkpoint of a step after this one."""
        deadline = time.monotonic() + PATIENCE
        while newest(workdir) <= after or self.about(job)["JobState"] != "RUNNING":
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


def newest(workdir):
    """The step of the newest checkpoint; 0 if there is none."""
    names = (path.name for path in (workdir / "checkpoints").glob("*"))
    return max((int(name) for name in names if name.isdigit()), default=0)


def test_a_preempted_job_comes_back_and_ends_bit_identical(slurm):
    undisturbed, disturbed = slurm.folder / "undisturbed", slurm.folder / "disturbed"
    slurm.wait(slurm.submit(undisturbed), undisturbed)
    job = slurm.submit(disturbed)

    # A signal to the tasks alone, as ahead of the time limit: the script requeues the job.
    slurm.wait_for_checkpoint(job, disturbed, after=0)
    slurm("scancel", "--signal=TERM", job)
    deadline = time.monotonic() + PATIENCE
    while slurm.about(job)["Restarts"] != "1":
        assert time.monotonic() < deadline, log(disturbed)
        time.sleep(0.2)
    told = log(disturbed)
    assert told.count("preempted: saved at step ") == 2  # both tasks, the same step
    step = newest(disturbed)
    assert told.count(f"preempted: saved at step {step} of 675") == 2, told
    assert told.count(f"preempted: requeueing job {job}") == 1

    # Slurm's own requeue: the script must not put the job back a second time.
    slurm.wait_for_checkpoint(job, disturbed, after=step)
    slurm("scontrol", "requeue", job)
    slurm.wait(job, disturbed)
    told = log(disturbed)
    assert slurm.about(job)["Restarts"] == "2"
    assert told.count("preempted: requeueing") == 1
    assert f"resuming from step {step} of 675" in told and told.count("resuming from step") == 2
    assert final_state(disturbed)[0] == 675
    assert_same(undisturbed, disturbed, rtol=0, atol=0)


def test_a_cancelled_job_stays_cancelled(slurm):
    workdir = slurm.folder / "cancelled"
    job = slurm.submit(workdir)
    slurm.wait_for_checkpoint(job, workdir, after=0)
    slurm("scancel", job)
    slurm.wait(job, workdir, states=("CANCELLED",))
    time.sleep(8)  # a job that was put back would start after 6
    assert slurm.about(job)["JobState"] == "CANCELLED" and slurm.about(job)["Restarts"] == "0"
