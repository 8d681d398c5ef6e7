"""Recognizes many inputs, alone or with other processes that share only the output folder.

Every process goes through all inputs, the largest first, and recognizes those that no process has
claimed or done. Any of them may be killed, started again or added at any time.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from jdance.data import shards
from jdance.data.shards import Partition
from jdance.errors import IO_ERROR, UserError, exit_status, is_full
from jdance.progress import Progress, duration
from jdance.recognize.claims import Claim, Claims
from jdance.recognize.inputs import Job
from jdance.recognize.ledger import Failure, Ledger, State
from jdance.recognize.runs import Run
from jdance.remote.spool import Copy, Spool
from jdance.train import distributed

MAX_ATTEMPTS = 5  # at an input whose processes die
_POLL = 1.0  # seconds between looks at the claims of other processes


def this_process(
    process: int | None, processes: int | None, environment: Mapping[str, str]
) -> Partition:
    """The index of this process, and the number of processes.

    Args:
        process, processes: the flags; None: from Slurm's step, array, or both, from Open MPI, or
            from an Indexed Job of Kubernetes if `processes` is given; else a single process.
        environment: variables of the environment.

    Raises:
        UserError: the flags contradict each other.
    """
    if process is None and processes is not None:
        process = distributed.completion_index(environment)
    if process is not None or processes is not None:
        return shards.partition(process, processes)
    launcher = distributed.detect_launcher(environment)
    names = {
        None: ("", ""),
        "slurm": ("SLURM_PROCID", "SLURM_NTASKS"),
    }.get(launcher, ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"))
    rank, size = int(environment.get(names[0], 0)), int(environment.get(names[1], 1))
    first, step, tasks = (
        int(environment.get(f"SLURM_ARRAY_TASK_{name}", default))
        for name, default in (("MIN", 0), ("STEP", 1), ("COUNT", 1))
    )
    task = (int(environment.get("SLURM_ARRAY_TASK_ID", first)) - first) // max(step, 1) % tasks
    return Partition(task * size + rank, tasks * size)


@dataclass(frozen=True)
class Options:
    """How inputs are distributed.

    Attributes:
        run: name of the command, see `Run`.
        process: index of this process, and the number of processes as far as it is known.
        claim_timeout: see `Claims`.
        wait: whether to wait for inputs of other processes, and to take over those of killed ones.
        overwrite: whether to recognize again what has been done before this run.
        max_failures: number of failed inputs above which the run stops; None: no limit.
        title: of the progress reports.
        at_once: number of inputs that threads of this process recognize at the same time.
    """

    run: str
    process: Partition = Partition()  # noqa: RUF009 (immutable)
    claim_timeout: float = 120.0
    wait: bool = True
    overwrite: bool = False
    max_failures: int | None = None
    title: str = "recognizing"
    at_once: int = 1


@dataclass
class Outcome:
    """What is known about the inputs at the end.

    Attributes:
        jobs: all inputs.
        states: of the inputs by name, of all processes; inputs of others may be missing.
        own: names of the inputs that this process has recognized.
        full: the error if the disk is full.
        transient: an error of a disk or network that made an input fail.
        stopped: whether there were more failures than allowed.
    """

    jobs: Sequence[Job]
    states: dict[str, State] = field(default_factory=dict)
    own: list[str] = field(default_factory=list)
    full: Exception | None = None
    transient: Exception | None = None
    stopped: bool = False

    @property
    def failures(self) -> list[Failure]:
        """The failures in the order of the inputs."""
        states = (self.states.get(_name(job)) for job in self.jobs)
        return [state.failure for state in states if state and state.failure]

    @property
    def results(self) -> set[str]:
        """Names of the inputs with a result."""
        return {
            name
            for name, state in self.states.items()
            if state.failure is None or state.failure.partial
        }

    @property
    def missing(self) -> int:
        """Number of inputs that other processes have not finished."""
        return len(self.jobs) - len(self.states)


def _name(job: Job) -> str:
    """The key of an input; those with a problem have no results and no name."""
    return job.name or f"//{job.label}"


class Archive:
    """The inputs of a command.

    Args:
        jobs: the inputs.
        ledger: of the output folder.
        recognize: writes the results of an input to files with the stem; returns what could not be
            read. Of an input in a store, `source` is a copy, which is then removed.
        seconds: duration of an input that has been recognized; 0 for images.
        options: how inputs are distributed.
        stop: makes calls of `recognize` in other threads raise an exception, which is no Exception.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        ledger: Ledger,
        recognize: Callable[[Job, Path], str],
        seconds: Callable[[Job], float],
        options: Options,
        stop: Callable[[], None] | None = None,
    ):
        self._stop = stop
        self._at_hand: dict[str, Future[None]] = {}
        self._ledger, self._recognize, self._seconds = ledger, recognize, seconds
        self._options, self._outcome = options, Outcome(jobs)
        self._weights = weights(jobs)
        order = sorted(jobs, key=lambda job: -self._weights[_name(job)])
        self._pending = {_name(job): job for job in order}
        self._skip = options.process.process  # so that processes do not start with the same input
        shared = options.process.processes > 1
        self._claims = Claims(
            ledger.output.scratch / "claims",
            options.claim_timeout,
            on_renewal=self._report if shared else lambda: None,
        )
        self._spool: Spool | None = None
        self._ahead = ""  # name of the input that is being copied
        self._progress = Progress(options.title, len(jobs))
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._seconds_done = self._weight_done = 0.0
        self._reported = False

    def run(self) -> Outcome:
        """Recognizes everything; may be called once.

        SystemExit and KeyboardInterrupt give the input at hand back to other processes.
        """
        if any(job.is_copied for job in self._outcome.jobs):
            self._spool = Spool()
        with (
            closing(Run(self._ledger.output, self._options.run)) as self._run,
            self._claims.renewing(),
            closing(self._spool) if self._spool else nullcontext(),
            ThreadPoolExecutor(self._options.at_once) as pool,
        ):
            self._ledger.load(self._pending.values())
            try:
                self._recognize_all(pool)
            except BaseException:
                if self._stop:
                    self._stop()
                if self._spool:
                    self._spool.stop()
                raise
            self._finish()
        return self._outcome

    def _recognize_all(self, pool: ThreadPoolExecutor) -> None:
        options, outcome = self._options, self._outcome
        while self._pending and not outcome.full and not outcome.stopped:
            self._claims.refresh()
            self._read_logs()
            if options.max_failures is not None:
                outcome.stopped = len(outcome.failures) > options.max_failures
            if outcome.stopped:
                break
            if work := self._next():
                job, claim = work
                try:
                    copy = self._copy(job)
                except BaseException:
                    self._claims.release(claim)
                    raise
                if options.at_once == 1:  # in this thread, which signals interrupt
                    self._work(job, claim, copy)
                else:
                    self._at_hand[_name(job)] = pool.submit(self._work, job, claim, copy)
                    self._wait_below(options.at_once)
            elif self._at_hand:
                self._wait_below(len(self._at_hand))
            elif not self._pending or not options.wait:
                break
            else:
                time.sleep(min(_POLL, options.claim_timeout / 4))
        self._wait_below(1)

    def _wait_below(self, count: int) -> None:
        """Waits until fewer inputs than `count` are at hand."""
        while len(self._at_hand) >= count:
            wait(self._at_hand.values(), return_when=FIRST_COMPLETED)
            for name, future in list(self._at_hand.items()):
                if future.done():
                    del self._at_hand[name]
                    future.result()

    def _next(self) -> tuple[Job, Claim] | None:
        """Claims the largest input that is neither done nor claimed, or that is being copied."""
        ahead, self._ahead = self._ahead, ""
        for job in self._free(first=ahead):
            if claim := self._claims.take(_name(job)):
                # Another process may have finished and released it in the meantime.
                if not self._is_finished(job):
                    return job, claim
                self._claims.release(claim)
        return None

    def _free(self, first: str = "") -> Iterator[Job]:
        """The inputs that were neither done nor claimed at the last look, in order.

        Those on which processes died come last: they may have been the reason.
        """
        names = sorted(self._pending, key=self._claims.attempts)
        skip = self._skip % max(len(names), 1)
        self._skip = 0
        names = names[skip:] + names[:skip]
        for name in [first] * (first in self._pending) + names:
            job = self._pending.get(name)
            if job is None or name in self._at_hand or self._claims.is_held(name):
                continue
            if not self._is_finished(job):
                yield job

    def _copy(self, job: Job) -> Copy | None:
        """Begins to copy a claimed input in a store, and the one after it; None if it is local."""
        if not self._spool or not job.is_copied:
            return None
        copy = self._spool.take(job.address, job.entry)
        # Each process copies another one ahead.
        others = (other for other in self._free() if other is not job)
        following = next(islice(others, self._options.process.process, None), None)
        if following and following.is_copied:
            self._ahead = _name(following)
            self._spool.fetch_ahead(following.address, following.entry)
        return copy

    def _is_finished(self, job: Job) -> bool:
        state = self._ledger.state(job, self._run.token, self._options.overwrite)
        if state:
            self._add(job, state)
        return state is not None

    def _work(self, job: Job, claim: Claim, copy: Copy | None) -> None:
        """Recognizes a claimed input."""
        try:
            with (
                closing(copy) if copy else nullcontext(),
                self._ledger.work_folder(claim.id) as folder,
            ):
                state = self._attempt(job, claim, copy, folder)
            if state:
                with self._lock:
                    self._run.add(job, state)
        except BaseException as error:
            if isinstance(error, OSError) and is_full(error):
                self._outcome.full = error
                reason = _reason(job, error, self._ledger.output, job.source)
                state = State(0.0, Failure(job, reason))
            elif isinstance(error, Exception) and not isinstance(error, UserError):
                raise  # the claim expires, and counts as an attempt
            else:
                self._claims.release(claim)
                raise
        self._claims.release(claim)
        if state:
            self._outcome.own += [_name(job)] * (state.failure is None or state.failure.partial)
            elapsed_weight = self._weights[_name(job)]
            self._add(job, state, state.seconds, elapsed_weight)

    def _attempt(self, job: Job, claim: Claim, copy: Copy | None, folder: Path) -> State | None:
        """Recognizes an input; returns None if another process has taken it over."""
        ledger, run = self._ledger, self._run.token
        if claim.attempt > MAX_ATTEMPTS:
            reason = f"{job.label}: {MAX_ATTEMPTS} processes were killed or crashed on it"
            return ledger.fail(job, reason, folder, run)
        dependencies = ledger.dependencies(job)
        source = job.source
        try:
            if copy:
                source = copy.wait()
            own = replace(job, source=source)
            problem = self._recognize(own, folder / Path(job.name).name)
            seconds = self._seconds(own)
            if copy:
                copy.close()  # before the results are written
        except (UserError, OSError) as error:
            if claim.is_lost():
                return None
            reason = _reason(job, error, ledger.output, source)
            if is_full(error):
                self._outcome.full = error
            elif exit_status(error) == IO_ERROR:
                self._outcome.transient = error
            else:
                return ledger.fail(job, reason, folder, run)
            return State(0.0, Failure(job, reason))
        if problem:
            problem = (
                f"{job.label}: {_with_label(problem, job, source)}; what was read is in "
                f"{ledger.output}/{job.name}.json"
            )
        return ledger.commit(job, dependencies, folder, problem, seconds, run)

    def _add(self, job: Job, state: State, seconds: float = 0.0, weight: float = 0.0) -> None:
        """Notes that an input is finished; `seconds` and `weight` count for the speed."""
        with self._lock:
            self._pending.pop(_name(job), None)
            self._outcome.states[_name(job)] = state
            self._seconds_done += seconds
            self._weight_done += weight
        if weight or not self._pending:
            self._report()

    def _read_logs(self) -> None:
        for entry in self._run.poll():
            if job := self._pending.get(entry["name"]):
                failure = Failure(job, entry["reason"], entry["partial"])
                state = State(entry["seconds"], failure if entry["reason"] else None)
                # Failures of a network may not happen here.
                if self._ledger.state(job, self._run.token, self._options.overwrite):
                    self._add(job, state, entry["seconds"], self._weights[_name(job)])

    def _report(self) -> None:
        """Shows the progress of all processes."""
        with self._lock:
            if not self._pending and self._reported:
                return
            self._reported = not self._pending
            states, elapsed = self._outcome.states, time.monotonic() - self._began
            notes = []
            if seconds := sum(state.seconds for state in states.values()):
                notes.append(f"{duration(seconds)} of video")
            if self._seconds_done:
                notes.append(f"{self._seconds_done / max(elapsed, 1e-3):.2g} x real time")
            if failed := sum(state.failure is not None for state in states.values()):
                notes.append(f"{failed} failed")
            if self._options.process.processes > 1:
                notes.append(f"{self._claims.count()} at hand")
            left = None
            if self._weight_done:
                rest = sum(self._weights[name] for name in self._pending)
                left = elapsed * rest / self._weight_done
            self._progress.update(len(states), ", ".join(notes), left)

    def _finish(self) -> None:
        """Writes failures.csv, and ends the run if every input is done."""
        outcome, ledger = self._outcome, self._ledger
        with suppress(*[OSError] * bool(outcome.full)):
            ledger.write_failures(outcome.failures, outcome.jobs)
        if outcome.full or (self._pending and not outcome.stopped):
            return
        self._run.end()
        if not self._pending:
            ledger.remove_leftovers(self._claims)
            self._claims.remove_expired([job.name for job in outcome.jobs if job.name])


def weights(jobs: Sequence[Job]) -> dict[str, float]:
    """The size of each input in bytes, which stands for its time; parts of a file share its own."""
    parts = Counter(job.origin for job in jobs)
    result = {}
    for job in jobs:
        result[_name(job)] = max(job.size, 1) / parts[job.origin]
    return result


def _reason(job: Job, error: Exception, output: object, source: Path) -> str:
    """One line with the name of the input, which was read from `source`."""
    reason = str(error)
    if isinstance(error, OSError):
        reason = f"{error.filename or output}: {error.strerror}"
    reason = _with_label(reason, job, source)
    return reason if job.label in reason else f"{job.label}: {reason}"


def _with_label(text: str, job: Job, source: Path) -> str:
    """A text with the address of an input in place of the path of its copy."""
    return text.replace(str(source), job.label) if source.is_absolute() else text
