"""Profiles of the training step: what is counted, what is read from a trace, and the program."""

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
    (found,) = counting.matmuls(jax.make_jaxpr(convolution(stride))(x, kernel))
    assert found.flop == forward
    results = 2 * (8 // stride) ** 2 * 7
    assert found.bytes == 4 * (x.size + kernel.size + results)

    def loss(x, kernel):
        return convolution(stride)(x, kernel).sum()

    # With respect to either, as many as for the value, which the trace still has.
    both = list(counting.matmuls(jax.make_jaxpr(jax.grad(loss, (0, 1)))(x, kernel)))
    assert [p.flop for p in both] == [forward] * len(both) and len(both) >= 2


def test_products_of_loops_and_mapped_functions():
    def scanned(w):
        return jax.lax.scan(lambda x, _: (x @ w, None), jnp.zeros((3, 4)), None, length=5)[0]

    found = list(counting.matmuls(jax.make_jaxpr(scanned)(jnp.zeros((4, 4)))))
    assert [p.flop for p in found] == [2 * 3 * 4 * 4] * 5
    mapped = jax.pmap(lambda x, w: x @ w, in_axes=(0, None))
    found = list(counting.matmuls(jax.make_jaxpr(mapped)(jnp.zeros((4, 2, 3)), jnp.zeros((3, 6)))))
    assert [p.flop for p in found] == [2 * 2 * 3 * 6]


def test_floor_is_that_of_the_scarcer_of_two():
    found = [counting.Matmul(100, 1), counting.Matmul(1, 100)]
    assert counting.roofline_seconds(found, flops=10, bandwidth=50) == 100 / 10 + 100 / 50


def test_peaks():
    assert counting.device_peak("NVIDIA H100 80GB HBM3", "bfloat16") == (989e12, 3.35e12)
    assert counting.device_peak("NVIDIA L40S", "float32").flops == 183e12
    assert counting.device_peak("cpu", "float32") == (None, None)


def test_own_time_of_operations_within_others():
    spans = [
        (0, 10, "outer"),
        (1, 3, "inner"),
        (5, 2, "inner"),
        (5.5, 1, "innermost"),
        (10, 4, "b"),
    ]
    own = {}
    for name, duration in trace.self_times(spans):
        own[name] = own.get(name, 0) + duration
    assert own == {"outer": 5, "inner": 4, "innermost": 1, "b": 4}


def test_candidates_are_timed_in_turn():
    calls = []
    times = timing.interleave({name: lambda n=name: calls.append(n) for name in "ab"}, 3, warmup=1)
    assert calls == list("ab") * 4
    assert [len(times[name].wall) for name in "ab"] == [3, 3]
    found = timing.Times([1.0, 2, 3, 4, 5], [0.5] * 5).summary()
    assert found == {
        "median_s": 3, "least_s": 1, "spread_s": 1, "cpu_least_s": 0.5, "repetitions": 5,
    }  # fmt: skip


@pytest.fixture
def config(tiny_data):
    return tiny_config(tiny_data)


def test_random_batches_are_like_real_ones(config):
    dataset = records.Dataset(config.data.dir)
    task = tasks.make(config, dataset.classes)
    task.setup(dataset)
    real = next(task.train_batches(dataset.source("train"), 0))
    drawn = inputs.batch(task.config, config.batch_size)
    assert drawn.keys() == real.keys()
    for name, value in drawn.items():
        assert (value.shape, value.dtype) == (real[name].shape, real[name].dtype), name


def test_random_batches_of_other_networks_train():
    """A pose network and STR, whose inputs are others."""
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
        assert sum(p.flop for p in counting.matmuls(jaxpr)) > 0


def test_the_whole_profile(config, tmp_path):
    dataset = records.Dataset(config.data.dir)
    task = tasks.make(config, dataset.classes)
    task.setup(dataset)
    peak = counting.Peak(1e12, 1e11)
    result = json.loads(json.dumps(profile.measure(task, 2, peak, tmp_path / "trace", dataset)))
    assert result["products"]["flop"] > 0
    # The compiler counts the products, and everything else.
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


def test_the_program_and_its_mistakes(tmp_path):
    small = ["--config.batch_size=4", "--config.data.image_size=32", "--config.model.width=4",
             "--config.model.stage_sizes=(1,)"]  # fmt: skip
    told, _ = program("profile", "--config=configs/quickstart.py", "--steps=1",
                      f"--output={tmp_path / 'p.json'}", *small)  # fmt: skip
    assert "convolutions and matmuls" in told and "unknown" in told
    assert json.loads((tmp_path / "p.json").read_text())["batch_size"] == 4
    _, error = program("profile", "--config=configs/quickstart.py", f"--data={tmp_path}", status=1)
    assert "dataset.json" in error


def test_flags_for_xla(monkeypatch, tmp_path):
    first, *others = xla.with_flags("", "0.10.2").split()
    assert xla.with_flags("", "9.9.9") == ""
    mine = f"--other {first.split('=')[0]}=x"
    assert xla.with_flags(mine, "0.10.2").split() == [*mine.split(), *others]


def test_where_compiled_programs_are_kept(monkeypatch, tmp_path):
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


def test_what_is_compiled_for_inference_gives_the_same_for_each_shape():
    mapped = jax.pmap(lambda weight, x: {"y": x @ weight}, in_axes=(None, 0))
    called = xla.for_inference(mapped)
    weight, random = np.ones((3, 2), np.float32), np.random.default_rng(0)
    for rows in (4, 5, 4):
        x = random.random((1, rows, 3), np.float32)
        np.testing.assert_allclose(called(weight, x)["y"], mapped(weight, x)["y"], rtol=1e-6)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that is told")
def test_memory_that_was_freed_is_used_again():
    """Four times 64 MB: without `xla.keep_freed_memory` each has 16,384 new pages."""
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
