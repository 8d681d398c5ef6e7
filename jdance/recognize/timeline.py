"""When each dancer did what: segments of a track, as JSON, as CSV, and judged against the truth."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jdance.errors import UserError


@dataclass(frozen=True)
class Segment:
    """A motion of one track from `start` to `end`, in seconds.

    The confidence is its mean probability.
    """

    track: int
    start: float
    end: float
    motion: str
    confidence: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass
class _Open:
    start: float
    last: float
    motion: str
    total: float
    frames: int


class Timeline:
    """Gathers segments from frames that come one after the other.

    Args:
        period: seconds between two frames, by which the last frame of a segment lasts.
        min_seconds: shorter segments between others become part of the longer neighbour.
        max_gap: seconds out of sight after which a segment ends.
    """

    def __init__(self, period: float, *, min_seconds: float = 1.0, max_gap: float = 1.0):
        self._period, self._min_seconds, self._max_gap = period, min_seconds, max_gap
        self._open: dict[int, _Open] = {}
        self._closed: dict[int, list[Segment]] = {}

    def add(self, time: float, track: int, motion: str, probability: float) -> bool:
        """A track's motion in the next frame; tells whether a segment starts with it."""
        known = self._open.get(track)
        if known and known.motion == motion and time - known.last <= self._max_gap:
            known.last, known.total, known.frames = (
                time,
                known.total + probability,
                known.frames + 1,
            )
            return False
        if known:
            seen_on = time - known.last <= self._max_gap
            self._close(track, time if seen_on else known.last + self._period)
        self._open[track] = _Open(time, time, motion, probability, 1)
        return True

    def _close(self, track: int, end: float) -> None:
        known = self._open.pop(track)
        mean = known.total / known.frames
        segment = Segment(track, known.start, end, known.motion, mean)
        self._closed.setdefault(track, []).append(segment)

    def finish(self) -> list[Segment]:
        """All segments, by track and time."""
        for track in list(self._open):
            self._close(track, self._open[track].last + self._period)
        return [
            segment
            for track in sorted(self._closed)
            for segment in _without_short(self._closed[track], self._min_seconds)
        ]


def _without_short(segments: list[Segment], least: float) -> list[Segment]:
    """Joins segments of one track that are too short with a neighbour that they touch."""
    segments = list(segments)
    while True:
        short = [i for i, s in enumerate(segments) if s.seconds < least]
        for i in sorted(short, key=lambda i: segments[i].seconds):
            beside = [
                j
                for j in (i - 1, i + 1)
                if 0 <= j < len(segments) and _touch(segments[min(i, j)], segments[max(i, j)])
            ]
            if beside:
                longer = max(beside, key=lambda j: segments[j].seconds)
                first, second = sorted((i, longer))
                merged = replace(
                    segments[longer], start=segments[first].start, end=segments[second].end
                )
                segments[first : second + 1] = [merged]
                break
        else:
            return _joined(segments)


def _touch(a: Segment, b: Segment) -> bool:
    return abs(a.end - b.start) < 1e-6


def _joined(segments: list[Segment]) -> list[Segment]:
    """Joins neighbours of the same motion that touch."""
    result: list[Segment] = []
    for segment in segments:
        last = result[-1] if result else None
        if last and last.motion == segment.motion and _touch(last, segment):
            whole = last.seconds + segment.seconds
            share = segment.seconds / whole if whole > 0 else 0.5
            mean = (1 - share) * last.confidence + share * segment.confidence
            result[-1] = replace(last, end=segment.end, confidence=mean)
        else:
            result.append(segment)
    return result


def summary(segments: Sequence[Segment]) -> list[dict[str, Any]]:
    """Per track: when it starts and ends, its segments, and the seconds of each motion."""
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
    """One line a segment: track, start, end, motion, confidence."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["track", "start", "end", "motion", "confidence"])
        for s in segments:
            writer.writerow(
                [s.track, f"{s.start:.3f}", f"{s.end:.3f}", s.motion, f"{s.confidence:.4f}"]
            )


def read_csv(path: Path) -> list[Segment]:
    """What `write_csv` wrote.

    Raises:
        UserError: there is no such file, or it holds something else.
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


def segmental_f1(found: Sequence[Segment], true: Sequence[Segment], overlap: float = 0.5) -> float:
    """Segmental F1 (Lea et al., 2017): the harmonic mean of precision and recall of segments.

    A found segment is right if it has the track and the motion of a true one that no other has
    been matched with, and an intersection over union of at least `overlap` with it.
    """
    taken: set[int] = set()
    right = 0
    for segment in found:
        best, score = None, overlap
        for i, other in enumerate(true):
            if (other.track, other.motion) != (segment.track, segment.motion) or i in taken:
                continue
            shared = min(segment.end, other.end) - max(segment.start, other.start)
            union = max(segment.end, other.end) - min(segment.start, other.start)
            ratio = shared / union if union > 0 else 1.0  # both are the same moment
            if ratio >= score:
                best, score = i, ratio
        if best is not None:
            taken.add(best)
            right += 1
    return 2 * right / max(len(found) + len(true), 1)
