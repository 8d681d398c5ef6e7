"""Multi-person tracking by key-point similarity, and temporal smoothing of joints.

Key points may have any unit. Times are in seconds, so that skipped frames and variable frame rates
need no special treatment.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

from jdance import skeleton
from jdance.data import crop


@dataclass(frozen=True)
class Config:
    """Settings of the tracker and of the one-euro filter.

    Attributes:
        min_similarity: minimum key-point similarity of a person in two frames.
        max_gap: seconds without a detection after which a track ends; none ends between two
            consecutive frames.
        min_hits: detections after which a track is confirmed.
        slack: widens the fall-off of the similarity relative to COCO's, as people move.
        min_cutoff: cutoff for a joint at rest in Hz; lower is smoother.
        beta: increase of the cutoff with speed, in Hz per body size per second; higher lags less.
        speed_cutoff: cutoff of the speed's own filter in Hz.
    """

    min_similarity: float = 0.15
    max_gap: float = 1.5
    min_hits: int = 3
    slack: float = 2.0
    min_cutoff: float = 0.8
    beta: float = 3.0
    speed_cutoff: float = 1.5


def similarity(
    people: np.ndarray, others: np.ndarray, sizes: np.ndarray, slack: float | np.ndarray = 1.0
) -> np.ndarray:
    """Pairwise object key-point similarity (COCO's OKS).

    Args:
        people: float [N, 18, 3].
        others: float [K, 18, 3].
        sizes: float [K], square roots of the areas of the boxes of `others`.
        slack: scales the distance at which the similarity falls off; a scalar or [K].

    Returns:
        float64 [N, K] in 0 to 1, over the joints present in both; 0 where there are none.
    """
    both = skeleton.is_present(people)[:, None] & skeleton.is_present(others)[None]
    offset = people[:, None, :, :2].astype(np.float64) - others[None, :, :, :2]
    radius = skeleton.FALLOFF * (np.maximum(sizes, 1e-6) * slack)[:, None]  # [K, 18]
    close = np.exp(-0.5 * (offset**2).sum(-1) / radius**2)
    counts = both.sum(-1)
    return np.where(counts > 0, (close * both).sum(-1) / np.maximum(counts, 1), 0)


def body_scale(person: np.ndarray) -> float:
    """Square root of the area of the box of [18, 3], each side at least 30 % of the longer."""
    _, _, width, height = crop.tight_box(person)
    longer = max(width, height, 1e-6)
    return float(np.sqrt(max(width, 0.3 * longer) * max(height, 0.3 * longer)))


@dataclass
class Track:
    """The track of one person.

    Attributes:
        keypoints: float [18, 3], the last detection of each joint; joints that are not seen move
            with the others.
        size: smoothed `body_scale`.
        last_seen: time of the last detection.
        number: number of the track from 0 on, or None until it is confirmed.
        velocity: float [2], of the whole body, in units of the key points per second.
        hits: number of detections.
        fresh: bool [18], the joints of the last detection.
    """

    keypoints: np.ndarray
    size: float
    last_seen: float
    number: int | None = None
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(2))
    hits: int = 0
    fresh: np.ndarray = field(default_factory=lambda: np.zeros(skeleton.NUM_JOINTS, bool))
    _filter: "OneEuro | None" = None

    def predict(self, when: float) -> np.ndarray:
        """Extrapolates the key points [18, 3] by the velocity, for at most 0.3 s."""
        moved = self.keypoints.copy()
        moved[:, :2] += self.velocity * min(when - self.last_seen, 0.3)
        return np.where(self.keypoints[:, 2:] > 0, moved, 0)


@dataclass(frozen=True)
class Detection:
    """A tracked person in one frame.

    Attributes:
        track: the track that the person belongs to.
        keypoints: float32 [18, 3], smoothed.
        members: indices of the frame's people; several if the pose network split the person.
    """

    track: Track
    keypoints: np.ndarray
    members: list[int]


class OneEuro:
    """The one-euro filter (Casiez et al., 2012) for the joints of one person.

    A low-pass filter whose cutoff rises with speed: it smooths joints at rest without making fast
    ones lag. It is reset for joints that were missing for more than 0.5 s.
    """

    def __init__(self, config: Config):
        self._config = config
        joints = skeleton.NUM_JOINTS
        self._position, self._velocity = np.zeros((joints, 2)), np.zeros((joints, 2))
        self._time = np.full(joints, -np.inf)

    def __call__(self, when: float, keypoints: np.ndarray, size: float) -> np.ndarray:
        """Returns smoothed key points float32 [18, 3], with unchanged scores.

        Args:
            when: in seconds, increasing.
            keypoints: float [18, 3].
            size: size of the person, in the unit of the key points.
        """
        config = self._config
        present = skeleton.is_present(keypoints)
        elapsed = when - self._time
        reset = present & ~((elapsed > 0) & (elapsed <= 0.5))
        update = present & ~reset
        dt = np.where(update, elapsed, 1)[:, None]
        raw = (keypoints[:, :2].astype(np.float64) - self._position) / dt
        velocity = self._velocity + _alpha(config.speed_cutoff, dt) * (raw - self._velocity)
        speed = np.linalg.norm(velocity, axis=-1, keepdims=True) / max(size, 1e-6)
        alpha = _alpha(config.min_cutoff + config.beta * speed, dt)
        position = self._position + alpha * (keypoints[:, :2] - self._position)
        masks = [update[:, None], reset[:, None]]
        self._position = np.select(masks, [position, keypoints[:, :2]], self._position)
        self._velocity = np.select(masks, [velocity, np.zeros(())], self._velocity)
        self._time = np.where(present, when, self._time)
        result = np.where(present[:, None], np.c_[self._position, keypoints[:, 2]], 0)
        return result.astype(np.float32)


def _alpha(cutoff: float | np.ndarray, dt: float | np.ndarray) -> float | np.ndarray:
    """Returns the weight of a new value after `dt` seconds in a low-pass filter; cutoff in Hz."""
    return 1 / (1 + 1 / (2 * np.pi * cutoff * dt))


class Tracker:
    """Tracks all people from frame to frame.

    People are assigned to tracks by the maximum total similarity. A greedy assignment would swap
    the identities of close neighbors.
    """

    def __init__(self, config: Config | None = None):
        self.config = config or Config()
        self._tracks: list[Track] = []
        self._count = self._frames = 0
        self._when, self._period = -np.inf, np.inf  # time of the last frame, and its interval

    def update(self, when: float, people: np.ndarray) -> list[Detection]:
        """Tracks the people of the next frame.

        Args:
            when: time of the frame in seconds, increasing.
            people: float32 [N, 18, 3], each with at least one joint.

        Returns:
            The detections, in the order of `people`. Their tracks may be confirmed by later frames.
        """
        config = self.config
        # At low frame rates and in pauses, no track may end between two consecutive frames.
        previous, period, self._period = self._when, self._period, when - self._when
        min_gap, self._when = 1.5 * min(period, self._period), when
        self._frames += 1
        self._tracks = [
            track
            for track in self._tracks
            if track.last_seen == previous
            or when - track.last_seen
            <= max(min_gap, config.max_gap if track.number is not None else 0.4)
        ]
        assigned = self._assign(when, people)
        groups: list[tuple[Track, list[int]]] = []
        for person in range(len(people)):
            track, parts = assigned[person]
            if parts is None:
                continue
            if track is None:
                track = Track(people[person].astype(np.float64), 0.0, when)
                self._tracks.append(track)
            groups.append((track, [person, *parts]))
        detections = []
        for track, members in groups:
            whole = people[members[0]]
            for other in members[1:]:
                whole = np.where(skeleton.is_present(whole)[:, None], whole, people[other])
            detections.append(Detection(track, self._update_track(track, when, whole), members))
        for track, _ in groups:  # from left to right
            if track.number is None and track.hits >= config.min_hits:
                track.number, self._count = self._count, self._count + 1
        return detections

    def finish(self) -> None:
        """Confirms, after the last frame of a very short video, who is in all of its frames."""
        if self._frames >= self.config.min_hits:
            return
        for track in self._tracks:
            if track.number is None and track.hits == self._frames:
                track.number, self._count = self._count, self._count + 1

    def _assign(
        self, when: float, people: np.ndarray
    ) -> list[tuple[Track | None, list[int] | None]]:
        """Returns the track of each person or None, and the indices of its other fragments.

        The latter is None if the person itself is a fragment of another one.
        """
        tracks: list[Track | None] = [None] * len(people)
        parts: list[list[int] | None] = [[] for _ in people]
        if not len(people) or not self._tracks:
            return list(zip(tracks, parts, strict=True))
        threshold = self.config.min_similarity
        predicted = np.stack([track.predict(when) for track in self._tracks])
        elapsed = np.array([when - track.last_seen for track in self._tracks])
        sizes = np.array([track.size for track in self._tracks])
        # The distance that a person may have moved grows with the time since the last detection.
        slack = self.config.slack * np.sqrt(1 + 4 * np.maximum(elapsed - 0.05, 0))
        scores = similarity(people, predicted, sizes, slack)
        # Prefers confirmed tracks and complete people over fragments.
        confirmed = np.array([track.number is not None for track in self._tracks])
        present = skeleton.is_present(people).mean(-1, keepdims=True)
        weights = np.where(scores >= threshold, scores + 0.2 * confirmed + 0.3 * present, 0)
        owner = {}
        for person, track in zip(*linear_sum_assignment(weights, maximize=True), strict=True):
            if scores[person, track] >= threshold:
                tracks[person], owner[track] = self._tracks[track], person
        # Pose networks sometimes split a person. A fragment matches the track's last joints, and
        # has no joint in common with the person's other fragments.
        for person in range(len(people)):
            if tracks[person] is not None:
                continue
            for track in np.argsort(-scores[person], kind="stable"):
                whole = owner.get(track)
                if scores[person, track] < threshold:
                    break
                if whole is None:
                    continue
                group = [whole, *(parts[whole] or [])]
                has = skeleton.is_present(people[group]).any(0)
                if not (has & skeleton.is_present(people[person])).any():
                    parts[whole] = [*(parts[whole] or []), person]
                    parts[person] = None
                    break
        return list(zip(tracks, parts, strict=True))

    def _update_track(self, track: Track, when: float, person: np.ndarray) -> np.ndarray:
        size = body_scale(person)
        present = skeleton.is_present(person)
        if track.hits:
            elapsed = max(when - track.last_seen, 1e-3)
            both = present & (track.keypoints[:, 2] > 0)
            if (both & track.fresh).any():
                both &= track.fresh
            if both.any():
                shift = np.median(person[both, :2] - track.keypoints[both, :2], axis=0)
                track.keypoints[:, :2] += shift
                track.velocity += _alpha(1.5, elapsed) * (shift / elapsed - track.velocity)
            track.size += 0.3 * (size - track.size)
        else:
            track.size, track._filter = size, OneEuro(self.config)
        track.keypoints = np.where(present[:, None], person, track.keypoints)
        track.last_seen, track.hits, track.fresh = when, track.hits + 1, present
        assert track._filter is not None
        return track._filter(when, person, track.size)


def bridge(before: np.ndarray, after: np.ndarray, fraction: float) -> np.ndarray:
    """Interpolates key points float32 [18, 3] linearly between two frames.

    Keeps the joints present in both, with the lower of their scores.
    """
    both = skeleton.is_present(before) & skeleton.is_present(after)
    xy = (1 - fraction) * before[:, :2] + fraction * after[:, :2]
    score = np.minimum(before[:, 2], after[:, 2])
    return np.where(both[:, None], np.c_[xy, score], 0).astype(np.float32)


def jitter(frames: Sequence[np.ndarray], still: float = 0.02) -> float:
    """Mean second difference of a person's joints at rest, as a fraction of the body size.

    Args:
        frames: key points [18, 3] of evenly spaced frames.
        still: joints are at rest if they move by less than this fraction of the body size over the
            five surrounding frames.
    """
    points = np.stack(frames).astype(np.float64)
    present = skeleton.is_present(points)
    size = np.median([body_scale(p) for p in points if skeleton.is_present(p).any()])
    values = []
    for t in range(2, len(points) - 2):
        window = points[t - 2 : t + 3, :, :2]
        resting = present[t - 2 : t + 3].all(0)
        resting &= np.linalg.norm(window[-1] - window[0], axis=-1) < still * size
        second = window[1] - 2 * window[2] + window[3]
        values += list(np.linalg.norm(second[resting], axis=-1) / size)
    return float(np.mean(values)) if values else float("nan")
