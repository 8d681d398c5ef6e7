"""Reads the constants of a frozen TensorFlow graph (a GraphDef in a .pb file), without TensorFlow.

Reads these fields of TensorFlow's .proto files, which hold the constants:
GraphDef.node=1; NodeDef.name=1, op=2, attr=5 (key=1, value=2); AttrValue.tensor=8;
TensorProto.dtype=1, tensor_shape=2, tensor_content=4, and one field of values for each type;
TensorShapeProto.dim=2 (size=1).
"""

import math
from pathlib import Path

import numpy as np

from jdance.weights import protobuf
from jdance.weights.parsing import MAX_AXES, MAX_ELEMENTS, Malformed, parse_file

_MAX_TENSOR = 2**24  # elements of one constant, far more than a pose network's largest kernel

# TensorFlow's data type -> NumPy's type, and the TensorProto field with values of this type.
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
        Node name -> array float32, float64, int32 or int64. Constants of other types are left out.

    Raises:
        UserError: the file cannot be read, is truncated, or is of another format.
    """
    return parse_file(path, parse_constants, "a frozen TensorFlow graph", protobuf.MAX_FILE)


def parse_constants(graph: bytes) -> dict[str, np.ndarray]:
    """`read_constants` for bytes in memory; raises `Malformed`."""
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
            raise Malformed(f"two nodes are called {name!r}")
        constants[name] = array
        total += array.size
        if total > MAX_ELEMENTS:
            raise Malformed(f"more than {MAX_ELEMENTS} values in all")
    if not constants:
        raise Malformed("it holds no constants")
    return constants


def _node(node: memoryview) -> tuple[str, str, memoryview | None]:
    """Name, operation, and the attribute "value" (a tensor) of a NodeDef."""
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
    """The array in a TensorProto, or None for a non-numeric type."""
    fields = list(protobuf.fields(tensor))
    single = dict(fields)
    type_number = protobuf.integer(single.get(1, 0))
    if type_number not in _TYPES:
        return None
    dtype, values_field = _TYPES[type_number]
    shape = _shape(protobuf.message(single[2])) if 2 in single else ()
    count = math.prod(shape)
    if math.prod(max(size, 1) for size in shape) > _MAX_TENSOR:
        raise Malformed(f"constant {name!r} claims the shape {shape}")

    content = protobuf.message(single.get(4, memoryview(b"")))
    little_endian = np.dtype(dtype).newbyteorder("<")
    if len(content) > 0:
        if len(content) != count * little_endian.itemsize:
            raise Malformed(
                f"constant {name!r} of shape {shape} and type {np.dtype(dtype)} has "
                f"{len(content)} bytes"
            )
        return np.frombuffer(content, little_endian).astype(dtype).reshape(shape)

    values = [
        x for number, value in fields if number == values_field for x in _values(value, dtype)
    ]
    if len(values) > count or (count and not values):
        raise Malformed(f"constant {name!r} of shape {shape} has {len(values)} values")
    # The last value is repeated to the end.
    array: np.ndarray = np.empty(count, dtype)
    array[: len(values)] = values
    array[len(values) :] = values[-1] if values else 0
    return array.reshape(shape)


def _shape(message: memoryview) -> tuple[int, ...]:
    """The sizes in a TensorShapeProto."""
    sizes = []
    for number, value in protobuf.fields(message):
        if number == 2:
            size = protobuf.signed(
                protobuf.integer(dict(protobuf.fields(protobuf.message(value))).get(1, 0))
            )
            if size < 0:
                raise Malformed("a constant with an unknown size")
            sizes.append(size)
    if len(sizes) > MAX_AXES:
        raise Malformed(f"a constant with {len(sizes)} axes")
    return tuple(sizes)


def _values(value: int | memoryview, dtype: type) -> list[int] | list[float]:
    """The values in one occurrence of a TensorProto's value field, packed or not."""
    if np.issubdtype(dtype, np.floating):
        data = protobuf.message(value)
        if len(data) % np.dtype(dtype).itemsize:
            raise Malformed("truncated values")
        return np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).tolist()
    integers = [value] if isinstance(value, int) else protobuf.varints(value)
    signed = [protobuf.signed(integer) for integer in integers]
    limits = np.iinfo(dtype)
    if any(not limits.min <= integer <= limits.max for integer in signed):
        raise Malformed("a value out of its type's range")
    return signed
