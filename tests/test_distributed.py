"""What goes with many devices: accumulation, the rate of large batches, communication, scripts."""

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
    """A network without batch norm: a sum of squares, with noise that belongs to the examples."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch["index"])
    noise = jax.vmap(lambda k: jax.random.normal(k, (3,)))(keys)
    error = jnp.square((batch["x"] + noise) @ variables["params"]["w"] - batch["y"])
    statistics = {"seen": variables["batch_stats"]["seen"] + 1.0}
    return error.mean(), ({"error": error.mean()}, statistics)


def test_accumulated_gradients_are_those_of_one_batch():
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
        assert float(current.batch_stats["seen"]) == 3 * parts  # each part counts
    for parts in (2, 3, 6):
        for a, b in zip(jax.tree.leaves(results[1]), jax.tree.leaves(results[parts]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_parts_must_be_equal(tiny_data, tmp_path):
    config = tiny_config(tiny_data)
    config.accumulate = 3
    with pytest.raises(UserError, match="accumulate=3: each device's 2 examples cannot be divided"):
        loop.train(config, tmp_path / "run")


def test_the_rate_grows_with_the_batch():
    optimizer = defaults.base().optimizer
    optimizer.update(learning_rate=0.1, boundaries=(1.0,))
    assert float(state.make_schedule(optimizer, 10, 20, 512)(0)) == pytest.approx(0.1)
    optimizer.reference_batch_size = 256
    schedule = state.make_schedule(optimizer, 10, 20, 512)
    assert float(schedule(0)) == pytest.approx(0.2) and float(schedule(11)) == pytest.approx(0.02)
    optimizer.schedule = "cosine"
    assert float(state.make_schedule(optimizer, 10, 20, 64)(0)) == pytest.approx(0.025)


def test_all_reduce_is_counted_from_the_compiled_program():
    def step(w, x):
        gradient, count = jax.lax.psum((x @ w, jnp.int32(1)), steps.AXIS)
        return w - gradient, count

    mapped = jax.pmap(step, axis_name=steps.AXIS, in_axes=(None, 0), out_axes=None)
    found = distributed.of_step(mapped, jnp.ones((5, 5)), jnp.ones((4, 5, 5)))
    # XLA may join the two, or know the second beforehand.
    assert found.operations in (1, 2) and found.bytes in (5 * 5 * 4, 5 * 5 * 4 + 4)
    assert distributed.ring_seconds(1000, 4, 500.0) == 3.0


def test_all_reduce_in_every_spelling():
    program = """
      %a = f32[10,2]{1,0} all-reduce(f32[10,2]{1,0} %x), replica_groups={{0,1}}, to_apply=%add
      %b = (bf16[3]{0}, s32[]) all-reduce(bf16[3]{0} %y, s32[] %z), to_apply=%add
      %c = f32[7]{0} all-reduce-start(f32[7]{0} %v), to_apply=%add
      %d = f32[7]{0} all-reduce-done(f32[7]{0} %c)
      %e = f32[7]{0} add(f32[7]{0} %all-reduce.1, f32[7]{0} %d)
    """
    assert distributed.all_reduce(program) == (3, 80 + 6 + 4 + 28)


@pytest.mark.parametrize("script", sorted((ROOT / "launch").glob("*.sh")), ids=lambda p: p.name)
def test_scripts_are_shell(script):
    run = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_the_slurm_script_requeues_what_was_preempted(tmp_path):
    """With stand-ins for Slurm's programs: status 75 is requeued, another one is passed on.

    Status 74, a failing disk, is requeued a few times. Not so where the script gets a signal, too:
    then Slurm itself is ending the job.
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
        (74, "", 10), (74, "1", 0),
    ):  # fmt: skip
        run = subprocess.run(
            ["bash", str(ROOT / "launch" / "slurm.sh"), "--workdir=x"],
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
        again = status == 75 or (status == 74 and restarts < 10)
        assert ("scontrol requeue 12" in calls) == (again and not ended)


def test_the_kubernetes_job_is_consistent():
    yaml = pytest.importorskip("yaml")
    text = (ROOT / "launch" / "kubernetes.yaml").read_text()
    service, job = yaml.safe_load_all(text)
    spec = job["spec"]
    assert job["kind"] == "Job" and spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    name, domain = job["metadata"]["name"], service["metadata"]["name"]
    # A pod of an Indexed Job is called JOB-INDEX, within the service's domain.
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
    # What may pass, a failing disk (74) or a stalled process (70), is tried again.
    assert actions == {75: "Ignore", 1: "FailJob"}
    assert pod["restartPolicy"] == "Never"  # which the policy demands


def test_the_kubernetes_job_is_valid():
    """By Kubernetes' own schemas: pip install kubernetes-validate."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    yaml = pytest.importorskip("yaml")
    text = (ROOT / "launch" / "kubernetes.yaml").read_text()
    kinds = []
    for resource in yaml.safe_load_all(text):
        kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)
        kinds.append(resource["kind"])
    assert kinds == ["Service", "Job"]
    resource["spec"]["parallelisms"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)
