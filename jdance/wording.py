"""How numbers are written: in messages, and in files."""

import numpy as np
from numpy.typing import ArrayLike


def counted(number: int, noun: str) -> str:
    """The number and the noun, whose plural ends in s: "1 result", "2 results"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def rounded(values: ArrayLike, digits: int) -> np.ndarray:
    """float64, so that JSON has no more digits than these: float32 would print 0.7919999957."""
    return np.round(np.asarray(values, np.float64), digits)
