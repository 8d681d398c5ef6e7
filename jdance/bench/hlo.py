"""Parses the HLO text of a compiled GPU program into kernels with FLOP, bytes and source.

A kernel is an instruction of the scheduled program that runs on the GPU: a fusion, a library call
(cuDNN, cuBLAS), a copy, or a collective. Bytes are those of distinct operands and results, or of
the slices where an operand is only sliced. FLOP are those of convolutions and matmuls, two per
multiply-add; padding counts, the dilation in a strided convolution's gradient does not. Loop bodies
count once per iteration if the trip count is known, else once. For a conditional, the branch with
the most bytes counts.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import NamedTuple

_BITS = {"pred": 8, "bf16": 16, "s4": 4, "u4": 4}  # of others, the name ends in the bits
_SHAPE = re.compile(r"\b(pred|bf16|f8\w+|[fsuc]\d+)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{")
_INSTRUCTION = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
# Instructions without a kernel.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota",
    "partition-id", "replica-id", "opt-barrier", "add-dependency",
}  # fmt: skip
COLLECTIVES = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute",
    "collective-broadcast",
)  # fmt: skip
_SLICES = ("slice", "dynamic-slice")


class Shape(NamedTuple):
    """An array's element type and dimensions."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def size(self) -> int:
        return prod(self.dims)

    @property
    def bytes(self) -> int:
        digits = re.search(r"(\d+)", self.dtype)
        bits = _BITS.get(self.dtype) or int(digits[1] if digits else 8)
        return (self.size * bits + 7) // 8


class Instruction(NamedTuple):
    """One line of HLO; `shapes` are the results, `rest` is the text after the operands."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    rest: str
    root: bool

    def attribute(self, key: str) -> str:
        """Returns the value of `key=%name` or `key=word`, or an empty string."""
        match = re.search(rf"\b{key}=%?([\w.\-$]+|\"[^\"]*\")", self.rest)
        return match[1].strip('"') if match else ""

    @property
    def source(self) -> str:
        return self.attribute("op_name")


class Kernel(NamedTuple):
    """A kernel of the program.

    Attributes:
        name: name of the instruction.
        kind: "convolution", "matmul", "collective", "copy", or the kind of fusion.
        source: op_name, the path in the traced function.
        bytes: bytes read and written, over all runs.
        wide_bytes: the part of `bytes` in float32 arrays.
        flop: FLOP of convolutions and matmuls, over all runs.
        wide_flop: the part of `flop` with float32 operands.
        runs: number of runs in a step.
    """

    name: str
    kind: str
    source: str
    bytes: int
    wide_bytes: int
    flop: int
    wide_flop: int
    runs: int


class Program(NamedTuple):
    """A parsed program.

    Attributes:
        kernels: in execution order.
        while_loops: number of loops, at which the GPU may have to wait for the host.
        conditionals: number of conditionals, likewise.
    """

    kernels: list[Kernel]
    while_loops: int
    conditionals: int


Computation = Mapping[str, Instruction]


def parse(text: str) -> Program:
    """Parses the text of a compiled program by `jax.stages.Compiled.as_text`.

    Raises:
        ValueError: the text has no entry computation.
    """
    computations, entry = _computations(text)
    if entry is None:
        raise ValueError("not the HLO text of a compiled program: it has no ENTRY")
    counts = {"while": 0, "conditional": 0}
    kernels = list(_kernels(computations, entry, 1, counts))
    return Program(kernels, counts["while"], counts["conditional"])


def _computations(text: str) -> tuple[dict[str, dict[str, Instruction]], str | None]:
    computations: dict[str, dict[str, Instruction]] = {}
    current: dict[str, Instruction] = {}
    entry = None
    for line in text.splitlines():
        header = _COMPUTATION.match(line)
        if header:
            current = computations[header[2]] = {}
            entry = header[2] if header[1] else entry
            continue
        match = _INSTRUCTION.match(line)
        if match:
            instruction = _instruction(*match.groups())
            current[instruction.name] = instruction
    return computations, entry


def _instruction(root: str | None, name: str, type_: str, opcode: str, text: str) -> Instruction:
    end, depth = 0, 1
    while end < len(text) and depth:
        depth += {"(": 1, ")": -1}.get(text[end], 0)
        end += 1
    operands = tuple(re.findall(r"%([\w.\-]+)", text[: end - 1]))
    if not operands:  # a parameter's number, or names without %
        operands = tuple(re.findall(r"[\w.\-]+", text[: end - 1]))
    return Instruction(name, opcode, _shapes(type_), operands, text[end:], root is not None)


def _shapes(text: str) -> tuple[Shape, ...]:
    return tuple(
        Shape(dtype, tuple(int(n) for n in dims.split(",") if n))
        for dtype, dims in _SHAPE.findall(text)
    )


def _kernels(
    computations: Mapping[str, Computation], name: str, runs: int, counts: dict[str, int]
) -> Iterator[Kernel]:
    computation = computations[name]
    for instruction in computation.values():
        opcode = instruction.opcode
        if opcode in _FREE or opcode.endswith(("-done", "-update")):
            continue
        if opcode == "while":
            counts["while"] += 1
            times = runs * _trip_count(instruction)
            yield from _kernels(computations, instruction.attribute("body"), times, counts)
        elif opcode == "conditional":
            counts["conditional"] += 1
            branches = [
                list(_kernels(computations, b, runs, counts)) for b in _branches(instruction)
            ]
            yield from max(branches, key=lambda ks: sum(k.bytes for k in ks), default=[])
        elif opcode in ("call", "async-start"):
            inner = instruction.attribute("to_apply") or instruction.attribute("calls")
            yield from _kernels(computations, inner, runs, counts)
        else:
            yield _kernel(computations, computation, instruction, runs)


def _trip_count(loop: Instruction) -> int:
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.rest)
    return int(known[1]) if known else 1


def _branches(conditional: Instruction) -> list[str]:
    listed = re.search(r"branch_computations=\{([^}]*)\}", conditional.rest)
    if listed:
        return re.findall(r"%?([\w.\-]+)", listed[1])
    return [conditional.attribute(f"{case}_computation") for case in ("true", "false")]


def _kernel(
    computations: Mapping[str, Computation],
    computation: Computation,
    instruction: Instruction,
    runs: int,
) -> Kernel:
    target = instruction.attribute("custom_call_target")
    fused = computations.get(instruction.attribute("calls"), {})
    accessed = _accessed(computation, instruction, fused)
    matmuls = [_flop(fused, inner) for inner in fused.values()]
    matmuls.append(_flop(computation, instruction))
    flop = sum(flop for flop, _ in matmuls)
    return Kernel(
        instruction.name,
        _kind(instruction, target, fused, flop),
        instruction.source,
        runs * sum(shape.bytes for shape in accessed),
        runs * sum(shape.bytes for shape in accessed if shape.dtype == "f32"),
        runs * flop,
        runs * sum(flop for flop, wide in matmuls if wide),
        runs,
    )


def _kind(instruction: Instruction, target: str, fused: Computation, flop: int) -> str:
    base = instruction.opcode.removesuffix("-start")
    if base in COLLECTIVES:
        return "collective"
    if "conv" in target or any(i.opcode == "convolution" for i in fused.values()):
        return "convolution"
    if flop or "gemm" in target or "cublas" in target:
        return "matmul"
    if base == "copy":
        return "copy"
    if instruction.opcode == "fusion":
        return "reduction" if instruction.attribute("kind") == "kInput" else "elementwise"
    return target or instruction.opcode


def _accessed(
    computation: Computation, instruction: Instruction, fused: Computation
) -> list[Shape]:
    """Returns the arrays that a kernel reads and writes."""
    base = instruction.opcode.removesuffix("-start")
    if base in _SLICES:
        return [*instruction.shapes, *instruction.shapes]
    written = list(instruction.shapes)
    if base in COLLECTIVES and instruction.opcode.endswith("-start"):
        written = written[len(written) // 2 :]  # (operands, results)
    parameters = {
        int(inner.operands[0]): inner.name
        for inner in fused.values()
        if inner.opcode == "parameter"
    }
    read: list[Shape] = []
    seen: set[str] = set()
    for i, name in enumerate(instruction.operands):
        operand = computation.get(name)
        if operand is None or name in seen:
            continue
        seen.add(name)
        elements = _elements_read(fused, parameters[i]) if i in parameters else None
        if elements is None:
            read += operand.shapes
        else:
            read.append(Shape(operand.shapes[0].dtype, (elements,)))
    updates = [_updated(fused, root) for root in _roots(fused)]
    if updates and all(update is not None for update in updates):
        written = [update for update in updates if update is not None]
    return read + written


def _users(fused: Computation, name: str) -> list[Instruction]:
    return [inner for inner in fused.values() if name in inner.operands]


def _elements_read(fused: Computation, name: str) -> int | None:
    """Counts the elements of a fusion's parameter that are read by slices; None: all of them.

    Conversions precede slices in the text, but are only computed for the slices.
    """
    total = 0
    for user in _users(fused, name):
        if user.opcode in _SLICES:
            total += user.shapes[0].size
        elif user.opcode in ("bitcast", "convert") and not user.root:
            inner = _elements_read(fused, user.name)
            if inner is None:
                return None
            total += inner
        elif user.opcode != "dynamic-update-slice" or user.operands[0] != name:
            return None  # unlike updates, which are in place
    return total


def _roots(fused: Computation) -> list[Instruction]:
    root = next((inner for inner in fused.values() if inner.root), None)
    if root is None:
        return []
    return [fused[name] for name in root.operands] if root.opcode == "tuple" else [root]


def _updated(fused: Computation, root: Instruction) -> Shape | None:
    """Returns the shape that an in-place update writes; None: the root writes a whole array."""
    while root.opcode == "bitcast" and root.operands[0] in fused:
        root = fused[root.operands[0]]
    if root.opcode != "dynamic-update-slice":
        return None
    return fused[root.operands[1]].shapes[0]


def _flop(computation: Computation, instruction: Instruction) -> tuple[int, bool]:
    """Returns the FLOP of a convolution or matmul, else 0, and whether it is in float32."""
    target = instruction.attribute("custom_call_target")
    operands = [computation[n].shapes[0] for n in instruction.operands if n in computation
                and computation[n].shapes]  # fmt: skip
    if "conv" in target or instruction.opcode == "convolution":
        return _convolution_flop(instruction, target, operands), operands[0].dtype == "f32"
    if instruction.opcode == "dot":
        contracted = _dimensions(instruction.rest, "lhs_contracting_dims")
    elif "cublas" in target or "gemm" in target:
        config = json.loads(instruction.rest.partition("backend_config=")[2])
        config = config.get("gemm_backend_config", config)["dot_dimension_numbers"]
        contracted = [int(n) for n in config["lhs_contracting_dimensions"]]
    else:
        return 0, False
    flop = 2 * instruction.shapes[0].size * prod(operands[0].dims[axis] for axis in contracted)
    return flop, operands[0].dtype == "f32"


def _dimensions(text: str, key: str) -> list[int]:
    match = re.search(rf"{key}=\{{([\d,]*)\}}", text)
    return [int(n) for n in match[1].split(",") if n] if match else []


def _convolution_flop(instruction: Instruction, target: str, operands: Sequence[Shape]) -> int:
    """Returns 2 x elements of the forward output x elements of the filter per output channel."""
    left, right, result = operands[0], operands[1], instruction.shapes[0]
    if "BackwardInput" in target:
        outer, kernel = left, right
    elif "BackwardFilter" in target:
        outer, kernel = right, result
    else:
        outer, kernel = result, right
    labels = re.search(r"dim_labels=\w+_(\w+)->(\w+)", instruction.rest)
    if labels is None:
        return 0
    # "o" is the total number of output channels, also for grouped convolutions.
    return 2 * outer.size * kernel.size // kernel.dims[labels[1].index("o")]
