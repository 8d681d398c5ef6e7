"""Ahead-of-time compilation for GPUs that are not present, and analysis of the programs.

Nothing is run: times are roofline bounds of the compiled program's kernels. Autotuning, which needs
a GPU, has not selected the fastest library calls and tiles.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jdance import models
from jdance.bench import hlo, inputs, targets
from jdance.bench.targets import Target
from jdance.data.loader import Batch
from jdance.pose.estimator import PoseEstimator
from jdance.recognize.program import Options
from jdance.recognize.recognizer import DECODE, Recognizer
from jdance.report.html import Block, Section, Table, Text
from jdance.train import compiled, nonfinite, state, steps
from jdance.train.tasks import Task

# Fraction of a GPU's memory that XLA preallocates (XLA_PYTHON_CLIENT_MEM_FRACTION).
MEMORY_FRACTION = 0.75
LAUNCH_SECONDS = 2e-6  # launch latency of a kernel without CUDA graphs
# Latency of a collective between the GPUs of a host and between hosts.
ALPHA_LINK, ALPHA_NETWORK = 15e-6, 30e-6
_TOP = 10


class Cluster(NamedTuple):
    """The devices to compile for: `hosts` hosts with `gpus` GPUs each."""

    target: Target
    gpus: int = 1
    hosts: int = 1

    @property
    def devices(self) -> int:
        return self.gpus * self.hosts


# global batch size -> the lowered program
Lower = Callable[[int], jax.stages.Lowered]


def training_program(task: Task, cluster: Cluster) -> Lower:
    """Returns the training step of an experiment."""
    mesh = targets.mesh(cluster.target, steps.AXIS, cluster.gpus, cluster.hosts)
    optimizer = inputs.make_optimizer(task)
    model = task.model(axis_name=steps.AXIS, platform="cuda")
    config = task.config
    fresh = jax.eval_shape(lambda: state.create(model, optimizer, 0, task.input_shapes()))
    packed = jax.eval_shape(compiled.packing(task, optimizer).pack, fresh)
    step = compiled.per_device_step(task, model, optimizer)

    def lower(batch_size: int) -> jax.stages.Lowered:
        batch = inputs.batch_shapes(config, batch_size)
        step_state = compiled.StepState(packed, jax.eval_shape(nonfinite.empty))
        images = inputs.cached_images_shape(config)
        return compiled.on_mesh(step, mesh, step_state, batch, images)

    return lower


def evaluation_program(task: Task, cluster: Cluster) -> Lower:
    """Returns the evaluation step of a motion network, or the forward pass of a pose network."""
    mesh = targets.mesh(cluster.target, steps.AXIS, cluster.gpus, cluster.hosts)
    model = task.model()
    variables = jax.eval_shape(
        lambda: model.init(
            jax.random.key(0),
            *(jnp.zeros(shape.shape, shape.dtype) for shape in task.input_shapes()),
        )
    )

    def step(variables: Any, batch: Batch) -> Any:
        if task.config.task == "pose":
            return model.apply(variables, batch["image"].astype(jnp.float32))
        return steps.eval_step(variables, batch, model=model)  # type: ignore[arg-type]

    replicated, sharded = PartitionSpec(), PartitionSpec(steps.AXIS)
    mapped = jax.shard_map(
        step, mesh=mesh, in_specs=(replicated, sharded), out_specs=sharded, check_vma=False
    )

    def lower(batch_size: int) -> jax.stages.Lowered:
        batch = inputs.batch_shapes(task.config, batch_size)
        return jax.jit(mapped).lower(
            _abstract(variables, NamedSharding(mesh, replicated)),
            _abstract(batch, NamedSharding(mesh, sharded)),
        )

    return lower


def recognition_program(
    recognizer: Recognizer, target: Target, height: int, width: int, known: bool = False
) -> Lower:
    """Returns the recognition program for one frame size; `known`: with given key points."""
    sharding = NamedSharding(targets.mesh(target, "frames"), PartitionSpec())
    function = recognizer.function(known)
    options = Options(np.int32(4), np.bool_(False))

    def lower(batch_size: int) -> jax.stages.Lowered:
        arguments = [
            jax.ShapeDtypeStruct((batch_size, height, width, 3), np.uint8),
            jax.ShapeDtypeStruct((batch_size, 2), np.int32),
        ]
        if known:
            arguments.append(jax.ShapeDtypeStruct((batch_size, 16, 18, 3), np.float32))
        abstract = _abstract((recognizer.variables, options, *arguments), sharding)
        return jax.jit(function).lower(*abstract)

    return lower


def exported_program(program: bytes, target: Target) -> Lower:
    """Returns a serialized `jax.export` program, which has a fixed batch size."""
    sharding = NamedSharding(targets.mesh(target, "frames"), PartitionSpec())
    loaded = jax.export.deserialize(bytearray(program))

    def lower(batch_size: int) -> jax.stages.Lowered:
        flat = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in loaded.in_avals]
        args, kwargs = jax.tree.unflatten(loaded.in_tree, _abstract(flat, sharding))
        return jax.jit(loaded.call).lower(*args, **kwargs)

    return lower


def dummy_recognizer(
    config: Any, classes: int, pose: str | None, pose_size: int = 0, pose_views: Sequence[str] = ()
) -> Recognizer:
    """Builds a recognizer for a configuration, with zeros as weights of the motion network."""
    config = config.copy_and_resolve_references()
    config.model.classes = classes
    shapes = models.abstract_variables(config.model, config.data.image_size)
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    estimator = None
    if pose:
        estimator = PoseEstimator.load(pose, DECODE, config.model.dtype, pose_size, pose_views)
    return Recognizer(config, [str(i) for i in range(classes)], variables, estimator)


def _abstract(tree: Any, sharding: NamedSharding) -> Any:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=sharding), tree
    )


def analyze(
    lower: Lower, cluster: Cluster, batch_size: int, scalable: bool = True
) -> dict[str, Any]:
    """Compiles a program and analyzes its kernels, FLOP, bytes and memory.

    Args:
        lower: the program.
        cluster: devices to compile for.
        batch_size: global batch size.
        scalable: whether to also compile for half the batch, to estimate the largest that fits.

    Returns:
        The input of `sections`, ready for JSON. Counts are per device.
    """
    start = time.perf_counter()
    lowered = lower(batch_size)
    traced = time.perf_counter()
    executable = lowered.compile()
    target, images = cluster.target, batch_size / cluster.devices
    program = hlo.parse(executable.as_text() or "")
    kernels = program.kernels
    seconds = {kernel: _roofline(kernel, target) for kernel in kernels}
    roofline = sum(_roofline(kernel, target) for kernel in kernels)
    memory = _peak_memory(executable)
    result: dict[str, Any] = {
        "target": target.name,
        "gpus": cluster.gpus,
        "hosts": cluster.hosts,
        "jax": jax.__version__,
        "batch_size": batch_size,
        "trace_s": traced - start,
        "compile_s": time.perf_counter() - traced,
        "kernels": sum(kernel.runs for kernel in kernels),
        "while_loops": program.while_loops,
        "conditionals": program.conditionals,
        "flop_per_image": sum(kernel.flop for kernel in kernels) / images,
        "bytes_per_image": sum(kernel.bytes for kernel in kernels) / images,
        "float32_bytes_per_image": sum(kernel.wide_bytes for kernel in kernels) / images,
        "floor_s": roofline,
        "floor_s_per_image": roofline / images,
        "images_per_second_at_most": batch_size / roofline,
        "memory_bytes": memory,
        "top": [_row(kernel, seconds[kernel]) for kernel in _top(kernels, seconds.__getitem__)],
        "float32": [
            _row(kernel, kernel.wide_bytes / target.bandwidth)
            for kernel in _top(kernels, lambda kernel: kernel.wide_bytes)
        ],
    }
    if scalable and batch_size >= 2 * cluster.devices:
        half = _peak_memory(lower(batch_size // 2 // cluster.devices * cluster.devices).compile())
        result["largest_batch_per_device"] = _largest_batch(memory, half, images, target)
    collectives = [kernel for kernel in kernels if kernel.kind == "collective"]
    if cluster.devices > 1:
        result["collectives"] = sum(kernel.runs for kernel in collectives)
        # A kernel's bytes are those read and written; half of them are sent.
        result["collective_bytes"] = sum(kernel.bytes for kernel in collectives) // 2
        result["projection"] = _projection(result, cluster)
    return result


def _roofline(kernel: hlo.Kernel, target: Target) -> float:
    """Returns the larger of the kernel's compute time and memory time in seconds."""
    narrow = kernel.flop - kernel.wide_flop
    arithmetic = narrow / target.flops + kernel.wide_flop / target.flops_float32
    return max(arithmetic, kernel.bytes / target.bandwidth)


def _peak_memory(executable: Any) -> int:
    """Returns the bytes of arguments, outputs that are not aliased, and temporaries."""
    stats = executable.memory_analysis()
    outputs = stats.output_size_in_bytes - stats.alias_size_in_bytes
    return stats.argument_size_in_bytes + outputs + stats.temp_size_in_bytes


def _largest_batch(memory: int, half: int, images: float, target: Target) -> int:
    """Extrapolates the largest batch per device linearly from the memory of two batch sizes."""
    per_image = (memory - half) / (images - images // 2)
    fixed = memory - per_image * images
    return int((MEMORY_FRACTION * target.memory - fixed) / max(per_image, 1.0))


def _top(kernels: list[hlo.Kernel], key: Callable[[hlo.Kernel], float]) -> list[hlo.Kernel]:
    return sorted(kernels, key=key, reverse=True)[:_TOP]


def _row(kernel: hlo.Kernel, seconds: float) -> dict[str, Any]:
    return {
        "name": kernel.name,
        "kind": kernel.kind,
        "source": kernel.source,
        "floor_s": seconds,
        "bytes": kernel.bytes,
        "flop": kernel.flop,
        "runs": kernel.runs,
    }


def _projection(result: dict[str, Any], cluster: Cluster) -> dict[str, float]:
    """Projects the step time by an alpha-beta model of hierarchical rings without overlap.

    For S bytes, reduce-scatter and all-gather among the g GPUs of a host send 2 (g - 1) / g S
    bytes. The all-reduce of each GPU's S / g among h hosts sends 2 (h - 1) / h S / g.
    """
    sent, count = result["collective_bytes"], result["collectives"]
    g, h = cluster.gpus, cluster.hosts
    inside = 2 * (g - 1) / g * sent / cluster.target.link + (g > 1) * count * ALPHA_LINK
    between = 2 * (h - 1) / h * sent / g / cluster.target.network
    between += (h > 1) * count * ALPHA_NETWORK
    step = result["floor_s"] + result["kernels"] * LAUNCH_SECONDS
    total = step + inside + between
    return {
        "inside_s": inside,
        "between_s": between,
        "step_s": total,
        "images_per_second": result["batch_size"] / total,
        "efficiency": step / total,
    }


def sections(result: dict[str, Any]) -> list[Section]:
    """Formats the result of `analyze` as tables."""
    devices = result["gpus"] * result["hosts"]
    device = f"{devices} x {result['target']}" if devices > 1 else result["target"]
    rows = [
        ("tracing, compilation", f"{result['trace_s']:.1f} s, {result['compile_s']:.1f} s"),
        ("kernels", f"{result['kernels']}"),
        ("while loops, conditionals", f"{result['while_loops']}, {result['conditionals']}"),
        ("FLOP per image", f"{result['flop_per_image'] / 1e9:.2f} G"),
        ("memory traffic per image", f"{result['bytes_per_image'] / 1e6:.1f} MB"),
        ("of that, float32", f"{result['float32_bytes_per_image'] / 1e6:.1f} MB"),
        ("roofline per image", f"{1e6 * result['floor_s_per_image']:.1f} us"),
        ("upper bound", f"{result['images_per_second_at_most']:.0f} images/s"),
        ("peak memory", f"{result['memory_bytes'] / 2**30:.2f} GiB"),
    ]
    if "largest_batch_per_device" in result:
        batch = result["largest_batch_per_device"]
        rows.append((f"largest batch in {MEMORY_FRACTION:.0%} of the memory", f"{batch} per GPU"))
    if "projection" in result:
        projection = result["projection"]
        rows += [
            ("collectives", f"{result['collectives']}, {result['collective_bytes'] / 1e6:.1f} MB"),
            ("time of collectives within a host", f"{1e3 * projection['inside_s']:.2f} ms"),
            ("time of collectives between hosts", f"{1e3 * projection['between_s']:.2f} ms"),
            ("projected step", f"{1e3 * projection['step_s']:.2f} ms"),
            ("projected speed", f"{projection['images_per_second']:.0f} images/s"),
            ("scaling efficiency", f"{projection['efficiency']:.0%}"),
        ]
    blocks: list[Block] = [
        Text(
            f"Compiled for {device} by jax {result['jax']}, batch size {result['batch_size']}; "
            "counts are per GPU. Nothing was run: times are roofline bounds, from the FLOP and "
            "bytes of each kernel."
        ),
        Table("The program", ("what", "value"), rows),
        _kernel_table("Kernels with the longest roofline times", result["top"]),
        _kernel_table("Kernels with the most float32 traffic", result["float32"]),
    ]
    return [Section("The compiled program", blocks)]


def _kernel_table(title: str, kernels: list[dict[str, Any]]) -> Table:
    rows = [
        (
            f"{1e6 * kernel['floor_s']:.1f}",
            f"{kernel['bytes'] / 1e6:.1f}",
            f"{kernel['flop'] / 1e9:.2f}",
            kernel["kind"],
            kernel["source"][-70:] or kernel["name"],
        )
        for kernel in kernels
    ]
    return Table(title, ("us", "MB", "GFLOP", "kind", "source"), rows)
