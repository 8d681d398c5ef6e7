"""Recognised videos of StageDance judged against what the dancers did: segment-level F1."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from jdance.data import openpose_json
from jdance.errors import UserError
from jdance.recognize import timeline, tracking
from jdance.recognize.timeline import Segment


@dataclass(frozen=True)
class Score:
    """How well a video was recognised.

    Attributes:
        f1: segmental F1 at an intersection over union of 0.5.
        accuracy: share of the dancers' time, by frames, with the right motion on the right track.
        dancers, tracks: how many there are, and how many were followed.
    """

    f1: float
    accuracy: float
    dancers: int
    tracks: int


def score_video(result: Path, truth: Path, keypoints: Path) -> Score:
    """Judges one video.

    Each dancer is given the one track that is nearest to them in most frames. A second track of
    the same dancer, after the first was lost, counts as wrong, and so does one of nobody.

    Args:
        result: STEM.json of launch/recognize.py.
        truth: STEM_truth.csv of launch/stage.py.
        keypoints: folder STEM_keypoints of launch/stage.py.

    Raises:
        UserError: one of them is missing or something else.
    """
    true = timeline.read_csv(truth)
    try:
        content = json.loads(result.read_text())
        segments = [
            Segment(track["track"], s["start"], s["end"], s["motion"], s["confidence"])
            for track in content["tracks"]
            for s in track["segments"]
        ]
        frames = content["frames"]
        votes = _votes(frames, keypoints, result.stem)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{result}: not a result for a video ({error})") from error
    dancers = sorted({segment.track for segment in true})
    tracks = sorted({segment.track for segment in segments})
    counts = np.array([[votes.get((t, d), 0) for d in dancers] for t in tracks])
    chosen = {}
    if tracks:
        for row, column in zip(*linear_sum_assignment(counts, maximize=True), strict=True):
            if counts[row, column]:
                chosen[tracks[row]] = dancers[column]
    named = [replace(s, track=chosen.get(s.track, -1 - s.track)) for s in segments]
    f1 = timeline.f1_at(named, true, 0.5)
    accuracy = _accuracy(named, true, np.array([frame["time"] for frame in frames]))
    return Score(f1, accuracy, len(dancers), len(tracks))


def _votes(frames: Sequence[dict], folder: Path, stem: str) -> dict[tuple[int, int], int]:
    """How many frames each track (first) is nearest to each dancer (second), from the left."""
    votes: dict[tuple[int, int], int] = {}
    for frame in frames:
        dancers = openpose_json.read(openpose_json.path_for_frame(stem, frame["index"], folder))
        people = np.array([p["keypoints"] for p in frame["people"]]).reshape(-1, 18, 3)
        if not len(dancers) or not len(people):
            continue
        sizes = np.array([tracking.size_of(dancer) for dancer in dancers])
        alike = tracking.similarity(people, dancers, sizes)
        for person, row in zip(frame["people"], alike, strict=True):
            if row.max() > 0.3:
                key = person["track"], int(row.argmax())
                votes[key] = votes.get(key, 0) + 1
    return votes


def _accuracy(found: Sequence[Segment], true: Sequence[Segment], times: np.ndarray) -> float:
    right = total = 0
    for segment in true:
        inside = times[(times >= segment.start) & (times < segment.end)]
        total += len(inside)
        right += sum(
            any(
                (s.track, s.motion) == (segment.track, segment.motion) and s.start <= t < s.end
                for s in found
            )
            for t in inside
        )
    return right / max(total, 1)
