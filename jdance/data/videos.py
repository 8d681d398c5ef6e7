"""Videos and cameras: frames with their times in, annotated video out, and nothing held in memory.

OpenCV's FFmpeg decodes; it turns frames upright as the file's rotation says.
"""

import math
import os
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from jdance.errors import UserError

# What decoders say of damaged frames helps nobody; `Video.problem` tells it in one line.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

T = TypeVar("T")

SUFFIXES = (".avi", ".mp4", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".3gp")
_CAMERA = "camera:"
_MAX_FRAMES = 10**6  # of one video that become examples


@dataclass(frozen=True)
class Frame:
    """One frame: its number in the video, its time in seconds, and uint8 RGB [H, W, 3]."""

    index: int
    time: float
    image: np.ndarray


class Video:
    """The frames of a video file or a camera, read one after the other.

    Attributes:
        fps: frames a second as the file says; frames carry their own times.
        size: height and width in pixels, upright.
        count: how many frames there should be; 0 if that is not known.
        problem: after the frames are read, what was wrong with the rest of the file; else empty.

    Args:
        source: a file, or "camera:N".
        every: only every so many frames.
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
        if self.is_camera:
            number = self.name.removeprefix(_CAMERA)
            if not number.isdigit():
                raise UserError(f"{self.name}: expected camera:0, camera:1, ...")
            self._capture = cv2.VideoCapture(int(number))
            if not self._capture.isOpened():
                raise UserError(f"{self.name}: there is no such camera")
            self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # what is shown should be now
        else:
            path = Path(source)
            if not path.is_file():
                raise UserError(f"{path}: no such file; check the path")
            self._capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
            if not self._capture.isOpened():
                raise UserError(f"{path}: not a readable video; replace or remove the file")
        self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = float(fps) if 0 < fps < 1000 else 30.0
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        # No frame takes less than a byte: a file that claims more does not know how many it has.
        most = 0 if self.is_camera else Path(source).stat().st_size
        self.count = int(count) if 0 < count <= most else 0
        width, height = (
            self._capture.get(p) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        turned = int(self._capture.get(cv2.CAP_PROP_ORIENTATION_META)) % 180 == 90
        size = (int(height), int(width))
        # With automatic rotation some versions report the upright size, others the stored one.
        self.size = size[::-1] if turned and not _reports_upright() else size
        self.problem = ""

    def __iter__(self) -> Iterator[Frame]:
        index, last, began = 0, -1.0, time.monotonic()
        while self._capture.grab():
            stamp = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            if self.is_camera:
                stamp = time.monotonic() - began
            elif not stamp > last:  # files without times, and times that go back
                stamp = last + 1 / self.fps if index else 0.0
            last = stamp
            number, index = index, index + 1
            if stamp >= self._end:
                return
            if stamp < self._start or number % self._every:
                continue
            ok, image = self._capture.retrieve()
            if ok and image is not None and image.size:
                yield Frame(number, stamp, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
        if not index:
            self.problem = "holds no frame that can be read"
        elif index < self.count - max(2, self.count // 50):
            self.problem = f"only {index} of {self.count} frames can be read; the rest is damaged"

    def close(self) -> None:
        self._capture.release()


def _reports_upright() -> bool:
    return int(cv2.__version__.split(".")[0]) >= 5


def is_camera(name: str) -> bool:
    return name.startswith(_CAMERA)


def is_video(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def find(folder: Path) -> list[Path]:
    """The files in a folder that look like videos, sorted by name; hidden ones are left out."""
    return sorted(
        p for p in folder.iterdir() if is_video(p) and not p.name.startswith(".") and p.is_file()
    )


class Damaged(UserError):
    """A part of a video cannot be read; the message is the same for all of its frames."""


def times(path: Path, rate: float, start: float = 0.0, end: float = math.inf) -> list[float]:
    """When to look at a part of a video, `rate` times a second: seconds from its beginning.

    Raises:
        UserError: it cannot be read, or ends before `start`.
    """
    with closing(Video(path)) as video:
        count = video.count or sum(1 for _ in video)  # some files do not say how long they are
        end = min(end, count / video.fps)
        # Not before the first whole frame, nor after the last one.
        number = math.ceil((end - start) * rate - 1e-6)
        if number > _MAX_FRAMES:
            raise UserError(
                f"{path}: claims to last {count / video.fps:.0f} s; prepare parts of it"
            )
        if number < 1:
            raise UserError(
                f"{path}: lasts {count / video.fps:.1f} s; nothing of it is between start and end"
            )
    return [start + i / rate for i in range(number)]


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
        raise Damaged(_damaged[key][1])
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
        if frame.time + 1e-6 >= when:
            _open[key] = (video, frames, frame.time)
            return frame.image
    _damaged[key] = when, f"{path}: {video.problem or 'ends earlier than it says'}"
    video.close()
    raise Damaged(_damaged[key][1])


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


class Writer:
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
        with _quiet():
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Drops what C code writes to stderr: OpenCV calls its own way of naming VP9 unsupported."""
    kept = os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
