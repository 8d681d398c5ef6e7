"""FLOP and bytes of convolutions and matmuls in a traced function, and of compiled programs.

A multiply-add counts as two FLOP, as in XLA.
"""

from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

from jax.extend import core


class Matmul(NamedTuple):
    """A convolution or matmul: its FLOP, and the bytes of its operands and result."""

    flop: int
    bytes: int


def matmuls(jaxpr: core.ClosedJaxpr | core.Jaxpr) -> Iterator[Matmul]:
    """Yields all convolutions and matmuls of a traced function, once per loop iteration.

    For mapped functions, those of one device; for conditionals, those of the first branch. Padding
    counts as pixels; the dilation in the gradient of a strided convolution does not.
    """
    inner = jaxpr.jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else jaxpr
    for equation in inner.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            arrays = [atom.aval for atom in (*equation.invars, *equation.outvars)]
            size = sum(a.size * a.dtype.itemsize for a in arrays)
            yield Matmul(2 * _multiplications(equation), size)
            continue
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for value in equation.params.values():
            first = value[0] if isinstance(value, tuple | list) and value else value
            if isinstance(first, core.ClosedJaxpr | core.Jaxpr):
                inner_matmuls = list(matmuls(first))
                for _ in range(times):
                    yield from inner_matmuls


def _multiplications(equation: Any) -> int:
    left, right = (atom.aval.shape for atom in equation.invars)
    result = equation.outvars[0].aval.size
    parameters = equation.params
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        return result * prod(left[axis] for axis in contracted)
    features = right[parameters["dimension_numbers"].rhs_spec[0]]
    return result * prod(right) // features // prod(parameters["lhs_dilation"])


def roofline_seconds(found: list[Matmul], peak_flops: float, bandwidth: float) -> float:
    """Returns the roofline bound: the sum of the larger of compute and memory time of each.

    Args:
        found: see `matmuls`.
        peak_flops: FLOP/s of the device.
        bandwidth: bytes/s of its memory.
    """
    return sum(max(m.flop / peak_flops, m.bytes / bandwidth) for m in found)


def program_cost(compiled: Any) -> dict[str, float]:
    """Returns the compiler's FLOP, bytes accessed and memory sizes of one device's program.

    Keys that the backend does not report are absent.
    """
    cost = compiled.cost_analysis() or {}
    cost = cost[0] if isinstance(cost, list) else cost
    result = {
        name: float(cost[key])
        for name, key in (("flop", "flops"), ("bytes", "bytes accessed"))
        if key in cost
    }
    memory = compiled.memory_analysis()
    for name in ("argument", "output", "temp"):
        size = getattr(memory, f"{name}_size_in_bytes", None)
        if size is not None:
            result[f"{name}_bytes"] = float(size)
    return result


class Peak(NamedTuple):
    """Peak FLOP/s of matmuls and memory bandwidth in bytes/s; None where unknown."""

    flops: float | None
    bandwidth: float | None


# Substring of jax's `device_kind` -> TFLOP/s in bfloat16 (T4, V100: float16), TFLOP/s in float32
# (TF32 where supported), TB/s. The first match counts.
_KNOWN = {
    "H200": (989, 494, 4.8),
    "H100 PCIe": (756, 378, 2.0),
    "H100 NVL": (835, 417, 3.9),
    "H100": (989, 494, 3.35),
    "A100-SXM4-80GB": (312, 156, 2.04),
    "A100 80GB PCIe": (312, 156, 1.94),
    "A100": (312, 156, 1.55),
    "L40S": (362, 183, 0.86),
    "L4": (121, 60, 0.3),
    "A10": (125, 62, 0.6),
    "V100": (125, 15.7, 0.9),
    "T4": (65, 8.1, 0.32),
}


def device_peak(kind: str, dtype: str) -> Peak:
    """Returns the peak of a device by jax's `device_kind`, for bfloat16 or float32."""
    for name, (half, single, bandwidth) in _KNOWN.items():
        if name in kind:
            return Peak(1e12 * (half if dtype == "bfloat16" else single), 1e12 * bandwidth)
    return Peak(None, None)
