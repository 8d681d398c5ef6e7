"""The folder of a run that trains: a local one, or one in a store with a local working copy."""

import os
import signal
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np

from jdance.errors import Preempted, UserError
from jdance.remote import copies, objects, runs
from jdance.train import distributed


@contextmanager
def opened(address: str) -> Iterator[Path]:
    """Yields the local folder of a run; if it is in a store, restores and uploads it.

    The main process restores the run before the block, uploads each checkpoint in the background,
    and the rest at the end, also of a preempted run. Collective: every process has to call it.

    Args:
        address: a folder, or the address of one in a store.

    Raises:
        UserError: another process trains the run, the store fails, or the processes do not share
            the cache folder.
    """
    if not objects.is_remote(address):
        yield Path(address)
        return
    objects.check_writable(address, "workdir")
    address = address.rstrip("/")
    folder = copies.folder(address, "training")
    mirrors: list[runs.Mirror] = []  # of the main process

    def stop() -> None:  # as a preemption: the state may be of use, but is not uploaded
        print(f"{address}: another process has taken over; stopping", file=sys.stderr)
        os.kill(os.getpid(), signal.SIGTERM)

    def close() -> None:
        while mirrors:
            mirrors.pop().close()

    distributed.on_main_process(lambda: mirrors.append(runs.Mirror(address, folder, stop)))
    try:
        _check_shared(folder)
        yield folder
    except Preempted:
        distributed.on_main_process(close)
        raise
    except BaseException:  # perhaps of this process alone
        try:
            close()
        except UserError as problem:
            print(f"warning: {problem}", file=sys.stderr)
        raise
    distributed.on_main_process(close)


def _check_shared(folder: Path) -> None:
    """Raises UserError unless all processes see the same local folder, as checkpoints need it."""
    if jax.process_count() == 1:
        return
    number = distributed.broadcast(np.frombuffer(uuid.uuid4().bytes, np.uint8))
    path = folder / f".shared-{bytes(np.asarray(number)).hex()}"
    distributed.on_main_process(path.touch)
    seen = distributed.all_true(path.exists())
    distributed.on_main_process(lambda: path.unlink())
    if not seen:
        raise UserError(
            f"{folder}: is not shared by all machines; set JDANCE_CACHE to a folder that all of "
            "them share, since each writes a part of a checkpoint"
        )
