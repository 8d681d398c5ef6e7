"""Frames in the short JSON form that the page draws, and a file of them."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jdance.progress import rounded
from jdance.recognize.stream import TrackedFrame


def person_json(
    track: int, motion: str, confidence: float, box: Sequence[float], keypoints: ArrayLike
) -> dict[str, Any]:
    """Returns the entry of a person.

    Args:
        track: number of the track.
        motion: its name.
        confidence: its probability.
        box: x, y, width, height in pixels.
        keypoints: [18, 3] in pixels.
    """
    points = np.asarray(keypoints)
    return {
        "track": track,
        "motion": motion,
        "confidence": round(confidence, 3),
        "box": rounded(box, 1).tolist(),
        "keypoints": np.c_[rounded(points[:, :2], 1), rounded(points[:, 2], 2)].tolist(),
    }


def frame_json(frame: TrackedFrame) -> dict[str, Any]:
    """Returns the entry of a frame."""
    people = [
        person_json(p.track, p.motion, p.confidence, p.box, p.keypoints) for p in frame.people
    ]
    return {"index": frame.index, "time": round(frame.time, 4), "people": people}


class FrameLog:
    """A file with one frame per line, so that long videos take no memory.

    One thread writes it, any thread reads it.
    """

    def __init__(self, path: Path):
        self._path = path
        self._file = path.open("wb")
        self._size = 0

    def add(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        self._file.write(line)
        self._file.flush()
        self._size += len(line)

    def close(self) -> None:
        self._file.close()

    def read(self, offset: int, limit: int) -> tuple[list[str], int]:
        """Returns the frames from an offset in bytes on, as JSON, and the next offset.

        Args:
            offset: 0 or an offset from an earlier call; others give nothing.
            limit: maximum number of bytes, larger than any frame.

        Raises:
            FileNotFoundError: the job was removed.
        """
        size = self._size
        if not 0 <= offset < size:
            return [], min(max(offset, 0), size)
        with self._path.open("rb") as file:
            file.seek(max(offset - 1, 0))
            if offset and file.read(1) != b"\n":
                return [], size
            data = file.read(min(limit, size - offset))
        data = data[: data.rfind(b"\n") + 1]
        return data.decode().splitlines(), offset + len(data)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Iterates over all frames."""
        with self._path.open("rb") as file:
            yield from map(json.loads, file)
