"""Streams the frames of videos and cameras, and writes videos.

Frames of files are upright and have square pixels, see `containers`.
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
_EPSILON = 1e-6  # seconds; tolerance for rounded times


@dataclass(frozen=True)
class Frame:
    """A frame: index in the video, time in seconds, and image uint8 RGB [H, W, 3]."""

    index: int
    time: float
    image: np.ndarray


class Video:
    """Iterates over the frames of a video file or a camera.

    Attributes:
        fps: nominal frames per second; frames have their own times.
        size: height and width of upright frames in pixels.
        count: expected number of frames; 0 if unknown.
        problem: describes what could not be read so far; "" if nothing is wrong.
        is_smeared: whether the last frame may show damage of it or of those that it depends on.

    Args:
        source: a file, or "camera:N".
        every: yield every Nth frame.
        start, end: time range in seconds, without `end`.
        hardware: see `containers.decode_frames`.

    Raises:
        UserError: the video does not exist or cannot be read.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        every: int = 1,
        start: float = 0.0,
        end: float = math.inf,
        hardware: str = "",
    ):
        self.name, self._hardware = str(source), hardware
        self._every, self._start, self._end = every, start, end
        self.is_camera = is_camera(self.name)
        self.problem = ""
        self.is_smeared = False
        self._decoded: Iterator[containers.DecodedFrame] = iter(())
        if self.is_camera:
            self._open_camera()
            return
        self._contents = containers.probe(Path(source))
        self.fps, self.size = self._contents.fps, self._contents.size
        self.count = self._contents.count

    def _open_camera(self) -> None:
        number = self.name.removeprefix(_CAMERA)
        if not number.isdigit():
            raise UserError(f"{self.name}: expected camera:0, camera:1, ...")
        self._capture = cv2.VideoCapture(int(number))
        if not self._capture.isOpened():
            raise UserError(f"{self.name}: there is no such camera")
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # minimal latency
        fps, width, height = (
            self._capture.get(p)
            for p in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        self.fps = float(fps) if 0 < fps < 1000 else 30.0
        self.size, self.count = (int(height), int(width)), 0

    def __iter__(self) -> Iterator[Frame]:
        return self._select(self._camera_frames() if self.is_camera else self._file_frames())

    def _select(self, decoded: Iterator[tuple[float, Callable[[], np.ndarray]]]) -> Iterator[Frame]:
        for index, (when, image) in enumerate(decoded):
            if when >= self._end:
                return
            if when >= self._start and not index % self._every:
                yield Frame(index, when, image())

    def _camera_frames(self) -> Iterator[tuple[float, Callable[[], np.ndarray]]]:
        began = time.monotonic()
        while self._capture.grab():
            when = time.monotonic() - began
            ok, image = self._capture.retrieve()
            if ok and image is not None and image.size:
                yield when, partial(cv2.cvtColor, image, cv2.COLOR_BGR2RGB)

    def _file_frames(self) -> Iterator[tuple[float, Callable[[], np.ndarray]]]:
        contents, errors = self._contents, []  # type: ignore[var-annotated]
        index, last, known = 0, -1.0, 0
        self._decoded = containers.decode_frames(Path(self.name), contents, errors, self._hardware)
        for frame in self._decoded:
            if not frame.intact:
                errors.append("a frame is damaged")
            if errors:
                self.problem = "some of its frames are damaged"
            self.is_smeared = len(errors) > known or (self.is_smeared and not frame.is_key)
            known = len(errors)
            when = frame.time
            if when is None or when <= last:  # missing or decreasing time stamps
                when = last + 1 / self.fps if index else 0.0
            index, last = index + 1, when
            yield when, frame.image
        if not index:
            self.problem = "holds no frame that can be read"
        elif (errors or contents.damage) and index < self.count:
            self.problem = f"only {index} of {self.count} frames can be read; the rest is damaged"
        elif errors or contents.damage:
            reason = contents.damage or "some of them damaged"
            self.problem = f"is damaged: {counted(index, 'frame')} can be read, {reason}"

    def close(self) -> None:
        """Releases the camera or the decoder."""
        if self.is_camera:
            self._capture.release()
        elif isinstance(self._decoded, Generator):
            self._decoded.close()


def is_camera(name: str) -> bool:
    """Whether a source is a camera, such as camera:0."""
    return name.startswith(_CAMERA)


def find(folder: Path) -> list[Path]:
    """Lists a folder's videos in natural order, without hidden files."""
    return [p for p in files.list_visible(folder) if p.is_file() and is_video(p)]


class DamagedVideo(UserError):
    """Part of a video cannot be read; the message is the same for all of its frames."""


def times(path: Path, fps: float, start: float = 0.0, end: float = math.inf) -> list[float]:
    """Selects frames of a video at about `fps` frames per second, and returns their times.

    That is the first frame of each interval of 1 / `fps` seconds between `start` and `end`.

    Raises:
        UserError: the video cannot be read, or has no frame between `start` and `end`.
    """
    contents = containers.probe(path)
    result: list[float] = []
    due = start
    for when in contents.times[(contents.times >= start - _EPSILON) & (contents.times < end)]:
        if when >= due - _EPSILON:
            result.append(float(when))
            due = start + (math.floor((when - start) * fps + _EPSILON) + 1) / fps
    if not result and not len(contents.times):
        raise UserError(f"{path}: holds no frame that can be read")
    if not result:
        raise UserError(
            f"{path}: lasts {contents.end:.1f} s; nothing of it is between start and end"
        )
    return result


def describe_damage(path: Path) -> str:
    """Describes the damage of a video's container; "" if there is none."""
    contents = containers.probe(path)
    readable = len(contents.times)
    if contents.damage and readable < contents.count:
        return f"only {readable} of {contents.count} frames can be read; the rest is damaged"
    return f"is damaged: {contents.damage}" if contents.damage else ""


@dataclass
class _Reading:
    """A video in progress: its frames, and the last one with the time that was asked for."""

    video: Video
    frames: Iterator[Frame]
    asked: float = -math.inf
    frame: Frame | None = None


_open: dict[str, _Reading] = {}  # the video that this process read last
_damaged: dict[str, tuple[float, str]] = {}  # the time from which a video is unreadable, and why


def frame_at(path: Path, when: float) -> np.ndarray:
    """Reads the first frame at `when` seconds or later: uint8 RGB [H, W, 3].

    Calls with times that do not decrease are fast, because they continue decoding.

    Raises:
        DamagedVideo: the frame does not exist or cannot be read, or damage of earlier ones shows in
            it.
    """
    key = f"{path} {files.version(path)}"
    if when > _damaged.get(key, (math.inf, ""))[0]:
        raise DamagedVideo(_damaged[key][1])
    reading = _open.get(key)
    if reading is None or when < reading.asked:
        for other in _open.values():
            other.video.close()
        _open.clear()
        video = Video(path)
        reading = _open[key] = _Reading(video, iter(video))
    video, frame = reading.video, reading.frame
    while frame is None or frame.time + _EPSILON < when:
        frame = next(reading.frames, None)
        if frame is None:
            del _open[key]
            _damaged[key] = when, f"{path}: {video.problem or 'ends earlier than it says'}"
            video.close()
            raise DamagedVideo(_damaged[key][1])
    reading.asked, reading.frame = when, frame
    if video.is_smeared or (video.problem and frame.time > when + 1 / video.fps):
        raise DamagedVideo(f"{path}: some of its frames are damaged; they are left out")
    return frame.image


def prefetch(items: Iterable[T], count: int = 8, newest: bool = False) -> Generator[T, None, None]:
    """Yields items that a thread computes, at most `count` ahead.

    With `newest` the thread never waits; it drops the oldest items instead.
    """
    buffer: queue.Queue = queue.Queue(count)
    stopped = threading.Event()
    working = threading.Lock()  # held while the thread uses `items`
    end = object()

    def put(item: object, drop: bool = False) -> bool:
        while not stopped.is_set():
            try:
                buffer.put(item, timeout=0.0 if drop else 0.1)
                return True
            except queue.Full:
                if drop:
                    with suppress(queue.Empty):
                        buffer.get_nowait()
        return False

    def work() -> None:
        with working:
            if stopped.is_set():
                return
            try:
                for item in items:
                    if not put((item, None), newest):
                        return
                put((end, None))
            except BaseException as error:  # raised in the consumer
                put((end, error))

    thread = threading.Thread(target=work, daemon=True)
    try:
        thread.start()  # a signal may interrupt it, whether or not the thread has begun
        while True:
            item, error = buffer.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        stopped.set()
        with working:
            pass
        if thread.is_alive():
            thread.join()


def output_path(stem: Path) -> Path:
    """Adds the suffix of annotated videos: .mp4 if the program ffmpeg exists, else .webm."""
    return stem.with_name(stem.name + (".mp4" if shutil.which("ffmpeg") else ".webm"))


class VideoWriter:
    """Writes a video at a constant frame rate: H.264 by `ffmpeg` for .mp4, else VP9 by OpenCV.

    Frames are repeated where the input has gaps, and dropped where it is too fast.

    Args:
        path: of the file.
        fps: frames per second.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, path: Path, fps: float):
        self._path, self._fps, self._target = path, fps, files.Utf8Path(path)
        self._start: float | None = None
        self._written = 0
        self._last: np.ndarray | None = None
        self._opencv: cv2.VideoWriter | None = None
        self._ffmpeg: subprocess.Popen | None = None

    def write(self, when: float, image: np.ndarray) -> None:
        """Adds a frame, uint8 RGB [H, W, 3] of a constant size, at a time in seconds."""
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
                "-pix_fmt", "yuv420p", "-movflags", "+faststart", str(self._target.path),
            ]  # fmt: skip
            self._ffmpeg = subprocess.Popen(command, stdin=subprocess.PIPE)
            return
        code = cv2.VideoWriter.fourcc(*"VP90")
        with files.quiet_stderr():  # OpenCV warns about the tag VP90
            self._opencv = cv2.VideoWriter(
                str(self._target.path), cv2.CAP_FFMPEG, code, self._fps, (width, height)
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
        """Finishes the file."""
        if self._opencv is not None:
            self._opencv.release()
        failed = False
        if self._ffmpeg is not None and self._ffmpeg.stdin is not None:
            self._ffmpeg.stdin.close()
            failed = self._ffmpeg.wait() != 0
        self._target.close()
        if failed:
            raise UserError(f"{self._path}: ffmpeg cannot write it (see above)")
