"""One thread that owns the recognizer, and recognizers that queue for it."""

import itertools
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from enum import IntEnum
from functools import partial
from typing import Any, TypeVar

import numpy as np

from jdance.recognize import canvas
from jdance.recognize.program import Recognized
from jdance.recognize.recognizer import Person, Recognizer
from jdance.recognize.sequences import SequenceClassifier

T = TypeVar("T")

# Sides of the square canvases for cameras and videos; larger images use those of `canvas`.
SMALL_CANVAS = 640
_SIDES = (SMALL_CANVAS, 1280)


class Priority(IntEnum):
    """Order in which the worker takes calls."""

    LIVE = 0
    IMAGE = 1
    VIDEO = 2
    _STOP = 9


class Stopped(Exception):
    """The worker was closed before it took the call."""


class Worker:
    """Runs calls in one thread: by priority, those of equal priority in their order.

    A job that waits for each of its calls therefore takes turns with the others.
    """

    def __init__(self) -> None:
        self._calls: queue.PriorityQueue[Any] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recognizer", daemon=True)
        self._thread.start()

    def submit(self, priority: Priority, function: Callable[[], T]) -> "Future[T]":
        """Queues a call."""
        future: Future[T] = Future()
        if self._closed.is_set():
            future.set_exception(Stopped())
        else:
            self._calls.put((priority, next(self._numbers), future, function))
        return future

    def _run(self) -> None:
        while True:
            priority, _, future, function = self._calls.get()
            if priority == Priority._STOP:
                return
            if self._closed.is_set():
                future.set_exception(Stopped())
            elif future.set_running_or_notify_cancel():
                try:
                    future.set_result(function())
                except BaseException as error:  # raised where the result is awaited
                    future.set_exception(error)
            # A call holds its frames, which must not wait here for the next one.
            del future, function

    def close(self, timeout: float = 30.0) -> None:
        """Ends the thread after the current call; calls in the queue raise `Stopped`."""
        self._closed.set()
        self._calls.put((Priority._STOP, next(self._numbers), None, None))
        self._thread.join(timeout)


class Programs:
    """Compiled programs by number of images and canvas.

    A program is compiled in the thread that first needs it, so that the worker serves the others
    meanwhile; one at a time.
    """

    def __init__(self) -> None:
        self._ready: set[tuple[int, tuple[int, int]]] = set()
        self._lock = threading.Lock()

    def prepare(self, recognizer: Recognizer, images: int, size: tuple[int, int]) -> None:
        """Compiles the program for a number of images on a canvas (height, width), once."""
        key = images, size
        if key in self._ready:
            return
        with self._lock:
            if key not in self._ready:
                blank = [np.zeros((8, 8, 3), np.uint8)] * images
                recognizer.people(recognizer.dispatch(blank, size=size))
                self._ready.add(key)


class QueuedRecognizer(Recognizer):
    """A recognizer whose programs run in a worker's thread.

    Args:
        recognizer: has a pose network.
        worker: runs the programs.
        programs: shared by all recognizers of the worker.
        priority: of this recognizer's calls.
    """

    def __init__(
        self, recognizer: Recognizer, worker: Worker, programs: Programs, priority: Priority
    ):
        self._recognizer, self._worker = recognizer, worker
        self._programs, self._priority = programs, priority

    def __getattr__(self, name: str) -> Any:
        return getattr(self._recognizer, name)

    def dispatch(  # type: ignore[override]
        self,
        images: Sequence[np.ndarray],
        keypoints: Sequence[np.ndarray] | None = None,
        *,
        whole_image: bool = False,
        size: tuple[int, int] | None = None,
    ) -> "Future[list[list[Person]]]":
        """Queues images; see `Recognizer.dispatch`. The canvas is chosen among a few sizes."""
        recognizer, size = self._recognizer, _canvas_size(images)
        self._programs.prepare(recognizer, len(images), size)

        def run() -> list[list[Person]]:
            dispatched: Recognized = recognizer.dispatch(
                images, keypoints, whole_image=whole_image, size=size
            )
            return recognizer.people(dispatched)

        return self._worker.submit(self._priority, run)

    def people(  # type: ignore[override]
        self, recognized: "Future[list[list[Person]]]"
    ) -> list[list[Person]]:
        """Waits for the people of each image; see `Recognizer.people`."""
        return recognized.result()


class QueuedClassifier(SequenceClassifier):
    """A sequence classifier that runs in a worker's thread.

    Args:
        classifier: of tracks.
        worker: runs it.
        priority: of its calls.
    """

    def __init__(self, classifier: SequenceClassifier, worker: Worker, priority: Priority):
        self._classifier, self._worker, self._priority = classifier, worker, priority

    def __getattr__(self, name: str) -> Any:
        return getattr(self._classifier, name)

    def __call__(
        self, keypoints: np.ndarray, times: np.ndarray, ends: tuple[float, float]
    ) -> np.ndarray:
        """Queues a track and waits for its probabilities; see `SequenceClassifier`."""
        call = partial(self._classifier, keypoints, times, ends)
        return self._worker.submit(self._priority, call).result()


def _canvas_size(images: Sequence[np.ndarray]) -> tuple[int, int]:
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    side = next((side for side in _SIDES if max(height, width) <= side), None)
    return canvas.canvas_size(height, width) if side is None else (side, side)
