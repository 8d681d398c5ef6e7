"""Terminates a hung run.

JAX detects processes that died, but not one that is stopped, swaps, or waits for a disk forever;
its peers then block in the middle of a step.
"""

import faulthandler
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import jax

from jdance.train import distributed

_KEY = "jdance/step/"


class Watchdog:
    """Exits the process when no step has finished within a timeout.

    Every process publishes its step. On a timeout each prints the stacks of all its threads and the
    process that lags behind, and exits with status `distributed.BROKEN`.

    Args:
        seconds: timeout per step; 0: none.
        step: the current step.
        on_timeout: called with the exit status.
    """

    def __init__(
        self,
        seconds: float,
        step: int = 0,
        on_timeout: Callable[[int], None] = distributed.exit_now,
    ) -> None:
        self._seconds, self._on_timeout, self._step = seconds, on_timeout, step
        self._exempt = 0
        self._last = time.monotonic()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        if seconds:
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()

    def step(self, step: int) -> None:
        """Restarts the timeout after a finished step."""
        self._step, self._last = step, time.monotonic()

    def exempt(self, when: bool = True) -> AbstractContextManager[None]:
        """Suspends the timeout for work of any length: compilation, evaluation, checkpoints."""
        return self._suspended() if when else nullcontext()

    @contextmanager
    def _suspended(self) -> Iterator[None]:
        self._exempt += 1
        try:
            yield
        finally:
            self._last = time.monotonic()
            self._exempt -= 1

    def close(self) -> None:
        self._closed.set()
        if self._thread is not None:
            self._thread.join(5)

    def _watch(self) -> None:
        period = min(10.0, self._seconds / 5)
        self._publish()  # immediately, so that peers know a process that hangs early
        while True:
            before = time.monotonic()
            if self._closed.wait(period):
                return
            now = time.monotonic()
            if now - before > 3 * period + 1:
                self._last = now  # this process itself was suspended, by Ctrl-Z for instance
            self._publish()
            if not self._exempt and now - self._last > self._seconds:
                self._report(now - self._last)
                self._on_timeout(distributed.BROKEN)
                return

    def _publish(self) -> None:
        if jax.process_count() > 1:
            key = f"{_KEY}{jax.process_index()}"
            value = f"{self._step} {time.time():.1f} {socket.gethostname()}"
            client = distributed.coordinator_client()
            _with_timeout(lambda: client.key_value_set(key, value, allow_overwrite=True))

    def _report(self, silent: float) -> None:
        faulthandler.dump_traceback(sys.stderr, all_threads=True)
        lines = [
            f"error: watchdog: process {jax.process_index()} on {socket.gethostname()} has not "
            f"finished a step for {silent:.0f} s (--watchdog={self._seconds:g}), the last one was "
            f"{self._step}"
        ]
        if jax.process_count() > 1:
            client = distributed.coordinator_client()
            published = _with_timeout(lambda: client.key_value_dir_get(_KEY))
            lines.append(
                "  " + lagging(published, jax.process_count(), time.time())
                if published is not None
                else "  process 0, the coordinator, does not answer: it lags"
            )
        print("\n".join(lines), file=sys.stderr)


def lagging(published: list[tuple[str, str]], processes: int, now: float) -> str:
    """Describes the process that the others are waiting for.

    Args:
        published: keys ending in "/PROCESS", with values "STEP TIME HOST".
        processes: their expected number.
        now: seconds since the epoch.

    Returns:
        One line: a process that has never published; else the one with the fewest steps, and among
        equals the one silent for longest, with the steps of all.
    """
    known = {}
    for key, value in published:
        words = value.split(" ", 2)
        known[int(key.rpartition("/")[2])] = (int(words[0]), float(words[1]), words[2])
    missing = sorted(set(range(processes)) - known.keys())
    if missing:
        return f"process {missing[0]} lags: it has never been heard of"
    slowest = min(known, key=lambda process: known[process][:2])
    step, when, host = known[slowest]
    steps = ", ".join(f"{process}: {known[process][0]}" for process in sorted(known)[:64])
    return (
        f"process {slowest} on {host} lags: step {step}, last heard of {now - when:.0f} s ago "
        f"(steps by process: {steps})"
    )


def _with_timeout(call: Callable[[], Any], seconds: float = 5.0) -> Any:
    """Result of a call to the coordinator, or None if it fails or does not return in time."""
    result: list[Any] = []

    def run() -> None:
        try:
            result.append(call())
        except Exception:  # anything, while the coordinator is shutting down
            return

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return result[0] if result else None
