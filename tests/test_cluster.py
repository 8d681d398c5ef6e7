"""Multi-process runs on simulated devices: equal results, preemption, dead and hung peers."""

import signal
import socket
import time
from contextlib import closing
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import ROOT
from programs import Script

from jdance.errors import UserError
from jdance.train import distributed
from jdance.train.checkpoints import Checkpoints

TIMEOUT = 600  # seconds; runs take a few on an idle machine


def start(data, workdir, processes=1, devices=1, **flags):
    """Starts the processes of a run, with output to WORKDIR.outN."""
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    command = [
        ROOT / "tests" / "cluster_run.py", f"--data={data}", f"--workdir={workdir}",
        f"--devices={devices}", *(f"--{name}={value}" for name, value in flags.items()),
    ]  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    runs = []
    for number in range(processes):
        address = [f"--coordinator={coordinator}", f"--process_id={number}"]
        address += [f"--num_processes={processes}"]
        arguments = command + (address if processes > 1 else [])
        runs.append(Script(arguments, f"{workdir}.out{number}"))
    return runs


def output(workdir, number=0):
    return Path(f"{workdir}.out{number}").read_text()


def finish(workdir, runs, status=0):
    """Waits for all processes and checks their exit status."""
    deadline = time.monotonic() + TIMEOUT
    try:
        for number, run in enumerate(runs):
            run.wait(max(1, deadline - time.monotonic()))
            assert run.returncode == status, output(workdir, number)
    finally:
        for run in runs:
            run.kill()
            run.wait()


def steps_seen(workdir):
    """{step: the sorted examples of its global batch}."""
    seen = {}
    for path in Path(workdir).glob("seen-*.txt"):
        for line in path.read_text().splitlines():
            step, *examples = map(int, line.split())
            seen.setdefault(step, []).extend(examples)
    return {step: sorted(examples) for step, examples in seen.items()}


def wait_for_step(workdir, runs, step):
    deadline = time.monotonic() + TIMEOUT
    while max(steps_seen(workdir), default=0) < step:
        assert time.monotonic() < deadline, output(workdir)
        assert all(run.poll() is None for run in runs), output(workdir)
        time.sleep(0.02)


def final_state(workdir):
    """Step and leaves by path of the newest checkpoint."""
    with closing(Checkpoints(Path(workdir))) as checkpoints:
        step = checkpoints.latest_step()
        flat, _ = jax.tree_util.tree_flatten_with_path(checkpoints.restore_numpy(step))
    return step, {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in flat}


def assert_same(a, b, **tolerance):
    (step_a, leaves_a), (step_b, leaves_b) = final_state(a), final_state(b)
    assert step_a == step_b and leaves_a.keys() == leaves_b.keys()
    for path in leaves_a:
        np.testing.assert_allclose(leaves_a[path], leaves_b[path], err_msg=path, **tolerance)


# --- Addresses and launchers --------------------------------------------------------------------


def test_address_from_flags():
    assert distributed.address_from_flags("", None, None, {"JOB_COMPLETION_INDEX": "3"}) is None
    assert distributed.address_from_flags("a:1", 2, 4, {}) == ("a:1", 2, 4)
    assert distributed.address_from_flags("a:1", None, 4, {"JOB_COMPLETION_INDEX": "3"}) == (
        "a:1",
        3,
        4,
    )
    for arguments, message in {
        ("", 0, 2): "need --coordinator",
        ("a", 0, 2): "expected HOST:PORT",
        ("a:1", None, 2): "needs --process_id",
        ("a:1", 0, None): "needs --num_processes",
        ("a:1", 2, 2): "must be from 0 to 1",
    }.items():
        with pytest.raises(UserError, match=message):
            distributed.address_from_flags(*arguments, {})


def test_launchers_are_detected():
    slurm = dict.fromkeys(distributed._SLURM, "1")
    assert distributed.detect_launcher({}) is None
    assert distributed.detect_launcher(slurm) is None  # srun with one task
    assert distributed.detect_launcher(slurm | {"SLURM_NTASKS": "2"}) == "slurm"
    assert (
        distributed.detect_launcher({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "2"}) is None
    )  # no srun
    mpi = {"OMPI_COMM_WORLD_SIZE": "2"}
    assert distributed.detect_launcher(mpi) == distributed.detect_launcher(slurm | mpi) == "mpi4py"
    assert distributed.detect_launcher(mpi | {"OMPI_MCA_orte_hnp_uri": "x"}) == "ompi"
    assert distributed.detect_launcher({"OMPI_COMM_WORLD_SIZE": "1"}) is None


# --- One run in three layouts -------------------------------------------------------------------


def compare_layouts(data, folder, layouts, epochs):
    for name, (processes, devices) in layouts.items():
        runs = start(data, folder / name, processes, devices, epochs=epochs)
        finish(folder / name, runs)
    first, *others = layouts
    batches = steps_seen(folder / first)
    assert len(batches) >= int(epochs * 45 / 8) and all(len(b) == 8 for b in batches.values())
    steps, _ = final_state(folder / first)
    for other in others:
        other_batches = steps_seen(folder / other)
        # Batches are prefetched, in varying number.
        assert all(batches[step] == other_batches[step] for step in range(1, steps + 1))
        assert_same(folder / first, folder / other, rtol=0, atol=1e-5)
        # Every validation image once, with the same predictions.
        assert output(folder / first).splitlines()[-1] == output(folder / other).splitlines()[-1]
    assert "result 15 " in output(folder / first)


def test_two_processes_equal_one(tiny_data, tmp_path):
    compare_layouts(tiny_data, tmp_path, {"1x4": (1, 4), "2x2": (2, 2)}, epochs=2.0)


@pytest.mark.slow
def test_four_processes_equal_two_and_one_after_fifty_steps(tiny_data, tmp_path):
    layouts = {"1x4": (1, 4), "2x2": (2, 2), "4x1": (4, 1)}
    compare_layouts(tiny_data, tmp_path, layouts, epochs=9.0)


# --- Preemption ---------------------------------------------------------------------------------


def test_preempted_run_resumes_on_another_layout(tiny_data, tmp_path):
    """SIGUSR1 to one of two processes, then one process with four devices."""
    runs = start(tiny_data, tmp_path / "a", 2, 1, epochs=30.0, pause=0.1)
    wait_for_step(tmp_path / "a", runs, 4)
    runs[1].send_signal(signal.SIGUSR1)  # handled by sending SIGTERM
    finish(tmp_path / "a", runs, status=75)
    step, _ = final_state(tmp_path / "a")
    assert f"preempted: saved at step {step} of 168" in output(tmp_path / "a", 1)
    assert not (tmp_path / "a" / "lock").exists()
    epochs = (step + 3) * 8 / 45 + 0.01
    finish(tmp_path / "a", start(tiny_data, tmp_path / "a", 1, 4, epochs=epochs, resume="must"))
    assert f"resuming from step {step} of {step + 3}" in output(tmp_path / "a")
    uninterrupted = start(tiny_data, tmp_path / "b", 1, 2, epochs=epochs)
    finish(tmp_path / "b", uninterrupted)
    assert_same(tmp_path / "a", tmp_path / "b", rtol=0, atol=1e-5)


CONFIG = """
import sys
sys.path.insert(0, {tests!r})
from conftest import tiny_config

def get_config():
    config = tiny_config({data!r})
    config.epochs = 60.0
    config.eval_every = config.checkpoint_every = 100.0
    config.model.branches = "keypoints"
    return config
"""


def test_preempted_program_ends_bit_identical(tiny_data, tmp_path):
    config = tmp_path / "config.py"
    config.write_text(CONFIG.format(tests=str(ROOT / "tests"), data=str(tiny_data)))

    def launch(name):
        command = [ROOT / "launch" / "train.py", f"--config={config}"]
        return Script([*command, f"--workdir={tmp_path / name}"], tmp_path / f"{name}.out0")

    run, uninterrupted = launch("a"), launch("b")
    deadline = time.monotonic() + TIMEOUT
    rows = tmp_path / "a" / "metrics.jsonl"
    while not (rows.exists() and rows.read_text()):
        assert time.monotonic() < deadline and run.poll() is None, output(tmp_path / "a")
        time.sleep(0.01)
    run.send_signal(signal.SIGTERM)
    finish(tmp_path / "a", [run], status=75)
    assert "preempted: saved at step " in output(tmp_path / "a")
    finish(tmp_path / "a", [launch("a")])
    finish(tmp_path / "b", [uninterrupted])
    assert_same(tmp_path / "a", tmp_path / "b", rtol=0, atol=0)


# --- Peers that die or hang ---------------------------------------------------------------------


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.slow
def test_processes_exit_after_a_peer_died_or_hangs(tiny_data, tmp_path, victim, sent):
    workdir = tmp_path / "run"
    runs = start(tiny_data, workdir, 2, 1, epochs=1000.0, pause=0.1, watchdog=15)
    survivor = runs[1 - victim]
    try:
        wait_for_step(workdir, runs, 5)
        runs[victim].send_signal(sent)
        start_time = time.monotonic()
        status = survivor.wait(120)
        log = output(workdir, 1 - victim)
        assert status != 0 and time.monotonic() - start_time < 90, log
        if sent == signal.SIGSTOP:
            assert status == distributed.BROKEN and "--watchdog=15" in log and "lags" in log
            assert "Current thread" in log or "Thread 0x" in log  # the stacks
        else:
            assert "another one has died" in log or "distributed service detected" in log, log
    finally:
        for run in runs:
            run.kill()
            run.wait()
