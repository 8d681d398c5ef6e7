"""Scores recognized StageDance videos against the ground truth, by segmental F1."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from jdance.data import openpose_json
from jdance.errors import UserError
from jdance.recognize import timeline, tracking
from jdance.recognize.smoothing import Smoothing, fit, log_evidence
from jdance.recognize.timeline import Segment
from jdance.train.calibration import UNKNOWN


@dataclass(frozen=True)
class Score:
    """Scores of one video.

    Attributes:
        f1: segmental F1 at an intersection over union of 0.5.
        accuracy: fraction of the dancers' frames with the correct motion on the correct track.
        dancers, tracks: numbers of true dancers and of recognized tracks.
    """

    f1: float
    accuracy: float
    dancers: int
    tracks: int


class Result(NamedTuple):
    """A recognized video beside its truth.

    Attributes:
        classes: names of the motions.
        frames: of the JSON file.
        segments: found motions, with the matched dancers' numbers as tracks; negative without one.
        true: true motions.
        matches: dancer of each matched track.
        min_confidence: threshold of `unknown`.
    """

    classes: list[str]
    frames: list[dict]
    segments: list[Segment]
    true: list[Segment]
    matches: dict[int, int]
    min_confidence: float


def read(result: Path, truth: Path, keypoints: Path) -> Result:
    """Reads the result for a video and matches its tracks to the dancers.

    Tracks and dancers are matched one to one, by the number of frames in which a track is closest
    to a dancer.

    Args:
        result: STEM.json of launch/recognize.py.
        truth: STEM_truth.csv of launch/stage.py.
        keypoints: folder STEM_keypoints of launch/stage.py.

    Raises:
        UserError: a file is missing or of another format.
    """
    true = timeline.read_csv(truth)
    try:
        content = json.loads(result.read_text())
        segments = [
            Segment(track["track"], s["start"], s["end"], s["motion"], s["confidence"])
            for track in content["tracks"]
            for s in track["segments"]
        ]
        frames, classes = content["frames"], content["classes"]
        min_confidence = float(content.get("min_confidence", 0.0))
        votes = _votes(frames, keypoints, result.stem)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{result}: not a result for a video ({error})") from error
    dancers = sorted({segment.track for segment in true})
    tracks = sorted({segment.track for segment in segments})
    counts = np.array([[votes[t, d] for d in dancers] for t in tracks])
    matches = {}
    if tracks:
        for row, column in zip(*linear_sum_assignment(counts, maximize=True), strict=True):
            if counts[row, column]:
                matches[tracks[row]] = dancers[column]
    matched = [replace(s, track=matches.get(s.track, -1 - s.track)) for s in segments]
    return Result(classes, frames, matched, true, matches, min_confidence)


def score_video(result: Result) -> Score:
    """Scores one video; a dancer's second track, after a loss, counts as wrong."""
    times = np.array([frame["time"] for frame in result.frames])
    return Score(
        timeline.segmental_f1(result.segments, result.true, 0.5),
        _accuracy(result.segments, result.true, times),
        len({segment.track for segment in result.true}),
        len({segment.track for segment in result.segments}),
    )


def fit_smoothing(results: Sequence[Result]) -> Smoothing:
    """Learns the smoothing of motions from the unsmoothed probabilities of videos.

    Raises:
        UserError: no frame is matched, or a true motion is not a class.
    """
    tracks = []
    for result in results:
        spans: dict[int, list[Segment]] = {}
        for segment in result.true:
            spans.setdefault(segment.track, []).append(segment)
            if segment.motion not in result.classes:
                raise UserError(f"{segment.motion} is not a class of the results; check --results")
        unknown = result.classes.index(UNKNOWN) if UNKNOWN in result.classes else None
        found: dict[int, list[tuple[float, np.ndarray, int]]] = {}
        for frame in result.frames:
            for person in frame["people"]:
                dancer = result.matches.get(person["track"])
                for span in spans[dancer] if dancer is not None else ():
                    if span.start <= frame["time"] < span.end:
                        label = result.classes.index(span.motion)
                        row = frame["time"], np.array(person["probabilities"]), label
                        found.setdefault(person["track"], []).append(row)
        for rows in found.values():
            times, probabilities, labels = map(np.array, zip(*rows, strict=True))
            logs = log_evidence(probabilities, unknown, result.min_confidence)
            tracks.append((times, logs, labels))
    if not tracks:
        raise UserError("no dancer was found in the results; check --results")
    return fit(tracks)


def _votes(frames: Sequence[dict], folder: Path, stem: str) -> Counter[tuple[int, int]]:
    """Counts the frames in which a dancer is closest to a track: {(track, dancer): count}."""
    votes = Counter[tuple[int, int]]()
    for frame in frames:
        dancers = openpose_json.read(openpose_json.path_for_frame(stem, frame["index"], folder))
        people = np.array([p["keypoints"] for p in frame["people"]]).reshape(-1, 18, 3)
        if not len(dancers) or not len(people):
            continue
        sizes = np.array([tracking.body_scale(dancer) for dancer in dancers])
        similarity = tracking.similarity(people, dancers, sizes)
        for person, row in zip(frame["people"], similarity, strict=True):
            if row.max() > 0.3:
                votes[person["track"], int(row.argmax())] += 1
    return votes


def _accuracy(found: Sequence[Segment], true: Sequence[Segment], times: np.ndarray) -> float:
    correct = total = 0
    for segment in true:
        inside = times[(times >= segment.start) & (times < segment.end)]
        total += len(inside)
        correct += sum(
            any(
                (s.track, s.motion) == (segment.track, segment.motion) and s.start <= t < s.end
                for s in found
            )
            for t in inside
        )
    return correct / max(total, 1)
