"""Progress of long work: one rewritten line on a terminal, a plain line now and then in a log."""

import sys
import time
from collections import deque
from typing import TextIO

import numpy as np
from numpy.typing import ArrayLike

_WINDOW = 60.0  # seconds that tell how fast the work goes


class Progress:
    """Shows how far `total` pieces of work have come and when they will be done.

    The estimate is that of the last minute.

    Args:
        title: what is being done.
        total: pieces of work in all.
        done: pieces that an earlier run did; they do not count for the speed.
        stream: where to write; stderr by default.
    """

    def __init__(self, title: str, total: int, done: int = 0, stream: TextIO | None = None):
        self._title, self._total = title, total
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._seen = deque([(time.monotonic(), done)])
        self._shown = -1e9
        self._width = 0

    def update(self, done: int, note: str = "") -> None:
        """Tells that `done` pieces are finished; writes every 0.5 s at most (a log: every 10 s)."""
        now = time.monotonic()
        self._seen.append((now, done))
        while self._seen[1][0] <= now - _WINDOW:
            self._seen.popleft()
        if now - self._shown < (0.5 if self._live else 10) and done < self._total:
            return
        self._shown = now
        start, before = self._seen[0]
        eta = ""
        if before < done < self._total:
            eta = f", {_duration((now - start) / (done - before) * (self._total - done))} left"
        line = f"{self._title}: {done}/{self._total}{eta}{', ' + note if note else ''}"
        self._write(line, end="\n" if done >= self._total else "")

    def prepare(self, doing: str) -> None:
        """Tells what is being done before the work goes on, such as "compiling"."""
        self._write(f"{self._title}: {doing}", end="")

    def resume(self, done: int) -> None:
        """Tells that the work goes on; how long anything before took is no longer counted."""
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
        """Writes a line that stays, such as an evaluation's result."""
        self._write(line, end="\n")


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def counted(number: int, noun: str) -> str:
    """The number and the noun, whose plural ends in s: "1 result", "2 results"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def rounded(values: ArrayLike, digits: int) -> np.ndarray:
    """float64, so that JSON has no more digits than these: float32 would print 0.7919999957."""
    return np.round(np.asarray(values, np.float64), digits)
