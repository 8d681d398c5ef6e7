"""Programs compiled ahead of time for GPUs that need not be there, and what they would take.

Nothing is run: times are lower bounds from the kernels of the compiled program. Autotuning, which
needs a GPU, has not chosen the fastest library calls and tiles.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jdance.bench import hlo, inputs, targets
from jdance.bench.targets import Target
from jdance.data.loader import Batch
from jdance.pose.estimator import PoseEstimator
from jdance.recognize.program import Options
from jdance.recognize.recognizer import DECODE, Recognizer
from jdance.report.html import Block, Section, Table, Text
from jdance.train import compiled, nonfinite, state, steps
from jdance.train.tasks import Task

# XLA takes this part of a GPU's memory at start (XLA_PYTHON_CLIENT_MEM_FRACTION).
MEMORY_FRACTION = 0.75
LAUNCH_SECONDS = 2e-6  # to start a kernel, without CUDA graphs
# Latency of one collective, between the GPUs of a host and between hosts.
ALPHA_LINK, ALPHA_NETWORK = 15e-6, 30e-6
_TOP = 10


class Cluster(NamedTuple):
    """What to compile for."""

    target: Target
    gpus: int = 1
    hosts: int = 1

    @property
    def devices(self) -> int:
        return self.gpus * self.hosts


# A batch size over all devices -> the program, lowered.
Lower = Callable[[int], jax.stages.Lowered]


def training(task: Task, cluster: Cluster) -> Lower:
    """The training step of an experiment."""
    mesh = targets.mesh(cluster.target, steps.AXIS, cluster.gpus, cluster.hosts)
    optimizer = inputs.make_optimizer(task)
    model = task.model(axis_name=steps.AXIS, platform="cuda")
    config = task.config
    fresh = jax.eval_shape(lambda: state.create(model, optimizer, 0, task.inputs()))
    packed = jax.eval_shape(compiled.packing(task, optimizer).pack, fresh)
    step = compiled.per_device_step(task, model, optimizer)

    def lower(batch_size: int) -> jax.stages.Lowered:
        batch = inputs.batch_shapes(config, batch_size)
        log = jax.eval_shape(nonfinite.empty)
        images = inputs.cached_images_shape(config)
        return compiled.on_mesh(step, mesh, (packed, log), batch, images)

    return lower


def evaluating(task: Task, cluster: Cluster) -> Lower:
    """The evaluation step of an experiment on motions, or the maps of one on pose networks."""
    mesh = targets.mesh(cluster.target, steps.AXIS, cluster.gpus, cluster.hosts)
    model = task.model()
    variables = jax.eval_shape(
        lambda: model.init(
            jax.random.key(0), *(jnp.zeros(shape.shape, shape.dtype) for shape in task.inputs())
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
            _placed(variables, NamedSharding(mesh, replicated)),
            _placed(batch, NamedSharding(mesh, sharded)),
        )

    return lower


def recognition(
    recognizer: Recognizer, target: Target, height: int, width: int, known: bool = False
) -> Lower:
    """The program of recognition, for frames of one size; `known`: their key points are given."""
    place = NamedSharding(targets.mesh(target, "frames"), PartitionSpec())
    function = recognizer.function(known)
    options = Options(np.int32(4), np.bool_(False))

    def lower(batch_size: int) -> jax.stages.Lowered:
        arguments = [
            jax.ShapeDtypeStruct((batch_size, height, width, 3), np.uint8),
            jax.ShapeDtypeStruct((batch_size, 2), np.int32),
        ]
        if known:
            arguments.append(jax.ShapeDtypeStruct((batch_size, 16, 18, 3), np.float32))
        return jax.jit(function).lower(*_placed((recognizer.variables, options, *arguments), place))

    return lower


def exported(program: bytes, target: Target) -> Lower:
    """A program of `jax.export`, serialized; its batch size is its own."""
    place = NamedSharding(targets.mesh(target, "frames"), PartitionSpec())
    loaded = jax.export.deserialize(bytearray(program))

    def lower(batch_size: int) -> jax.stages.Lowered:
        flat = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in loaded.in_avals]
        args, kwargs = jax.tree.unflatten(loaded.in_tree, _placed(flat, place))
        return jax.jit(loaded.call).lower(*args, **kwargs)

    return lower


def untrained(
    config: Any, classes: int, pose: str | None, pose_size: int = 0, pose_views: Sequence[str] = ()
) -> Recognizer:
    """A recognizer whose motion network has the shapes of a configuration, and zeros as weights."""
    from jdance import models

    config = config.copy_and_resolve_references()
    config.model.classes = classes
    size = config.data.image_size
    net = models.build(config.model)
    shapes = jax.eval_shape(
        lambda: net.init(
            jax.random.key(0),
            jnp.zeros((1, size, size, 3), jnp.uint8),
            jnp.zeros((1, *models.inputs(config.model).shape)),
        )
    )
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    estimator = None
    if pose:
        estimator = PoseEstimator.load(pose, DECODE, config.model.dtype, pose_size, pose_views)
    return Recognizer(config, [str(i) for i in range(classes)], variables, estimator)


def _placed(tree: Any, sharding: NamedSharding) -> Any:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=sharding), tree
    )


def examine(
    lower: Lower, cluster: Cluster, batch_size: int, scalable: bool = True
) -> dict[str, Any]:
    """Compiles a program and counts what it does.

    Args:
        lower: which program.
        cluster: where it shall run.
        batch_size: over all devices.
        scalable: compile a second time, for half the batch, to tell the largest that fits.

    Returns:
        What `sections` shows, ready for JSON. Counts are those of one device.
    """
    start = time.perf_counter()
    lowered = lower(batch_size)
    traced = time.perf_counter()
    done = lowered.compile()
    target, images = cluster.target, batch_size / cluster.devices
    program = hlo.parse(done.as_text() or "")
    kernels = program.kernels
    seconds = {kernel: _floor(kernel, target) for kernel in kernels}
    floor = sum(_floor(kernel, target) for kernel in kernels)
    memory = _memory(done)
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
        "floor_s": floor,
        "floor_s_per_image": floor / images,
        "images_per_second_at_most": batch_size / floor,
        "memory_bytes": memory,
        "top": [_row(kernel, seconds[kernel]) for kernel in _most(kernels, seconds.__getitem__)],
        "float32": [
            _row(kernel, kernel.wide_bytes / target.bandwidth)
            for kernel in _most(kernels, lambda kernel: kernel.wide_bytes)
        ],
    }
    if scalable and batch_size >= 2 * cluster.devices:
        half = _memory(lower(batch_size // 2 // cluster.devices * cluster.devices).compile())
        result["largest_batch_per_device"] = _largest(memory, half, images, target)
    moved = [kernel for kernel in kernels if kernel.kind == "collective"]
    if cluster.devices > 1:
        result["collectives"] = sum(kernel.runs for kernel in moved)
        # Read and written once each: half of that is sent.
        result["collective_bytes"] = sum(kernel.bytes for kernel in moved) // 2
        result["projection"] = _projection(result, cluster)
    return result


def _floor(kernel: hlo.Kernel, target: Target) -> float:
    narrow = kernel.flop - kernel.wide_flop
    arithmetic = narrow / target.flops + kernel.wide_flop / target.flops_float32
    return max(arithmetic, kernel.bytes / target.bandwidth)


def _memory(done: Any) -> int:
    """Bytes that a program needs at its peak: arguments, results of their own, and the rest."""
    stats = done.memory_analysis()
    own = stats.output_size_in_bytes - stats.alias_size_in_bytes
    return stats.argument_size_in_bytes + own + stats.temp_size_in_bytes


def _largest(memory: int, half: int, images: float, target: Target) -> int:
    """The largest batch of a device, from the memory of two sizes."""
    each = (memory - half) / (images - images // 2)
    fixed = memory - each * images
    return int((MEMORY_FRACTION * target.memory - fixed) / max(each, 1.0))


def _most(kernels: list[hlo.Kernel], key: Callable[[hlo.Kernel], float]) -> list[hlo.Kernel]:
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
    """Step time by an alpha-beta model of hierarchical rings, nothing overlapped.

    Of S bytes, reduce-scatter and all-gather among the g GPUs of a host send 2 (g - 1) / g S, and
    the all-reduce of the S / g of each GPU among h hosts 2 (h - 1) / h S / g.
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
    """The result of `examine` in tables."""
    devices = result["gpus"] * result["hosts"]
    place = f"{devices} x {result['target']}" if devices > 1 else result["target"]
    rows = [
        ("tracing, compilation", f"{result['trace_s']:.1f} s, {result['compile_s']:.1f} s"),
        ("kernels", f"{result['kernels']}"),
        ("while loops, conditionals", f"{result['while_loops']}, {result['conditionals']}"),
        ("FLOP of an image", f"{result['flop_per_image'] / 1e9:.2f} G"),
        ("memory traffic of an image", f"{result['bytes_per_image'] / 1e6:.1f} MB"),
        ("of that, float32", f"{result['float32_bytes_per_image'] / 1e6:.1f} MB"),
        ("floor of an image", f"{1e6 * result['floor_s_per_image']:.1f} us"),
        ("at most", f"{result['images_per_second_at_most']:.0f} images/s"),
        ("peak memory", f"{result['memory_bytes'] / 2**30:.2f} GiB"),
    ]
    if "largest_batch_per_device" in result:
        batch = result["largest_batch_per_device"]
        rows.append((f"largest batch in {MEMORY_FRACTION:.0%} of the memory", f"{batch} a GPU"))
    if "projection" in result:
        projection = result["projection"]
        rows += [
            ("collectives", f"{result['collectives']}, {result['collective_bytes'] / 1e6:.1f} MB"),
            ("in them, in a host", f"{1e3 * projection['inside_s']:.2f} ms"),
            ("in them, between hosts", f"{1e3 * projection['between_s']:.2f} ms"),
            ("projected step", f"{1e3 * projection['step_s']:.2f} ms"),
            ("projected speed", f"{projection['images_per_second']:.0f} images/s"),
            ("share of time not spent in collectives", f"{projection['efficiency']:.0%}"),
        ]
    blocks: list[Block] = [
        Text(
            f"Compiled for {place} by jax {result['jax']}, a batch of {result['batch_size']}; "
            "counts of one GPU. Nothing was run: times are floors, from the FLOP and bytes of "
            "each kernel."
        ),
        Table("The program", ("what", "value"), rows),
        _kernel_table("Kernels with the highest floors", result["top"]),
        _kernel_table("Kernels that move most float32", result["float32"]),
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
    return Table(title, ("us", "MB", "GFLOP", "kind", "where"), rows)
