"""Readers of published weights files: names and arrays, with nothing of the file ever run."""

from pathlib import Path

import numpy as np

from jdance.weights import pth, safetensors


def read(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a .safetensors file, or of a PyTorch checkpoint of any other name.

    Raises:
        UserError: see the two readers.
    """
    return (safetensors if Path(path).suffix == ".safetensors" else pth).read(path)
