"""What the devices tell each other in a step, counted from the compiled program."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

_BITS = {"pred": 8, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "f16": 16, "bf16": 16,
         "s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64}  # fmt: skip
# One line of HLO: "%name = f32[3,4]{1,0} all-reduce(...)", or a tuple of such shapes. An
# asynchronous one has its shape in -start, and -done repeats it.
_LINE = re.compile(r"= (.*?) all-reduce(?:-start)?\(")
_SHAPE = re.compile(r"\b([a-z]+[0-9]*)\[([0-9,]*)\]")


class AllReduce(NamedTuple):
    """Number of all-reduce operations, and the bytes that each device brings to them together."""

    operations: int
    bytes: int


def all_reduce(program: str) -> AllReduce:
    """Counts the all-reduce operations of a program in HLO, as `compiled.as_text()` gives it.

    Raises:
        ValueError: a type of numbers that is not known.
    """
    sizes = [sum(_sizes(match[1])) for match in map(_LINE.search, program.splitlines()) if match]
    return AllReduce(len(sizes), sum(sizes))


def _sizes(shapes: str) -> Iterator[int]:
    for kind, dimensions in _SHAPE.findall(shapes):
        if kind not in _BITS:
            raise ValueError(f"HLO has an all-reduce of the unknown type {kind!r}")
        count = 1
        for size in filter(None, dimensions.split(",")):
            count *= int(size)
        yield count * _BITS[kind] // 8


def ring_seconds(total: int, devices: int, bytes_per_second: float) -> float:
    """The least time for an all-reduce by a ring: each device sends 2 (n - 1) / n of the bytes."""
    return 2 * (devices - 1) / devices * total / bytes_per_second


def of_step(step: Any, *arguments: Any) -> AllReduce:
    """`all_reduce` of a mapped step, compiled for these arguments."""
    return all_reduce(step.lower(*arguments).compile().as_text())
