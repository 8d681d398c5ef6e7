"""Reader of untrusted .npz files.

Unlike np.load(allow_pickle=False), it bounds memory by the size of the file: headers that claim
huge arrays and zip bombs are rejected before anything is allocated.
"""

import io
import math
import sys
import zipfile
from pathlib import Path

import numpy as np

from jdance.errors import UserError

_MAX_RATIO = 50  # of uncompressed to compressed size, well above that of real arrays
_MIN_LIMIT, _MAX_LIMIT = 2**26, 2**33  # bytes of uncompressed size, for any file


def read(path: Path) -> dict[str, np.ndarray]:
    """Reads all arrays of a file by `numpy.savez`, by name.

    Raises:
        UserError: the file is unreadable or damaged, contains Python objects, or would unpack to
            more than 50 times its size.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            size = path.stat().st_size
            infos = archive.infolist()
            unpacked = sum(info.file_size for info in infos)
            if unpacked > min(max(_MAX_RATIO * size, _MIN_LIMIT), _MAX_LIMIT):
                raise ValueError(f"it would unpack to {unpacked} bytes")
            known = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            if any(info.compress_type not in known for info in infos):
                raise ValueError("unknown compression")
            return {
                info.filename.removesuffix(".npy"): _array(archive.read(info)) for info in infos
            }
    except Exception as error:  # of zipfile, zlib, and NumPy's header parser
        raise UserError(
            f"{path}: not a readable .npz file ({_reason(error)}); write it with numpy.savez"
        ) from error


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or repr(error)).partition("\n")[0]


def _array(data: bytes) -> np.ndarray:
    """Parses a .npy file, after comparing the size in its header with the data."""
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
    payload = memoryview(data)[stream.tell() :]
    sizes_fit = len(shape) <= 32 and all(0 <= n < 2**40 for n in shape)
    if not sizes_fit or math.prod(shape) * dtype.itemsize != len(payload):
        raise ValueError(f"an array of shape {shape} with {len(payload)} bytes")
    if not math.prod(shape) or not dtype.itemsize:
        return np.zeros(shape, dtype)
    array = np.frombuffer(payload, dtype)
    if dtype.kind == "U" and array.view(f"{dtype.byteorder}u4").max() > sys.maxunicode:
        raise ValueError("text that is not Unicode")
    return array.reshape(shape[::-1]).T if fortran_order else array.reshape(shape)
