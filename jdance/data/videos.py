"""Videos and cameras: frames with their times in, annotated video out, and nothing held in memory.

Frames of files come upright and with square pixels, see `containers`.
"""

import math
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from jdance import files
from jdance.data import containers
from jdance.data.containers import SUFFIXES, is_video
from jdance.errors import UserError
from jdance.progress import counted

__all__ = ["SUFFIXES", "is_video"]

T = TypeVar("T")

_CAMERA = "camera:"
_EPSILON = 1e-6  # seconds, for what rounding does to times


@dataclass(frozen=True)
class Frame:
    """One frame: its number in the video, its time in seconds, and uint8 RGB [H, W, 3]."""

    index: int
    time: float
    image: np.ndarray


class Video:
    """The frames of a video file or a camera, read one after the other.

    Attributes:
        fps: frames per second; frames carry their own times.
        size: height and width in pixels, upright.
        count: the number of frames that there should be; 0 if that is not known.
        problem: what could not be read so far; empty if nothing is wrong.

    Args:
        source: a file, or "camera:N".
        every: only every Nth frame.
        start, end: only frames of this time, in seconds; end is left out.

    Raises:
        UserError: there is no such video, or it cannot be read.
    """

    def __init__(
        self, source: str | Path, *, every: int = 1, start: float = 0.0, end: float = math.inf
    ):
        self.name = str(source)
        self._every, self._start, self._end = every, start, end
        self.is_camera = is_camera(self.name)
        self.problem = ""
        self._decoded: Iterator[containers.DecodedFrame] = iter(())
        if self.is_camera:
            self._open_camera()
            return
        self._contents = containers.read(Path(source))
        self.fps, self.size = self._contents.fps, self._contents.size
        self.count = self._contents.count

    def _open_camera(self) -> None:
        number = self.name.removeprefix(_CAMERA)
        if not number.isdigit():
            raise UserError(f"{self.name}: expected camera:0, camera:1, ...")
        self._capture = cv2.VideoCapture(int(number))
        if not self._capture.isOpened():
            raise UserError(f"{self.name}: there is no such camera")
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # what is shown should be now
        fps, width, height = (
            self._capture.get(p)
            for p in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        self.fps = float(fps) if 0 < fps < 1000 else 30.0
        self.size, self.count = (int(height), int(width)), 0

    def __iter__(self) -> Iterator[Frame]:
        return self._chosen(self._camera_frames() if self.is_camera else self._file_frames())

    def _chosen(self, decoded: Iterator[tuple[float, Callable[[], np.ndarray]]]) -> Iterator[Frame]:
        for index, (stamp, image) in enumerate(decoded):
            if stamp >= self._end:
                return
            if stamp >= self._start and not index % self._every:
                yield Frame(index, stamp, image())

    def _camera_frames(self) -> Iterator[tuple[float, Callable[[], np.ndarray]]]:
        began = time.monotonic()
        while self._capture.grab():
            stamp = time.monotonic() - began
            ok, image = self._capture.retrieve()
            if ok and image is not None and image.size:
                yield stamp, partial(cv2.cvtColor, image, cv2.COLOR_BGR2RGB)

    def _file_frames(self) -> Iterator[tuple[float, Callable[[], np.ndarray]]]:
        contents, errors = self._contents, []  # type: ignore[var-annotated]
        index, last = 0, -1.0
        self._decoded = containers.frames(Path(self.name), contents, errors)
        for frame in self._decoded:
            if not frame.whole:
                errors.append("a frame is not whole")
            if errors:
                self.problem = "some of its frames are damaged"
            # Files without times, and times that go back.
            stamp = frame.time
            if stamp is None or stamp <= last:
                stamp = last + 1 / self.fps if index else 0.0
            index, last = index + 1, stamp
            yield stamp, frame.image
        if not index:
            self.problem = "holds no frame that can be read"
        elif (errors or contents.damage) and index < self.count:
            self.problem = f"only {index} of {self.count} frames can be read; the rest is damaged"
        elif errors or contents.damage:
            reason = contents.damage or "some of them not whole"
            self.problem = f"is damaged: {counted(index, 'frame')} can be read, {reason}"

    def close(self) -> None:
        if self.is_camera:
            self._capture.release()
        elif isinstance(self._decoded, Generator):
            self._decoded.close()


def is_camera(name: str) -> bool:
    return name.startswith(_CAMERA)


def find(folder: Path) -> list[Path]:
    """The videos of a folder by their names, in natural order; hidden ones are left out."""
    found = (p for p in folder.iterdir() if not p.name.startswith(".") and p.is_file())
    return sorted(filter(is_video, found), key=files.natural_key)


class DamagedVideo(UserError):
    """A part of a video cannot be read; the message is the same for all of its frames."""


def times(path: Path, rate: float, start: float = 0.0, end: float = math.inf) -> list[float]:
    """When to look at a part of a video: the times of its frames, about `rate` of them a second.

    It is the first frame of the part, and then the first of each 1 / `rate` seconds from `start`.

    Raises:
        UserError: it cannot be read, or has no frame between `start` and `end`.
    """
    contents = containers.read(path)
    result: list[float] = []
    due = start
    for when in contents.times[(contents.times >= start - _EPSILON) & (contents.times < end)]:
        if when >= due - _EPSILON:
            result.append(float(when))
            due = start + (math.floor((when - start) * rate + _EPSILON) + 1) / rate
    if not result and not len(contents.times):
        raise UserError(f"{path}: holds no frame that can be read")
    if not result:
        raise UserError(
            f"{path}: lasts {contents.end:.1f} s; nothing of it is between start and end"
        )
    return result


def damage(path: Path) -> str:
    """What is wrong with a video file, in words; "" if nothing is known to be."""
    contents = containers.read(path)
    readable = len(contents.times)
    if contents.damage and readable < contents.count:
        return f"only {readable} of {contents.count} frames can be read; the rest is damaged"
    return f"is damaged: {contents.damage}" if contents.damage else ""


# The video that this process read last, and where it is in it.
_open: dict[str, tuple[Video, Iterator[Frame], float]] = {}
_damaged: dict[str, tuple[float, str]] = {}  # from when on a video has nothing, and why


def frame_at(path: Path, when: float) -> np.ndarray:
    """The first frame at `when` seconds or later: uint8 RGB [H, W, 3].

    Quick where times grow from call to call: then the video is read on.

    Raises:
        Damaged: there is no such frame.
    """
    key = str(path)
    if when > _damaged.get(key, (math.inf, ""))[0]:
        raise DamagedVideo(_damaged[key][1])
    video, frames, last = _open.pop(key, (None, iter(()), math.inf))
    if video is None or last >= when:
        if video is not None:
            video.close()
        for other, *_ in _open.values():
            other.close()
        _open.clear()
        video = Video(path)
        frames = iter(video)
    for frame in frames:
        if frame.time + _EPSILON >= when:
            _open[key] = (video, frames, frame.time)
            if video.problem and frame.time > when + 1 / video.fps:
                raise DamagedVideo(f"{path}: {video.problem}")
            return frame.image
    _damaged[key] = when, f"{path}: {video.problem or 'ends earlier than it says'}"
    video.close()
    raise DamagedVideo(_damaged[key][1])


def ahead(items: Iterable[T], count: int = 8, newest: bool = False) -> Iterator[T]:
    """The items in their order, made by a thread that is at most `count` ahead.

    With `newest` it never waits: items that nobody has taken in time give way to newer ones.
    """
    waiting: queue.Queue = queue.Queue(count)
    stopped = threading.Event()
    end = object()

    def put(item: object, drop: bool = False) -> bool:
        while not stopped.is_set():
            try:
                waiting.put(item, timeout=0.0 if drop else 0.1)
                return True
            except queue.Full:
                if drop:
                    with suppress(queue.Empty):
                        waiting.get_nowait()
        return False

    def work() -> None:
        try:
            for item in items:
                if not put((item, None), newest):
                    return
            put((end, None))
        except BaseException as error:  # handed to whoever takes the items
            put((end, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        stopped.set()
        thread.join()


def output_path(stem: Path) -> Path:
    """Where an annotated video goes: .mp4 if FFmpeg can be called, else .webm."""
    return stem.with_name(stem.name + (".mp4" if shutil.which("ffmpeg") else ".webm"))


class VideoWriter:
    """Writes a video at a steady rate: H.264 by `ffmpeg` for .mp4, else VP9 by OpenCV.

    Frames that come late are preceded by copies of the one before, so that time is kept.

    Args:
        path: of the file.
        fps: frames a second.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, path: Path, fps: float):
        self._path, self._fps = path, fps
        self._start: float | None = None
        self._written = 0
        self._last: np.ndarray | None = None
        self._opencv: cv2.VideoWriter | None = None
        self._ffmpeg: subprocess.Popen | None = None

    def write(self, when: float, image: np.ndarray) -> None:
        """Adds a frame uint8 RGB [H, W, 3]; all have the same size.

        `when` is its time in seconds.
        """
        if self._start is None:
            self._open(*image.shape[:2])
            self._start = when
        due = round((when - self._start) * self._fps)
        while self._last is not None and self._written < due:
            self._put(self._last)
        if self._written <= due:
            self._put(image)
        self._last = image

    def _open(self, height: int, width: int) -> None:
        if self._path.suffix == ".mp4":
            command = [
                "ffmpeg", "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24",
                "-s", f"{width}x{height}", "-r", f"{self._fps:.6f}", "-i", "-",
                "-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-c:v", "libx264",
                "-pix_fmt", "yuv420p", "-movflags", "+faststart", str(self._path),
            ]  # fmt: skip
            self._ffmpeg = subprocess.Popen(command, stdin=subprocess.PIPE)
            return
        code = cv2.VideoWriter.fourcc(*"VP90")
        with files.quiet_stderr():  # OpenCV calls its own way of naming VP9 unsupported
            self._opencv = cv2.VideoWriter(
                str(self._path), cv2.CAP_FFMPEG, code, self._fps, (width, height)
            )
        if not self._opencv.isOpened():
            raise UserError(f"{self._path}: cannot be written as VP9 video; free some space?")

    def _put(self, image: np.ndarray) -> None:
        self._written += 1
        if self._opencv is not None:
            self._opencv.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        elif self._ffmpeg is not None and self._ffmpeg.stdin is not None:
            try:
                self._ffmpeg.stdin.write(np.ascontiguousarray(image).data)
            except BrokenPipeError as error:
                raise UserError(f"{self._path}: ffmpeg cannot write it (see above)") from error

    def close(self) -> None:
        if self._opencv is not None:
            self._opencv.release()
        if self._ffmpeg is not None and self._ffmpeg.stdin is not None:
            self._ffmpeg.stdin.close()
            if self._ffmpeg.wait():
                raise UserError(f"{self._path}: ffmpeg cannot write it (see above)")
