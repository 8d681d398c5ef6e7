"""XLA flags for CPUs, the compilation cache, and malloc settings of the programs in launch/."""

import ctypes
import hashlib
import importlib.util
import os
import platform
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import jax
import jaxlib

from jdance.files import cache_folder

# By version of jaxlib: XLA aborts on unknown flags. YNNPACK's convolutions are slower than Eigen's
# (its reductions and matmuls are not); with AVX-512, 512-bit vectors are faster than 256-bit ones.
_CPU_FLAGS = {
    "0.10": (
        "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution",
        "--xla_cpu_prefer_vector_width=512",
    ),
}

# Loops by the fusion emitters use a single core: slower in inference, a chain of operations, but
# faster in training, where several operations run in parallel.
_CPU_INFERENCE = {"0.10": {"xla_cpu_use_fusion_emitters": False}}


def prepare(environment: MutableMapping[str, str]) -> None:
    """Sets XLA's flags and the compilation cache, before any device is used.

    Settings of the environment take precedence: XLA_FLAGS, JAX_COMPILATION_CACHE_DIR,
    JAX_ENABLE_COMPILATION_CACHE.
    """
    environment["XLA_FLAGS"] = with_flags(environment.get("XLA_FLAGS", ""), jaxlib.__version__)
    if "JAX_COMPILATION_CACHE_DIR" in environment:
        return
    folder = cache_folder() / "compiled" / machine()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # no cache on a read-only file system
    jax.config.update("jax_compilation_cache_dir", str(folder))


def with_flags(flags: str, version: str) -> str:
    """Adds jdance's flags for a version of jaxlib to XLA_FLAGS, unless they are set there."""
    added = [f for f in _CPU_FLAGS.get(_minor(version), ()) if f.split("=")[0] not in flags]
    return " ".join([flags, *added]).strip()


def inference_options() -> dict[str, Any] | None:
    """`compiler_options` of `jax.jit` for inference on the default backend."""
    on_cpu = jax.default_backend() == "cpu"
    return _CPU_INFERENCE.get(_minor(jaxlib.__version__)) if on_cpu else None


def for_inference(mapped: Any) -> Callable[..., Any]:
    """Compiles a pmapped function with `inference_options`, once per input shapes and dtypes."""
    options = inference_options()
    # With several processes, lowering sees other shapes than the call.
    if options is None or jax.process_count() > 1:
        return mapped
    programs: dict[Any, Any] = {}

    def call(*arguments: Any) -> Any:
        leaves, structure = jax.tree.flatten(arguments)
        key = structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        if key not in programs:
            programs[key] = mapped.lower(*arguments).compile(compiler_options=options)
        return programs[key](*arguments)

    return call


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def cores() -> int:
    """Number of CPU cores available to this process."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine() -> str:
    """Fingerprint of the CPU model: cached programs may not run on another."""
    described = f"{platform.machine()} {platform.processor()}"
    cpuinfo = Path("/proc/cpuinfo")  # Linux
    if cpuinfo.exists():
        lines = set(cpuinfo.read_text().splitlines())
        described += "".join(sorted(x for x in lines if x.startswith(("model name", "flags"))))
    return hashlib.sha256(described.encode()).hexdigest()[:12]


# From glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory_on_cpu(environment: Mapping[str, str]) -> None:
    """Calls `keep_freed_memory` if JAX will run on the CPU."""
    platforms = environment.get("JAX_PLATFORMS", "")
    accelerated = any(
        importlib.util.find_spec(f"jax_{name}") for name in ("cuda12_plugin", "cuda13_plugin")
    )
    if platforms.startswith("cpu") or (not platforms and not accelerated):
        keep_freed_memory()


def keep_freed_memory() -> None:
    """Configures glibc's malloc to keep freed memory for the next step.

    A CPU training step of configs/paper.py at batch size 16 allocates and frees 1.6 GB. By default
    glibc returns it to the system, and faulting in 430,000 pages takes a sixth of the next step. A
    single arena is needed, since the others map large blocks directly. There is no effect with
    other C libraries or on threads that have allocated before.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_ARENA_MAX, 1)
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, -1)


def release_freed_memory(fraction: float = 0.5) -> None:
    """Returns freed memory to the system if the process has more than a fraction of all memory.

    What `keep_freed_memory` keeps is fragmented by large steps: configs/paper.py at batch size 64
    needs 14 GB and would hold 24 GB after a few of them. There is no effect with other C libraries.
    """
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        if pages > fraction * os.sysconf("SC_PHYS_PAGES"):
            ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return
