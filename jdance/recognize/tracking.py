"""Who is who from frame to frame: identities by key-point similarity, and steadier joints.

Everything works on the key points of one frame after the other, in whatever unit; times are in
seconds, so that skipped frames and variable frame rates need no care.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

from jdance import skeleton
from jdance.data import crop


@dataclass(frozen=True)
class Config:
    """How people are followed.

    Attributes:
        min_similarity: least key-point similarity of the same person in two frames.
        max_gap: seconds for which somebody may be out of sight and still be the same; whatever it
            is, the next frame may come later.
        min_hits: frames in which somebody must be seen to count as a person.
        slack: how much wider than COCO's the similarity falls off: people move between frames.
        min_cutoff: in Hz, of the one-euro filter for a joint at rest; lower is smoother.
        beta: how quickly the cutoff rises with speed, in Hz for a body size a second; higher lags
            less.
        speed_cutoff: in Hz, of the filter of the speed itself.
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
    """COCO's object key-point similarity (OKS) of everybody with everybody.

    Args:
        people: float [N, 18, 3].
        others: float [K, 18, 3].
        sizes: float [K], the square root of the area of each of the others' boxes.
        slack: factor of the distance at which similarity falls off; a number or [K].

    Returns:
        float64 [N, K] in 0 to 1, over the joints that both have; 0 where there are none.
    """
    both = skeleton.is_present(people)[:, None] & skeleton.is_present(others)[None]
    offset = people[:, None, :, :2].astype(np.float64) - others[None, :, :, :2]
    reach = skeleton.FALLOFF * (np.maximum(sizes, 1e-6) * slack)[:, None]  # [K, 18]
    close = np.exp(-0.5 * (offset**2).sum(-1) / reach**2)
    counts = both.sum(-1)
    return np.where(counts > 0, (close * both).sum(-1) / np.maximum(counts, 1), 0)


def size_of(person: np.ndarray) -> float:
    """The square root of the area of the box of [18, 3], at least 30 % of its longer side."""
    _, _, width, height = crop.tight_box(person)
    longer = max(width, height, 1e-6)
    return float(np.sqrt(max(width, 0.3 * longer) * max(height, 0.3 * longer)))


@dataclass
class Track:
    """One person followed.

    Attributes:
        number: of the track from 0 on, given once the person has been seen often enough; else None.
        keypoints: float [18, 3], where each joint was seen last.
        size: smoothed `size_of`.
        velocity: float [2], of the whole body, in pixels a second.
        seen: time at which the person was seen last.
        hits: in how many frames.
    """

    keypoints: np.ndarray
    size: float
    seen: float
    number: int | None = None
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(2))
    hits: int = 0
    _filter: "OneEuro | None" = None

    def expected(self, when: float) -> np.ndarray:
        """Where the person should be [18, 3]; nobody keeps a pace for longer than .3 s."""
        moved = self.keypoints.copy()
        moved[:, :2] += self.velocity * min(when - self.seen, 0.3)
        return np.where(self.keypoints[:, 2:] > 0, moved, 0)


@dataclass(frozen=True)
class Detection:
    """Somebody seen in one frame.

    Attributes:
        track: who it is.
        keypoints: float32 [18, 3], smoothed.
        members: which of the frame's people it is; several where the pose network broke one up.
    """

    track: Track
    keypoints: np.ndarray
    members: list[int]


class OneEuro:
    """The one-euro filter (Casiez et al., 2012) on the joints of one person.

    A low-pass whose cutoff rises with speed: still joints are smoothed, quick ones do not lag. A
    joint that was missing for a while starts afresh.
    """

    def __init__(self, config: Config):
        self._config = config
        joints = skeleton.NUM_JOINTS
        self._place, self._speed = np.zeros((joints, 2)), np.zeros((joints, 2))
        self._time = np.full(joints, -np.inf)

    def __call__(self, when: float, keypoints: np.ndarray, size: float) -> np.ndarray:
        """The smoothed key points float32 [18, 3]; scores, and which are missing, stay.

        Args:
            when: in seconds, later than before.
            keypoints: float [18, 3].
            size: of the person, in the unit of the key points.
        """
        config = self._config
        present = skeleton.is_present(keypoints)
        passed = when - self._time
        fresh = present & ~((passed > 0) & (passed <= 0.5))
        follow = present & ~fresh
        dt = np.where(follow, passed, 1)[:, None]
        raw = (keypoints[:, :2].astype(np.float64) - self._place) / dt
        speed = self._speed + _share(config.speed_cutoff, dt) * (raw - self._speed)
        pace = np.linalg.norm(speed, axis=-1, keepdims=True) / max(size, 1e-6)
        share = _share(config.min_cutoff + config.beta * pace, dt)
        place = self._place + share * (keypoints[:, :2] - self._place)
        self._place = np.where(
            follow[:, None], place, np.where(fresh[:, None], keypoints[:, :2], self._place)
        )
        self._speed = np.where(follow[:, None], speed, np.where(fresh[:, None], 0, self._speed))
        self._time = np.where(present, when, self._time)
        result = np.where(present[:, None], np.c_[self._place, keypoints[:, 2]], 0)
        return result.astype(np.float32)


def _share(cutoff: float | np.ndarray, dt: float | np.ndarray) -> float | np.ndarray:
    """How much of a new value a low-pass with a cutoff in Hz takes over after `dt` seconds."""
    return 1 / (1 + 1 / (2 * np.pi * cutoff * dt))


class Tracker:
    """Follows everybody from frame to frame.

    Pairs of people and tracks are chosen so that their similarity is largest in all, not one
    after the other, which would let a close neighbour take somebody's place.
    """

    def __init__(self, config: Config | None = None):
        self.config = config or Config()
        self._tracks: list[Track] = []
        self._count = 0
        self._when, self._period = -np.inf, np.inf  # of the last frame, and since the one before

    def update(self, when: float, people: np.ndarray) -> list["Sighting"]:
        """Takes the people of the next frame.

        Args:
            when: its time in seconds, later than before.
            people: float32 [N, 18, 3], each with at least one joint.

        Returns:
            Everybody who was seen, in the order of the people. A track's number may still be given
            by later frames.
        """
        config = self.config
        # Where frames are far apart, all of them, nobody is given up between two.
        period, self._period = self._period, when - self._when
        least, self._when = 1.5 * min(period, self._period), when
        self._tracks = [
            track
            for track in self._tracks
            # Somebody who was seen only once or twice is soon given up.
            if when - track.seen <= max(least, config.max_gap if track.number is not None else 0.4)
        ]
        chosen = self._assign(when, people)
        groups: list[tuple[Track, list[int]]] = []
        for person in range(len(people)):
            track, parts = chosen[person]
            if parts is None:
                continue
            if track is None:
                track = Track(people[person].astype(np.float64), 0.0, when)
                self._tracks.append(track)
            groups.append((track, [person, *parts]))
        sightings = []
        for track, members in groups:
            whole = people[members[0]]
            for other in members[1:]:
                whole = np.where(skeleton.is_present(whole)[:, None], whole, people[other])
            sightings.append(Detection(track, self._take(track, when, whole), members))
        for track, _ in groups:  # from left to right
            if track.number is None and track.hits >= config.min_hits:
                track.number, self._count = self._count, self._count + 1
        return sightings

    def _assign(
        self, when: float, people: np.ndarray
    ) -> list[tuple[Track | None, list[int] | None]]:
        """The track of each person, or None, and the other people who are parts of the same one.

        The latter is None for such parts themselves.
        """
        tracks: list[Track | None] = [None] * len(people)
        parts: list[list[int] | None] = [[] for _ in people]
        if not len(people) or not self._tracks:
            return list(zip(tracks, parts, strict=True))
        least = self.config.min_similarity
        expected = np.stack([track.expected(when) for track in self._tracks])
        passed = np.array([when - track.seen for track in self._tracks])
        sizes = np.array([track.size for track in self._tracks])
        # The longer out of sight, the farther somebody may have gone.
        slack = self.config.slack * np.sqrt(1 + 4 * np.maximum(passed - 0.05, 0))
        alike = similarity(people, expected, sizes, slack)
        # Of two parts of a person the larger one comes first, and so do people known for long: a
        # passing fragment must not take their place.
        known = np.array([track.number is not None for track in self._tracks])
        share = skeleton.is_present(people).mean(-1, keepdims=True)
        worth = np.where(alike >= least, alike + 0.2 * known + 0.3 * share, 0)
        owner = {}
        for person, track in zip(*linear_sum_assignment(worth, maximize=True), strict=True):
            if alike[person, track] >= least:
                tracks[person], owner[track] = self._tracks[track], person
        # Pose networks break people up now and then. A part fits where the person's other joints
        # were seen last, and has none that the person has already.
        for person in range(len(people)):
            if tracks[person] is not None:
                continue
            for track in np.argsort(-alike[person], kind="stable"):
                whole = owner.get(track)
                if alike[person, track] < least:
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

    def _take(self, track: Track, when: float, person: np.ndarray) -> np.ndarray:
        size = size_of(person)
        present = skeleton.is_present(person)
        if track.hits:
            passed = max(when - track.seen, 1e-3)
            both = present & (track.keypoints[:, 2] > 0)
            if both.any():
                way = np.median(person[both, :2] - track.keypoints[both, :2], axis=0)
                track.velocity += _share(1.5, passed) * (way / passed - track.velocity)
            track.size += 0.3 * (size - track.size)
        else:
            track.size, track._filter = size, OneEuro(self.config)
        track.keypoints = np.where(present[:, None], person, track.keypoints)
        track.seen, track.hits = when, track.hits + 1
        assert track._filter is not None
        return track._filter(when, person, track.size)


def bridge(before: np.ndarray, after: np.ndarray, share: float) -> np.ndarray:
    """Key points float32 [18, 3] between two frames, `share` of the way from one to the other.

    Only the joints that both have; scores are the lower ones.
    """
    both = skeleton.is_present(before) & skeleton.is_present(after)
    xy = (1 - share) * before[:, :2] + share * after[:, :2]
    score = np.minimum(before[:, 2], after[:, 2])
    return np.where(both[:, None], np.c_[xy, score], 0).astype(np.float32)


def jitter(frames: Sequence[np.ndarray], still: float = 0.02) -> float:
    """Mean second difference of the joints of one person that hardly move, in shares of its size.

    Args:
        frames: key points [18, 3] of frames at an even pace.
        still: joints count where they move less than this share of the person's size over the
            five frames around.
    """
    points = np.stack(frames).astype(np.float64)
    present = skeleton.is_present(points)
    size = np.median([size_of(p) for p in points if skeleton.is_present(p).any()])
    values = []
    for t in range(2, len(points) - 2):
        window = points[t - 2 : t + 3, :, :2]
        calm = present[t - 2 : t + 3].all(0)
        calm &= np.linalg.norm(window[-1] - window[0], axis=-1) < still * size
        second = window[1] - 2 * window[2] + window[3]
        values += list(np.linalg.norm(second[calm], axis=-1) / size)
    return float(np.mean(values)) if values else float("nan")
