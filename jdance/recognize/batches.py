"""Batches of frames of one size, which several videos fill together.

Every video is read, tracked and written by a thread of its own. No thread runs the networks: the
one that fills a batch dispatches it, and the first one that needs its results fetches them.
"""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from jdance.recognize.recognizer import Person, Recognizer

_ON_GPU = 16  # frames per batch and device


def default_size() -> int:
    """Frames per batch: one per device on CPUs, where larger batches are not faster."""
    return jax.device_count() * (1 if jax.default_backend() == "cpu" else _ON_GPU)


class Stopped(BaseException):  # as KeyboardInterrupt: no damage of the input
    """Other videos have been stopped, and this one with them."""


@dataclass
class _Batch:
    """Frames that are recognized together; those of given key points have `people`."""

    images: list[np.ndarray] = field(default_factory=list)
    people: list[np.ndarray] = field(default_factory=list)
    dispatched: Any = None
    results: list[list[Person]] | None = None
    fetching: threading.Lock = field(default_factory=threading.Lock)


class Batches:
    """Collects the frames of several videos.

    Results do not depend on the other frames of a batch, apart from rounding on CPUs in batches of
    several frames.

    Args:
        recognizer: of the frames.
        size: frames per batch; 0: `default_size`.
    """

    def __init__(self, recognizer: Recognizer, size: int = 0):
        self._recognizer, self.size = recognizer, size or default_size()
        self._changed = threading.Condition()
        self._open: dict[Any, _Batch] = {}
        self._readers: dict[Any, int] = {}  # number of videos that may add frames
        self._stopped = False

    def start(self, shape: tuple[int, int], known: bool) -> "VideoFrames":
        """Begins a video; videos of the same size share batches.

        Args:
            shape: height and width of all frames.
            known: whether key points are given.
        """
        key = (shape, known)
        with self._changed:
            self._readers[key] = self._readers.get(key, 0) + 1
        return VideoFrames(self, key)

    def stop(self) -> None:
        """Makes all videos raise `Stopped`."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _add(
        self, key: Any, image: np.ndarray, people: np.ndarray | None
    ) -> tuple[_Batch, int]:  # fmt: skip
        """Adds a frame; returns its batch and its row there."""
        with self._changed:
            if self._stopped:
                raise Stopped
            batch = self._open.setdefault(key, _Batch())
            row = len(batch.images)
            batch.images.append(image)
            if people is not None:
                batch.people.append(people)
            if row + 1 == self.size:
                self._dispatch(key)
        return batch, row

    def _dispatch(self, key: Any) -> None:
        batch = self._open.pop(key)
        # Pads the last batch, to avoid recompilation.
        missing = self.size - len(batch.images)
        images = batch.images + [batch.images[-1]] * missing
        people = batch.people + batch.people[-1:] * missing if batch.people else None
        batch.dispatched = self._recognizer.dispatch(images, people, size=key[0])
        batch.images, batch.people = [], []
        self._changed.notify_all()

    def _end(self, key: Any) -> None:
        """Notes that a video adds no more frames; dispatches a batch that no other video fills."""
        with self._changed:
            self._readers[key] -= 1
            if not self._readers[key] and key in self._open and not self._stopped:
                self._dispatch(key)

    def _result(self, batch: _Batch, row: int) -> list[Person]:
        """Waits for the people of a frame."""
        with self._changed:
            self._changed.wait_for(lambda: batch.dispatched is not None or self._stopped)
            if batch.dispatched is None:
                raise Stopped
        with batch.fetching:
            if batch.results is None:
                batch.results = self._recognizer.people(batch.dispatched)
                batch.dispatched = ()
        return batch.results[row]


class VideoFrames:
    """The frames of one video, whose results come in their order; see `Batches.start`.

    At most twice as many frames as a batch has are recognized ahead of their results, so that a
    full batch is always being computed.
    """

    def __init__(self, batches: Batches, key: Any):
        self._batches, self._key, self._ended = batches, key, False
        self._running: deque[tuple[Any, _Batch, int]] = deque()

    def add(
        self, item: Any, image: np.ndarray, people: np.ndarray | None
    ) -> Iterator[tuple[Any, list[Person]]]:
        """Adds a frame, and yields the items whose people are known.

        Args:
            item: is passed on.
            image: uint8 RGB [H, W, 3].
            people: float32 [N, 18, 3] if they are given.
        """
        self._running.append((item, *self._batches._add(self._key, image, people)))
        while len(self._running) >= 2 * self._batches.size:
            yield self._next()

    def flush(self) -> Iterator[tuple[Any, list[Person]]]:
        """Ends the video, and yields the remaining items."""
        self.close()
        while self._running:
            yield self._next()

    def _next(self) -> tuple[Any, list[Person]]:
        item, batch, row = self._running.popleft()
        return item, self._batches._result(batch, row)

    def close(self) -> None:
        """Ends the video."""
        if not self._ended:
            self._ended = True
            self._batches._end(self._key)


def videos_at_once(requested: int, kinds: Sequence[str]) -> int:
    """Number of videos to recognize at the same time.

    Args:
        requested: by the user; 0: 4 on GPUs, where one video is not decoded and tracked as fast as
            the networks run; one on CPUs, whose cores one video occupies.
        kinds: see `inputs.kind`; videos beside images are recognized one by one.
    """
    if any(kind == "image" for kind in kinds):
        return 1
    default = 1 if jax.default_backend() == "cpu" else 4
    return max(min(requested or default, len(kinds)), 1)
