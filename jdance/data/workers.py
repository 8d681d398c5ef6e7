"""Parallel loading in worker processes that survives crashes of native decoders."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from jdance.errors import UserError

T = TypeVar("T")

_CRASH = "the decoder crashes on it; replace or remove the file"


def load_all(loads: Sequence[Callable[[], T]], workers: int) -> Iterator[T | UserError]:
    """Yields the results of all functions in order, or the UserError that one raises.

    Args:
        loads: picklable functions without arguments.
        workers: number of processes; 0 runs the functions in this one. A function that crashes its
            process yields a UserError.
    """
    if not workers:
        yield from map(_call, loads)
        return
    pending = deque(loads)
    while pending:
        waiting: deque[tuple[Callable[[], T], Future[T | UserError]]] = deque()
        try:
            with _pool(workers) as pool:
                while pending or waiting:
                    while pending and len(waiting) <= 4 * workers:  # bounds the memory
                        waiting.append((pending[0], pool.submit(_call, pending[0])))
                        pending.popleft()
                    result = waiting[0][1].result()
                    waiting.popleft()
                    yield result
        except BrokenProcessPool:  # run each candidate in a process of its own
            for load, _ in waiting:
                yield _run_isolated(load)


class Loader:
    """Runs functions one by one.

    Args:
        isolated: in a process of their own, which is started again after a crash.
    """

    def __init__(self, isolated: bool):
        self._isolated = isolated
        self._process: ProcessPoolExecutor | None = None

    def __call__(self, load: Callable[[], T]) -> T:
        """Returns the result of a picklable function without arguments.

        Raises:
            UserError: the function raises it, or crashes its process.
        """
        if not self._isolated:
            return load()
        self._process = self._process or _pool(1)
        try:
            result = self._process.submit(_call, load).result()
        except BrokenProcessPool:
            self.close()
            result = UserError(_CRASH)
        if isinstance(result, UserError):
            raise result
        return result

    def close(self) -> None:
        """Ends the process."""
        if self._process:
            self._process.shutdown()
        self._process = None


def _pool(workers: int) -> ProcessPoolExecutor:
    # Forking is unsafe with JAX's threads.
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))


def _call(load: Callable[[], T]) -> T | UserError:
    try:
        return load()
    except UserError as error:
        return error


def _run_isolated(load: Callable[[], T]) -> T | UserError:
    try:
        with _pool(1) as pool:
            return pool.submit(_call, load).result()
    except BrokenProcessPool:
        return UserError(_CRASH)
