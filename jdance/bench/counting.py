"""FLOP and bytes of a step: of its convolutions and matrix products, and of the compiled program.

A multiplication and an addition are two FLOP, as XLA counts them.
"""

from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

from jax.extend import core


class Product(NamedTuple):
    """A convolution or matrix product: its FLOP, and the bytes of its operands and result."""

    flop: int
    bytes: int


def products(jaxpr: core.ClosedJaxpr | core.Jaxpr) -> Iterator[Product]:
    """All convolutions and matrix products that a traced function does, loops unrolled.

    Of a mapped function, those of one device. Zeros around images count as pixels; the zeros that
    the gradient of a strided convolution puts between pixels do not. Of branches, the first counts.
    """
    inner = jaxpr.jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else jaxpr
    for equation in inner.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            arrays = [atom.aval for atom in (*equation.invars, *equation.outvars)]
            size = sum(a.size * a.dtype.itemsize for a in arrays)
            yield Product(2 * _multiplications(equation), size)
            continue
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for value in equation.params.values():
            first = value[0] if isinstance(value, tuple | list) and value else value
            if isinstance(first, core.ClosedJaxpr | core.Jaxpr):
                found = list(products(first))
                for _ in range(times):
                    yield from found


def _multiplications(equation: Any) -> int:
    left, right = (atom.aval.shape for atom in equation.invars)
    result = equation.outvars[0].aval.size
    parameters = equation.params
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        return result * prod(left[axis] for axis in contracted)
    features = right[parameters["dimension_numbers"].rhs_spec[0]]
    return result * prod(right) // features // prod(parameters["lhs_dilation"])


def floor_seconds(found: list[Product], flops: float, bandwidth: float) -> float:
    """The least time for products: of each, that for its FLOP or that for its bytes, the longer.

    Args:
        found: see `products`.
        flops: FLOP a second of the device.
        bandwidth: bytes a second of its memory.
    """
    return sum(max(p.flop / flops, p.bytes / bandwidth) for p in found)


def of_program(compiled: Any) -> dict[str, float]:
    """What the compiler says of one device's program: FLOP, bytes read and written, and memory.

    Keys that it does not know are absent.
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
    """FLOP a second of matrix products and bytes a second of memory; None where not known."""

    flops: float | None
    bandwidth: float | None


# Part of jax's name of the device -> TFLOP/s in bfloat16 (T4, V100: float16), TFLOP/s in float32
# (TF32 where there is that), TB/s. The first that fits counts.
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


def of_device(kind: str, dtype: str) -> Peak:
    """The peak of a device, by jax's `device_kind`, in bfloat16 or float32."""
    for name, (half, single, bandwidth) in _KNOWN.items():
        if name in kind:
            return Peak(1e12 * (half if dtype == "bfloat16" else single), 1e12 * bandwidth)
    return Peak(None, None)
