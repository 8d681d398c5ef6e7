"""Reads the weights of a TensorFlow.js model: a .json with a manifest, and the files it names.

The manifest is a list of groups. A group's files, one after the other, hold its weights in their
order, as float32 or int32 or quantized: as float16, or as integers q that mean q * scale + min.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from jdance.errors import UserError

_MAX_JSON, _MAX_DATA = 2**26, 2**31  # bytes
_MAX_TOTAL = 2**27  # elements of all weights together
_MAX_AXES = 8
_DTYPES = {"float32": "<f4", "float16": "<f2", "int32": "<i4", "uint8": "u1", "uint16": "<u2",
           "bool": "u1"}  # fmt: skip


class _Malformed(Exception):
    """The files are no such model; the message says why."""


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Reads every numeric weight.

    Args:
        path: the .json; the files with the weights lie beside it.

    Returns:
        Name -> array float32 (also of quantized weights), int32 or bool.

    Raises:
        UserError: a file is missing, cannot be read, is truncated or damaged, or is something else.
    """
    path = Path(path)
    try:
        return _parse(_content(path, _MAX_JSON), path.parent)
    except _Malformed as error:
        raise UserError(
            f"{path}: not a TensorFlow.js model, or a damaged one ({error}); "
            "get all of its files again from where they are published"
        ) from error


def _content(path: Path, limit: int) -> bytes:
    try:
        if path.stat().st_size > limit:
            raise _Malformed(f"{path.name} is larger than {limit >> 20} MiB")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason})") from error


def _parse(text: bytes, folder: Path) -> dict[str, np.ndarray]:
    try:
        model = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _Malformed("not JSON") from error
    groups = model.get("weightsManifest") if isinstance(model, dict) else None
    if not isinstance(groups, list) or not groups:
        raise _Malformed("it has no weightsManifest")
    result: dict[str, np.ndarray] = {}
    read: set[str] = set()
    total = 0
    for group in groups:
        paths, entries = _entry(group, "paths", list), _entry(group, "weights", list)
        for name in paths:
            # A model may only name files beside it.
            if not isinstance(name, str) or Path(name).name != name or name in read:
                raise _Malformed(f"a file {str(name)[:80]!r} of weights")
            read.add(name)
        data = memoryview(b"".join(_content(folder / name, _MAX_DATA) for name in paths))
        for entry in entries:
            name, shape = _entry(entry, "name", str), _entry(entry, "shape", list)
            if name in result:
                raise _Malformed(f"two weights are called {name!r}")
            if len(shape) > _MAX_AXES or any(type(n) is not int or n < 0 for n in shape):
                raise _Malformed(f"{name!r} has no possible shape")
            total += math.prod(shape)
            if total > _MAX_TOTAL:
                raise _Malformed(f"more than {_MAX_TOTAL} values in all")
            try:
                result[name], data = _array(entry, shape, data)
            except _Malformed as error:
                raise _Malformed(f"{name!r} {error}") from None
        if len(data):
            raise _Malformed(f"{len(data)} bytes are left over")
    if not result:
        raise _Malformed("it holds no weights")
    return result


def _entry(holder: Any, key: str, kind: type) -> Any:
    value = holder.get(key) if isinstance(holder, dict) else None
    if not isinstance(value, kind):
        raise _Malformed(f"an entry without {key!r}")
    return value


def _array(
    entry: dict[str, Any], shape: list[int], data: memoryview
) -> tuple[np.ndarray, memoryview]:
    """The array of a manifest's entry, at the beginning of the data, and what follows it."""
    kind, quantization = entry.get("dtype"), entry.get("quantization")
    stored = kind
    if quantization is not None:
        stored = _entry(quantization, "dtype", str)
    if kind not in ("float32", "int32", "bool") or stored not in _DTYPES:
        raise _Malformed("is of no known type")
    dtype = np.dtype(_DTYPES[stored])
    size = math.prod(shape) * dtype.itemsize
    if size > len(data):
        raise _Malformed(f"of shape {shape} does not fit its file")
    array = np.frombuffer(data[:size], dtype) if size else np.zeros(0, dtype)
    if quantization is not None and stored in ("uint8", "uint16"):
        scale, least = quantization.get("scale"), quantization.get("min")
        if not all(type(x) in (int, float) and abs(x) < 1e30 for x in (scale, least)):
            raise _Malformed("has no scale")
        array = array * float(scale) + float(least)
    kinds: dict[str, Any] = {"float32": np.float32, "int32": np.int32, "bool": np.bool_}
    result = array.astype(kinds[kind])
    try:
        return result.reshape(shape), data[size:]
    except ValueError:  # larger axes than arrays have
        raise _Malformed("has no possible shape") from None
