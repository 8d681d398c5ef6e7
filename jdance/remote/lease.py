"""A lock on a folder in a store: an object that names its holder, with a heartbeat.

The object is created by a conditional request (If-None-Match on s3://, a generation of 0 on gs://),
so that only one of several processes that start together gets it. A holder that died is replaced
after a time without heartbeats, on its own machine at once. A holder that was replaced, because it
could not reach the store for long, notices it before it writes again.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from jdance.errors import UserError
from jdance.remote import objects

_HEARTBEAT = 10.0  # seconds between updates of the object
_SILENCE = 45.0  # seconds without a heartbeat after which a holder counts as dead
_SETTLE = 2.0  # seconds after which two processes that replace a dead holder see each other


class Lease:
    """The lock of one process on ADDRESS/lock, from its creation until `release`.

    Args:
        address: of the folder.
        flag: that names the folder, for messages.
        on_loss: called once, from another thread, if another process takes over.
        name: of the object.

    Raises:
        UserError: another process holds the lock, or the store cannot be written to.
    """

    def __init__(
        self,
        address: str,
        flag: str = "--workdir",
        on_loss: Callable[[], None] = lambda: None,
        name: str = "lock",
    ):
        self._folder, self._object, self._flag = address, objects.join(address, name), flag
        self._on_loss, self._id, self._beat = on_loss, uuid.uuid4().hex, 0
        self._taken_by: dict[str, Any] | None = None
        self._done = threading.Event()
        if not objects.create(self._object, self._content()) and self._holder() != self._id:
            self._replace()
        if self._holder() != self._id:
            raise self._in_use(self._read())
        self._thread = threading.Thread(target=self._send_heartbeats, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises UserError if another process has taken over."""
        if self._taken_by is None and self._holder() != self._id:
            self._taken_by = self._read()
        if self._taken_by is not None:
            raise self._in_use(self._taken_by)

    def release(self) -> None:
        """Ends the heartbeat and removes the object, unless another process has taken over."""
        self._done.set()
        self._thread.join()
        with suppress(UserError):  # the store fails: the next holder waits for the heartbeat
            if self._taken_by is None and self._holder() == self._id:
                objects.delete(self._object)

    def _replace(self) -> None:
        """Takes the lock of a dead holder; raises UserError if the holder is alive."""
        found, since = self._read(), time.monotonic()
        while found and not _died_here(found) and time.monotonic() - since < _SILENCE:
            time.sleep(min(1.0, _SILENCE / 10))
            now = self._read()
            if now and now != found:
                raise self._in_use(now)
            found = now
        objects.write(self._object, self._content())
        time.sleep(_SETTLE)

    def _send_heartbeats(self) -> None:
        while not self._done.wait(_HEARTBEAT):
            with suppress(UserError):  # the store fails: tried again with the next heartbeat
                if self._holder() != self._id:
                    self._taken_by = self._read()
                    self._on_loss()
                    return
                self._beat += 1
                objects.write(self._object, self._content())

    def _content(self) -> bytes:
        holder = {"id": self._id, "beat": self._beat, "process": os.getpid()}
        holder |= {"host": socket.gethostname(), "machine": _machine()}
        return json.dumps(holder).encode()

    def _holder(self) -> str:
        return str(self._read().get("id", ""))

    def _read(self) -> dict[str, Any]:
        try:
            holder = json.loads(objects.read(self._object))
        except (objects.Missing, ValueError):
            return {}
        return holder if isinstance(holder, dict) else {}

    def _in_use(self, holder: dict[str, Any]) -> UserError:
        return UserError(
            f"{self._folder}: is in use by process {holder.get('process', '?')} on "
            f"{holder.get('host', 'another machine')}; wait for it or end it, or use another "
            f"{self._flag}"
        )


def _died_here(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that has ended."""
    process = holder.get("process")
    if holder.get("machine") != _machine() or not isinstance(process, int) or process <= 0:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _machine() -> str:
    """Identifies the numbering of processes: host, its boot, and the container."""
    parts = [socket.gethostname()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with suppress(OSError):
            is_link = Path(path).is_symlink()
            parts.append(os.readlink(path) if is_link else Path(path).read_text().strip())
    return " ".join(parts)
