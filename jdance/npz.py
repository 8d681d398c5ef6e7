"""Reads NumPy's archives (.npz) of which nothing is known but their name.

Nothing is unpickled, and no more memory is taken than the file's size allows: neither a header that
claims a giant array nor one that was packed to a thousandth of its size gets any.
"""

import io
import math
import sys
import zipfile
from pathlib import Path

import numpy as np

from jdance.errors import UserError

_MAX_RATIO = 50  # of unpacked to packed, well above what numbers reach
_MAX_FREE = 2**26  # bytes that even the smallest file may unpack to
_MAX_FILE = 2**33


def read(path: Path) -> dict[str, np.ndarray]:
    """Every array of a file by its name, as `numpy.savez` wrote it.

    Raises:
        UserError: the file cannot be read, is truncated or damaged, holds Python objects, or would
            unpack to more than 50 times its size.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            size = path.stat().st_size
            infos = archive.infolist()
            unpacked = sum(info.file_size for info in infos)
            if unpacked > min(max(_MAX_RATIO * size, _MAX_FREE), _MAX_FILE):
                raise ValueError(f"it would unpack to {unpacked} bytes")
            known = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            if any(info.compress_type not in known for info in infos):
                raise ValueError("it is packed in an unknown way")
            return {
                info.filename.removesuffix(".npy"): _array(archive.read(info)) for info in infos
            }
    except Exception as error:  # zipfile's, zlib's, and whatever NumPy's parser of headers raises
        raise UserError(
            f"{path}: not a readable .npz file ({_reason(error)}); write it with numpy.savez"
        ) from error


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or repr(error)).partition("\n")[0]


def _array(data: bytes) -> np.ndarray:
    """The array of a .npy file; its size is compared with what follows the header first."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"an array of format {version}")
    shape, fortran_order, dtype = readers[version](stream)
    if dtype.kind not in "biufcUS":
        raise ValueError(f"an array of {dtype}")
    rest = memoryview(data)[stream.tell() :]
    sizes_fit = len(shape) <= 32 and all(0 <= n < 2**40 for n in shape)
    if not sizes_fit or math.prod(shape) * dtype.itemsize != len(rest):
        raise ValueError(f"an array of shape {shape} with {len(rest)} bytes")
    if not math.prod(shape) or not dtype.itemsize:
        return np.zeros(shape, dtype)
    array = np.frombuffer(rest, dtype)
    if dtype.kind == "U" and array.view(f"{dtype.byteorder}u4").max() > sys.maxunicode:
        raise ValueError("text that is not Unicode")
    return array.reshape(shape[::-1]).T if fortran_order else array.reshape(shape)
