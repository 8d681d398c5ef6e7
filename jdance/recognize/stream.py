"""Tracks recognized frames as a stream with a small lag, in bounded memory.

With the lag, motions are averaged over the surrounding frames and short gaps in tracks are bridged.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from jdance.data import crop
from jdance.recognize import tracking
from jdance.recognize.tracking import Detection, Track, Tracker

# (key points [T, 18, 3] of a track, their times [T] in seconds, the window's ends in seconds)
# -> probabilities [M]
SequenceClassifier = Callable[[np.ndarray, np.ndarray, tuple[float, float]], np.ndarray]

_ROUNDING = 1e-3  # seconds; times may be rounded to milliseconds


@dataclass(frozen=True)
class TrackedPerson:
    """One person in one frame.

    Attributes:
        track: number of the track.
        keypoints: float32 [18, 3], smoothed.
        box: x, y, width, height of the key points.
        probabilities: float [M], of the surrounding frames.
        bridged: whether the key points are interpolated over a gap in the track.
        motion, confidence: see `smoothing.MotionSmoother`.
    """

    track: int
    keypoints: np.ndarray
    box: tuple[float, float, float, float]
    probabilities: np.ndarray
    bridged: bool = False
    motion: str = ""
    confidence: float = 0.0


@dataclass(frozen=True)
class TrackedFrame:
    """A frame with its people, sorted by track; the image is uint8 RGB [H, W, 3] or None."""

    index: int
    time: float
    image: np.ndarray | None
    people: list[TrackedPerson]


@dataclass
class _Entry:
    index: int
    time: float
    image: np.ndarray | None
    # id(track) -> track, key points, probabilities
    detections: dict[int, tuple[Track, np.ndarray, np.ndarray]] = field(default_factory=dict)


class Stream:
    """Tracks people through consecutive frames.

    Args:
        tracker: None: a new one.
        window: seconds before and after a frame over which motions are averaged, or that the
            sequence network takes.
        lag: maximum delay of the output in seconds, limited to `window`; gaps in tracks up to this
            length are bridged.
        classifier: classifies the motions of tracks, instead of averaging those of the frames.
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
        self._window, self._lag, self._classifier = window, min(lag, window), classifier
        self._pending: deque[_Entry] = deque()
        self._past: deque[_Entry] = deque()
        self._classified: dict[int, tuple[float, np.ndarray]] = {}

    def add(
        self,
        index: int,
        time: float,
        image: np.ndarray | None,
        keypoints: Sequence[np.ndarray],
        probabilities: Sequence[np.ndarray],
    ) -> Iterator[TrackedFrame]:
        """Adds a frame, and yields the frames that are complete.

        Args:
            index: index of the frame.
            time: in seconds, increasing.
            image: passed on to the result.
            keypoints: float32 [18, 3] of each person.
            probabilities: float [M] of each person.
        """
        people = np.array(keypoints, np.float32).reshape(-1, 18, 3)
        entry = _Entry(index, time, image)
        for detection in self._tracker.update(time, people):
            track, mean = detection.track, _mean(detection, people, probabilities)
            entry.detections[id(track)] = (track, detection.keypoints, mean)
        self._pending.append(entry)
        # At low frame rates, tracks are only confirmed after more frames than the lag holds.
        min_frames = self._tracker.config.min_hits if self._lag else 1
        complete = time - self._lag + _ROUNDING
        while len(self._pending) >= min_frames and self._pending[0].time <= complete:
            yield self._complete()

    def flush(self) -> Iterator[TrackedFrame]:
        """Yields the remaining frames."""
        self._tracker.finish()
        while self._pending:
            yield self._complete()

    def _complete(self) -> TrackedFrame:
        entry = self._pending.popleft()
        while self._past and entry.time - self._past[0].time > self._window + _ROUNDING:
            self._past.popleft()
        around = [*self._past, entry, *self._pending]
        people = []
        tracks = {key: track for e in around for key, (track, *_) in e.detections.items()}
        for key, track in tracks.items():
            if track.number is None:
                continue
            keypoints, bridged = self._keypoints(key, entry, around)
            if keypoints is None or not keypoints.any():
                continue
            near = [e for e in around if key in e.detections]
            probabilities = self._probabilities(key, entry.time, near)
            box = crop.tight_box(keypoints)
            people.append(TrackedPerson(track.number, keypoints, box, probabilities, bridged))
        self._past.append(entry)
        people.sort(key=lambda person: person.track)
        self._classified = {k: value for k, value in self._classified.items() if k in tracks}
        image, entry.image = entry.image, None
        return TrackedFrame(entry.index, entry.time, image, people)

    def _keypoints(
        self, key: int, entry: _Entry, around: list[_Entry]
    ) -> tuple[np.ndarray | None, bool]:
        if key in entry.detections:
            return entry.detections[key][1], False
        before = [e for e in around if e.time < entry.time and key in e.detections]
        after = [e for e in around if e.time > entry.time and key in e.detections]
        if not before or not after:
            return None, True
        start, end = before[-1], after[0]
        # A gap is bridged for all of its frames, or for none of them.
        gap = [e.time for e in around if start.time < e.time < end.time]
        is_short = gap[-1] - start.time <= self._window + _ROUNDING
        if not is_short or end.time - gap[0] > self._lag + _ROUNDING:
            return None, True
        fraction = (entry.time - start.time) / (end.time - start.time)
        return tracking.bridge(start.detections[key][1], end.detections[key][1], fraction), True

    def _probabilities(self, key: int, time: float, near: list[_Entry]) -> np.ndarray:
        if self._classifier is not None:
            cached = self._classified.get(key)
            # Not classified in every frame, as the windows overlap.
            if cached is None or time - cached[0] >= self._window / 8:
                points = np.stack([e.detections[key][1] for e in near])
                ends = time - self._window, time + self._window
                cached = time, self._classifier(points, np.array([e.time for e in near]), ends)
                self._classified[key] = cached
            return cached[1]
        if not self._window:
            return near[-1].detections[key][2]
        weights = np.array([1.05 - abs(e.time - time) / self._window for e in near])
        weights = np.maximum(weights, 0.05)
        probabilities = np.stack([e.detections[key][2] for e in near])
        return (weights[:, None] * probabilities).sum(0) / weights.sum()


def _mean(
    detection: Detection, people: np.ndarray, probabilities: Sequence[np.ndarray]
) -> np.ndarray:
    """Averages the probabilities of a detection's members, weighted by their joint counts."""
    weights = [float((people[member, :, 2] > 0).sum()) for member in detection.members]
    return np.average([probabilities[member] for member in detection.members], 0, weights)
