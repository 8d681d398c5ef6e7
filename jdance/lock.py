"""One job a folder: a second one would mix its checkpoints with those of the first."""

import json
import os
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

_BEAT = 5.0  # seconds between signs of life
_SILENCE = 20.0  # after which a holder on another machine counts as gone


@contextmanager
def held(
    folder: Path, silence: float = _SILENCE, name: str = "lock", flag: str = "--workdir"
) -> Iterator[None]:
    """Holds DIR/lock, which names the machine and the process, for as long as the block runs.

    The system itself lets go of the lock of a process that has died, however it did. Where
    machines do not see each other's locks (some network folders), the holder's signs of life count
    instead: the file's time.

    Args:
        folder: is made if it is not there.
        silence: seconds for which a holder on another machine must have been silent.
        name: of the file.
        flag: that names the folder, for messages.

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
        file = _open(path, flag)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to ({error.strerror})") from error
    done = threading.Event()
    try:
        _outwait(file, path, silence, flag)
        me = {"host": socket.gethostname(), "process": os.getpid()}
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(me).encode(), 0)
        beat = threading.Thread(target=_beat, args=(file, done), name="lock", daemon=True)
        beat.start()
        try:
            yield
        finally:
            done.set()
            beat.join()
            path.unlink(missing_ok=True)
    finally:
        os.close(file)


def _open(path: Path, flag: str) -> int:
    """The locked file; raises UserError if another process has locked it."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its last holder may have removed it between the two calls.
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


def _outwait(file: int, path: Path, silence: float, flag: str) -> None:
    """Waits until a holder on another machine has been silent for long enough."""
    holder = _read(file)
    if not holder or holder.get("host") == socket.gethostname():
        return  # left by a process of this machine that has died: we have its lock
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


def _beat(file: int, done: threading.Event) -> None:
    while not done.wait(_BEAT):
        with suppress(OSError):  # a disk that fails for a while; whoever writes tells of it
            os.utime(file)
