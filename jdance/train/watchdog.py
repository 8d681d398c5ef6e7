"""A run that stands still must end: nothing else notices a stalled process.

JAX tells of processes that died, not of one that is stopped, swaps, or waits for a disk for ever;
the others then wait for it in the middle of a step.
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
    """Ends the process when no step has been finished for a while.

    Every process tells the others its step. On a timeout each prints the stacks of all its threads
    and which process lags behind, and ends with status `distributed.BROKEN`.

    Args:
        seconds: how long a step may take; 0: for ever.
        step: to start from.
        end: what ends the process.
    """

    def __init__(
        self, seconds: float, step: int = 0, end: Callable[[int], None] = distributed.end
    ) -> None:
        self._seconds, self._end, self._step = seconds, end, step
        self._exempt = 0
        self._last = time.monotonic()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        if seconds:
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()

    def step(self, step: int) -> None:
        """Tells that a step is finished."""
        self._step, self._last = step, time.monotonic()

    def exempt(self, when: bool = True) -> AbstractContextManager[None]:
        """Work that may take any time: compilation, evaluation, checkpoints."""
        return self._paused() if when else nullcontext()

    @contextmanager
    def _paused(self) -> Iterator[None]:
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
        self._publish()  # at once, so that a process that stops soon is known to the others
        while True:
            before = time.monotonic()
            if self._closed.wait(period):
                return
            now = time.monotonic()
            if now - before > 3 * period + 1:
                self._last = now  # this process was stopped itself, by Ctrl-Z for instance
            self._publish()
            if not self._exempt and now - self._last > self._seconds:
                self._bark(now - self._last)
                return

    def _publish(self) -> None:
        if jax.process_count() > 1:
            name = f"{_KEY}{jax.process_index()}"
            value = f"{self._step} {time.time():.1f} {socket.gethostname()}"
            _bounded(lambda: distributed.client().key_value_set(name, value, allow_overwrite=True))

    def _bark(self, silent: float) -> None:
        faulthandler.dump_traceback(sys.stderr, all_threads=True)
        lines = [
            f"error: watchdog: process {jax.process_index()} on {socket.gethostname()} has not "
            f"finished a step for {silent:.0f} s (--watchdog={self._seconds:g}), the last one was "
            f"{self._step}"
        ]
        if jax.process_count() > 1:
            told = _bounded(lambda: distributed.client().key_value_dir_get(_KEY))
            lines.append(
                "  " + lagging(told, jax.process_count(), time.time())
                if told is not None
                else "  process 0, which keeps everybody's step, does not answer: it lags"
            )
        print("\n".join(lines), file=sys.stderr)
        self._end(distributed.BROKEN)


def lagging(told: list[tuple[str, str]], processes: int, now: float) -> str:
    """Which process holds the others up.

    Args:
        told: pairs of a key that ends in the process's number, and "STEP TIME HOST".
        processes: how many there should be.
        now: seconds since the epoch.

    Returns:
        A line with the process that has done the fewest steps, among equals the one that has been
        silent for longest, and everybody's step; or with one that has never told its step.
    """
    known = {}
    for key, value in told:
        step, when, host = value.split(" ", 2)
        known[int(key.rpartition("/")[2])] = (int(step), float(when), host)
    missing = sorted(set(range(processes)) - known.keys())
    if missing:
        return f"process {missing[0]} lags: it has never been heard of"
    slowest = min(known, key=lambda number: known[number][:2])
    done, last, machine = known[slowest]
    steps = ", ".join(f"{number}: {known[number][0]}" for number in sorted(known)[:64])
    return (
        f"process {slowest} on {machine} lags: step {done}, last heard of {now - last:.0f} s ago "
        f"(steps by process: {steps})"
    )


def _bounded(call: Callable[[], Any], seconds: float = 5.0) -> Any:
    """The result of a call to the coordinator, or None if it fails or does not answer in time."""
    result: list[Any] = []

    def run() -> None:
        try:
            result.append(call())
        except Exception:  # whatever a coordinator that is ending may raise
            return

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return result[0] if result else None
