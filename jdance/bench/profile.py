"""Profiles a training step on the present devices: time, FLOP, memory, operations, loader."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from jdance.bench import counting, inputs, timing, trace
from jdance.bench.counting import Peak
from jdance.data.loader import Batch
from jdance.data.records import Dataset
from jdance.paper.speed import machine
from jdance.report.html import Block, Section, Table, Text
from jdance.train import distributed
from jdance.train.tasks import Task

_TRACED_STEPS = 3
_TOP = 15  # operations in the table


def measure(
    task: Task, rounds: int, peak: Peak, folder: Path | None = None, dataset: Dataset | None = None
) -> dict[str, Any]:
    """Compiles and times the training step of a task on random data that is on the devices.

    Args:
        task: the experiment.
        rounds: number of timed steps.
        peak: peak of one device, as far as known.
        folder: folder for a trace of a few steps; None: no trace.
        dataset: data set whose loader to measure, alone and with the step; None: no loader.

    Returns:
        The input of `sections`, ready for JSON, without numbers that the backend does not report.
        Counts are per device.
    """
    step, step_state = inputs.make_step(task)
    batch, images = inputs.device_batch(task), inputs.random_images(task)
    start = time.perf_counter()
    lowered = step.lower(step_state, batch, images)
    traced = time.perf_counter()
    compiled = lowered.compile()
    matmuls = list(counting.matmuls(jax.make_jaxpr(step)(step_state, batch, images)))
    config = task.config
    result: dict[str, Any] = {
        "machine": machine(),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "batch_size": config.batch_size,
        "dtype": config.model.get("dtype", "float32"),
        "trace_s": traced - start,
        "compile_s": time.perf_counter() - traced,
        "products": {
            "number": len(matmuls),
            "flop": sum(m.flop for m in matmuls),
            "bytes": sum(m.bytes for m in matmuls),
        },
        "program": counting.program_cost(compiled),
    }

    def train() -> None:
        nonlocal step_state
        step_state, metrics = compiled(step_state, batch, images)
        jax.block_until_ready((step_state, metrics))

    result["step"] = timing.interleave({"step": train}, rounds)["step"].summary()
    seconds = result["step"]["median_s"]
    result["images_per_second"] = config.batch_size / seconds
    result["peak"] = _utilization(peak, matmuls, seconds)
    memory = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in memory:
        result["device_peak_bytes"] = memory["peak_bytes_in_use"]
    host = inputs.batch(config, config.batch_size // jax.process_count())
    send = {"send": lambda: jax.block_until_ready(distributed.shard(host))}
    result["transfer"] = timing.interleave(send, rounds)["send"].summary()
    if folder is not None:

        def train_traced() -> None:
            for _ in range(_TRACED_STEPS):
                train()

        trace.record(folder, train_traced)
        operations = trace.operations(folder, compiled.as_text())
        total = sum(operation.seconds for operation in operations)
        result["operations"] = {
            "traced_steps": _TRACED_STEPS,
            "total_s": total,
            "top": [
                {**operation._asdict(), "share": operation.seconds / total}
                for operation in operations[:_TOP]
            ],
        }
    if dataset is not None:
        batches = task.train_batches(dataset.source("train"), 0)
        result["loader"] = _time_loader(batches, config.batch_size, rounds)
        args = (batches, compiled, step_state, images)
        result["with_loader"] = _time_with_loader(*args, config.batch_size, rounds)
    return result


def _utilization(peak: Peak, matmuls: list[counting.Matmul], seconds: float) -> dict[str, float]:
    """Returns the peak, the model FLOPs utilization (MFU) and the roofline, as far as known."""
    result = {}
    if peak.flops:
        result["flops"] = peak.flops
        result["share"] = sum(m.flop for m in matmuls) / seconds / peak.flops
    if peak.bandwidth:
        result["bandwidth"] = peak.bandwidth
    if peak.flops and peak.bandwidth:
        result["floor_s"] = counting.roofline_seconds(matmuls, peak.flops, peak.bandwidth)
    return result


def _time_loader(batches: Iterator[Batch], size: int, rounds: int) -> dict[str, float]:
    """Times the loader alone, after the batches that it has prefetched."""
    for _ in range(4):
        next(batches)
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(rounds):
        next(batches)
    seconds = time.perf_counter() - start
    return {
        "images_per_second": size * rounds / seconds,
        "cpu_s_per_image": (time.process_time() - cpu) / size / rounds,
    }


def _time_with_loader(
    batches: Iterator[Batch], compiled: Any, step_state: Any, images: Any, size: int, rounds: int
) -> dict[str, float]:
    """Times loader and step together, as the training loop runs them."""
    waited, metrics = 0.0, None
    start = time.perf_counter()
    for _ in range(rounds):
        before = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - before
        previous = metrics
        step_state, metrics = compiled(step_state, distributed.shard(batch), images)
        jax.block_until_ready(previous)
    jax.block_until_ready(metrics)
    seconds = time.perf_counter() - start
    return {"images_per_second": size * rounds / seconds, "waiting_share": waited / seconds}


def sections(result: dict[str, Any]) -> list[Section]:
    """Formats the result of `measure` as tables."""
    blocks: list[Block] = [
        Text(
            f"{result['machine']} ({result['device']}), jax {result['jax']}; batch size "
            f"{result['batch_size']}, {result['dtype']}."
        ),
        Table("The step, with data on the device", ("what", "value"), _step_rows(result)),
    ]
    if "loader" in result:
        loader, combined = result["loader"], result["with_loader"]
        rows = [
            ("loader alone", f"{loader['images_per_second']:.1f} images/s"),
            ("CPU time of the loader", f"{1e3 * loader['cpu_s_per_image']:.2f} ms per image"),
            ("step alone", f"{result['images_per_second']:.1f} images/s"),
            ("loader and step", f"{combined['images_per_second']:.1f} images/s"),
            ("fraction of time waiting for data", f"{combined['waiting_share']:.1%}"),
        ]
        blocks.append(Table("With the loader", ("what", "value"), rows))
    if "operations" in result:
        operations = result["operations"]
        steps = operations["traced_steps"]
        operation_rows = [
            (o["name"], f"{1e3 * o['seconds'] / steps:.2f}", f"{o['share']:.1%}",
             f"{o['calls'] / steps:.0f}", o["source"])
            for o in operations["top"]
        ]  # fmt: skip
        blocks.append(
            Table(
                f"The longest operations, of {1e3 * operations['total_s'] / steps:.1f} ms",
                ("operation", "ms per step", "fraction", "calls", "source"),
                operation_rows,
            )
        )
    return [Section("Training step", blocks)]


def _step_rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    step, program, matmuls = result["step"], result["program"], result["products"]
    rows = [
        ("tracing, compilation", f"{result['trace_s']:.1f} s, {result['compile_s']:.1f} s"),
        ("step, median", f"{1e3 * step['median_s']:.1f} ms ± {1e3 * step['spread_s']:.1f}"),
        ("step, min", f"{1e3 * step['least_s']:.1f} ms"),
        ("step, min CPU time", f"{1e3 * step['cpu_least_s']:.1f} ms"),
        ("images per second", f"{result['images_per_second']:.1f}"),
        ("transfer of a batch, median", f"{1e3 * result['transfer']['median_s']:.2f} ms"),
        (f"{matmuls['number']} convolutions and matmuls", _flop(matmuls["flop"])),
        ("their operands and results", _size(matmuls["bytes"])),
        ("throughput", _flop(matmuls["flop"] / step["median_s"]) + "/s"),
    ]
    names = {"flop": "program: FLOP, by the compiler", "bytes": "program: memory traffic",
             "argument_bytes": "program: arguments", "output_bytes": "program: results",
             "temp_bytes": "program: temporaries"}  # fmt: skip
    for key, name in names.items():
        if key in program:
            show = _flop if key == "flop" else _size
            rows.append((name, show(program[key])))
    if "device_peak_bytes" in result:
        rows.append(("peak memory in use on the device", _size(result["device_peak_bytes"])))
    peak = result["peak"]
    mfu = f"{peak['share']:.1%} of {_flop(peak['flops'])}/s" if "share" in peak else "unknown"
    rows.append(("model FLOPs utilization (MFU)", mfu))
    if "floor_s" in peak:
        times = step["median_s"] / peak["floor_s"]
        rows.append(
            ("roofline of the matmuls", f"{1e3 * peak['floor_s']:.2f} ms (step: {times:.1f} x)")
        )
    return rows


def _flop(value: float) -> str:
    return f"{_scaled(value, 1000, ('', 'k', 'M', 'G', 'T', 'P'))}FLOP"


def _size(value: float) -> str:
    return f"{_scaled(value, 1024, ('', 'Ki', 'Mi', 'Gi', 'Ti'))}B"


def _scaled(value: float, base: int, prefixes: Sequence[str]) -> str:
    power = 0
    while value >= base and power < len(prefixes) - 1:
        value, power = value / base, power + 1
    return f"{value:.4g} {prefixes[power]}"
