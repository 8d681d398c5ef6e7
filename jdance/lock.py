"""Folder lock: flock where machines share it, and a heartbeat for network folders where not.

Own code, since the filelock package has flock and heartbeats (version 4) only as separate locks.
"""

import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jdance.errors import UserError

if find_spec("fcntl"):  # not on Windows
    import fcntl

_HEARTBEAT = 5.0  # seconds between updates of the file's time
_SILENCE = 20.0  # seconds after which a holder on another machine counts as dead


@contextmanager
def held(
    folder: Path, silence: float = _SILENCE, name: str = "lock", flag: str = "--workdir"
) -> Iterator[None]:
    """Holds DIR/lock, which names host and process, while the block runs.

    The system releases the lock of a process that dies. On network folders without shared locks,
    the heartbeat of the holder counts instead: the modification time of the file.

    Args:
        folder: created if missing.
        silence: seconds without a heartbeat after which a holder on another machine counts as dead.
        name: of the file.
        flag: the flag that names the folder, for messages.

    Raises:
        UserError: another job holds the folder, or it cannot be written to or locked.
    """
    path = folder / name
    if not find_spec("fcntl"):
        raise UserError(
            f"{folder}: cannot be locked on this platform, which has no fcntl; use Linux or macOS, "
            "on Windows WSL"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _open_locked(path, flag)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to ({error.strerror})") from error
    done = threading.Event()
    try:
        _wait_for_silence(file, path, silence, flag)
        holder = {"host": socket.gethostname(), "process": os.getpid()}
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(holder).encode(), 0)
        heartbeat = threading.Thread(target=_send_heartbeats, args=(file, done), daemon=True)
        heartbeat.start()
        try:
            yield
        finally:
            done.set()
            heartbeat.join()
            path.unlink(missing_ok=True)
    finally:
        os.close(file)


def _open_locked(path: Path, flag: str) -> int:
    """Opens and locks the file; raises UserError if another process has locked it."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The last holder may have removed it between the two calls.
            if path.exists() and os.fstat(file).st_ino == path.stat().st_ino:
                return file
        except BlockingIOError:
            holder = _read(file)
            os.close(file)
            raise _in_use(path, holder, flag) from None
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _wait_for_silence(file: int, path: Path, silence: float, flag: str) -> None:
    """Waits until a holder on another machine counts as dead; raises UserError on a heartbeat."""
    holder = _read(file)
    if not holder or holder.get("host") == socket.gethostname():
        return  # a dead process of this machine: flock has succeeded
    last, since = os.fstat(file).st_mtime_ns, time.monotonic()
    while time.monotonic() - since < silence:
        time.sleep(min(0.5, silence / 4))
        if os.fstat(file).st_mtime_ns != last:
            raise _in_use(path, holder, flag)


def _in_use(path: Path, holder: dict[str, Any], flag: str) -> UserError:
    return UserError(
        f"{path.parent}: is in use by process {holder.get('process', '?')} on "
        f"{holder.get('host', 'this machine')}; wait for it or end it, or use another {flag}"
    )


def _read(file: int) -> dict[str, Any]:
    try:
        holder = json.loads(os.pread(file, 4096, 0))
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _send_heartbeats(file: int, done: threading.Event) -> None:
    while not done.wait(_HEARTBEAT):
        with suppress(OSError):  # if the disk fails, writers report it
            os.utime(file)


@contextmanager
def waiting(path: Path) -> Iterator[None]:
    """Holds a lock file, which stays, while the block runs; waits for other processes.

    For work that is only done twice without it: network folders may not share locks.
    """
    with path.open("a") as file:
        if find_spec("fcntl"):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def take(path: Path) -> int | None:
    """Locks a file, which is created if missing, until its descriptor is closed.

    Returns:
        The open file; None if another process holds it, or if the platform has no locks.
    """
    if not find_spec("fcntl"):
        return None
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file


def remove_unlocked(folder: Path, name: str) -> None:
    """Removes a folder whose owner, which held the lock of this file in it, has died."""
    file = take(folder / name)
    if file is not None:
        os.close(file)
        shutil.rmtree(folder, ignore_errors=True)
