"""Pictures from and to files: uint8 RGB in memory, whatever lies on the disk."""

import os
from pathlib import Path

import cv2
import numpy as np

from jdance.errors import UserError

_MAX_FILE = 2**30

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")


def read(path: Path) -> np.ndarray:
    """Reads a picture as uint8 RGB [H, W, 3]; grey, alpha and 16-bit ones are converted.

    Raises:
        UserError: the file is missing or no picture.
    """
    try:
        if path.stat().st_size > _MAX_FILE:
            raise UserError(f"{path}: larger than 1 GiB; not read as a picture")
        data = np.fromfile(path, np.uint8)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason}); check the path") from error
    image = decode(data) if data.size else None
    if image is None:
        raise UserError(f"{path}: not a readable picture; replace or remove the file")
    return image


def decode(data: np.ndarray | bytes, flag: int = cv2.IMREAD_COLOR) -> np.ndarray | None:
    """Encoded bytes -> uint8 RGB [H, W, 3], turned upright as EXIF says, or None if unreadable.

    Pictures of more than $OPENCV_IO_MAX_IMAGE_PIXELS (see `jdance`) are not decoded. `flag` is one
    of OpenCV's for colour, in either order, or grey (uint8 [H, W]), such as for a reduced size.
    """
    if not len(data):
        return None
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
        if image is None or image.ndim == 2 or flag & cv2.IMREAD_COLOR_RGB:
            return image
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    except (cv2.error, MemoryError):
        return None


def encode_jpeg(image: np.ndarray, quality: int = 95) -> bytes:
    """uint8 RGB [H, W, 3] -> JPEG."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return data.tobytes()


def shrink(image: np.ndarray, side: int) -> np.ndarray:
    """uint8 [H, W, 3] with its longer side at most `side` pixels."""
    scale = side / max(image.shape[:2])
    if scale >= 1:
        return image
    height, width = (max(1, round(n * scale)) for n in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def write(path: Path, image: np.ndarray) -> None:
    """Writes uint8 RGB [H, W, 3]; the suffix chooses the format.

    Raises:
        UserError: the file cannot be written.
    """
    # Encoded in memory: imwrite tells no reasons, and crashes on names that are not UTF-8.
    _, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    try:
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def find(folder: Path) -> list[Path]:
    """The files in a folder that look like pictures, sorted by name; hidden ones are left out."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def printable(name: str) -> str:
    """A file's name as valid Unicode, whatever bytes it has on the disk."""
    try:
        return os.fsencode(name).decode("utf-8", "replace")
    except UnicodeEncodeError:  # no file's name, but what a manifest says
        return name.encode("utf-8", "replace").decode()
