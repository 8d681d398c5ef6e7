"""Frame times and frames of video files, by FFmpeg (PyAV), and OpenCV for animated WebP.

Times, durations and frame rates come from the packets, because container headers are unreliable:
they guess, and count frames that an edit list removes.
"""

import math
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from jdance.errors import UserError

SUFFIXES = (".avi", ".mp4", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".3gp",
            ".3g2", ".asf", ".flv", ".m2ts", ".mts", ".mxf", ".ogv", ".ts", ".vob")  # fmt: skip
_ANIMATED = (".gif", ".webp", ".png", ".apng")  # images, unless they are animated
_MAX_PIXELS = 2**27  # per frame
_MAX_ASPECT = 8  # of a pixel; larger ones come from broken headers
_WEBP_FRAMES = 16  # decoded together
_MAX_LEAD = 60.0  # seconds of sound before the first frame; more comes from broken time stamps
_RESTART = 0.2  # seconds by which time stamps decrease where another recording is joined


@dataclass(frozen=True)
class VideoInfo:
    """Metadata of a video file.

    Attributes:
        times: presentation time of each frame in seconds from the start of video or sound, float64
            [N].
        end: end of the last frame in seconds.
        fps: frames per second of most frames.
        size: displayed height and width in pixels (upright, square pixels).
        rotation: counterclockwise rotation of stored frames in degrees, after `mirrored`.
        count: expected number of frames, at least N.
        damage: describes damage of the container; "" if there is none.
        origin: time stamp of the start in seconds.
        lead: number of packets before the first decodable one.
        mirrored: whether stored frames are flipped horizontally.
    """

    times: np.ndarray
    end: float
    fps: float
    size: tuple[int, int]
    rotation: int = 0
    count: int = 0
    damage: str = ""
    origin: float = 0.0
    lead: int = 0
    mirrored: bool = False


class DecodedFrame(NamedTuple):
    """A decoded frame.

    Attributes:
        time: in seconds, if known.
        intact: whether the decoder found no damage.
        image: computes its pixels.
        is_key: whether it depends on no other frame.
    """

    time: float | None
    intact: bool
    image: Callable[[], np.ndarray]
    is_key: bool = True


def is_video(path: Path) -> bool:
    """Whether a file is a video by its suffix, or an animated GIF, WebP or PNG."""
    suffix = path.suffix.lower()
    return suffix in SUFFIXES or (suffix in _ANIMATED and _is_animated(path))


def _is_animated(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(4096)
            if head.startswith(b"GIF8"):
                return _gif_images(file, head) > 1
    except (OSError, ValueError):
        return False
    if head.startswith(b"RIFF") and head[8:16] == b"WEBPVP8X":
        return len(head) > 20 and bool(head[20] & 2)
    animation, pixels = head.find(b"acTL"), head.find(b"IDAT")
    return head.startswith(b"\x89PNG") and animation > 0 and not 0 < pixels < animation


def _gif_images(file: Any, head: bytes) -> int:
    """Counts the images in a GIF file, up to two."""

    def skip_table(flags: int) -> None:
        if flags & 0x80:
            file.seek(3 * 2 ** ((flags & 7) + 1), os.SEEK_CUR)

    def skip_blocks() -> None:
        while size := file.read(1):
            if not size[0]:
                return
            file.seek(size[0], os.SEEK_CUR)

    if len(head) < 13:
        return 0
    file.seek(13)
    skip_table(head[10])
    images = 0
    while images < 2 and (kind := file.read(1)) in (b"!", b","):
        if kind == b"!":
            file.seek(1, os.SEEK_CUR)
        else:
            images += 1
            descriptor = file.read(9)
            if len(descriptor) < 9:
                return images
            skip_table(descriptor[8])
            file.seek(1, os.SEEK_CUR)
        skip_blocks()
    return images


def probe(path: Path) -> VideoInfo:
    """Reads a video's metadata, decoding only its first frame.

    Raises:
        UserError: the file is not a readable video.
    """
    try:
        status = path.stat()
    except (OSError, ValueError):
        status = None
    if status is None or not path.is_file():
        raise UserError(f"{path}: no such file; check the path")
    return _probe(path, (status.st_ino, status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=64)
def _probe(path: Path, version: tuple[int, ...]) -> VideoInfo:
    if _is_webp(path):
        return _probe_webp(path)
    packets: list[tuple[float | None, float, bool, bool]] = []
    damage, failures = "", list[str]()
    with _open(path) as (container, stream), _ffmpeg_errors() as messages:
        for packet in _demux(container, stream, failures):
            if not packet.size:  # end of the stream
                continue
            time, unit = packet.pts, packet.time_base
            packets.append((
                None if time is None else float(time * unit),
                float((packet.duration or 0) * unit),
                packet.is_keyframe,
                packet.is_discard,
            ))  # fmt: skip
            if packet.is_corrupt:
                damage = "a part of it is missing"
        if failures:
            damage = "the rest cannot be read"
        elif any(name == container.format.name for _, name, _ in messages):
            damage = "a part of it is missing"
        return _video_info(path, stream, packets, damage, version[1])


@contextmanager
def _ffmpeg_errors() -> Iterator[list[tuple[int, str, str]]]:
    """Captures FFmpeg's error messages: (level, component, text).

    Only for reading packets: messages from a decoder's threads can block it.
    """
    import av

    av.logging.set_skip_repeated(False)
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as messages:
            yield messages
    finally:
        av.logging.set_level(None)
        av.logging.set_libav_level(av.logging.PANIC)


def _demux(container: Any, stream: Any, errors: list[str]) -> Iterator[Any]:
    """Yields the packets of a stream; errors are appended.

    Where the time stamps start again, as in joined MPEG files and DVDs, they are shifted so that
    they continue.
    """
    packets = container.demux(stream)
    shift, due = 0, None
    while (packet := _attempt(next, packets, None, errors=errors)) is not None:
        if packet.dts is not None:
            if due is not None and packet.dts + shift < due - _RESTART / packet.time_base:
                shift = due - packet.dts
            packet.dts += shift
            packet.pts = None if packet.pts is None else packet.pts + shift
            due = packet.dts + (packet.duration or 0)
        yield packet


def _decode_first(path: Path) -> Any:
    """Decodes the first readable frame, or returns None."""
    with _open(path) as (container, stream):
        packets = container.demux(stream)
        while (packet := _attempt(next, packets, None, errors=[])) is not None:
            for frame in _attempt(packet.decode, errors=[]) or ():
                return frame
    return None


def _video_info(path: Path, stream: Any, packets: list, damage: str, size: int) -> VideoInfo:
    lead = next((i for i, (_, _, key, _) in enumerate(packets) if key), 0)
    shown = [(time, length) for time, length, _, cut in packets[lead:] if not cut]
    rate = float(stream.guessed_rate or stream.average_rate or 0)
    times, lengths = np.zeros(0), np.zeros(0)
    if shown and any(time is None for time, _ in shown):  # no time stamps
        times = np.arange(len(shown)) / (rate if 0 < rate < 1000 else 30.0)
        lengths = np.zeros(len(shown))
    elif shown:
        times, lengths = np.array(shown, float).T
        # Frames before the first key frame depend on removed ones.
        keep = times >= (-math.inf if packets[lead][0] is None else packets[lead][0])
        order = np.argsort(times[keep], kind="stable")
        times, lengths = times[keep][order], lengths[keep][order]
    origin = 0.0
    if len(times) and stream.start_time is not None:
        origin = min(float(stream.start_time * stream.time_base), float(times[0]))
    elif len(times):
        origin = float(times[0])
    origin = _beginning(stream, origin)
    fps = _fps(times, rate)
    last = float(lengths[-1]) if len(lengths) and 0 < lengths[-1] < 60 else 1 / fps
    count = len(times)
    if damage and stream.frames <= size:  # a frame has at least one byte
        count = max(count, stream.frames - sum(cut for *_, cut in packets))
    height, width, rotation, mirrored = 0, 0, 0, False
    first = _decode_first(path)
    if first is not None:
        rotation, mirrored = _orientation(first)
        height, width = first.height, first.width
        aspect = float(stream.sample_aspect_ratio or 1)
        if 1 / _MAX_ASPECT <= aspect <= _MAX_ASPECT:
            width = max(1, round(width * aspect))
        if height * width > _MAX_PIXELS:
            height, width = 0, 0
    shown_size = (width, height) if rotation % 180 else (height, width)
    end = float(times[-1]) - origin + last if len(times) else 0.0
    return VideoInfo(
        times - origin, end, fps, shown_size, rotation, count, damage, origin, lead, mirrored
    )


def _beginning(stream: Any, first: float) -> float:
    """The time stamp at which players begin: that of sound that precedes the `first` frame.

    Negative ones belong to sound that is not played, which decoders need.
    """
    sounds = [s for s in stream.container.streams.audio if s.start_time is not None]
    starts = [float(sound.start_time * sound.time_base) for sound in sounds]
    begin = max(min(starts, default=first), min(first, 0.0))
    return begin if 0 < first - begin < _MAX_LEAD else first


def _orientation(frame: Any) -> tuple[int, bool]:
    """The rotation of a stored frame, see `VideoInfo`, and whether it is flipped before."""
    from av.sidedata.sidedata import Type

    data = frame.side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return 0, False
    # Fixed-point numbers; x' = a x + c y, y' = b x + d y, with y down.
    a, b, _, c, d, *_ = np.frombuffer(bytes(data)[:36], np.int32).astype(float)
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    return round(math.degrees(-math.atan2(b, a)) / 90) * 90 % 360, mirrored


def _fps(times: np.ndarray, nominal: float) -> float:
    """Frames per second: the nominal value if the shortest intervals match it, else theirs."""
    intervals = np.diff(times)
    intervals = intervals[intervals > 1e-4]
    if not len(intervals):
        return nominal if 0 < nominal < 1000 else 30.0
    short = float(np.quantile(intervals, 0.1))
    if 0 < nominal < 1000 and 0.8 < nominal * short < 1.25:
        return nominal
    return float(1 / intervals[intervals < 1.5 * short].mean())


@contextmanager
def _open(path: Path, hardware: str = "") -> Iterator[tuple[Any, Any]]:
    """Opens a container and its best video stream, see `decode_frames`.

    Raises:
        UserError: the file has no readable video stream.
    """
    import av

    av.logging.set_libav_level(av.logging.PANIC)
    # Playlists cannot make FFmpeg open URLs.
    options = {"fflags": "+genpts", "protocol_whitelist": "file"}
    try:
        container = av.open(
            f"file:{path}",
            options=options,
            metadata_errors="replace",
            hwaccel=_accelerator(hardware, fallback=True) if hardware else None,
        )
        stream = container.streams.best("video")
    except (av.FFmpegError, OSError, ValueError, MemoryError):
        stream = None
    if stream is None or stream.codec_context is None:  # unsupported codec
        raise UserError(f"{path}: not a readable video; replace or remove the file")
    with container:
        stream.codec_context.options = {"max_pixels": str(_MAX_PIXELS)}
        yield container, stream


def _accelerator(name: str, fallback: bool) -> Any:
    from av.codec.hwaccel import HWAccel

    return HWAccel(name, allow_software_fallback=fallback)


def check_hardware(name: str) -> None:
    """Checks that a decoding device exists.

    Args:
        name: of the device as FFmpeg calls it, such as "cuda".

    Raises:
        UserError: it cannot be used.
    """
    import av
    from av.codec.hwaccel import hwdevices_available

    av.logging.set_libav_level(av.logging.PANIC)
    known = hwdevices_available()
    reason = "this FFmpeg does not support it"
    if name in known:
        try:
            _accelerator(name, fallback=False).create(av.Codec("h264", "r"))
            return
        except (av.FFmpegError, NotImplementedError, RuntimeError, ValueError):
            reason = "there is no such device here, or its driver is missing"
    raise UserError(
        f"--hardware_decoding={name}: {reason} (supported: {', '.join(known)}); leave it out"
    )


def decode_frames(
    path: Path, info: VideoInfo, errors: list[str], hardware: str = ""
) -> Iterator[DecodedFrame]:
    """Decodes a file.

    Args:
        path: of the file.
        info: its metadata.
        errors: decoding errors are appended.
        hardware: device that decodes, see `check_hardware`; codecs that it does not know are
            decoded by the CPU, as all are with "".
    """
    if 0 in info.size:
        return
    if _is_webp(path):
        yield from _webp_frames(path, info, errors)
        return
    with _open(path, hardware) as (container, stream):
        stream.thread_type = "AUTO"
        begin = info.times[0] if len(info.times) else -math.inf
        number = 0
        for packet in _demux(container, stream, errors):
            number += bool(packet.size)
            if packet.size and number <= info.lead:
                continue
            for frame in _attempt(packet.decode, errors=errors) or ():
                time = None if frame.time is None else float(frame.time) - info.origin
                if time is None or time > begin - 1e-6:
                    image = partial(_pixels, frame, info)
                    yield DecodedFrame(time, not frame.is_corrupt, image, bool(frame.key_frame))


def _attempt(call: Callable[..., Any], *arguments: Any, errors: list[str]) -> Any:
    """Returns the result of a call; None if FFmpeg fails, with the reason appended to `errors`."""
    import av

    try:
        return call(*arguments)
    except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
        errors.append(str(error))
        return None


def _pixels(frame: Any, info: VideoInfo) -> np.ndarray:
    """Converts a frame to uint8 RGB [H, W, 3], upright with square pixels."""
    height, width = info.size
    if info.rotation % 180:
        height, width = width, height
    image = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="BICUBIC")
    return upright(image, info)


def upright(image: np.ndarray, info: VideoInfo) -> np.ndarray:
    """Flips and rotates a stored frame [H, W, 3] as it is to be shown."""
    flipped = image[:, ::-1] if info.mirrored else image
    return np.ascontiguousarray(np.rot90(flipped, info.rotation // 90))


# Animated WebP -----------------------------------------------------------------------------------


def _is_webp(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(12)
    return head.startswith(b"RIFF") and head[8:] == b"WEBP"


def _probe_webp(path: Path) -> VideoInfo:
    data = path.read_bytes()
    durations, offset, damage = [], 12, ""
    width = height = 0
    while offset + 8 <= len(data):
        name, length = struct.unpack("<4sI", data[offset : offset + 8])
        body = data[offset + 8 : offset + 8 + length]
        if len(body) < length:
            damage = "a part of it is missing"
        if name == b"VP8X" and len(body) >= 10:
            width, height = (int.from_bytes(body[i : i + 3], "little") + 1 for i in (4, 7))
        elif name == b"ANMF" and len(body) >= 16:
            durations.append(int.from_bytes(body[12:15], "little") / 1000 or 0.1)
        offset += 8 + length + length % 2
    if not durations or width * height > _MAX_PIXELS:
        raise UserError(f"{path}: not a readable video; replace or remove the file")
    times = np.array([0.0, *accumulate(durations)])
    fps = _fps(times, 0.0)
    size, count = (height, width), len(durations)
    return VideoInfo(times[:-1], float(times[-1]), fps, size, 0, count, damage)


def _webp_frames(path: Path, info: VideoInfo, errors: list[str]) -> Iterator[DecodedFrame]:
    data = np.fromfile(path, np.uint8)
    for start in range(0, len(info.times), _WEBP_FRAMES):
        try:
            _, animation = cv2.imdecodeanimation(data, start, _WEBP_FRAMES)
        except (cv2.error, MemoryError):
            animation = None
        images = [] if animation is None else animation.frames
        for time, image in zip(info.times[start:], images, strict=False):
            image = np.ascontiguousarray(image[..., 2::-1])
            yield DecodedFrame(float(time), True, partial(np.asarray, image))
        if len(images) < min(_WEBP_FRAMES, len(info.times) - start):
            errors.append("a frame cannot be decoded")
            return
