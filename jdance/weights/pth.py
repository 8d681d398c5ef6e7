"""Reads the tensors of a PyTorch checkpoint (.pth, .pt, .bin) without PyTorch.

A checkpoint is a pickle, which can call any function by name. This reader accepts only the opcodes
that build dictionaries, lists and numbers, and only the names in `_Unpickler.find_class`, which map
to functions of this module. It reads the zip archives of PyTorch 1.6 and later (NAME/data.pkl,
NAME/data/KEY) and the older format, a series of pickles followed by raw data.
"""

import io
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jdance.weights.parsing import MAX_AXES, Malformed, parse_file

Buffer = bytes | memoryview

_MAX_FILE = 2**32
_MAX_PICKLE = 2**26  # names and shapes only, far more than the largest network needs
_LEGACY_MAGIC, _LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001

# The opcodes of pickle protocol 2 for dictionaries, lists, tuples, numbers, strings and calls.
_OPCODES = {
    "PROTO", "STOP", "MARK", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2",
    "TUPLE3", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "NONE", "NEWTRUE", "NEWFALSE", "BININT",
    "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "BINSTRING", "SHORT_BINSTRING",
    "BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT", "GLOBAL", "REDUCE", "BUILD", "BINPERSID",
}  # fmt: skip

_DTYPES: dict[str, Any] = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


# Pickles can only create these types, which are immutable.


class _StorageType(NamedTuple):
    name: str


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    size: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Reads every named tensor of a checkpoint.

    Args:
        path: written by `torch.save`: a state dict, or a dictionary with one under "state_dict"
            or "model". Other entries than tensors are ignored.

    Returns:
        Name -> array, read-only, with the dtype and shape in the file.

    Raises:
        UserError: the file cannot be read, is truncated or damaged, is of another format, or calls
            a function that weights do not need.
    """
    return parse_file(path, _parse, "a PyTorch checkpoint", _MAX_FILE)


def _parse(file: bytes) -> dict[str, np.ndarray]:
    content, load = (_read_zip if file.startswith(b"PK\3\4") else _read_legacy)(file)
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    entries = content.items() if isinstance(content, dict) else ()
    result = {
        name: _array(name, value, load)
        for name, value in entries
        if isinstance(name, str) and isinstance(value, _Tensor)
    }
    if not result:
        raise Malformed("it holds no tensors by name")
    return result


def _array(name: str, tensor: _Tensor, load: Callable[[_Storage], Buffer]) -> np.ndarray:
    """A tensor's view of its storage, after checking that it lies inside."""
    storage, offset, shape, strides = tensor
    numbers = (offset, *shape, *strides)
    whole = all(type(number) is int and 0 <= number <= _MAX_FILE for number in numbers)
    if not whole or len(shape) != len(strides) or len(shape) > MAX_AXES:
        raise Malformed(f"tensor {name!r} has no possible shape")
    last = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    count: int = math.prod(shape)
    if count > storage.size or (count and offset + last >= storage.size):
        raise Malformed(f"tensor {name!r} of shape {shape} is larger than its data")
    data = load(storage)
    if len(data) != storage.size * storage.dtype.itemsize:
        raise Malformed(f"the data of tensor {name!r} has {len(data)} bytes")
    if not count:
        if math.prod(max(size, 1) for size in shape) > _MAX_FILE:
            raise Malformed(f"tensor {name!r} has no possible shape")
        return np.zeros(shape, storage.dtype)
    return np.lib.stride_tricks.as_strided(
        np.frombuffer(data, storage.dtype)[offset:],
        shape,
        [stride * storage.dtype.itemsize for stride in strides],
        writeable=False,
    )


# Container formats --------------------------------------------------------------------------------


def _read_zip(file: bytes) -> tuple[Any, Callable[[_Storage], Buffer]]:
    """The unpickled content of an archive, and a function that returns a storage's bytes."""
    try:
        with zipfile.ZipFile(io.BytesIO(file)) as archive:
            infos = archive.infolist()
            # PyTorch never compresses; a zip bomb does.
            if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
                raise Malformed("it is compressed")
            if sum(info.file_size for info in infos) > len(file):
                raise Malformed("its entries overlap")
            entries = {info.filename: archive.read(info) for info in infos}  # verifies checksums
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, ValueError) as error:
        raise Malformed(str(error)) from error
    pickles = [name for name in entries if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise Malformed("it has no data.pkl")
    folder = pickles[0].removesuffix("data.pkl")
    if entries.get(f"{folder}byteorder", b"little") != b"little":
        raise Malformed("its numbers are big-endian")
    content, _, _ = _unpickle(memoryview(entries[pickles[0]]))

    def load(storage: _Storage) -> Buffer:
        name = f"{folder}data/{storage.key}"
        if name not in entries:
            raise Malformed(f"{name!r} is missing")
        return entries[name]

    return content, load


def _read_legacy(file: bytes) -> tuple[Any, Callable[[_Storage], Buffer]]:
    """As `_read_zip`; magic number, version, platform, content, keys; sizes and data by key."""
    rest = memoryview(file)
    pickles = []
    for expected in (_LEGACY_MAGIC, _LEGACY_VERSION, None, None, None):
        content, storages, rest = _unpickle(rest)
        if expected not in (None, content):
            raise Malformed("it does not start as one")
        pickles.append((content, storages))
    platform, (content, storages), keys = pickles[2][0], pickles[3], pickles[4][0]
    if not isinstance(platform, dict) or platform.get("little_endian") is not True:
        raise Malformed("its numbers are not little-endian")
    found: dict[str, memoryview] = {}
    for key in keys if isinstance(keys, list) else ():
        if not isinstance(key, str) or key not in storages:
            raise Malformed("it has data of an unknown kind")
        dtype = storages[key].dtype
        size = int.from_bytes(rest[:8], "little") * dtype.itemsize
        if len(rest) < 8 or size > len(rest) - 8:
            raise Malformed("it ends in the middle of a tensor")
        found[key], rest = rest[8 : 8 + size], rest[8 + size :]

    def load(storage: _Storage) -> Buffer:
        if storage.key not in found:
            raise Malformed(f"the data {storage.key!r} is missing")
        return found[storage.key]

    return content, load


# Pickles ------------------------------------------------------------------------------------------


def _unpickle(data: memoryview) -> tuple[Any, dict[str, _Storage], memoryview]:
    """The content of the first pickle in `data`, the storages it names, and the remaining bytes."""
    stream = io.BytesIO(data[:_MAX_PICKLE])
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name not in _OPCODES:
                raise Malformed(f"pickle instruction {opcode.name}")
            # The unpickler allocates a memo of this size.
            if opcode.name == "LONG_BINPUT" and not 0 <= (argument or 0) <= len(data):
                raise Malformed("a cut pickle")
        end = stream.tell()
        unpickler = _Unpickler(io.BytesIO(data[:end]), encoding="utf-8")
        return unpickler.load(), unpickler.storages, data[end:]
    except Malformed:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise Malformed(str(error).partition("\n")[0] or type(error).__name__) from error


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, encoding: str):
        super().__init__(file, encoding=encoding)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        # New function objects: a pickle can set attributes of what it looks up.
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda *arguments: _rebuild_tensor(*arguments)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module == "torch" and name in _DTYPES:
            return _StorageType(name)
        raise Malformed(f"it asks for {module}.{name}, which weights do not need: not run")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key, _, size, *view = pid
        if kind != "storage" or not isinstance(storage_type, _StorageType) or any(view):
            raise Malformed("it has data of an unknown kind")
        if not isinstance(key, str) or type(size) is not int or not 0 <= size <= _MAX_FILE:
            raise Malformed("it has data of an impossible size")
        storage = _Storage(key, np.dtype(_DTYPES[storage_type.name]), size)
        if self.storages.setdefault(key, storage) != storage:
            raise Malformed(f"the data {key!r} has two types")
        return storage


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    if not (
        isinstance(storage, _Storage) and isinstance(shape, tuple) and isinstance(strides, tuple)
    ):
        raise Malformed("a tensor without a shape")
    return _Tensor(storage, offset, shape, strides)
