"""Reading in processes of their own: many at once, and a crash costs no more than one file."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from jdance.errors import UserError

T = TypeVar("T")


def load_all(loads: Sequence[Callable[[], T]], workers: int) -> Iterator[T | UserError]:
    """The results of all functions in their order, or the error; by `workers` processes if any.

    A native crash of a process, in a decoder for instance, is the error of whatever crashes it.
    """
    if not workers:
        yield from map(_call, loads)
        return
    left = deque(loads)
    while left:
        waiting: deque[tuple[Callable[[], T], Future[T | UserError]]] = deque()
        try:
            with _pool(workers) as pool:
                while left or waiting:
                    while left and len(waiting) <= 4 * workers:  # bounds what waits in memory
                        waiting.append((left[0], pool.submit(_call, left[0])))
                        left.popleft()
                    result = waiting[0][1].result()
                    waiting.popleft()
                    yield result
        except BrokenProcessPool:  # which of those that wait it was shows when each is alone
            for load, _ in waiting:
                yield _alone(load)


def _pool(workers: int) -> ProcessPoolExecutor:
    # Spawned, not forked: the parent may hold threads of JAX.
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))


def _call(load: Callable[[], T]) -> T | UserError:
    try:
        return load()
    except UserError as error:
        return error


def _alone(load: Callable[[], T]) -> T | UserError:
    try:
        with _pool(1) as pool:
            return pool.submit(_call, load).result()
    except BrokenProcessPool:
        return UserError("what reads it crashes on it; replace or remove the file")
