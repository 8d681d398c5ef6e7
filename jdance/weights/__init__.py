"""Readers of published weights files: names and arrays, without executing anything in a file."""

from pathlib import Path

import numpy as np

from jdance.weights import pth, safetensors


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the named tensors of a .safetensors file, else of a PyTorch checkpoint.

    Raises:
        UserError: see the two readers.
    """
    return (safetensors if Path(path).suffix == ".safetensors" else pth).read(path)
