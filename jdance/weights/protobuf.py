"""Wire-format decoder for protocol-buffer messages, without .proto files.

A message is a sequence of fields: a number, a wire type and a value. The meaning of the field
numbers is in the .proto file of each format.
"""

import struct
from collections.abc import Iterator

from jdance.weights.parsing import Malformed

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
MAX_FILE = 2**31  # bytes; the format's own limit


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a message: number and value (an integer for varints, else bytes)."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire_type = key >> 3, key & 7
        if number == 0:
            raise Malformed("a field without a number")
        if wire_type == _VARINT:
            integer, position = _varint(data, position)
            yield number, integer
            continue
        if wire_type == _BYTES:
            size, position = _varint(data, position)
        elif wire_type in (_FIXED32, _FIXED64):
            size = 4 if wire_type == _FIXED32 else 8
        else:
            raise Malformed(f"an unknown wire type {wire_type}")
        if size > len(data) - position:
            raise Malformed("it ends in the middle of a field")
        yield number, data[position : position + size]
        position += size


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """The integer at a position (7 bits per byte, little-endian), and the position after it."""
    result = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise Malformed("it ends in the middle of a number")
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result & 0xFFFFFFFFFFFFFFFF, position
    raise Malformed("a number of more than ten bytes")


def varints(data: memoryview) -> Iterator[int]:
    """The integers of a packed repeated field."""
    position = 0
    while position < len(data):
        number, position = _varint(data, position)
        yield number


def signed(number: int) -> int:
    """Reinterprets an unsigned 64-bit integer as two's complement."""
    return struct.unpack("<q", struct.pack("<Q", number))[0]


def message(value: int | memoryview) -> memoryview:
    """A field's value as bytes: a message, a string or packed numbers."""
    if isinstance(value, int):
        raise Malformed("a number in place of a message")
    return value


def integer(value: int | memoryview) -> int:
    """A field's value as an integer."""
    if not isinstance(value, int):
        raise Malformed("a message in place of a number")
    return value


def text(value: int | memoryview) -> str:
    """A field's value as a UTF-8 string."""
    try:
        return bytes(message(value)).decode()
    except UnicodeDecodeError as error:
        raise Malformed("a name that is not UTF-8") from error
