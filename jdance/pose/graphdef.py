"""Reads the constants of a frozen TensorFlow graph (a GraphDef in a .pb file), without TensorFlow.

A .pb file is a protocol-buffer message: a row of fields, each a number, a wire type and a value.
Only what holds constants is followed, by these field numbers of TensorFlow's public .proto files:
GraphDef.node=1; NodeDef.name=1, op=2, attr=5 (key=1, value=2); AttrValue.tensor=8;
TensorProto.dtype=1, tensor_shape=2, tensor_content=4, and a typed field for single values;
TensorShapeProto.dim=2 (size=1).
"""

import math
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jdance.errors import UserError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_FILE = 2**31  # a protocol buffer cannot be larger
_MAX_AXES = 8
_MAX_ELEMENTS = 2**24  # many times what a pose network's largest kernel has

# TensorFlow's number of a data type -> its array type, and the TensorProto field of single values.
_TYPES: dict[int, tuple[type, int]] = {
    1: (np.float32, 5),
    2: (np.float64, 6),
    3: (np.int32, 7),
    9: (np.int64, 10),
}


class _Malformed(Exception):
    """The bytes are not a GraphDef; the message says why."""


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
    path = Path(path)
    try:
        if path.stat().st_size > _MAX_FILE:
            raise _Malformed("larger than 2 GiB")
        return parse_constants(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except _Malformed as error:
        raise UserError(
            f"{path}: not a frozen TensorFlow graph, or a damaged one ({error}); "
            "get the file again from where it is published"
        ) from error


def parse_constants(graph: bytes) -> dict[str, np.ndarray]:
    """`read_constants` for bytes in memory; raises an exception of this module on bad ones."""
    constants: dict[str, np.ndarray] = {}
    for number, node in _fields(memoryview(graph)):
        if number != 1:
            continue
        name, op, tensor = _node(_message(node))
        if op != "Const" or tensor is None:
            continue
        array = _tensor(tensor, name)
        if array is None:
            continue
        if name in constants:
            raise _Malformed(f"two nodes are called {name!r}")
        constants[name] = array
    if not constants:
        raise _Malformed("it holds no constants")
    return constants


def _node(node: memoryview) -> tuple[str, str, memoryview | None]:
    """Name, operation, and the tensor under the attribute "value", of a NodeDef."""
    name, op, tensor = "", "", None
    for number, value in _fields(node):
        if number == 1:
            name = _text(value)
        elif number == 2:
            op = _text(value)
        elif number == 5:
            entry = dict(_fields(_message(value)))
            if 1 in entry and 2 in entry and _text(entry[1]) == "value":
                attribute = dict(_fields(_message(entry[2])))
                if 8 in attribute:
                    tensor = _message(attribute[8])
    return name, op, tensor


def _tensor(tensor: memoryview, name: str) -> np.ndarray | None:
    """The array of a TensorProto, or None if its type is not numeric."""
    fields = list(_fields(tensor))
    single = dict(fields)
    type_number = _integer(single.get(1, 0))
    if type_number not in _TYPES:
        return None
    dtype, values_field = _TYPES[type_number]
    shape = _shape(_message(single[2])) if 2 in single else ()
    count = math.prod(shape)
    if math.prod(max(size, 1) for size in shape) > _MAX_ELEMENTS:
        raise _Malformed(f"constant {name!r} claims the shape {shape}")

    content = _message(single.get(4, memoryview(b"")))
    little_endian = np.dtype(dtype).newbyteorder("<")
    if len(content) > 0:
        if len(content) != count * little_endian.itemsize:
            raise _Malformed(
                f"constant {name!r} of shape {shape} and type {np.dtype(dtype)} has "
                f"{len(content)} bytes"
            )
        return np.frombuffer(content, little_endian).astype(dtype).reshape(shape)

    values = [
        x for number, value in fields if number == values_field for x in _values(value, dtype)
    ]
    if len(values) > count or (count and not values):
        raise _Malformed(f"constant {name!r} of shape {shape} has {len(values)} values")
    # A row of equal values is stored once: the last value stands for all that follow.
    array: np.ndarray = np.empty(count, dtype)
    array[: len(values)] = values
    array[len(values) :] = values[-1] if values else 0
    return array.reshape(shape)


def _shape(message: memoryview) -> tuple[int, ...]:
    """The sizes of a TensorShapeProto."""
    sizes = []
    for number, value in _fields(message):
        if number == 2:
            size = _signed(_integer(dict(_fields(_message(value))).get(1, 0)))
            if size < 0:
                raise _Malformed("a constant with an unknown size")
            sizes.append(size)
    if len(sizes) > _MAX_AXES:
        raise _Malformed(f"a constant with {len(sizes)} axes")
    return tuple(sizes)


def _values(value: int | memoryview, dtype: type) -> list[int] | list[float]:
    """The numbers in one occurrence of a TensorProto's value field, packed or single."""
    if np.issubdtype(dtype, np.floating):
        data = _message(value)
        if len(data) % np.dtype(dtype).itemsize:
            raise _Malformed("a cut row of values")
        return np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).tolist()
    numbers = [value] if isinstance(value, int) else list(_varints(value))
    signed = [_signed(number) for number in numbers]
    limits = np.iinfo(dtype)
    if any(not limits.min <= number <= limits.max for number in signed):
        raise _Malformed("a value out of its type's range")
    return signed


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a message: number, and value (an integer for varints, else its bytes)."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, wire_type = key >> 3, key & 7
        if number == 0:
            raise _Malformed("a field without a number")
        if wire_type == _VARINT:
            integer, position = _varint(message, position)
            yield number, integer
            continue
        if wire_type == _BYTES:
            size, position = _varint(message, position)
        elif wire_type in (_FIXED32, _FIXED64):
            size = 4 if wire_type == _FIXED32 else 8
        else:
            raise _Malformed(f"an unknown wire type {wire_type}")
        if size > len(message) - position:
            raise _Malformed("it ends in the middle of a field")
        yield number, message[position : position + size]
        position += size


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """The integer at a position (7 bits a byte, low ones first), and the position behind it."""
    result = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise _Malformed("it ends in the middle of a number")
        byte = message[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result & 0xFFFFFFFFFFFFFFFF, position
    raise _Malformed("a number of more than ten bytes")


def _varints(message: memoryview) -> Iterator[int]:
    position = 0
    while position < len(message):
        number, position = _varint(message, position)
        yield number


def _signed(number: int) -> int:
    """A negative number is stored as its 64-bit two's complement."""
    return struct.unpack("<q", struct.pack("<Q", number))[0]


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise _Malformed("a number in place of a message")
    return value


def _integer(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise _Malformed("a message in place of a number")
    return value


def _text(value: int | memoryview) -> str:
    try:
        return bytes(_message(value)).decode()
    except UnicodeDecodeError as error:
        raise _Malformed("a name that is not UTF-8") from error
