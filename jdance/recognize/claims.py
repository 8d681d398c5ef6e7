"""Claims of work among processes that share nothing but a folder.

A claim is a file that its holder creates exclusively and renews by its modification time. If a
holder stops renewing it, another process creates the next generation, so that two processes never
replace one claim at the same time. No clocks are compared: a claim expires when an observer has not
seen it change for some time by its own clock; that of a dead process of this machine at once.

A suspended process may wake up after its claim has expired. It then repeats work of another one, so
results have to be written atomically.
"""

import hashlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

_MAX_INTERVAL = 10.0  # seconds between renewals
_MAX_EMPTY = 5.0  # seconds; a claim without content for longer is that of a process killed early


class Claim:
    """A piece of work that belongs to this process.

    Attributes:
        attempt: 1, or more if processes died during earlier attempts.
    """

    def __init__(self, folder: Path, key: str, attempt: int, token: str):
        self.attempt = attempt
        self._folder, self._key, self._token = folder, key, token

    @property
    def id(self) -> str:
        """A name that no other claim has, not even of the same work."""
        return f"{self._key}.{self.attempt}-{self._token[:12]}"

    @property
    def path(self) -> Path:
        """The file of the claim."""
        return self._folder / f"{self._key}.{self.attempt}"

    def is_lost(self) -> bool:
        """Whether another process took the work over."""
        return _generations(self._folder).get(self._key, 0) > self.attempt

    def release(self) -> None:
        """Removes the claim, and expired ones of the same work."""
        for attempt in range(1, self.attempt):
            (self._folder / f"{self._key}.{attempt}").unlink(missing_ok=True)
        if _read(self.path).get("token") == self._token:
            self.path.unlink(missing_ok=True)


class Claims:
    """The claims of a folder.

    Args:
        folder: is created if necessary.
        timeout: seconds after which a claim that is not renewed expires.
        clock: current time in seconds; need not agree with that of other machines.
        on_renewal: called by a thread whenever it has renewed the claims of this process.
    """

    def __init__(
        self,
        folder: Path,
        timeout: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_renewal: Callable[[], None] = lambda: None,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._timeout, self._clock = folder, timeout, clock
        self._token = uuid.uuid4().hex
        self._held: dict[str, Claim] = {}
        # name -> modification time and content, and since when
        self._seen: dict[str, tuple[tuple[int, bytes], float]] = {}
        self._attempts: dict[str, int] = {}
        self._expired: set[str] = set()
        self._on_renewal = on_renewal

    def refresh(self) -> None:
        """Reads the claims of all processes."""
        self._attempts, self._expired = _generations(self._folder), set()
        seen = {}
        for key, attempt in self._attempts.items():
            name = f"{key}.{attempt}"
            try:
                # Opening revalidates what a network file system caches.
                with (self._folder / name).open("rb") as file:
                    state = os.fstat(file.fileno()).st_mtime_ns, file.read()
            except OSError:  # released in the meantime
                continue
            before = self._seen.get(name)
            seen[name] = before if before and before[0] == state else (state, self._clock())
            unchanged = self._clock() - seen[name][1]
            if unchanged >= self._timeout or _is_abandoned(state[1], unchanged):
                self._expired.add(key)
        self._seen = seen

    def count(self) -> int:
        """Number of claims, of all processes, that had not expired at the last `refresh`."""
        return len(self._attempts) - len(self._expired)

    def is_held(self, name: str) -> bool:
        """Whether a process had claimed the work `name` at the last `refresh`."""
        key = key_of(name)
        return key in self._attempts and key not in self._expired

    def attempts(self, name: str) -> int:
        """Number of processes that had claimed the work at the last `refresh`, dead or alive."""
        return self._attempts.get(key_of(name), 0)

    def take(self, name: str) -> Claim | None:
        """Claims the work `name`; returns None if another process has claimed it.

        What has expired is known from the last `refresh`. The caller then has to check that the
        work has not been done already.
        """
        key = key_of(name)
        if self.is_held(name):
            return None
        claim = Claim(self._folder, key, self._attempts.get(key, 0) + 1, self._token)
        content = json.dumps(self.holder(name) | {"token": self._token})
        try:
            file = claim.path.open("x")
        except FileExistsError:
            return None
        try:
            with file:
                file.write(content)
        except OSError:
            claim.path.unlink(missing_ok=True)
            raise
        # Another process may have claimed a later generation since the last `refresh`.
        if claim.is_lost():
            claim.path.unlink(missing_ok=True)
            return None
        self._held[claim.id] = claim
        return claim

    @staticmethod
    def holder(name: str) -> dict[str, Any]:
        """Describes this process as the holder of a claim."""
        return {
            "work": name,
            "host": socket.gethostname(),
            "machine": _machine(),
            "process": os.getpid(),
            "started": _started(os.getpid()),
        }

    def release(self, claim: Claim) -> None:
        """Removes a claim of this process."""
        self._held.pop(claim.id, None)
        claim.release()

    @contextmanager
    def renewing(self) -> Iterator[None]:
        """Renews the claims of this process while the block runs."""
        done = threading.Event()
        interval = min(_MAX_INTERVAL, self._timeout / 5)

        def renew() -> None:
            while not done.wait(interval):
                for claim in list(self._held.values()):
                    with suppress(OSError):  # if the disk fails, writers report it
                        os.utime(claim.path)
                self._on_renewal()

        thread = threading.Thread(target=renew, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def is_live(self, claim_id: str) -> bool:
        """Whether a `Claim.id` belonged to a claim, not expired, at the last `refresh`."""
        work, _, token = claim_id.rpartition("-")
        key, _, attempt = work.rpartition(".")
        if f"{key}.{self._attempts.get(key, 0)}" != f"{key}.{attempt}" or key in self._expired:
            return False
        return _read(self._folder / work).get("token", "")[:12] == token

    def remove_expired(self, names: Iterable[str]) -> None:
        """Removes claims of works that are done, if they had expired at the last `refresh`."""
        for key in self._expired & set(map(key_of, names)) if self._expired else ():
            for path in self._folder.glob(f"{key}.*"):
                path.unlink(missing_ok=True)


@cache  # each input is asked for before each other one
def key_of(name: str) -> str:
    """A short file name for a piece of work."""
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:24]


def _generations(folder: Path) -> dict[str, int]:
    """The number of the latest claim of each work."""
    result: dict[str, int] = {}
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            key, _, attempt = entry.name.rpartition(".")
            if attempt.isdigit():
                result[key] = max(result.get(key, 0), int(attempt))
    return result


def _read(path: Path) -> dict[str, Any]:
    try:
        return _parse(path.read_bytes())
    except OSError:
        return {}


def _parse(content: bytes) -> dict[str, Any]:
    try:
        result = json.loads(content)
    except ValueError:
        return {}
    return result if isinstance(result, dict) else {}


def _is_abandoned(content: bytes, unchanged: float) -> bool:
    """Whether the holder was a process of this machine that has ended, or died during creation.

    Args:
        content: of the claim.
        unchanged: seconds for which it has been like that.
    """
    holder = _parse(content)
    if not holder:
        return unchanged >= _MAX_EMPTY
    if holder.get("machine") != _machine() or not _machine():
        return False
    return _started(holder.get("process", 0)) != holder.get("started")


def _machine() -> str:
    """Identifies the running system and its process numbers; "" if it has no /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(process: int) -> str:
    """When a process of this machine was started, as /proc counts it; "" if there is none."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
