"""Reads protocol-buffer messages, of which published graphs and weights are made.

A message is a row of fields, each a number, a wire type and a value. What a number means stands in
the public .proto file of the format; those who call this know it.
"""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from jdance.errors import UserError

T = TypeVar("T")

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_FILE = 2**31  # a protocol buffer cannot be larger


class Malformed(Exception):
    """The bytes are not such a message; the text says why."""


def parse_file(path: str | Path, parse: Callable[[memoryview], T], kind: str) -> T:
    """`parse` of a file's bytes; `kind` is the word for such a file in messages.

    Raises:
        UserError: the file cannot be read, is truncated, or is something else.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MAX_FILE:
            raise Malformed("larger than 2 GiB")
        return parse(memoryview(path.read_bytes()))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except Malformed as error:
        raise UserError(
            f"{path}: not {kind}, or a damaged one ({error}); "
            "get the file again from where it is published"
        ) from error


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a message: number, and value (an integer for varints, else its bytes)."""
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
    """The integer at a position (7 bits a byte, low ones first), and the position behind it."""
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
    """The numbers of a packed row."""
    position = 0
    while position < len(data):
        number, position = _varint(data, position)
        yield number


def signed(number: int) -> int:
    """A negative number is stored as its 64-bit two's complement."""
    return struct.unpack("<q", struct.pack("<Q", number))[0]


def message(value: int | memoryview) -> memoryview:
    """A field's value that must be bytes: a message, a text or packed numbers."""
    if isinstance(value, int):
        raise Malformed("a number in place of a message")
    return value


def integer(value: int | memoryview) -> int:
    """A field's value that must be a number."""
    if not isinstance(value, int):
        raise Malformed("a message in place of a number")
    return value


def text(value: int | memoryview) -> str:
    """A field's value that must be UTF-8."""
    try:
        return bytes(message(value)).decode()
    except UnicodeDecodeError as error:
        raise Malformed("a name that is not UTF-8") from error
