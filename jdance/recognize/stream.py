"""Recognised frames to tracked ones: a stream that runs a little behind, so that it can look ahead.

Motions are averaged over the frames around, and short gaps in a track are bridged, once the frames
after them are known. Nothing older is kept: memory does not grow with the video.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from jdance.data import crop
from jdance.recognize import tracking
from jdance.recognize.tracking import Detection, Track, Tracker

# (key points [T, 18, 3] of a track, their times [T] in seconds) -> probabilities [M]
SequenceClassifier = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class TrackedPerson:
    """One person in one frame.

    Attributes:
        track: its number.
        keypoints: float32 [18, 3], smoothed.
        box: x, y, width, height of the key points.
        probabilities: float [M], smoothed.
        bridged: nobody was found there; the person was before and after.
    """

    track: int
    keypoints: np.ndarray
    box: tuple[float, float, float, float]
    probabilities: np.ndarray
    bridged: bool = False


@dataclass(frozen=True)
class TrackedFrame:
    """A frame with everybody in it, by track; the image is uint8 RGB [H, W, 3] or None."""

    index: int
    time: float
    image: np.ndarray | None
    people: list[TrackedPerson]


@dataclass
class _Entry:
    index: int
    time: float
    image: np.ndarray | None
    seen: dict[int, tuple[Track, np.ndarray, np.ndarray]] = field(default_factory=dict)


class Stream:
    """Follows everybody through frames that come one after the other.

    Args:
        tracker: who is who; None: a new one.
        window: seconds before and after a frame over which motions are averaged, or that the
            sequence network looks at.
        lag: seconds that it may run behind, at most the window.
        namer: a sequence network that names motions, instead of those that come with the people.
    """

    def __init__(
        self,
        tracker: Tracker | None = None,
        *,
        window: float = 0.5,
        lag: float = 0.5,
        classifier: SequenceClassifier | None = None,
    ):
        self._tracker = tracker or Tracker()
        self._window, self._lag, self._namer = window, min(lag, window), classifier
        self._waiting: deque[_Entry] = deque()
        self._past: deque[_Entry] = deque()
        self._named: dict[int, tuple[float, np.ndarray]] = {}

    def add(
        self,
        index: int,
        time: float,
        image: np.ndarray | None,
        keypoints: Sequence[np.ndarray],
        probabilities: Sequence[np.ndarray],
    ) -> Iterator[TrackedFrame]:
        """Takes a frame with its N people [18, 3] and their probabilities [M]; yields what is done.

        Times, in seconds, must grow.
        """
        people = np.array(keypoints, np.float32).reshape(-1, 18, 3)
        entry = _Entry(index, time, image)
        for sighting in self._tracker.update(time, people):
            probabilities_ = _mean(sighting, people, probabilities)
            entry.seen[id(sighting.track)] = (sighting.track, sighting.keypoints, probabilities_)
        self._waiting.append(entry)
        # Where frames are far apart, it takes some more until it is known who is a person. The
        # frame's own time may be half a thousandth off.
        least = self._tracker.config.min_hits if self._lag else 1
        while len(self._waiting) >= least and time - self._waiting[0].time >= self._lag - 1e-3:
            yield self._finish()

    def flush(self) -> Iterator[TrackedFrame]:
        """The frames that are left, at the end."""
        while self._waiting:
            yield self._finish()

    def _finish(self) -> TrackedFrame:
        entry = self._waiting.popleft()
        while self._past and entry.time - self._past[0].time > self._window:
            self._past.popleft()
        around = [*self._past, entry, *self._waiting]
        people = []
        tracks = {key: track for e in around for key, (track, *_) in e.seen.items()}
        for key, track in tracks.items():
            if track.number is None:
                continue
            keypoints, bridged = self._keypoints(key, entry, around)
            if keypoints is None or not keypoints.any():
                continue
            near = [e for e in around if key in e.seen]
            probabilities_ = self._chances(key, entry.time, near)
            box = crop.tight_box(keypoints)
            people.append(TrackedPerson(track.number, keypoints, box, probabilities_, bridged))
        self._past.append(entry)
        people.sort(key=lambda person: person.track)
        self._named = {key: value for key, value in self._named.items() if key in tracks}
        image, entry.image = entry.image, None
        return TrackedFrame(entry.index, entry.time, image, people)

    def _keypoints(
        self, key: int, entry: _Entry, around: list[_Entry]
    ) -> tuple[np.ndarray | None, bool]:
        if key in entry.seen:
            return entry.seen[key][1], False
        before = [e for e in around if e.time < entry.time and key in e.seen]
        after = [e for e in around if e.time > entry.time and key in e.seen]
        if not before or not after:
            return None, True
        start, end = before[-1], after[0]
        share = (entry.time - start.time) / (end.time - start.time)
        return tracking.bridge(start.seen[key][1], end.seen[key][1], share), True

    def _chances(self, key: int, time: float, near: list[_Entry]) -> np.ndarray:
        if self._namer is not None:
            known = self._named.get(key)
            # Twice a second is enough for a window of two.
            if known is None or time - known[0] >= self._window / 2:
                points = np.stack([e.seen[key][1] for e in near])
                known = time, self._namer(points, np.array([e.time for e in near]))
                self._named[key] = known
            return known[1]
        if not self._window:
            return near[-1].seen[key][2]
        weights = np.array([1.05 - abs(e.time - time) / self._window for e in near])
        weights = np.maximum(weights, 0.05)
        probabilities_ = np.stack([e.seen[key][2] for e in near])
        return (weights[:, None] * probabilities_).sum(0) / weights.sum()


def _mean(
    sighting: Detection, people: np.ndarray, probabilities: Sequence[np.ndarray]
) -> np.ndarray:
    """The mean probabilities of a sighting's members, by their numbers of joints."""
    weights = [float((people[member, :, 2] > 0).sum()) for member in sighting.members]
    return np.average([probabilities[member] for member in sighting.members], 0, weights)
