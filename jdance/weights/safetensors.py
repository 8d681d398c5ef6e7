"""Reads a .safetensors file: 8 bytes with the header's length, a JSON header, raw numbers.

The header maps each name to {"dtype", "shape", "data_offsets": [begin, end]} (bytes, counted from
the header's end), and "__metadata__" to free text. Everything is little-endian.
"""

import json
import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jdance.errors import UserError

_MAX_FILE = 2**32
_MAX_HEADER = 2**26

_DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


class _Malformed(Exception):
    """The bytes are no such file; the message says why."""


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Reads every tensor.

    Returns:
        Name -> array, read-only, with the dtype and shape in the file.

    Raises:
        UserError: the file cannot be read, is truncated or damaged, or is something else.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MAX_FILE:
            raise _Malformed("larger than 4 GiB")
        return _parse(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except _Malformed as error:
        raise UserError(
            f"{path}: not a safetensors file, or a damaged one ({error}); "
            "get the file again from where it is published"
        ) from error


def _parse(file: bytes) -> dict[str, np.ndarray]:
    length = int.from_bytes(file[:8], "little")
    if len(file) < 8 or length > min(len(file) - 8, _MAX_HEADER):
        raise _Malformed("its header is longer than the file")
    try:
        header = json.loads(file[8 : 8 + length])
    except (ValueError, RecursionError) as error:
        raise _Malformed("its header is not JSON") from error
    if not isinstance(header, dict):
        raise _Malformed("its header is not an object")
    header.pop("__metadata__", None)
    if not header:
        raise _Malformed("it holds no tensors")
    data = memoryview(file)[8 + length :]
    return {name: _array(name, entry, data) for name, entry in header.items()}


def _array(name: str, entry: Any, data: memoryview) -> np.ndarray:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        known = np.dtype(_DTYPES[dtype])
    except (KeyError, TypeError, ValueError):
        raise _Malformed(f"tensor {name!r} is of no known kind") from None
    if not isinstance(shape, list) or any(
        type(number) is not int or number < 0 for number in (*shape, begin, end)
    ):
        raise _Malformed(f"tensor {name!r} has no possible shape")
    if begin > end or end > len(data) or math.prod(shape) * known.itemsize != end - begin:
        raise _Malformed(f"tensor {name!r} of shape {shape} does not fit its data")
    try:
        return np.frombuffer(data[begin:end], known).reshape(shape)
    except ValueError:  # more axes, or larger ones, than arrays have
        raise _Malformed(f"tensor {name!r} has no possible shape") from None
