"""Reading and writing of image files; images in memory are uint8 RGB."""

import io
import os
from pathlib import Path

import cv2
import numpy as np

from jdance import files
from jdance.data import containers
from jdance.errors import UserError

_MAX_BYTES = 2**30

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm",
            ".gif")  # fmt: skip
HEIF_SUFFIXES = (".heic", ".heif", ".hif", ".avif")  # read where pillow-heif is installed
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif",
                b"avis")  # fmt: skip
_END_OF_JPEG = b"\xff\xd9"


def read(path: str | Path) -> np.ndarray:
    """Reads an image as uint8 RGB [H, W, 3]; converts gray, alpha and 16-bit images.

    Raises:
        UserError: the file is missing or not an image.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UserError(f"{path}: larger than 1 GiB; not read as an image")
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: an invalid name
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason}); check the path") from error
    image = _decode_heif(path, data) if is_heif(data) else decode(data)
    if image is None:
        raise UserError(f"{path}: not a readable image; replace or remove the file")
    return image


def decode(data: np.ndarray | bytes, flag: int = cv2.IMREAD_COLOR) -> np.ndarray | None:
    """Decodes an image file's bytes to uint8 RGB [H, W, 3], upright according to EXIF.

    `flag` is one of OpenCV's IMREAD flags; gray ones give [H, W]. Returns None for unreadable data
    and images above $OPENCV_IO_MAX_IMAGE_PIXELS (see `jdance`). A JPEG may lack its end marker.
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
    """Decodes a JPEG without end marker; None if more than the marker is missing.

    The image is complete if additional bytes before the marker do not change it.
    """
    if not data.startswith(b"\xff\xd8") or data.endswith(_END_OF_JPEG):
        return None
    data = data.rstrip(b"\xff")
    with files.quiet_stderr():  # libjpeg's warnings
        image, other = (
            cv2.imdecode(np.frombuffer(data + extra + _END_OF_JPEG, np.uint8), flag)
            for extra in (b"", b"\x55\xaa\x33\xcc" * 8)
        )
    same = image is not None and other is not None and np.array_equal(image, other)
    return image if same else None


def is_heif(data: bytes) -> bool:
    """Whether a file's content is HEIC or AVIF."""
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
    except Exception:  # the decoders raise anything for damaged files
        return None


def encode_jpeg(image: np.ndarray, quality: int = 95) -> bytes:
    """Encodes uint8 RGB [H, W, 3] as JPEG."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return data.tobytes()


def shrink(image: np.ndarray, side: int) -> np.ndarray:
    """Scales uint8 [H, W, 3] down so that its longer side is at most `side` pixels."""
    scale = side / max(image.shape[:2])
    if scale >= 1:
        return image
    height, width = (max(1, round(n * scale)) for n in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def write(path: Path, image: np.ndarray) -> None:
    """Writes uint8 RGB [H, W, 3] in the format of the file's suffix.

    Raises:
        UserError: the file cannot be written.
    """
    # imwrite gives no reason for failures, and crashes on names that are not UTF-8.
    suffix = ".jpg" if path.suffix == ".jfif" else path.suffix  # which OpenCV only reads
    _, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    try:
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def is_image(path: Path) -> bool:
    """Whether a file is an image by its suffix; animated images count as videos."""
    return path.suffix.lower() in SUFFIXES + HEIF_SUFFIXES and not containers.is_video(path)


def find(folder: Path) -> list[Path]:
    """Lists a folder's images in natural order, without hidden files."""
    return [p for p in files.list_visible(folder) if p.is_file() and is_image(p)]


def printable(name: str) -> str:
    """Replaces the invalid bytes of a file name, so that it is valid Unicode."""
    try:
        return os.fsencode(name).decode("utf-8", "replace")
    except UnicodeEncodeError:  # from a manifest
        return name.encode("utf-8", "replace").decode()
