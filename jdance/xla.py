"""How XLA compiles for the programs in launch/: its flags for the CPU, and what it keeps."""

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

# By the version of jaxlib, as XLA ends the process at a flag that it does not know. YNNPACK's
# convolutions are slower than Eigen's (its reductions and products are not), and where there is
# AVX-512, the whole width of its registers is quicker than half of it.
_CPU_FLAGS = {
    "0.10": (
        "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution",
        "--xla_cpu_prefer_vector_width=512",
    ),
}

# Where one operation follows the other, as in inference, the loops that these emitters make keep to
# one core; a training step has several to do at a time, and they are the quicker ones there.
_CPU_INFERENCE = {"0.10": {"xla_cpu_use_fusion_emitters": False}}


def prepare(environment: MutableMapping[str, str]) -> None:
    """Sets XLA's flags and the folder of compiled programs; to be called before a device is used.

    What the environment says itself stays: XLA_FLAGS, JAX_COMPILATION_CACHE_DIR,
    JAX_ENABLE_COMPILATION_CACHE.
    """
    environment["XLA_FLAGS"] = with_flags(environment.get("XLA_FLAGS", ""), jaxlib.__version__)
    if "JAX_COMPILATION_CACHE_DIR" in environment:
        return
    folder = cache_folder() / "compiled" / machine()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # where nothing can be kept, everything is compiled anew
    jax.config.update("jax_compilation_cache_dir", str(folder))


def with_flags(flags: str, version: str) -> str:
    """XLA_FLAGS with ours for a version of jaxlib, but for those that are there already."""
    ours = _CPU_FLAGS.get(_minor(version), ())
    return " ".join([flags, *(flag for flag in ours if flag.split("=")[0] not in flags)]).strip()


def inference_options() -> dict[str, Any] | None:
    """`compiler_options` of `jax.jit` for what runs forward only."""
    on_cpu = jax.default_backend() == "cpu"
    return _CPU_INFERENCE.get(_minor(jaxlib.__version__)) if on_cpu else None


def for_inference(mapped: Any) -> Callable[..., Any]:
    """A function by `jax.pmap`, compiled for what runs forward only.

    It takes arrays alone, and is compiled once for each set of their shapes and dtypes.
    """
    options = inference_options()
    # Over several processes what is compiled ahead sees other shapes than what it is called with.
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
    """The number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # of Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine() -> str:
    """Tells kinds of processors apart: programs for one may not run on another."""
    described = f"{platform.machine()} {platform.processor()}"
    information = Path("/proc/cpuinfo")  # of Linux
    if information.exists():
        lines = set(information.read_text().splitlines())
        described += "".join(sorted(x for x in lines if x.startswith(("model name", "flags"))))
    return hashlib.sha256(described.encode()).hexdigest()[:12]


# From glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory_on_cpu(environment: Mapping[str, str]) -> None:
    """Calls `keep_freed_memory` where jax will run on the CPU, and not on the host of a GPU."""
    platforms = environment.get("JAX_PLATFORMS", "")
    accelerated = any(
        importlib.util.find_spec(f"jax_{name}") for name in ("cuda12_plugin", "cuda13_plugin")
    )
    if platforms.startswith("cpu") or (not platforms and not accelerated):
        keep_freed_memory()


def keep_freed_memory() -> None:
    """Lets the process keep the memory that it has freed, for its next step.

    A training step of configs/paper.py at batch 16 on the CPU takes and frees 1.6 GB. As glibc
    comes, that goes back to the system each time, and its 430,000 pages have to be made anew: a
    sixth of a step. There is only one arena, as the others take whatever is large from the system
    directly. Has no effect with another C library, and none on threads that allocated before.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_ARENA_MAX, 1)
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, -1)
