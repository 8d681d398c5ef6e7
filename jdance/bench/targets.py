"""Descriptions of GPUs for ahead-of-time compilation without the GPU.

Peaks are from the data sheets (dense, no sparsity). `flops` and `bandwidth` are what large kernels
reach in practice: 80 % and 90 % of them.
"""

import os
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jdance.errors import UserError

_TEXT = """\
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {shared_memory}
  threads_per_core_limit: {threads}
  core_count: {cores}
  fpus_per_core: {fpus}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {memory_bandwidth}
  l2_cache_size: {l2_cache}
  clock_rate_ghz: {clock}
  device_memory_size: {memory}
  shared_memory_per_block_optin: {shared_memory_optin}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 }}
device_description_str: "{name}"
"""


@dataclass(frozen=True)
class Target:
    """A GPU model.

    Attributes:
        name: name in the driver.
        capability: CUDA compute capability, (major, minor).
        cores: streaming multiprocessors.
        memory: bytes of memory.
        peak_flops, peak_flops_float32: FLOP/s in bfloat16, and in float32 as TF32.
        peak_bandwidth: bytes/s of its memory.
        link: bytes/s that one GPU sends to the others of its host.
        network: bytes/s that one GPU sends to other hosts, with one network card per GPU.
        fpus, clock, l2_cache, shared_memory, shared_memory_optin, threads: see XLA's
            `GpuDeviceInfoProto`; FP32 units per core, GHz, bytes, threads per core.
    """

    name: str
    capability: tuple[int, int]
    cores: int
    memory: int
    peak_flops: float
    peak_flops_float32: float
    peak_bandwidth: float
    link: float
    network: float
    fpus: int
    clock: float
    l2_cache: int
    shared_memory: int
    shared_memory_optin: int
    threads: int = 2048

    @property
    def flops(self) -> float:
        return 0.8 * self.peak_flops

    @property
    def flops_float32(self) -> float:
        return 0.8 * self.peak_flops_float32

    @property
    def bandwidth(self) -> float:
        return 0.9 * self.peak_bandwidth

    def text(self) -> str:
        """Formats XLA's GpuTargetConfig as a text proto."""
        major, minor = self.capability
        return _TEXT.format(
            **vars(self), major=major, minor=minor, memory_bandwidth=int(self.peak_bandwidth)
        )


TARGETS = {
    "h100": Target(
        "NVIDIA H100 80GB HBM3", (9, 0), 132, 84942979072, 989e12, 494e12, 3.35e12,
        450e9, 50e9, 128, 1.755, 52428800, 233472, 232448,
    ),
    "h200": Target(
        "NVIDIA H200", (9, 0), 132, 150120038400, 989e12, 494e12, 4.8e12,
        450e9, 50e9, 128, 1.98, 52428800, 233472, 232448,
    ),
    "a100": Target(
        "NVIDIA A100-SXM4-80GB", (8, 0), 108, 85094825984, 312e12, 156e12, 2.04e12,
        300e9, 25e9, 64, 1.41, 41943040, 167936, 166912,
    ),
    "l4": Target(
        "NVIDIA L4", (8, 9), 58, 23580639232, 121e12, 60e12, 0.3e12,
        32e9, 12.5e9, 128, 2.04, 50331648, 102400, 101376, 1536,
    ),
}  # fmt: skip


def get(name: str) -> Target:
    """Returns a target by its key.

    Raises:
        UserError: unknown name.
    """
    if name not in TARGETS:
        raise UserError(f"--target={name}: expected one of {', '.join(TARGETS)}")
    return TARGETS[name]


def mesh(target: Target, axis: str, gpus: int = 1, hosts: int = 1) -> Mesh:
    """Builds a one-axis mesh of the abstract devices of `hosts` hosts with `gpus` GPUs each.

    Raises:
        UserError: jax's CUDA plugin is not installed.
    """
    from jax.experimental import topologies

    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"  # there is no driver
    try:
        description: Any = topologies.get_topology_desc(
            platform="cuda", target_config=target.text(), topology=f"{hosts}x1x{gpus}"
        )
    except (RuntimeError, NotImplementedError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"--target: jax {jax.__version__} cannot compile for CUDA here ({reason}); "
            "install its plugin: pip install -e '.[cuda12]'"
        ) from error
    return Mesh(np.array(description.devices), (axis,))
