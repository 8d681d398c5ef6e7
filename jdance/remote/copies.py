"""Local copies of objects and folders in stores, in the cache folder ($JDANCE_CACHE).

Processes of one machine share the copies: one of them downloads a file while the others wait for
it. Nothing here is ever the only copy.
"""

import hashlib
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from jdance import files, lock
from jdance.errors import UserError
from jdance.remote import objects
from jdance.remote.objects import Entry, join

_names: dict[str, str] = {}  # addresses by the paths of their local folders, for `shown`


def folder(address: str, purpose: str) -> Path:
    """The local folder for the copies of an address, which need not exist.

    Args:
        address: of a folder in a store.
        purpose: "data", "run", ...: copies for different purposes do not share files.
    """
    address = address.rstrip("/")
    readable = re.sub(r"\W+", "-", address.partition("?")[0])[-60:].strip("-")
    digest = hashlib.sha256(address.encode()).hexdigest()[:10]
    path = files.cache_folder().absolute() / "remote" / f"{purpose}-{readable}-{digest}"
    _names[str(path)] = address
    return path


def shown(text: object) -> str:
    """A text in which the paths of local copies are replaced by their addresses."""
    result = str(text)
    for path, address in _names.items():
        result = result.replace(path, address)
    return result


def fetch(address: str, path: Path, sha256: str = "") -> None:
    """Makes `path` a current copy of an object, see `objects.download`.

    Args:
        address: of the object.
        path: of the copy; nothing is downloaded if it is current.
        sha256: checksum of the object, which is compared with that of the copy; "": the copy is
            current if size and version are those with which it was made.
    """
    if _is_current(path, sha256, None):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock.waiting(path.with_name(f".{path.name}.lock")):
        entry = None if sha256 else objects.stat(address)
        if not _is_current(path, sha256, entry):
            objects.download(address, path, sha256)
            if entry:
                files.atomic_write(_version_file(path), str(entry))


def _is_current(path: Path, sha256: str, entry: Entry | None) -> bool:
    if not path.is_file():
        return False
    if sha256:
        return files.checksum(path) == sha256
    version = _version_file(path)
    return (
        entry is not None
        and version.exists()
        and version.read_text() == str(entry)
        and path.stat().st_size == entry.size >= 0
    )


def _version_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.version")


def local(address: str | Path) -> Path:
    """A local copy of an input: an object, or a folder with all objects below it.

    Paths that are not addresses are returned as they are.

    Raises:
        UserError: there is no such object or folder, or it cannot be read.
    """
    address = str(address)
    if not objects.is_remote(address):
        return Path(address)
    if not address.endswith("/"):
        try:
            path = folder(address.rpartition("/")[0], "input") / objects.base_name(address)
            fetch(address, path)
            _names[str(path)] = address
            return path
        except objects.Missing:
            if objects.is_read_only(address):
                raise
    return _copy_folder(address)


def _copy_folder(address: str) -> Path:
    if objects.is_read_only(address):
        raise UserError(f"{address}: https:// has no folders; name a file, or use s3:// or gs://")
    found = objects.listing(address)
    if not found:
        raise UserError(f"{address}: no such object or folder")
    return some(address, sorted(found), "folder")


def some(address: str, names: Collection[str], purpose: str) -> Path:
    """A local folder with copies of some objects, and without others.

    Args:
        address: of the folder.
        names: of the objects, relative to it.
        purpose: see `folder`.
    """
    path = folder(address, purpose)
    path.mkdir(parents=True, exist_ok=True)
    wanted = set(names)
    for old in [old for old in path.rglob("*") if old.is_file()]:
        name = str(old.relative_to(path))
        if name not in wanted and not old.name.startswith("."):
            old.unlink(missing_ok=True)

    def copy(name: str) -> None:
        fetch(join(address, name), path / name)

    list(objects.in_parallel(copy, list(names)))
    return path


def check_shared(address: str, flag: str) -> None:
    """Raises UserError for an address, since processes share their work by a local folder."""
    if objects.is_remote(address):
        raise UserError(
            f"--{flag}={address}: several processes need a folder on a file system that they "
            f"share; name one, or a --{flag} for each process"
        )


@contextmanager
def output(address: str, flag: str = "output") -> Iterator[Path]:
    """A local folder whose files go to an address when the block ends, also by an exception.

    Files are uploaded one by one, each as a whole. Paths that are not addresses are yielded as they
    are.

    Args:
        address: a folder, or the address of one in a store.
        flag: that names it, for messages.

    Raises:
        UserError: nothing can be written to the address.
    """
    if not objects.is_remote(address):
        yield Path(address)
        return
    objects.check_writable(address, flag)
    parent = files.cache_folder().absolute() / "remote"
    parent.mkdir(parents=True, exist_ok=True)
    path = Path(tempfile.mkdtemp(prefix="output-", dir=parent))
    _names[str(path)] = address.rstrip("/")
    try:
        try:
            yield path
        finally:
            upload_folder(path, address)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def upload_folder(path: Path, address: str) -> None:
    """Uploads all files of a folder except hidden and partial ones."""
    found = [file.relative_to(path) for file in sorted(path.rglob("*")) if file.is_file()]
    names = [
        str(name)
        for name in found
        if name.suffix != ".partial" and not any(part.startswith(".") for part in name.parts)
    ]
    list(objects.in_parallel(partial(_upload, path, address), names))


def _upload(path: Path, address: str, name: str) -> None:
    objects.upload(path / name, join(address, name))
