"""Gradient accumulation, learning rates of large batches, and cluster scripts."""

import subprocess
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import ROOT, tiny_config

from jdance import config as defaults
from jdance.errors import UserError
from jdance.train import distributed, loop, state, steps


def linear_loss(model, variables, batch, key):
    """Squared error of a linear model, with noise seeded by the examples' indices."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch["index"])
    noise = jax.vmap(lambda k: jax.random.normal(k, (3,)))(keys)
    error = jnp.square((batch["x"] + noise) @ variables["params"]["w"] - batch["y"])
    statistics = {"seen": variables["batch_stats"]["seen"] + 1.0}
    return error.mean(), ({"error": error.mean()}, statistics)


def test_accumulated_gradients_equal_those_of_one_batch():
    rng = np.random.default_rng(0)
    batch = {
        "x": rng.normal(size=(24, 3)).astype(np.float32),
        "y": rng.normal(size=24).astype(np.float32),
        "index": np.arange(24, dtype=np.int32),
    }
    optimizer = optax.sgd(0.1, 0.9)
    params = {"w": jnp.ones(3)}
    fresh = state.TrainState(
        jnp.zeros((), jnp.int32), params, {"seen": jnp.zeros(())}, optimizer.init(params)
    )
    results = {}
    for parts in (1, 2, 3, 6):
        step = partial(
            steps.train_step,
            model=None, optimizer=optimizer, seed=3, loss=linear_loss, accumulate=parts,
        )  # fmt: skip
        mapped = jax.pmap(step, axis_name=steps.AXIS, in_axes=(None, 0), out_axes=None)
        current = distributed.replicate(fresh)
        for _ in range(3):
            current, metrics = mapped(current, distributed.shard(batch))
        results[parts] = jax.device_get((current.params, current.opt_state, metrics))
        assert float(current.batch_stats["seen"]) == 3 * parts  # one update per micro-batch
    for parts in (2, 3, 6):
        for a, b in zip(jax.tree.leaves(results[1]), jax.tree.leaves(results[parts]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_micro_batches_must_be_equal(tiny_data, tmp_path):
    config = tiny_config(tiny_data)
    config.accumulate = 3
    with pytest.raises(UserError, match="accumulate=3: each device's 2 examples cannot be divided"):
        loop.train(config, tmp_path / "run")


def test_learning_rate_scales_with_the_batch_size():
    optimizer = defaults.base().optimizer
    optimizer.update(learning_rate=0.1, boundaries=(1.0,))
    assert float(state.make_schedule(optimizer, 10, 20, 512)(0)) == pytest.approx(0.1)
    optimizer.reference_batch_size = 256
    schedule = state.make_schedule(optimizer, 10, 20, 512)
    assert float(schedule(0)) == pytest.approx(0.2) and float(schedule(11)) == pytest.approx(0.02)
    optimizer.schedule = "cosine"
    assert float(state.make_schedule(optimizer, 10, 20, 64)(0)) == pytest.approx(0.025)


@pytest.mark.parametrize("script", sorted((ROOT / "launch").glob("*.sh")), ids=lambda p: p.name)
def test_shell_syntax_of_scripts(script):
    run = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("script", ["slurm.sh", "slurm_recognize.sh"])
def test_slurm_script_requeues_preempted_jobs(tmp_path, script):
    """With fakes of Slurm's programs: requeues status 75, and 74 a few times; returns others.

    Recognition is also requeued if it was killed (137).

    No requeue if the script itself gets a signal: then Slurm is ending the job.
    """
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "srun").write_text(
        '#!/bin/sh\necho "srun $@" >> calls\n[ $ENDED ] && kill -TERM $PPID\nexit $STATUS\n'
    )
    (programs / "scontrol").write_text('#!/bin/sh\necho "scontrol $@" >> calls\n')
    for path in programs.iterdir():
        path.chmod(0o755)
    for status, ended, restarts in (
        (0, "", 0), (1, "", 0), (70, "", 0), (75, "", 40), (75, "1", 0), (74, "", 0), (74, "", 9),
        (74, "", 10), (74, "1", 0), (137, "", 9), (137, "", 10),
    ):  # fmt: skip
        run = subprocess.run(
            ["bash", str(ROOT / "launch" / script), "--workdir=x"],
            cwd=tmp_path,
            env={
                "PATH": f"{programs}:/usr/bin:/bin", "STATUS": str(status), "ENDED": ended,
                "SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": str(restarts),
            },
        )  # fmt: skip
        calls = (tmp_path / "calls").read_text()
        (tmp_path / "calls").unlink()
        assert ended or run.returncode == status
        assert calls.startswith("srun ") and calls.splitlines()[0].endswith("--workdir=x")
        retried = (74, 137) if script == "slurm_recognize.sh" else (74,)
        again = status == 75 or (status in retried and restarts < 10)
        assert ("scontrol requeue 12" in calls) == (again and not ended)


def test_kubernetes_job_is_consistent():
    yaml = pytest.importorskip("yaml")
    text = (ROOT / "launch" / "kubernetes.yaml").read_text()
    service, job = yaml.safe_load_all(text)
    spec = job["spec"]
    assert job["kind"] == "Job" and spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    name, domain = job["metadata"]["name"], service["metadata"]["name"]
    # Pods of an Indexed Job are named JOB-INDEX in the domain of the service.
    assert f"--num_processes={spec['completions']}" in container["args"]
    assert f"--coordinator={name}-0.{domain}:8476" in container["args"]
    assert pod["subdomain"] == domain and service["spec"]["selector"] == {"job-name": name}
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }
    rules = spec["podFailurePolicy"]["rules"]
    actions = {
        value: rule["action"]
        for rule in rules
        for value in rule.get("onExitCodes", {}).get("values", [])
    }
    # Transient failures are retried: I/O (74), a hung process (70).
    assert actions == {75: "Ignore", 1: "FailJob"}
    assert pod["restartPolicy"] == "Never"  # required by the policy


def test_kubernetes_job_of_recognition_is_consistent():
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load((ROOT / "launch" / "kubernetes_recognize.yaml").read_text())
    spec = job["spec"]
    assert spec["completionMode"] == "Indexed" and spec["completions"] == spec["parallelism"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert f"--num_processes={spec['completions']}" in container["args"]
    assert (ROOT / container["command"][1]).exists()
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }
    actions = {
        value: (rule["action"], rule["onExitCodes"]["containerName"])
        for rule in spec["podFailurePolicy"]["rules"]
        for value in rule.get("onExitCodes", {}).get("values", [])
    }
    assert actions == {75: ("Ignore", container["name"]), 1: ("FailJob", container["name"])}
    assert pod["restartPolicy"] == "Never"  # required by the policy


def test_kubernetes_job_is_valid():
    """Against Kubernetes' schemas: pip install kubernetes-validate."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    yaml = pytest.importorskip("yaml")
    text = (ROOT / "launch" / "kubernetes.yaml").read_text()
    kinds = []
    for resource in yaml.safe_load_all(text):
        kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)
        kinds.append(resource["kind"])
    assert kinds == ["Service", "Job"]
    text = (ROOT / "launch" / "kubernetes_recognize.yaml").read_text()
    resource = yaml.safe_load(text)
    kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)
    resource["spec"]["parallelisms"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)
