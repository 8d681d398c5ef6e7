"""Random numbers of a batch: what is drawn for an example depends on nothing but that example."""

import zlib
from collections.abc import Sequence

import numpy as np


def stream(name: str, *numbers: int) -> np.random.Generator:
    """The random numbers of one purpose, independent of those of every other one.

    Args:
        name: of the purpose, such as "augment".
        numbers: which of its streams, such as the seed and the place of an example.
    """
    return np.random.default_rng([zlib.crc32(name.encode()), *numbers])


class BatchRandom:
    """Draws for B examples at once, from a generator for each of them.

    Args:
        rngs: a generator for each example.
    """

    def __init__(self, rngs: Sequence[np.random.Generator]):
        self._rngs = rngs

    def uniform(self, count: int) -> np.ndarray:
        """`count` numbers in [0, 1) for each example: float64 [count, B]."""
        drawn = np.empty((len(self._rngs), count))
        for rng, row in zip(self._rngs, drawn, strict=True):
            rng.random(out=row)
        return drawn.T

    def normal(self, *shape: int) -> np.ndarray:
        """Standard normal numbers of a shape for each example: float64 [B, *shape]."""
        drawn = np.empty((len(self._rngs), *shape))
        for rng, row in zip(self._rngs, drawn, strict=True):
            rng.standard_normal(out=row)
        return drawn


def between(uniform: np.ndarray, low: float, high: float) -> np.ndarray:
    """Numbers in [0, 1) -> numbers in [low, high)."""
    return low + (high - low) * uniform
