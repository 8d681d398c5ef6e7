"""Profiles of training steps: FLOP counts, traces, timing, random inputs, the program."""

import json
import platform
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, tiny_config
from programs import program

from jdance import config as defaults
from jdance import xla
from jdance.bench import counting, inputs, profile, timing, trace
from jdance.data import records
from jdance.train import tasks


def convolution(stride):
    def function(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), [(1, 1), (1, 1)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip

    return function


@pytest.mark.parametrize("stride", [1, 2])
def test_flop_of_a_convolution_and_of_its_gradients(stride):
    x, kernel = jnp.zeros((2, 8, 8, 5)), jnp.zeros((3, 3, 5, 7))
    forward = 2 * (2 * (8 // stride) ** 2 * 7) * (3 * 3 * 5)
    (matmul,) = counting.matmuls(jax.make_jaxpr(convolution(stride))(x, kernel))
    assert matmul.flop == forward
    results = 2 * (8 // stride) ** 2 * 7
    assert matmul.bytes == 4 * (x.size + kernel.size + results)

    def loss(x, kernel):
        return convolution(stride)(x, kernel).sum()

    # The gradient with respect to each argument takes as many FLOP as the forward pass.
    traced = list(counting.matmuls(jax.make_jaxpr(jax.grad(loss, (0, 1)))(x, kernel)))
    assert [m.flop for m in traced] == [forward] * len(traced) and len(traced) >= 2


def test_matmuls_of_loops_and_mapped_functions():
    def scanned(w):
        return jax.lax.scan(lambda x, _: (x @ w, None), jnp.zeros((3, 4)), None, length=5)[0]

    found = list(counting.matmuls(jax.make_jaxpr(scanned)(jnp.zeros((4, 4)))))
    assert [m.flop for m in found] == [2 * 3 * 4 * 4] * 5
    mapped = jax.pmap(lambda x, w: x @ w, in_axes=(0, None))
    found = list(counting.matmuls(jax.make_jaxpr(mapped)(jnp.zeros((4, 2, 3)), jnp.zeros((3, 6)))))
    assert [m.flop for m in found] == [2 * 2 * 3 * 6]


def test_roofline():
    matmuls = [counting.Matmul(100, 1), counting.Matmul(1, 100)]
    assert counting.roofline_seconds(matmuls, peak_flops=10, bandwidth=50) == 100 / 10 + 100 / 50


def test_device_peaks():
    assert counting.device_peak("NVIDIA H100 80GB HBM3", "bfloat16") == (989e12, 3.35e12)
    assert counting.device_peak("NVIDIA L40S", "float32").flops == 183e12
    assert counting.device_peak("cpu", "float32") == (None, None)


def test_self_times_of_nested_operations():
    spans = [
        (0, 10, "outer"),
        (1, 3, "inner"),
        (5, 2, "inner"),
        (5.5, 1, "innermost"),
        (10, 4, "b"),
    ]
    total = {}
    for name, duration in trace.self_times(spans):
        total[name] = total.get(name, 0) + duration
    assert total == {"outer": 5, "inner": 4, "innermost": 1, "b": 4}


def test_candidates_are_interleaved():
    calls = []
    times = timing.interleave({name: lambda n=name: calls.append(n) for name in "ab"}, 3, warmup=1)
    assert calls == list("ab") * 4
    assert [len(times[name].wall) for name in "ab"] == [3, 3]
    summary = timing.Times([1.0, 2, 3, 4, 5], [0.5] * 5).summary()
    assert summary == {
        "median_s": 3, "least_s": 1, "spread_s": 1, "cpu_least_s": 0.5, "repetitions": 5,
    }  # fmt: skip


@pytest.fixture
def config(tiny_data):
    return tiny_config(tiny_data)


def test_random_batches_match_real_ones(config):
    dataset = records.Dataset(config.data.dir)
    task = tasks.make(config, dataset.classes)
    task.setup(dataset)
    real = next(task.train_batches(dataset.source("train"), 0))
    random_batch = inputs.batch(task.config, config.batch_size)
    assert random_batch.keys() == real.keys()
    for name, value in random_batch.items():
        assert (value.shape, value.dtype) == (real[name].shape, real[name].dtype), name


def test_random_batches_of_pose_and_str_networks():
    pose = defaults.pose()
    pose.batch_size, pose.data.image_size = 4, 32
    pose.model.update(width=4, stages=1)
    images = defaults.base()
    images.batch_size, images.model.branches = 4, "str"
    images.model.str.update(depth=7, growth=2)
    for config in (pose, images):
        task = tasks.make(config, list("abc"))
        step, step_state = inputs.make_step(task)
        jaxpr = jax.make_jaxpr(step)(step_state, inputs.device_batch(task), None)
        assert sum(m.flop for m in counting.matmuls(jaxpr)) > 0


def test_profile_of_a_step(config, tmp_path):
    dataset = records.Dataset(config.data.dir)
    task = tasks.make(config, dataset.classes)
    task.setup(dataset)
    peak = counting.Peak(1e12, 1e11)
    result = json.loads(json.dumps(profile.measure(task, 2, peak, tmp_path / "trace", dataset)))
    assert result["products"]["flop"] > 0
    # The compiler also counts other operations.
    assert result["program"]["flop"] > 0.5 * result["products"]["flop"]
    assert result["program"]["temp_bytes"] > 0
    seconds = result["step"]["median_s"]
    assert result["peak"]["share"] == pytest.approx(result["products"]["flop"] / seconds / 1e12)
    assert 0 <= result["with_loader"]["waiting_share"] < 1
    top = result["operations"]["top"]
    assert top and all(operation["calls"] >= 3 for operation in top)
    assert any(operation["source"] for operation in top)
    assert list((tmp_path / "trace").rglob("perfetto_trace.json.gz"))
    (section,) = profile.sections(result)
    assert [len(block.rows) > 3 for block in section.blocks[1:]] == [True] * 3


def test_profile_program(tmp_path):
    small = ["--config.batch_size=4", "--config.data.image_size=32", "--config.model.width=4",
             "--config.model.stage_sizes=(1,)"]  # fmt: skip
    output, _ = program("profile", "--config=configs/quickstart.py", "--steps=1",
                      f"--output={tmp_path / 'p.json'}", *small)  # fmt: skip
    assert "convolutions and matmuls" in output and "unknown" in output
    assert json.loads((tmp_path / "p.json").read_text())["batch_size"] == 4
    _, error = program("profile", "--config=configs/quickstart.py", f"--data={tmp_path}", status=1)
    assert "dataset.json" in error


def test_xla_flags(monkeypatch, tmp_path):
    first, *others = xla.with_flags("", "0.10.2").split()
    assert xla.with_flags("", "9.9.9") == ""
    user_flags = f"--other {first.split('=')[0]}=x"
    assert xla.with_flags(user_flags, "0.10.2").split() == [*user_flags.split(), *others]


def test_compilation_cache_directory(monkeypatch, tmp_path):
    before = jax.config.jax_compilation_cache_dir
    try:
        monkeypatch.setenv("JDANCE_CACHE", str(tmp_path))
        environment = {"JAX_COMPILATION_CACHE_DIR": "elsewhere"}
        xla.prepare(environment)
        assert jax.config.jax_compilation_cache_dir == before
        xla.prepare({})
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "compiled" / xla.machine())
        assert np.all([character.isalnum() for character in xla.machine()])
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_programs_compiled_for_inference_match_jit():
    mapped = jax.pmap(lambda weight, x: {"y": x @ weight}, in_axes=(None, 0))
    called = xla.for_inference(mapped)
    weight, random = np.ones((3, 2), np.float32), np.random.default_rng(0)
    for rows in (4, 5, 4):
        x = random.random((1, rows, 3), np.float32)
        np.testing.assert_allclose(called(weight, x)["y"], mapped(weight, x)["y"], rtol=1e-6)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_reused():
    """Allocates 64 MB four times; without `xla.keep_freed_memory`, each faults 16,384 pages."""
    script = """
import resource
from jdance import xla
xla.keep_freed_memory()
import numpy as np
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.full(2**24, 1.0, np.float32)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(sum(faults() for _ in range(3)))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert int(done.stdout) < 1000, done.stderr


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_released_if_it_is_much():
    script = """
from pathlib import Path
from jdance import xla
xla.keep_freed_memory()
import numpy as np
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])
kept = [np.full(2**18, 1.0, np.float32) for _ in range(64)]  # 64 MB, 16,384 pages
del kept[:-1]
before = resident()
xla.release_freed_memory(fraction=1.0)
after = resident()
xla.release_freed_memory(fraction=0.0)
print(before - after, before - resident())
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    unchanged, released = map(int, done.stdout.split())
    assert unchanged < 100 and released > 15_000, done.stderr
