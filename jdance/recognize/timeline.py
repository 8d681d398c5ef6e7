"""Timelines of the motions in a video: segments, their CSV and JSON forms, segmental F1."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jdance.errors import UserError

COLUMNS = ("track", "start", "end", "motion", "confidence")


@dataclass(frozen=True)
class Segment:
    """One motion of a track from `start` to `end` in seconds, with its mean probability."""

    track: int
    start: float
    end: float
    motion: str
    confidence: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass
class _OpenSegment:
    start: float
    last: float
    motion: str
    total: float
    frames: int


class Timeline:
    """Builds segments from consecutive frames.

    Args:
        period: seconds between two frames, added after the last frame of a segment.
        max_gap: seconds without a frame after which a segment ends, if longer than 1.5 periods.
    """

    def __init__(self, period: float, *, max_gap: float = 1.0):
        self._period, self._max_gap = period, max(max_gap, 1.5 * period)
        self._open: dict[int, _OpenSegment] = {}
        self._closed: dict[int, list[Segment]] = {}

    def add(
        self,
        time: float,
        track: int,
        motion: str,
        probability: float,
        previous: float = math.inf,
    ) -> bool:
        """Adds a track's motion in a frame; returns whether it starts a segment.

        Args:
            time: of the frame in seconds.
            track: number of the track.
            motion: its motion.
            probability: of the motion.
            previous: time of the frame before, which is shown until `time`.
        """
        current = self._open.get(track)
        if current:
            continuous = time - current.last <= self._max_gap or current.last >= previous
            if continuous and current.motion == motion:
                current.last = time
                current.total += probability
                current.frames += 1
                return False
            self._close(track, time if continuous else current.last + self._period)
        self._open[track] = _OpenSegment(time, time, motion, probability, 1)
        return True

    def _close(self, track: int, end: float) -> None:
        current = self._open.pop(track)
        mean = current.total / current.frames
        segment = Segment(track, current.start, end, current.motion, mean)
        self._closed.setdefault(track, []).append(segment)

    def finish(self) -> list[Segment]:
        """Returns all segments, sorted by track and time."""
        for track in list(self._open):
            self._close(track, self._open[track].last + self._period)
        return [segment for track in sorted(self._closed) for segment in self._closed[track]]


def summary(segments: Sequence[Segment]) -> list[dict[str, Any]]:
    """Returns start, end, segments, and seconds of each motion for each track, ready for JSON."""
    tracks: dict[int, list[Segment]] = {}
    for segment in segments:
        tracks.setdefault(segment.track, []).append(segment)
    result = []
    for track, own in tracks.items():
        seconds: dict[str, float] = {}
        for segment in own:
            seconds[segment.motion] = seconds.get(segment.motion, 0.0) + segment.seconds
        result.append(
            {
                "track": track,
                "start": round(own[0].start, 3),
                "end": round(own[-1].end, 3),
                "seconds": {motion: round(value, 3) for motion, value in seconds.items()},
                "segments": [
                    {
                        "start": round(s.start, 3),
                        "end": round(s.end, 3),
                        "motion": s.motion,
                        "confidence": round(s.confidence, 4),
                    }
                    for s in own
                ],
            }
        )
    return result


def write_csv(path: Path, segments: Sequence[Segment]) -> None:
    """Writes one row per segment: track, start, end, motion, confidence."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for s in segments:
            writer.writerow(
                [s.track, f"{s.start:.3f}", f"{s.end:.3f}", s.motion, f"{s.confidence:.4f}"]
            )


def read_csv(path: Path) -> list[Segment]:
    """Reads a file by `write_csv`.

    Raises:
        UserError: the file is missing or not a timeline.
    """
    try:
        with path.open(newline="") as file:
            return [
                Segment(
                    int(row["track"]), float(row["start"]), float(row["end"]), row["motion"],
                    float(row["confidence"]),
                )
                for row in csv.DictReader(file)
            ]  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a timeline ({error})") from error


def segmental_f1(
    predicted: Sequence[Segment], true: Sequence[Segment], overlap: float = 0.5
) -> float:
    """Segmental F1 (Lea et al., 2017): the harmonic mean of precision and recall of segments.

    A predicted segment is correct if it has the track and motion of an unmatched true segment, and
    their intersection over union is at least `overlap`.
    """
    matched: set[int] = set()
    for segment in predicted:
        best, score = None, overlap
        for i, other in enumerate(true):
            if (other.track, other.motion) != (segment.track, segment.motion) or i in matched:
                continue
            intersection = min(segment.end, other.end) - max(segment.start, other.start)
            union = max(segment.end, other.end) - min(segment.start, other.start)
            iou = intersection / union if union > 0 else 1.0  # both are the same instant
            if iou >= score:
                best, score = i, iou
        if best is not None:
            matched.add(best)
    return 2 * len(matched) / max(len(predicted) + len(true), 1)
