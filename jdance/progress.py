"""Progress reports: one line that is rewritten on a terminal, occasional lines in a log."""

import sys
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

import numpy as np
from numpy.typing import ArrayLike

_WINDOW = 60.0  # seconds over which the speed is averaged


class Progress:
    """Shows the number of finished items and the time left, at the speed of the last minute.

    Args:
        title: of the work.
        total: number of items.
        done: items finished by an earlier run.
        stream: stderr by default.
    """

    def __init__(self, title: str, total: int, done: int = 0, stream: TextIO | None = None):
        self._title, self._total = title, total
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._seen = deque([(time.monotonic(), done)])
        self._shown = -1e9
        self._width = 0

    def update(self, done: int, note: str = "", left: float | None = None) -> None:
        """Reports `done` finished items; writes at most every 0.5 s, in a log every 10 s.

        Args:
            done: number of finished items.
            note: is appended.
            left: seconds left; None: at the speed of the last minute.
        """
        now = time.monotonic()
        self._seen.append((now, done))
        while self._seen[1][0] <= now - _WINDOW:
            self._seen.popleft()
        if now - self._shown < (0.5 if self._live else 10) and done < self._total:
            return
        self._shown = now
        start, before = self._seen[0]
        if left is None and before < done < self._total:
            left = (now - start) / (done - before) * (self._total - done)
        eta = "" if left is None or done >= self._total else f", {duration(left)} left"
        line = f"{self._title}: {done}/{self._total}{eta}{', ' + note if note else ''}"
        self._write(line, end="\n" if done >= self._total else "")

    def prepare(self, activity: str) -> None:
        """Reports a preparation, such as "compiling"."""
        self._write(f"{self._title}: {activity}", end="")

    def resume(self, done: int) -> None:
        """Continues after a preparation, whose time does not count."""
        self._seen = deque([(time.monotonic(), done)])
        if self._live:
            self._write(f"{self._title}: {done}/{self._total}", end="")

    def _write(self, line: str, end: str) -> None:
        if self._live:
            self._stream.write("\r" + line.ljust(self._width) + end)
            self._width = 0 if end else len(line)
        else:
            self._stream.write(line + "\n")
        self._stream.flush()

    def say(self, line: str) -> None:
        """Writes a permanent line, such as an evaluation result."""
        self._write(line, end="\n")


def reporter(title: str) -> Callable[[int, int], None]:
    """Returns a function of the numbers of finished and all items, which shows the `Progress`.

    It shows nothing if their number is unknown (0).
    """
    progress: list[Progress] = []

    def report(done: int, total: int) -> None:
        if total:
            if not progress:
                progress.append(Progress(title, total, min(done, total)))
            progress[0].update(min(done, total))

    return report


def duration(seconds: float) -> str:
    """Formats a time as minutes and seconds, or with hours: "1:02", "1:00:02"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def counted(number: int, noun: str) -> str:
    """A count with a noun whose plural ends in s: "1 result", "2 results"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def rounded(values: ArrayLike, digits: int) -> np.ndarray:
    """Rounds in float64, for JSON: float32 would print 0.7919999957."""
    return np.round(np.asarray(values, np.float64), digits)
