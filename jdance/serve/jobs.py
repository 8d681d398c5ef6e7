"""Jobs: uploaded files, their queue, their progress and their results."""

import logging
import os
import queue
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jdance import lock
from jdance.errors import UserError
from jdance.progress import counted
from jdance.serve.frames import FrameLog

State = Literal["uploading", "queued", "preparing", "running", "done", "failed", "cancelled"]
_ENDED = ("done", "failed", "cancelled")
_FREE_BYTES = 2**28  # left on the disk by uploads
_PREFIX, _LOCK = "jdance-serve-", "lock"  # of the folder of a server, and the file in it
_STARTING_SECONDS = 60.0


@dataclass(frozen=True)
class Limits:
    """Limits of the server.

    Attributes:
        upload_bytes: of one file.
        seconds: length of the part of a video that is processed.
        jobs: uploads, queued and running jobs together.
        videos: videos that are processed at the same time; the others wait.
        cameras: at the same time.
        results: finished jobs that are kept; older ones are deleted first.
        keep_seconds: finished jobs are deleted this long after the last request for them.
        unattended_seconds: other jobs are cancelled this long after the last request for them.
        stall_seconds: uploads end if no data arrives for this long.
    """

    upload_bytes: int = 500 * 2**20
    seconds: float = 600.0
    jobs: int = 8
    videos: int = 2
    cameras: int = 2
    results: int = 20
    keep_seconds: float = 3600.0
    unattended_seconds: float = 180.0
    stall_seconds: float = 30.0


class Refused(Exception):
    """A request that is not served: HTTP status and one line for the user."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class Cancelled(Exception):
    """The job was cancelled."""


class Job:
    """One uploaded file and its results.

    Attributes:
        id: random; whoever has it can read the results.
        name: the user's name of the file, for display only.
        folder: private folder of the upload and the results.
        options: of the request.
        media: "image" or "video"; "" until the upload ends.
        state, message: the current state, and why the job failed or what is incomplete.
        done, total: frames.
        head: width and height in pixels; of videos also processed frames per second, begin and end
            in seconds. Empty until the file is read.
        frames: the frames so far; None before the first.
        preview: index, time and JPEG of the last frame that was kept for display.
        key_frames: times in seconds of the images key-0.jpg, key-1.jpg, ... in the folder.
        files: results by kind, such as "json".
        segments: the final timeline, see `timeline.summary`.
    """

    def __init__(self, folder: Path, name: str, options: dict[str, Any]):
        self.id, self.name, self.options = folder.name, name, options
        self.folder = folder
        self.media: Literal["", "image", "video"] = ""
        self.upload = folder / "upload"
        self.state: State = "uploading"
        self.message = ""
        self.done = self.total = 0
        self.head: dict[str, Any] = {}
        self.frames: FrameLog | None = None
        self.preview: tuple[int, float, bytes] | None = None
        self.key_frames: list[float] = []
        self.files: dict[str, Path] = {}
        self.segments: list[dict[str, Any]] | None = None
        self.started = self.ended = 0.0
        self.touched = time.monotonic()
        self._first = 0
        self._cancel = threading.Event()

    @property
    def is_ended(self) -> bool:
        return self.state in _ENDED

    def cancel(self) -> None:
        self._cancel.set()

    def check(self) -> None:
        """Raises `Cancelled` if the job was cancelled."""
        if self._cancel.is_set():
            raise Cancelled

    @property
    def is_cancelled(self) -> bool:
        return self._cancel.is_set()

    def on_progress(self, done: int, total: int) -> None:
        """Records progress; raises `Cancelled` if the job was cancelled."""
        self.check()
        if not self.started:
            self.started, self._first = time.monotonic(), done
            self.state = "running"
        self.done, self.total = done, total

    @property
    def frame_seconds(self) -> float | None:
        """Mean time of a frame, without the first one, which may wait for a compilation."""
        if not self.started or self.done <= self._first:
            return None
        return ((self.ended or time.monotonic()) - self.started) / (self.done - self._first)


class Jobs:
    """All jobs of the server.

    Args:
        limits: of the server.
        recognize: processes the file of a job in one of the threads of `Jobs`, and raises UserError
            or `Cancelled`.
    """

    def __init__(self, limits: Limits, recognize: Callable[[Job], None]):
        self.limits, self._recognize = limits, recognize
        _remove_abandoned()
        self._folder = Path(tempfile.mkdtemp(prefix=_PREFIX))  # only for this user
        self._lock_file = lock.take(self._folder / _LOCK)
        self.root = self._folder / "jobs"
        self.root.mkdir(mode=0o700)
        self._jobs: dict[str, Job] = {}
        self._lock = threading.RLock()
        # Images do not wait for videos.
        self._queues: dict[str, queue.Queue[Job | None]] = {
            "image": queue.Queue(), "video": queue.Queue()
        }  # fmt: skip
        self._threads = [
            threading.Thread(target=self._work, args=(media,), name=f"{media} {i}", daemon=True)
            for media, count in (("image", 1), ("video", limits.videos))
            for i in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def open(self, name: str, options: dict[str, Any], size: int) -> Job:
        """Creates the job of an upload, or raises `Refused`.

        Args:
            name: of the file, for display.
            options: of the request.
            size: of the file in bytes; 0 if unknown.
        """
        if size > self.limits.upload_bytes:
            raise Refused(413, self._too_large())
        if shutil.disk_usage(self.root).free < size + _FREE_BYTES:
            raise Refused(507, "the server's disk is full")
        with self._lock:
            active = sum(not job.is_ended for job in self._jobs.values())
            if active >= self.limits.jobs:
                raise Refused(429, f"{counted(active, 'file')} in progress already; try again soon")
            folder = self.root / secrets.token_urlsafe(16)
            folder.mkdir(mode=0o700)
            job = self._jobs[folder.name] = Job(folder, name, options)
        return job

    def check_size(self, size: int) -> None:
        """Raises `Refused` if an upload of this many bytes is too large."""
        if size > self.limits.upload_bytes:
            raise Refused(413, self._too_large())

    def _too_large(self) -> str:
        return f"the file is larger than {self.limits.upload_bytes / 2**20:.3g} MiB"

    def start(self, job: Job, media: Literal["image", "video"]) -> None:
        """Queues a job whose upload is complete."""
        job.media, job.state, job.touched = media, "queued", time.monotonic()
        self._queues[media].put(job)

    def get(self, key: str) -> Job:
        """Returns a job by its id, or raises `Refused`; the job counts as attended."""
        with self._lock:
            job = self._jobs.get(key)
        if job is None:
            raise Refused(404, "no such job; the server deletes results after a while")
        job.touched = time.monotonic()
        return job

    def place(self, job: Job) -> int:
        """Number of jobs that are processed before a queued one."""
        with self._lock:
            before = 0
            for other in self._jobs.values():
                if other is job:
                    return before
                before += other.media == job.media and other.state == "queued"
        return 0

    def remove(self, job: Job) -> None:
        """Cancels a job and deletes its files, at the latest after its current frame."""
        job.cancel()
        with self._lock:
            self._jobs.pop(job.id, None)
            running = job.state in ("preparing", "running")
        if not running:  # else the thread does it
            shutil.rmtree(job.folder, ignore_errors=True)

    def expire(self) -> None:
        """Removes unattended jobs, and results that are old or too many."""
        now, limits = time.monotonic(), self.limits
        with self._lock:
            jobs = list(self._jobs.values())
        ended = sorted((job for job in jobs if job.is_ended), key=lambda job: job.touched)
        old = ended[: max(len(ended) - limits.results, 0)]
        old += [job for job in ended if now - job.touched > limits.keep_seconds]
        old += [
            job
            for job in jobs
            if not job.is_ended
            and job.state != "uploading"  # ended by `stall_seconds`
            and now - job.touched > limits.unattended_seconds
        ]
        for job in old:
            self.remove(job)

    def _work(self, media: str) -> None:
        while (job := self._queues[media].get()) is not None:
            with self._lock:
                if not job.is_cancelled:
                    job.state = "preparing"
            if not job.is_cancelled:
                self._run(job)
            if job.is_cancelled:
                shutil.rmtree(job.folder, ignore_errors=True)
            del job  # not kept until the next one comes

    def _run(self, job: Job) -> None:
        try:
            self._recognize(job)
            state: State = "done"
        except Cancelled:
            state = "cancelled"
        except (UserError, OSError) as error:
            state, job.message = "failed", self._describe(error, job)
        except Exception as error:
            state = "cancelled"
            if not job.is_cancelled:  # such as a program that needs more memory than there is
                logging.getLogger(__name__).exception("a job failed")
                state, job.message = "failed", f"internal error ({type(error).__name__})"
        with self._lock:
            job.state, job.ended, job.touched = state, time.monotonic(), time.monotonic()
            job.preview = None if state == "done" else job.preview

    @staticmethod
    def _describe(error: Exception, job: Job) -> str:
        if isinstance(error, OSError):
            return f"{job.name}: {error.strerror or error}"
        return str(error).replace(str(job.upload), job.name)

    def close(self) -> None:
        """Cancels all jobs, ends the threads, and deletes all files."""
        with self._lock:
            jobs = list(self._jobs.values())
        for job in jobs:
            self.remove(job)
        for media in self._queues:
            for _ in self._threads:
                self._queues[media].put(None)
        deadline = time.monotonic() + 10
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0))
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None


def _remove_abandoned() -> None:
    """Removes the files of servers that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # it belongs to another user, or has gone
            # A server that starts just now has not locked its folder yet.
            if time.time() - (folder / _LOCK).stat().st_mtime > _STARTING_SECONDS:
                lock.remove_unlocked(folder, _LOCK)
