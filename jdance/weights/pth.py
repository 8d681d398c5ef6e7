"""Reads the tensors of a PyTorch checkpoint (.pth, .pt, .bin) without PyTorch.

Such a file is a pickle, a program for a small machine that can call any function by its name. Here
it may use no other instructions than those that make dictionaries, lists and numbers, and call no
other names than those of `_Unpickler.find_class`, which stand for functions of this module. Two
formats are read: the zip archive of PyTorch 1.6 and later (NAME/data.pkl, NAME/data/KEY), and the
row of pickles followed by raw data that earlier versions wrote.
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

from jdance.errors import UserError

Buffer = bytes | memoryview

_MAX_FILE = 2**32
_MAX_PICKLE = 2**26  # names and shapes only: many times what the largest network needs
_MAX_AXES = 8
_LEGACY_MAGIC, _LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001

# What pickle protocol 2 needs for dictionaries, lists, tuples, numbers, strings, and calls.
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


class _Malformed(Exception):
    """The bytes are not a checkpoint; the message says why."""


# What a pickle may make are tuples of these kinds, which cannot be changed afterwards.


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
        path: what `torch.save` wrote: a state dict, or a dictionary that holds one under
            "state_dict" or "model". Entries that are no tensors are left out.

    Returns:
        Name -> array, read-only, with the dtype and shape in the file.

    Raises:
        UserError: the file cannot be read, is truncated or damaged, is something else, or asks
            for a function to be called that no weights need.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MAX_FILE:
            raise _Malformed("larger than 4 GiB")
        file = path.read_bytes()
        content, load = (_read_zip if file.startswith(b"PK\3\4") else _read_legacy)(file)
        return _tensors(content, load)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except _Malformed as error:
        raise UserError(
            f"{path}: not a PyTorch checkpoint, or a damaged one ({error}); "
            "get the file again from where it is published"
        ) from error


def _tensors(content: Any, load: Callable[[_Storage], Buffer]) -> dict[str, np.ndarray]:
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
        raise _Malformed("it holds no tensors by name")
    return result


def _array(name: str, tensor: _Tensor, load: Callable[[_Storage], Buffer]) -> np.ndarray:
    """The view of its storage that a tensor is, once it is certain to lie inside."""
    storage, offset, shape, strides = tensor
    numbers = (offset, *shape, *strides)
    whole = all(type(number) is int and 0 <= number <= _MAX_FILE for number in numbers)
    if not whole or len(shape) != len(strides) or len(shape) > _MAX_AXES:
        raise _Malformed(f"tensor {name!r} has no possible shape")
    last = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    count: int = math.prod(shape)
    if count > storage.size or (count and offset + last >= storage.size):
        raise _Malformed(f"tensor {name!r} of shape {shape} is larger than its data")
    data = load(storage)
    if len(data) != storage.size * storage.dtype.itemsize:
        raise _Malformed(f"the data of tensor {name!r} has {len(data)} bytes")
    if not count:
        if math.prod(max(size, 1) for size in shape) > _MAX_FILE:
            raise _Malformed(f"tensor {name!r} has no possible shape")
        return np.zeros(shape, storage.dtype)
    return np.lib.stride_tricks.as_strided(
        np.frombuffer(data, storage.dtype)[offset:],
        shape,
        [stride * storage.dtype.itemsize for stride in strides],
        writeable=False,
    )


# The two formats ----------------------------------------------------------------------------------


def _read_zip(file: bytes) -> tuple[Any, Callable[[_Storage], Buffer]]:
    """The unpickled content of an archive, and what finds a storage's bytes."""
    try:
        with zipfile.ZipFile(io.BytesIO(file)) as archive:
            infos = archive.infolist()
            # PyTorch never compresses; only a small file that is to fill the memory would.
            if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
                raise _Malformed("it is compressed")
            if sum(info.file_size for info in infos) > len(file):
                raise _Malformed("its entries overlap")
            entries = {info.filename: archive.read(info) for info in infos}  # and their checksums
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, ValueError) as error:
        raise _Malformed(str(error)) from error
    pickles = [name for name in entries if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise _Malformed("it has no data.pkl")
    folder = pickles[0].removesuffix("data.pkl")
    if entries.get(f"{folder}byteorder", b"little") != b"little":
        raise _Malformed("its numbers are big-endian")
    content, _, _ = _unpickle(memoryview(entries[pickles[0]]))

    def load(storage: _Storage) -> Buffer:
        name = f"{folder}data/{storage.key}"
        if name not in entries:
            raise _Malformed(f"{name!r} is missing")
        return entries[name]

    return content, load


def _read_legacy(file: bytes) -> tuple[Any, Callable[[_Storage], Buffer]]:
    """Magic number, version, about the machine, content, keys; then each key's size and bytes."""
    rest = memoryview(file)
    contents = []
    for expected in (_LEGACY_MAGIC, _LEGACY_VERSION, None, None, None):
        content, storages, rest = _unpickle(rest)
        if expected not in (None, content):
            raise _Malformed("it does not start as one")
        contents.append((content, storages))
    machine, (content, storages), keys = contents[2][0], contents[3], contents[4][0]
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise _Malformed("its numbers are not little-endian")
    found: dict[str, memoryview] = {}
    for key in keys if isinstance(keys, list) else ():
        if not isinstance(key, str) or key not in storages:
            raise _Malformed("it has data of an unknown kind")
        dtype = storages[key].dtype
        size = int.from_bytes(rest[:8], "little") * dtype.itemsize
        if len(rest) < 8 or size > len(rest) - 8:
            raise _Malformed("it ends in the middle of a tensor")
        found[key], rest = rest[8 : 8 + size], rest[8 + size :]

    def load(storage: _Storage) -> Buffer:
        if storage.key not in found:
            raise _Malformed(f"the data {storage.key!r} is missing")
        return found[storage.key]

    return content, load


# The pickle ---------------------------------------------------------------------------------------


def _unpickle(data: memoryview) -> tuple[Any, dict[str, _Storage], memoryview]:
    """The content of the first pickle in `data`, the storages it names, and what follows it."""
    stream = io.BytesIO(data[:_MAX_PICKLE])
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name not in _OPCODES:
                raise _Malformed(f"pickle instruction {opcode.name}")
            # Python makes room for every number up to this one.
            if opcode.name == "LONG_BINPUT" and not 0 <= (argument or 0) <= len(data):
                raise _Malformed("a cut pickle")
        end = stream.tell()
        unpickler = _Unpickler(io.BytesIO(data[:end]), encoding="utf-8")
        return unpickler.load(), unpickler.storages, data[end:]
    except _Malformed:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise _Malformed(str(error).partition("\n")[0] or type(error).__name__) from error


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, encoding: str):
        super().__init__(file, encoding=encoding)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        # Functions made anew: a pickle may set attributes of what it is given.
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda *arguments: _rebuild_tensor(*arguments)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module == "torch" and name in _DTYPES:
            return _StorageType(name)
        raise _Malformed(f"it asks for {module}.{name}, which weights do not need: not run")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key, _, size, *view = pid
        if kind != "storage" or not isinstance(storage_type, _StorageType) or any(view):
            raise _Malformed("it has data of an unknown kind")
        if not isinstance(key, str) or type(size) is not int or not 0 <= size <= _MAX_FILE:
            raise _Malformed("it has data of an impossible size")
        storage = _Storage(key, np.dtype(_DTYPES[storage_type.name]), size)
        if self.storages.setdefault(key, storage) != storage:
            raise _Malformed(f"the data {key!r} has two types")
        return storage


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    if not (
        isinstance(storage, _Storage) and isinstance(shape, tuple) and isinstance(strides, tuple)
    ):
        raise _Malformed("a tensor without a shape")
    return _Tensor(storage, offset, shape, strides)
