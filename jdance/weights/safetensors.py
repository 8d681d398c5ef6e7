"""Reads .safetensors files, including bfloat16, which `safetensors.numpy` does not support."""

from operator import itemgetter
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, deserialize

from jdance.weights.parsing import Malformed, parse_file

_MAX_FILE = 2**32

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


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Reads every tensor.

    Returns:
        Name -> array with the dtype and shape in the file.

    Raises:
        UserError: the file cannot be read, is truncated or damaged, or is of another format.
    """
    return parse_file(path, _parse, "a safetensors file", _MAX_FILE)


def _parse(data: bytes) -> dict[str, np.ndarray]:
    try:
        tensors = deserialize(data)
    except SafetensorError as error:
        raise Malformed(str(error).removeprefix("Error while deserializing: ")) from error
    if not tensors:
        raise Malformed("it holds no tensors")
    arrays = {}
    for name, tensor in sorted(tensors, key=itemgetter(0)):  # their order is random
        if tensor["dtype"] not in _DTYPES:
            raise Malformed(f"tensor {name!r} has the unsupported type {tensor['dtype']}")
        try:
            array = np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]])
            arrays[name] = array.reshape(tensor["shape"])
        except ValueError:  # more axes, or larger ones, than NumPy supports
            raise Malformed(f"tensor {name!r} has an impossible shape") from None
    return arrays
