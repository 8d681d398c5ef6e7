"""The processes of a run: how they find each other, agree, gather, are preempted, and end.

Built on jax.distributed, which knows Slurm and Open MPI; where they are not, flags say who is who.
Everything here works with one process, too, and then costs next to nothing.
"""

import os
import re
import signal
import socket
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from typing import Any, NamedTuple, TextIO

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jdance.errors import Preempted, UserError, exit_status, os_error
from jdance.train.steps import AXIS

# The watchdog, or the death of another process, ended the run: EX_SOFTWARE of sysexits.h.
BROKEN = 70

_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
_OPEN_MPI_4 = "OMPI_MCA_orte_hnp_uri"  # by which JAX knows it; version 5 has it no longer
_OPEN_MPI_SIZE = "OMPI_COMM_WORLD_SIZE"
_PATIENCE_MS = 600_000  # for what the first process does alone
_numbers = count()


class ProcessAddress(NamedTuple):
    """Where the processes meet, HOST:PORT, and which of them this one is."""

    coordinator: str
    process: int
    processes: int


def address_from_flags(
    coordinator: str,
    process: int | None,
    processes: int | None,
    environment: Mapping[str, str],
) -> ProcessAddress | None:
    """What the flags say about this process; None where they say nothing.

    Kubernetes numbers the pods of an Indexed Job in JOB_COMPLETION_INDEX: with a coordinator and a
    number of processes that takes the place of `process`.

    Raises:
        UserError: the flags do not make sense together.
    """
    if not coordinator:
        if process is not None or processes is not None:
            raise UserError(
                "--process_id and --num_processes need --coordinator=HOST:PORT, the address of "
                "process 0"
            )
        return None
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--coordinator={coordinator}: expected HOST:PORT")
    if process is None and environment.get("JOB_COMPLETION_INDEX", "").isdigit():
        process = int(environment["JOB_COMPLETION_INDEX"])
    if process is None or processes is None:
        missing = "--process_id" if process is None else "--num_processes"
        raise UserError(f"--coordinator={coordinator}: needs {missing}, too")
    if not 0 <= process < processes:
        raise UserError(f"--process_id={process}: must be from 0 to {processes - 1}")
    return ProcessAddress(coordinator, process, processes)


def launcher(environment: Mapping[str, str]) -> str | None:
    """What started this process as one of several, by JAX's name for it; None: nothing did."""
    # In a job of Slurm's, mpirun is the one that knows: its processes are no tasks of their own.
    if int(environment.get(_OPEN_MPI_SIZE, 1)) > 1:
        return "ompi" if _OPEN_MPI_4 in environment else "mpi4py"
    if all(name in environment for name in _SLURM) and int(environment["SLURM_NTASKS"]) > 1:
        return "slurm"
    return None


@contextmanager
def member(where: ProcessAddress | None, timeout: float = 0.0) -> Iterator[None]:
    """Makes this process one of the run's, before anything touches a device.

    SIGTERM then asks for a checkpoint, see `preempted`; SIGUSR1 and the first Ctrl-C do the same.
    Where one of several processes fails, it ends at once and without ceremony: an orderly exit
    would wait for the others, which wait for it.

    Args:
        where: see `place`; None: as Slurm or Open MPI say, or else alone.
        patience: of the watchdog, in seconds; 0: there is none. Processes that are silent for
            twice as long, and at most for 100 s, count as dead.

    Raises:
        UserError: the others could not be found.
    """
    _join(where, timeout)
    # JAX owns SIGTERM: a handler of our own would disable its preemption notice.
    if hasattr(signal, "SIGUSR1"):  # not on Windows
        signal.signal(signal.SIGUSR1, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    interrupted = False

    def interrupt(*_: object) -> None:
        nonlocal interrupted
        interrupted = True
        print("interrupted: saving after this step; Ctrl-C again ends at once", file=sys.stderr)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.kill(os.getpid(), signal.SIGTERM)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    try:
        with failing_at_once():
            yield
    except Preempted as notice:
        if not interrupted:
            raise
        print(notice, file=sys.stderr)
        raise KeyboardInterrupt from None
    except UserError as error:
        if jax.process_count() == 1:
            raise
        print(f"error: {error}", file=sys.stderr)
        end(exit_status(error))


@contextmanager
def failing_at_once() -> Iterator[None]:
    """Ends one of several processes where it fails alone, or because another one has died.

    Other clean-up, inside or outside, would wait for processes that do not answer. A UserError is
    everybody's and passes.
    """
    try:
        yield
    except (Preempted, UserError):
        raise
    except BaseException as error:
        if jax.process_count() == 1:
            raise
        traceback.print_exc()
        print(
            f"error: process {jax.process_index()} of {jax.process_count()} on "
            f"{socket.gethostname()} failed, or another one has died: "
            f"{(str(error) or repr(error)).splitlines()[0]}",
            file=sys.stderr,
        )
        end(BROKEN)


def _join(where: ProcessAddress | None, timeout: float) -> None:
    # JAX's own heartbeats end a process without its stacks: give the watchdog the first word.
    silence = int(min(100, 2 * timeout + 10)) if timeout else 100
    found = launcher(os.environ)
    if where is None and found == "mpi4py" and not find_spec("mpi4py"):
        raise UserError("Open MPI from version 5 on needs mpi4py: pip install mpi4py")
    try:
        if where is not None:
            jax.distributed.initialize(
                *(where.coordinator, where.processes, where.process),
                cluster_detection_method="deactivate",
                heartbeat_timeout_seconds=silence,
                shutdown_timeout_seconds=60,
            )
        elif found:
            jax.distributed.initialize(
                cluster_detection_method=found,
                heartbeat_timeout_seconds=silence,
                shutdown_timeout_seconds=60,
            )
        else:
            _alone()
    except (RuntimeError, ValueError) as error:
        place_of_meeting = where.coordinator if where else "the cluster's first node"
        raise UserError(
            f"cannot reach the other processes by {place_of_meeting}: {str(error).splitlines()[0]}"
        ) from error


def _alone() -> None:
    """One process: only for the preemption notice, which needs the service of jax.distributed."""
    # The devices of one process need no sockets between them.
    jax.config.update("jax_cpu_collectives_implementation", None)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    jax.distributed.initialize(
        *(address, 1, 0),
        cluster_detection_method="deactivate",
        coordinator_bind_address=address,
        heartbeat_timeout_seconds=10**6,  # a process that was stopped for a while is not dead
    )


def end(status: int) -> None:
    """Ends this process now, without waiting for anything or anybody."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def is_first() -> bool:
    """Whether this process is the one that writes what is written once."""
    return jax.process_index() == 0


def stream() -> TextIO:
    """Where this process reports progress: stderr for the first, nowhere for the others."""
    return sys.stderr if is_first() else open(os.devnull, "w")


def preempted(dispatch: int) -> bool:
    """Whether all processes are to save and end after this dispatch, because one got SIGTERM.

    To be asked by every process after every dispatch, numbered without gaps: only so can they agree
    on one.
    """
    return multihost_utils.reached_preemption_sync_point(dispatch)


def on_main_process(action: Callable[[], None]) -> None:
    """The first process does something while the others wait; its UserError is everybody's.

    To be called by all processes.
    """
    if jax.process_count() == 1:
        action()
        return
    name = f"jdance/first/{next(_numbers)}"
    if not is_first():
        number, _, problem = client().blocking_key_value_get(name, _PATIENCE_MS).partition(" ")
        if problem:
            raise UserError(problem) from (OSError(int(number), problem) if int(number) else None)
        return
    try:
        action()
    except UserError as error:
        client().key_value_set(name, f"{os_error(error) or 0} {error}")
        raise
    client().key_value_set(name, "done")


def gather(array: np.ndarray) -> np.ndarray:
    """From every process's array [...], of one shape and dtype, the array [processes, ...].

    Exact for every dtype: it is bytes that travel.
    """
    if jax.process_count() == 1:
        return array[None]
    parts = np.asarray(multihost_utils.process_allgather(np.frombuffer(array.tobytes(), np.uint8)))
    return np.stack([np.frombuffer(p.tobytes(), array.dtype).reshape(array.shape) for p in parts])


def interleave(array: np.ndarray) -> np.ndarray:
    """The rows [N, ...] of an order of which process p holds the rows p, p + processes, ....

    Every process brings equally many.
    """
    parts = gather(array)
    return np.moveaxis(parts, 0, 1).reshape(-1, *array.shape[1:])


def all_of(good: bool) -> bool:
    """Whether something is true of every process."""
    return bool(gather(np.array([good])).all())


def broadcast(tree: Any) -> Any:
    """The first process's values of a pytree, on all processes."""
    return tree if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(tree)


def client() -> Any:
    """The key-value store that the processes share, or None."""
    from jax._src import distributed  # JAX offers no public name for it

    return distributed.global_state.client


def _local_mesh() -> Mesh:
    return Mesh(np.array(jax.local_devices()), (AXIS,))


def _mesh() -> Mesh:
    return Mesh(np.array(jax.devices()), (AXIS,))


def replicate(tree: Any) -> Any:
    """Puts a whole pytree on every device; the first process's values, where there are several."""
    return replicate(broadcast(tree))


def replicate(tree: Any) -> Any:
    """Puts a whole pytree, which all processes have alike, on every device of this process."""
    return jax.device_put(tree, NamedSharding(_local_mesh(), PartitionSpec()))


def replicated_like(tree: Any) -> Any:
    """Shapes and dtypes of a pytree (of arrays or of their shapes), to be on every device."""
    sharding = NamedSharding(_mesh(), PartitionSpec())
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


def over_processes(tree: Any) -> Any:
    """A replicated pytree as arrays over all processes, which is what checkpoints are made of."""
    if jax.process_count() == 1:
        return tree
    return multihost_utils.host_local_array_to_global_array(tree, _mesh(), PartitionSpec())


def of_this_process(tree: Any) -> Any:
    """The inverse of `over_processes`."""
    if jax.process_count() == 1:
        return tree
    return multihost_utils.global_array_to_host_local_array(tree, _mesh(), PartitionSpec())


def shard(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Divides this process's batch [B, ...] over its devices: [devices, B / devices, ...]."""
    sharding = NamedSharding(_local_mesh(), PartitionSpec(AXIS))
    devices = jax.local_device_count()
    split = {k: v.reshape(devices, -1, *v.shape[1:]) for k, v in batch.items()}
    return jax.device_put(split, sharding)


def shard_several(batches: list[dict[str, np.ndarray]]) -> dict[str, jax.Array]:
    """Several batches, each divided as by `shard`: [devices, N, B / devices, ...]."""
    sharding = NamedSharding(_local_mesh(), PartitionSpec(AXIS))
    devices = jax.local_device_count()
    parts = {
        name: np.stack([b[name].reshape(devices, -1, *b[name].shape[1:]) for b in batches], 1)
        for name in batches[0]
    }
    return jax.device_put(parts, sharding)


def check_batch_size(batch_size: int, accumulate: int = 1) -> None:
    """Raises UserError where the devices cannot share a batch equally.

    `accumulate` is the number of parts in which each device works through its share.
    """
    devices = Counter(device.process_index for device in jax.devices())
    if len(set(devices.values())) > 1:
        number, least = min(devices.items(), key=lambda item: item[1])
        raise UserError(
            f"process {number} has {least} devices and others have {max(devices.values())}; "
            "give every process equally many"
        )
    if batch_size < 1 or batch_size % jax.device_count():
        raise UserError(
            f"--config.batch_size={batch_size}: cannot be shared equally by {jax.device_count()} "
            "devices; choose a multiple"
        )
    if batch_size % (jax.device_count() * accumulate):
        raise UserError(
            f"--config.accumulate={accumulate}: each device's {batch_size // jax.device_count()} "
            "examples cannot be divided into so many equal parts"
        )


_BITS = {"pred": 8, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "f16": 16, "bf16": 16,
         "s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64}  # fmt: skip
# One line of HLO: "%name = f32[3,4]{1,0} all-reduce(...)", or a tuple of such shapes. An
# asynchronous one has its shape in -start, and -done repeats it.
_LINE = re.compile(r"= (.*?) all-reduce(?:-start)?\(")
_SHAPE = re.compile(r"\b([a-z]+[0-9]*)\[([0-9,]*)\]")


class AllReduce(NamedTuple):
    """Number of all-reduce operations, and the bytes that each device brings to them together."""

    operations: int
    bytes: int


def all_reduce(program: str) -> AllReduce:
    """Counts the all-reduce operations of a program in HLO, as `compiled.as_text()` gives it.

    Raises:
        ValueError: a type of numbers that is not known.
    """
    sizes = [sum(_sizes(match[1])) for match in map(_LINE.search, program.splitlines()) if match]
    return AllReduce(len(sizes), sum(sizes))


def _sizes(shapes: str) -> Iterator[int]:
    for kind, dimensions in _SHAPE.findall(shapes):
        if kind not in _BITS:
            raise ValueError(f"HLO has an all-reduce of the unknown type {kind!r}")
        count = 1
        for size in filter(None, dimensions.split(",")):
            count *= int(size)
        yield count * _BITS[kind] // 8


def ring_seconds(total: int, devices: int, bytes_per_second: float) -> float:
    """The least time for an all-reduce by a ring: each device sends 2 (n - 1) / n of the bytes."""
    return 2 * (devices - 1) / devices * total / bytes_per_second


def of_step(step: Any, *arguments: Any) -> AllReduce:
    """`all_reduce` of a mapped step, compiled for these arguments."""
    return all_reduce(step.lower(*arguments).compile().as_text())
