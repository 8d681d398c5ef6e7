"""Reads the weights of a TensorFlow.js model: a .json with a manifest, and the files it names.

The manifest is a list of groups. The concatenated files of a group hold its weights in order, as
float32, int32 or quantized: as float16, or as integers q that stand for q * scale + min.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from jdance.weights.parsing import (
    MAX_AXES,
    MAX_ELEMENTS,
    Malformed,
    damaged_as_user_error,
    read_bytes,
)

_MAX_JSON, _MAX_DATA = 2**26, 2**31  # bytes
_DTYPES = {"float32": "<f4", "float16": "<f2", "int32": "<i4", "uint8": "u1", "uint16": "<u2",
           "bool": "u1"}  # fmt: skip


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Reads every numeric weight.

    Args:
        path: the .json, beside the files with the weights.

    Returns:
        Name -> array float32 (dequantized), int32 or bool.

    Raises:
        UserError: a file cannot be read, is truncated or damaged, or is of another format.
    """
    path = Path(path)
    with damaged_as_user_error(
        path, "a TensorFlow.js model", "get all of its files again from where they are published"
    ):
        return _parse(read_bytes(path, _MAX_JSON), path.parent)


def _parse(text: bytes, folder: Path) -> dict[str, np.ndarray]:
    try:
        model = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Malformed("not JSON") from error
    groups = model.get("weightsManifest") if isinstance(model, dict) else None
    if not isinstance(groups, list) or not groups:
        raise Malformed("it has no weightsManifest")
    result: dict[str, np.ndarray] = {}
    read: set[str] = set()
    total = 0
    for group in groups:
        paths, entries = _entry(group, "paths", list), _entry(group, "weights", list)
        for name in paths:
            # Only files in the folder of the model.
            if not isinstance(name, str) or Path(name).name != name or name in read:
                raise Malformed(f"an invalid weights file name {str(name)[:80]!r}")
            read.add(name)
        data = memoryview(b"".join(read_bytes(folder / name, _MAX_DATA) for name in paths))
        for entry in entries:
            name, shape = _entry(entry, "name", str), _entry(entry, "shape", list)
            if name in result:
                raise Malformed(f"two weights are called {name!r}")
            if len(shape) > MAX_AXES or any(type(n) is not int or n < 0 for n in shape):
                raise Malformed(f"{name!r} has no possible shape")
            total += math.prod(shape)
            if total > MAX_ELEMENTS:
                raise Malformed(f"more than {MAX_ELEMENTS} values in all")
            try:
                result[name], data = _array(entry, shape, data)
            except Malformed as error:
                raise Malformed(f"{name!r} {error}") from None
        if len(data):
            raise Malformed(f"{len(data)} bytes are left over")
    if not result:
        raise Malformed("it holds no weights")
    return result


def _entry(mapping: Any, key: str, kind: type) -> Any:
    value = mapping.get(key) if isinstance(mapping, dict) else None
    if not isinstance(value, kind):
        raise Malformed(f"an entry without {key!r}")
    return value


def _array(
    entry: dict[str, Any], shape: list[int], data: memoryview
) -> tuple[np.ndarray, memoryview]:
    """The array of a manifest entry, read from the beginning of `data`, and the remaining data."""
    declared, quantization = entry.get("dtype"), entry.get("quantization")
    stored = declared if quantization is None else _entry(quantization, "dtype", str)
    if declared not in ("float32", "int32", "bool") or stored not in _DTYPES:
        raise Malformed("has an unknown type")
    dtype = np.dtype(_DTYPES[stored])
    size = math.prod(shape) * dtype.itemsize
    if size > len(data):
        raise Malformed(f"of shape {shape} does not fit its file")
    array = np.frombuffer(data[:size], dtype) if size else np.zeros(0, dtype)
    if quantization is not None and stored in ("uint8", "uint16"):
        scale, minimum = quantization.get("scale"), quantization.get("min")
        if not all(type(x) in (int, float) and abs(x) < 1e30 for x in (scale, minimum)):
            raise Malformed("has no scale")
        array = array * float(scale) + float(minimum)
    try:
        return array.astype(declared).reshape(shape), data[size:]
    except ValueError:  # larger axes than NumPy supports
        raise Malformed("has no possible shape") from None
