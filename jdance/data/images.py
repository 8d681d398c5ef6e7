"""Images from and to files: uint8 RGB in memory, whatever lies on the disk."""

import io
import os
from pathlib import Path

import cv2
import numpy as np

from jdance import files
from jdance.data import containers
from jdance.errors import UserError

_MAX_FILE = 2**30

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif")
HEIF_SUFFIXES = (".heic", ".heif", ".hif", ".avif")  # read where pillow-heif is installed
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif",
                b"avis")  # fmt: skip
_END_OF_JPEG = b"\xff\xd9"


def read(path: Path) -> np.ndarray:
    """Reads an image as uint8 RGB [H, W, 3]; grey, alpha and 16-bit ones are converted.

    Raises:
        UserError: the file is missing or no image.
    """
    try:
        if path.stat().st_size > _MAX_FILE:
            raise UserError(f"{path}: larger than 1 GiB; not read as an image")
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason}); check the path") from error
    image = _decode_heif(path, data) if is_heif(data) else decode(data)
    if image is None:
        raise UserError(f"{path}: not a readable image; replace or remove the file")
    return image


def decode(data: np.ndarray | bytes, flag: int = cv2.IMREAD_COLOR) -> np.ndarray | None:
    """Encoded bytes -> uint8 RGB [H, W, 3], turned upright as EXIF says, or None if unreadable.

    Images of more than $OPENCV_IO_MAX_IMAGE_PIXELS (see `jdance`) are not decoded. A JPEG may lack
    its end marker, if nothing else. `flag` is one of OpenCV's for color, in either order, or grey
    (uint8 [H, W]), such as for a reduced size.
    """
    if not len(data):
        return None
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
        if image is None:
            image = _decode_without_end(bytes(data), flag)
        if image is None or image.ndim == 2 or flag & cv2.IMREAD_COLOR_RGB:
            return image
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    except (cv2.error, MemoryError):
        return None


def _decode_without_end(data: bytes, flag: int) -> np.ndarray | None:
    """Decodes a JPEG that lacks its end marker alone; None if anything else is missing.

    Where all of the image is there, further bytes before the marker change nothing.
    """
    if not data.startswith(b"\xff\xd8") or data.endswith(_END_OF_JPEG):
        return None
    data = data.rstrip(b"\xff")
    with files.quiet_stderr():  # libjpeg's remarks on these bytes
        image, other = (
            cv2.imdecode(np.frombuffer(data + more + _END_OF_JPEG, np.uint8), flag)
            for more in (b"", b"\x55\xaa\x33\xcc" * 8)
        )
    same = image is not None and other is not None and np.array_equal(image, other)
    return image if same else None


def is_heif(data: bytes) -> bool:
    """Whether a file's content is HEIC or AVIF, whatever its name."""
    return data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS


def _decode_heif(path: Path, data: bytes) -> np.ndarray | None:
    try:
        import pillow_heif
        from PIL import Image, ImageOps
    except ImportError:
        raise UserError(
            f"{path}: is a HEIC or AVIF image, which only pillow-heif reads; "
            "pip install pillow-heif, or convert the file to JPEG"
        ) from None
    pillow_heif.register_heif_opener()
    try:
        with Image.open(io.BytesIO(data), formats=("HEIF", "AVIF")) as image:
            if image.width * image.height > int(os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"]):
                return None
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception:  # whatever the decoders of a damaged file raise
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


def is_image(path: Path) -> bool:
    """Whether a file is an image, by its name; animated ones are videos."""
    return path.suffix.lower() in SUFFIXES + HEIF_SUFFIXES and not containers.is_video(path)


def find(folder: Path) -> list[Path]:
    """The images of a folder by their names, in natural order; hidden ones are left out."""
    found = (p for p in folder.iterdir() if not p.name.startswith(".") and p.is_file())
    return sorted(filter(is_image, found), key=files.natural_key)


def printable(name: str) -> str:
    """A file's name as valid Unicode, whatever bytes it has on the disk."""
    try:
        return os.fsencode(name).decode("utf-8", "replace")
    except UnicodeEncodeError:  # no file's name, but what a manifest says
        return name.encode("utf-8", "replace").decode()
