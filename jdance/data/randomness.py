"""Random numbers that depend on the example only, not on its batch."""

import zlib
from collections.abc import Sequence

import numpy as np


def stream(name: str, *numbers: int) -> np.random.Generator:
    """Creates an independent random generator.

    Args:
        name: purpose of the random numbers, such as "augment".
        numbers: identify the stream, such as the seed and the position of an example.
    """
    return np.random.default_rng([zlib.crc32(name.encode()), *numbers])


class BatchRandom:
    """Draws for B examples at once, from a generator per example."""

    def __init__(self, rngs: Sequence[np.random.Generator]):
        self._rngs = rngs

    def uniform(self, count: int) -> np.ndarray:
        """Draws `count` numbers in [0, 1) per example: float64 [count, B]."""
        drawn = np.empty((len(self._rngs), count))
        for rng, row in zip(self._rngs, drawn, strict=True):
            rng.random(out=row)
        return drawn.T

    def normal(self, *shape: int) -> np.ndarray:
        """Draws standard normal numbers per example: float64 [B, *shape]."""
        drawn = np.empty((len(self._rngs), *shape))
        for rng, row in zip(self._rngs, drawn, strict=True):
            rng.standard_normal(out=row)
        return drawn


def between(uniform: np.ndarray, low: float, high: float) -> np.ndarray:
    """Scales numbers in [0, 1) to [low, high)."""
    return low + (high - low) * uniform
