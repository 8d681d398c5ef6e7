"""Multi-process training: initialization, agreement, collectives, preemption and shutdown.

Built on jax.distributed, which detects Slurm and Open MPI; elsewhere flags give the address.
Everything here also works with a single process, at next to no cost.

Data parallelism: every process runs the same program. `steps.AXIS` is the mapped axis of pmap over
all devices of all processes.

- The state is replicated without a leading device axis (`in_axes=None, out_axes=None`): `replicate`
  puts a host tree on the local devices, after `broadcast` where processes may differ. The step
  averages gradients, batch statistics and metrics with pmean, so that the copies stay equal.
- Process p of P loads the examples p, p + P, ... of each global batch, and `shard` splits them over
  its devices; `interleave` restores the order. Augmentation is seeded with an example's position in
  the global order, dropout with the step and its `index` in the data set, which is part of the
  batch: neither depends on the number of devices.
- pmap returns arrays of this process only; checkpoints need arrays over all processes:
  `to_global` and `local_data` convert.
"""

import os
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

# Exit status after a timeout of the watchdog or the death of a peer: EX_SOFTWARE of sysexits.h.
BROKEN = 70

_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
_OPEN_MPI_4 = "OMPI_MCA_orte_hnp_uri"  # how JAX detects Open MPI; gone since version 5
_OPEN_MPI_SIZE = "OMPI_COMM_WORLD_SIZE"
_MAIN_PROCESS_TIMEOUT_MS = 600_000
_call_ids = count()


class ProcessAddress(NamedTuple):
    """HOST:PORT of the coordinator, the index of this process, and the number of processes."""

    coordinator: str
    process: int
    processes: int


def address_from_flags(
    coordinator: str,
    process: int | None,
    processes: int | None,
    environment: Mapping[str, str],
) -> ProcessAddress | None:
    """The address given by the flags, or None without any.

    In an Indexed Job of Kubernetes, JOB_COMPLETION_INDEX is the default of `process`.

    Raises:
        UserError: the flags are incomplete or contradictory.
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
    if process is None:
        process = completion_index(environment)
    if process is None or processes is None:
        missing = "--process_id" if process is None else "--num_processes"
        raise UserError(f"--coordinator={coordinator}: needs {missing}, too")
    if not 0 <= process < processes:
        raise UserError(f"--process_id={process}: must be from 0 to {processes - 1}")
    return ProcessAddress(coordinator, process, processes)


def completion_index(environment: Mapping[str, str]) -> int | None:
    """The index of this pod in an Indexed Job of Kubernetes, or None."""
    index = environment.get("JOB_COMPLETION_INDEX", "")
    return int(index) if index.isdigit() else None


def detect_launcher(environment: Mapping[str, str]) -> str | None:
    """The cluster launcher detected from the environment, by JAX's name for it, or None."""
    # Before Slurm: inside a Slurm job, mpirun's processes are not Slurm tasks of their own.
    if int(environment.get(_OPEN_MPI_SIZE, 1)) > 1:
        return "ompi" if _OPEN_MPI_4 in environment else "mpi4py"
    if all(name in environment for name in _SLURM) and int(environment["SLURM_NTASKS"]) > 1:
        return "slurm"
    return None


@contextmanager
def initialized(address: ProcessAddress | None, timeout: float = 0.0) -> Iterator[None]:
    """Initializes jax.distributed, before any device is used, and handles signals and failures.

    SIGTERM, SIGUSR1 and the first Ctrl-C request a checkpoint, see `preempted`. If one of several
    processes fails, it exits immediately: an orderly exit would wait for peers that wait for it.

    Args:
        address: see `address_from_flags`; None: from Slurm or Open MPI, or a single process.
        timeout: of the watchdog in seconds, 0 without one. A peer whose heartbeats are missing for
            twice as long, and at most 100 s, counts as dead.

    Raises:
        UserError: the coordinator cannot be reached.
    """
    _initialize(address, timeout)
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
        with exit_on_failure():
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
        exit_now(exit_status(error))


@contextmanager
def exit_on_failure() -> Iterator[None]:
    """Exits immediately if one of several processes fails alone or a peer has died.

    Any other cleanup would wait for peers that no longer answer. UserError and Preempted are raised
    by all processes alike and pass through.
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
        exit_now(BROKEN)


def _initialize(address: ProcessAddress | None, timeout: float) -> None:
    # A missed heartbeat ends a process without its stack traces: the watchdog must fire first.
    options: dict[str, Any] = {
        "heartbeat_timeout_seconds": int(min(100, 2 * timeout + 10)) if timeout else 100,
        "shutdown_timeout_seconds": 60,
    }
    launcher = detect_launcher(os.environ)
    if address is None and launcher == "mpi4py" and not find_spec("mpi4py"):
        raise UserError("Open MPI from version 5 on needs mpi4py: pip install mpi4py")
    try:
        if address is not None:
            jax.distributed.initialize(
                *(address.coordinator, address.processes, address.process),
                cluster_detection_method="deactivate",
                **options,
            )
        elif launcher:
            jax.distributed.initialize(cluster_detection_method=launcher, **options)
        else:
            _initialize_single()
    except (RuntimeError, ValueError) as error:
        coordinator = address.coordinator if address else "the cluster's first node"
        raise UserError(
            f"cannot reach the other processes by {coordinator}: {str(error).splitlines()[0]}"
        ) from error


def _initialize_single() -> None:
    """Starts the service of jax.distributed for one process: preemption notices need it."""
    # The devices of one process need no sockets between them.
    jax.config.update("jax_cpu_collectives_implementation", None)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    jax.distributed.initialize(
        *(address, 1, 0),
        cluster_detection_method="deactivate",
        coordinator_bind_address=address,
        heartbeat_timeout_seconds=10**6,  # a process that was suspended for a while is not dead
    )


def exit_now(status: int) -> None:
    """Exits without cleanup: no exit handlers, no waiting for threads or peers."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def is_main_process() -> bool:
    """Whether this is process 0, which writes config, metrics and results."""
    return jax.process_index() == 0


def progress_stream() -> TextIO:
    """Stderr on the main process, os.devnull on the others."""
    return sys.stderr if is_main_process() else open(os.devnull, "w")


def preempted(dispatch: int) -> bool:
    """Whether all processes must save and exit after this dispatch, since one received SIGTERM.

    Every process has to call it after every dispatch, numbered without gaps, so that all agree on
    the same one.
    """
    return multihost_utils.reached_preemption_sync_point(dispatch)


def on_main_process(action: Callable[[], None]) -> None:
    """Runs `action` on the main process while the others wait; its UserError is raised on all.

    Collective: every process has to call it.
    """
    if jax.process_count() == 1:
        action()
        return
    key, client = f"jdance/first/{next(_call_ids)}", coordinator_client()
    if not is_main_process():
        value = client.blocking_key_value_get(key, _MAIN_PROCESS_TIMEOUT_MS)
        number, _, problem = value.partition(" ")
        if problem:
            raise UserError(problem) from (OSError(int(number), problem) if int(number) else None)
        return
    try:
        action()
    except UserError as error:
        client.key_value_set(key, f"{os_error(error) or 0} {error}")
        raise
    client.key_value_set(key, "done")


def all_gather(array: np.ndarray) -> np.ndarray:
    """Stacks the arrays [...] of all processes, equal in shape and dtype: [processes, ...].

    The bytes are sent, so that the result is exact for every dtype.
    """
    if jax.process_count() == 1:
        return array[None]
    parts = np.asarray(multihost_utils.process_allgather(np.frombuffer(array.tobytes(), np.uint8)))
    return np.stack([np.frombuffer(p.tobytes(), array.dtype).reshape(array.shape) for p in parts])


def interleave(array: np.ndarray) -> np.ndarray:
    """Gathers rows [N, ...] in global order: process p of P holds the rows p, p + P, ...."""
    return np.moveaxis(all_gather(array), 0, 1).reshape(-1, *array.shape[1:])


def all_true(value: bool) -> bool:
    """Whether `value` is true on every process."""
    return bool(all_gather(np.array([value])).all())


def broadcast(tree: Any) -> Any:
    """The main process's values of a pytree, on all processes."""
    return tree if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(tree)


def coordinator_client() -> Any:
    """Client of the coordinator's key-value store, or None before initialization."""
    from jax._src import distributed  # JAX offers no public name for it

    return distributed.global_state.client


def _local_mesh() -> Mesh:
    return Mesh(np.array(jax.local_devices()), (AXIS,))


def _global_mesh() -> Mesh:
    return Mesh(np.array(jax.devices()), (AXIS,))


def replicate(tree: Any) -> Any:
    """Copies a pytree, equal on all processes, to every local device."""
    return jax.device_put(tree, NamedSharding(_local_mesh(), PartitionSpec()))


def replicated_like(tree: Any) -> Any:
    """Abstract arrays of a pytree's shapes and dtypes, replicated over all devices."""
    sharding = NamedSharding(_global_mesh(), PartitionSpec())
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


def to_global(tree: Any) -> Any:
    """A locally replicated pytree as global arrays, as checkpoints need them."""
    if jax.process_count() == 1:
        return tree
    return multihost_utils.host_local_array_to_global_array(tree, _global_mesh(), PartitionSpec())


def local_data(tree: Any) -> Any:
    """Global arrays as arrays on this process's devices: the inverse of `to_global`."""
    if jax.process_count() == 1:
        return tree
    return multihost_utils.global_array_to_host_local_array(tree, _global_mesh(), PartitionSpec())


def shard(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Splits this process's batch [B, ...] over its devices: [devices, B / devices, ...]."""
    return _shard({name: _per_device(array) for name, array in batch.items()})


def shard_batches(batches: list[dict[str, np.ndarray]]) -> dict[str, jax.Array]:
    """Stacks N batches, each split as by `shard`: [devices, N, B / devices, ...]."""
    return _shard(
        {name: np.stack([_per_device(batch[name]) for batch in batches], 1) for name in batches[0]}
    )


def _per_device(array: np.ndarray) -> np.ndarray:
    return array.reshape(jax.local_device_count(), -1, *array.shape[1:])


def _shard(arrays: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    return jax.device_put(arrays, NamedSharding(_local_mesh(), PartitionSpec(AXIS)))


def check_batch_size(batch_size: int, accumulate: int = 1) -> None:
    """Raises UserError unless all devices get equal shards and `accumulate` equal micro-batches."""
    local = Counter(device.process_index for device in jax.devices())
    if len(set(local.values())) > 1:
        process, fewest = min(local.items(), key=lambda item: item[1])
        raise UserError(
            f"process {process} has {fewest} devices and others have {max(local.values())}; "
            "give every process the same number"
        )
    devices = jax.device_count()
    if batch_size < 1 or batch_size % devices:
        raise UserError(
            f"--config.batch_size={batch_size}: not divisible by {devices} devices; choose a "
            "multiple"
        )
    if batch_size % (devices * accumulate):
        raise UserError(
            f"--config.accumulate={accumulate}: each device's {batch_size // devices} examples "
            f"cannot be divided into {accumulate} equal micro-batches"
        )
