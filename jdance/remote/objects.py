"""Objects in stores: s3:// and gs://, and https:// to read, with retries and one-line errors.

Requests go through fsspec (the extra `remote`). Credentials and endpoints are those of the stores'
own tools, such as AWS_PROFILE, AWS_ENDPOINT_URL and GOOGLE_APPLICATION_CREDENTIALS.

A request that fails because of the store or the network (503, a timeout, a cut connection) is
repeated with growing pauses for JDANCE_RETRY_SECONDS, 60 by default.
"""

import errno
import hashlib
import os
import random
import re
import time
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from jdance import files
from jdance.errors import UserError, exit_status

_T = TypeVar("_T")
_A = TypeVar("_A")
_MD5 = re.compile('"?[0-9a-f]{32}"?')
_without_md5: set[str] = set()  # buckets whose ETags are not the MD5 of their objects
_ADDRESS = re.compile(r"(s3|gs|https?)://")
_CHUNK = 16 << 20  # bytes per request of a download
_CONNECT_TIMEOUT, _READ_TIMEOUT = 10.0, 30.0  # seconds without a connection, without data
_CONCURRENT = 8  # requests at once
_MAX_PAUSE = 8.0  # seconds between two attempts
_RETRYABLE = {408, 425, 429}  # and all statuses from 500 on
# By name, because the packages of other stores need not be installed.
_NO_CREDENTIALS = {
    "NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "CredentialRetrievalError",
    "TokenRetrievalError", "SSOTokenLoadError", "UnauthorizedSSOTokenError",
    "DefaultCredentialsError", "RefreshError",
}  # fmt: skip
# Failures of the network in aiohttp and botocore, or their bases.
_CONNECTION = {
    "ClientConnectionError", "ClientPayloadError", "TimeoutError", "HTTPClientError",
    "ConnectionError", "ResponseParserError", "FlexibleChecksumError",
}  # fmt: skip


class Missing(UserError):
    """There is no such bucket or object."""


class Entry(NamedTuple):
    """An object: its size in bytes (-1 if unknown), and a text that changes with its content."""

    size: int
    version: str


def is_remote(path: object) -> bool:
    """Whether a path is the address of an object or a folder in a store."""
    return _ADDRESS.match(str(path)) is not None


def is_read_only(address: str) -> bool:
    """Whether the store can only be read: https://, which can neither write nor list."""
    return address.startswith("http")


def check_writable(address: str, flag: str) -> None:
    """Raises UserError if nothing can be written to an address."""
    if is_read_only(address):
        raise UserError(
            f"--{flag}={address}: https:// is read only; write to s3://, gs:// or a folder"
        )


def join(address: str, name: str) -> str:
    """The address of an object below a folder; `name` may have slashes."""
    return f"{address.rstrip('/')}/{name}"


def base_name(address: str) -> str:
    """The last part of an address, without the query of a URL."""
    path = address.split("://", 1)[1].rstrip("/")
    if is_read_only(address):
        path = urllib.parse.unquote(urllib.parse.urlsplit(address).path.rstrip("/"))
    return path.rpartition("/")[2]


def read(address: str) -> bytes:
    """The content of a small object; raises `Missing`, or UserError if it cannot be read."""
    return _attempt(address, lambda fs: fs.cat_file(address))


def write(address: str, data: bytes) -> None:
    """Writes a small object: readers see its whole old or its whole new content."""
    _attempt(address, lambda fs: fs.pipe_file(address, data))


def create(address: str, data: bytes) -> bool:
    """Writes an object only if there is none, by a conditional request; returns whether it did.

    False also if an earlier attempt of the same call has written it and its answer was lost:
    compare the content. Stores that ignore the condition replace the object.
    """
    try:
        _attempt(address, lambda fs: fs.pipe_file(address, data, mode="create"))
    except FileExistsError:
        return False
    return True


def delete(address: str) -> None:
    """Removes an object, if there is one."""
    with suppress(Missing):
        _attempt(address, lambda fs: fs.rm_file(address))


def stat(address: str) -> Entry:
    """Size and version of an object; raises `Missing`, also for a folder."""
    info = _attempt(address, lambda fs: fs.info(address))
    if info.get("type") == "directory":
        raise Missing(f"{address}: no such object")
    return _entry(info)


def listing(address: str) -> dict[str, Entry]:
    """The objects below a folder by their names relative to it, without empty placeholders.

    Raises:
        UserError: a name would lead out of a local folder, or the store cannot be listed.
    """
    root = address.rstrip("/") + "/"
    try:
        found = _attempt(root, lambda fs: fs.find(root, detail=True))
    except Missing as error:
        if "bucket" in str(error).partition("(")[2]:
            raise
        return {}
    prefix = root.split("://", 1)[1]
    result = {}
    for path, info in found.items():
        name = path.removeprefix(prefix)
        if name in ("", path) or name.endswith("/") or info.get("type") == "directory":
            continue
        if {"", ".", ".."} & set(name.split("/")) or "\\" in name:
            raise UserError(f"{root}{name}: not the name of a file")
        result[name] = _entry(info)
    return result


def upload(path: Path, address: str) -> None:
    """Copies a file to the store; an object appears only when it is complete."""
    _attempt(address, lambda fs: fs.put_file(str(path), address))


def download(
    address: str,
    path: Path,
    sha256: str = "",
    *,
    expected: Entry | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Copies an object to a file, which appears only when it is complete and verified.

    A download that was cut continues where it ended, even by another process.

    Args:
        address: of the object.
        path: of the file; its folder is created.
        sha256: expected checksum, hexadecimal; "": the object must not change while it is read,
            and an ETag that is an MD5 must be that of the copy.
        expected: size and version that the object must have; None: any.
        stop: whether to give up, asked before each request.

    Raises:
        Missing: there is no such object.
        UserError: it cannot be read, has other content, or `stop` has returned True.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    digests: list[str] = []
    for _ in range(2):  # a proxy may have damaged the first copy
        entry = stat(address)
        if expected not in (None, entry):
            raise UserError(f"{address}: has changed since it was listed; run the command again")
        tag = hashlib.sha256(f"{entry} {sha256}".encode()).hexdigest()[:12]
        copy = path.with_name(f".{path.name}.{tag}.partial")
        with copy.open("ab") as file:
            if entry.size < 0:
                file.truncate(0)
                file.write(read(address))
            while (start := file.tell()) < entry.size:
                if stop():
                    raise UserError(f"{address}: is not needed any more")
                file.write(_read_range(address, start, entry.size))
            file.flush()
            os.fsync(file.fileno())
        if sha256:
            good, problem = files.checksum(copy) == sha256, "its SHA-256 is not the recorded one"
        elif stat(address) != entry:
            good, problem = False, "it changes while it is read"
        else:
            good, problem = _fits_etag(address, copy, entry, digests), "its MD5 is not its ETag"
        if good:
            os.replace(copy, path)
            return
        copy.unlink()
    raise UserError(f"{address}: has wrong bytes ({problem}); upload it again")


def _fits_etag(address: str, path: Path, entry: Entry, digests: list[str]) -> bool:
    """Whether the MD5 of a copy is the object's ETag, as far as that is an MD5.

    Some ETags look like one and are none, such as those of objects encrypted with KMS: there, two
    equal copies are right.

    Args:
        address: of the object.
        path: of the copy.
        entry: of the object.
        digests: of earlier copies; that of this copy is added.
    """
    bucket = address.split("/")[2]
    if bucket in _without_md5 or not _MD5.fullmatch(entry.version):
        return True
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()
    if digest in digests:
        _without_md5.add(bucket)
    digests.append(digest)
    return digest == entry.version.strip('"') or bucket in _without_md5


def in_parallel(action: Callable[[_A], _T], items: list[_A]) -> Iterator[_T]:
    """Calls `action` for all items, several at once; yields the results in order."""
    with ThreadPoolExecutor(_CONCURRENT) as pool:
        yield from pool.map(action, items)


def _read_range(address: str, start: int, size: int) -> bytes:
    """Bytes from `start` on, at most one chunk, or all if the server ignores ranges."""
    end = min(start + _CHUNK, size)

    def request(fs: Any) -> bytes:
        data = fs.cat_file(address, start=start, end=end)
        if len(data) == size != end - start:
            return data[start:]
        if len(data) != end - start:
            raise ConnectionResetError(f"{len(data)} of {end - start} bytes received")
        return data

    return _attempt(address, request)


def _entry(info: dict[str, Any]) -> Entry:
    size = info.get("size")
    names = ("ETag", "etag", "generation", "LastModified", "updated", "md5Hash")
    version = next((str(info[name]) for name in names if info.get(name)), "")
    return Entry(-1 if size is None else int(size), version)


@cache
def _filesystem(scheme: str) -> Any:
    """The fsspec file system of a scheme; no listing is cached, since other machines write, too."""
    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if scheme == "s3":
        import s3fs

        # Only `_attempt` repeats requests.
        settings = {
            "retries": {"mode": "standard", "total_max_attempts": 1},
            "connect_timeout": _CONNECT_TIMEOUT,
            "read_timeout": _READ_TIMEOUT,
            "max_pool_connections": 4 * _CONCURRENT,
        }
        fs = s3fs.S3FileSystem(config_kwargs=settings, **options)
        fs.retries = 1
        return fs
    if scheme == "gs":
        import gcsfs

        return gcsfs.GCSFileSystem(**options)
    import aiohttp
    from fsspec.implementations.http import HTTPFileSystem

    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=_CONNECT_TIMEOUT, sock_read=_READ_TIMEOUT
    )
    return HTTPFileSystem(client_kwargs={"timeout": timeout}, **options)


def _attempt(address: str, request: Callable[[Any], _T]) -> _T:
    """Calls request(file system) until it succeeds.

    Raises:
        FileExistsError: of a conditional request.
        Missing, UserError: see `_permanent`; or the store failed for too long (status 74).
    """
    try:
        fs = _filesystem(address.split("://")[0].replace("https", "http"))
    except ImportError as error:
        raise UserError(
            f"{address}: object stores need the extra remote ({error}): pip install -e '.[remote]'"
        ) from error
    limit = _retry_seconds()
    start, pause = time.monotonic(), 0.2
    while True:
        try:
            return request(fs)
        except FileExistsError:
            raise
        except Exception as error:
            if problem := _permanent(address, error):
                raise problem from error
            reason = _reason(error)
            failed = time.monotonic() - start
            if failed + pause > limit:
                raise UserError(
                    f"{address}: the store or the network failed for {failed:.0f} s ({reason}); "
                    "run the same command again"
                ) from OSError(errno.EIO, reason)
        time.sleep(pause * random.uniform(0.5, 1))
        pause = min(2 * pause, _MAX_PAUSE)


def _retry_seconds() -> float:
    text = os.environ.get("JDANCE_RETRY_SECONDS", "60")
    try:
        return float(text)
    except ValueError:
        raise UserError(f"JDANCE_RETRY_SECONDS={text}: must be a number of seconds") from None


def _permanent(address: str, error: Exception) -> UserError | None:
    """The error to raise if a repetition cannot help; None for failures that may pass."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) and len(causes) < 10:
        causes.append(cause)  # type: ignore[arg-type]
    names = {kind.__name__ for cause in causes for kind in type(cause).__mro__}
    reason = _reason(error)
    if names & _NO_CREDENTIALS:
        return UserError(
            f"{address}: no credentials ({reason}); log in with the store's own tool, or set its "
            "environment variables"
        )
    # Of aiohttp and gcsfs; fsspec raises FileNotFoundError from any failure to describe a URL.
    codes = [str(vars(cause).get(name, "")) for cause in causes for name in ("status", "code")]
    status = next((int(code) for code in codes if code.isdigit()), 0)
    if isinstance(error, PermissionError) or status in (401, 403):
        return UserError(f"{address}: access denied ({reason}); check the credentials")
    missing = isinstance(error, FileNotFoundError) and status == 0 and not names & _CONNECTION
    if missing or status in (404, 410):
        return Missing(f"{address}: no such bucket or object ({reason})")
    transient = (
        status >= 500
        or status in _RETRYABLE
        or isinstance(error, TimeoutError | ConnectionError)
        or names & _CONNECTION
        or exit_status(error) != 1
    )
    return None if transient else UserError(f"{address}: cannot be accessed ({reason})")


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = " ".join((text or repr(error)).split())
    return text if len(text) <= 200 else f"{text[:200]}..."
