"""Reads the constants of a frozen TensorFlow graph (a GraphDef in a .pb file), without TensorFlow.

A .pb file is a protocol-buffer message. Only what holds constants is followed, by these field
numbers of TensorFlow's public .proto files:
GraphDef.node=1; NodeDef.name=1, op=2, attr=5 (key=1, value=2); AttrValue.tensor=8;
TensorProto.dtype=1, tensor_shape=2, tensor_content=4, and a typed field for single values;
TensorShapeProto.dim=2 (size=1).
"""

import math
from pathlib import Path

import numpy as np

from jdance.weights import protobuf

_MAX_AXES = 8
_MAX_ELEMENTS = 2**24  # many times what a pose network's largest kernel has
_MAX_TOTAL = 2**27  # of all constants together, of which a few bytes may stand for many

# TensorFlow's number of a data type -> its array type, and the TensorProto field of single values.
_TYPES: dict[int, tuple[type, int]] = {
    1: (np.float32, 5),
    2: (np.float64, 6),
    3: (np.int32, 7),
    9: (np.int64, 10),
}


def read_constants(path: str | Path) -> dict[str, np.ndarray]:
    """Reads every numeric Const node of a frozen graph.

    Args:
        path: a binary GraphDef.

    Returns:
        Node name -> array of dtype float32, float64, int32 or int64. Constants of other types
        (strings, say) are left out.

    Raises:
        UserError: the file cannot be read, is truncated, or is something else.
    """
    return protobuf.parse_file(path, parse_constants, "a frozen TensorFlow graph")


def parse_constants(graph: bytes | memoryview) -> dict[str, np.ndarray]:
    """`read_constants` for bytes in memory; raises an exception of this module on bad ones."""
    constants: dict[str, np.ndarray] = {}
    total = 0
    for number, node in protobuf.fields(memoryview(graph)):
        if number != 1:
            continue
        name, op, tensor = _node(protobuf.message(node))
        if op != "Const" or tensor is None:
            continue
        array = _tensor(tensor, name)
        if array is None:
            continue
        if name in constants:
            raise protobuf.Malformed(f"two nodes are called {name!r}")
        constants[name] = array
        total += array.size
        if total > _MAX_TOTAL:
            raise protobuf.Malformed(f"more than {_MAX_TOTAL} values in all")
    if not constants:
        raise protobuf.Malformed("it holds no constants")
    return constants


def _node(node: memoryview) -> tuple[str, str, memoryview | None]:
    """Name, operation, and the tensor under the attribute "value", of a NodeDef."""
    name, op, tensor = "", "", None
    for number, value in protobuf.fields(node):
        if number == 1:
            name = protobuf.text(value)
        elif number == 2:
            op = protobuf.text(value)
        elif number == 5:
            entry = dict(protobuf.fields(protobuf.message(value)))
            if 1 in entry and 2 in entry and protobuf.text(entry[1]) == "value":
                attribute = dict(protobuf.fields(protobuf.message(entry[2])))
                if 8 in attribute:
                    tensor = protobuf.message(attribute[8])
    return name, op, tensor


def _tensor(tensor: memoryview, name: str) -> np.ndarray | None:
    """The array of a TensorProto, or None if its type is not numeric."""
    fields = list(protobuf.fields(tensor))
    single = dict(fields)
    type_number = protobuf.integer(single.get(1, 0))
    if type_number not in _TYPES:
        return None
    dtype, values_field = _TYPES[type_number]
    shape = _shape(protobuf.message(single[2])) if 2 in single else ()
    count = math.prod(shape)
    if math.prod(max(size, 1) for size in shape) > _MAX_ELEMENTS:
        raise protobuf.Malformed(f"constant {name!r} claims the shape {shape}")

    content = protobuf.message(single.get(4, memoryview(b"")))
    little_endian = np.dtype(dtype).newbyteorder("<")
    if len(content) > 0:
        if len(content) != count * little_endian.itemsize:
            raise protobuf.Malformed(
                f"constant {name!r} of shape {shape} and type {np.dtype(dtype)} has "
                f"{len(content)} bytes"
            )
        return np.frombuffer(content, little_endian).astype(dtype).reshape(shape)

    values = [
        x for number, value in fields if number == values_field for x in _values(value, dtype)
    ]
    if len(values) > count or (count and not values):
        raise protobuf.Malformed(f"constant {name!r} of shape {shape} has {len(values)} values")
    # A row of equal values is stored once: the last value stands for all that follow.
    array: np.ndarray = np.empty(count, dtype)
    array[: len(values)] = values
    array[len(values) :] = values[-1] if values else 0
    return array.reshape(shape)


def _shape(message: memoryview) -> tuple[int, ...]:
    """The sizes of a TensorShapeProto."""
    sizes = []
    for number, value in protobuf.fields(message):
        if number == 2:
            size = protobuf.signed(
                protobuf.integer(dict(protobuf.fields(protobuf.message(value))).get(1, 0))
            )
            if size < 0:
                raise protobuf.Malformed("a constant with an unknown size")
            sizes.append(size)
    if len(sizes) > _MAX_AXES:
        raise protobuf.Malformed(f"a constant with {len(sizes)} axes")
    return tuple(sizes)


def _values(value: int | memoryview, dtype: type) -> list[int] | list[float]:
    """The numbers in one occurrence of a TensorProto's value field, packed or single."""
    if np.issubdtype(dtype, np.floating):
        data = protobuf.message(value)
        if len(data) % np.dtype(dtype).itemsize:
            raise protobuf.Malformed("a cut row of values")
        return np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).tolist()
    numbers = [value] if isinstance(value, int) else list(protobuf.varints(value))
    signed = [protobuf.signed(number) for number in numbers]
    limits = np.iinfo(dtype)
    if any(not limits.min <= number <= limits.max for number in signed):
        raise protobuf.Malformed("a value out of its type's range")
    return signed
