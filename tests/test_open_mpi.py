"""Runs started by Open MPI's mpirun: version 4, and version 5 with mpi4py."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec

import pytest
from conftest import ROOT
from test_cluster import TIMEOUT, assert_same, finish, output, start, steps_seen

from jdance.errors import UserError
from jdance.train import distributed


def version():
    """The major version of the Open MPI on the PATH, or None."""
    if not shutil.which("mpirun"):
        return None
    output = subprocess.run(["mpirun", "--version"], capture_output=True, text=True).stdout
    return int(output.split("(Open MPI) ")[1].split(".")[0]) if "(Open MPI) " in output else None


def test_version_5_needs_mpi4py(monkeypatch):
    monkeypatch.delenv("OMPI_MCA_orte_hnp_uri", raising=False)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.setattr(distributed, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install mpi4py"), distributed.initialized(None):
        pass


@pytest.mark.slow
def test_two_processes_of_mpirun_equal_one(tiny_data, tmp_path):
    major = version()
    if major is None or (major >= 5 and not find_spec("mpi4py")):
        pytest.skip("needs Open MPI's mpirun, from version 5 on with mpi4py")
    workdir = tmp_path / "mpi"
    workdir.mkdir()
    run = subprocess.run(
        [
            "mpirun", "-n", "2", "--map-by", ":OVERSUBSCRIBE", "--bind-to", "none",
            sys.executable, str(ROOT / "tests" / "cluster_run.py"), f"--data={tiny_data}",
            f"--workdir={workdir}", "--epochs=2",
        ],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, timeout=TIMEOUT,
        env=os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"},
    )  # fmt: skip
    assert run.returncode == 0 and run.stdout.count("result 15 ") == 2, run.stdout
    finish(tmp_path / "one", start(tiny_data, tmp_path / "one", 1, 2, epochs=2))
    batches, expected = steps_seen(workdir), steps_seen(tmp_path / "one")
    assert all(batches[step] == expected[step] for step in range(1, 12))
    assert_same(workdir, tmp_path / "one", rtol=0, atol=1e-5)
    assert output(tmp_path / "one").splitlines()[-1] in run.stdout
