"""What devices could do at best, as their makers' data sheets say: dense products, no sparsity."""

from typing import NamedTuple


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
