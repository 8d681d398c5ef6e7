"""Posture feedback: scores of body parts by the QES model, and corrections in words."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from jdance import skeleton
from jdance.errors import UserError
from jdance.train.posture import BodyPart, PostureModel

_POOR_SCORE = 0.25  # parts with a lower mean score are reported; the average is 0.5
_MIN_FRAMES = 5  # frames of a motion that feedback on it needs


def assess(keypoints: np.ndarray | None, motion: str, model: PostureModel) -> dict[str, Any]:
    """Scores a person's posture in a motion.

    Args:
        keypoints: float [18, 3]; None: no parts are scored.
        motion: name of the motion.
        model: the fitted posture model.

    Returns:
        {"motion", "parts": [{"part", "score", "angle"}]}, the lowest score first.

    Raises:
        UserError: the model has no such motion.
    """
    if keypoints is None:
        keypoints = np.zeros((skeleton.NUM_JOINTS, 3), np.float32)
    return {"motion": motion, "parts": _to_json(model.score_parts(keypoints, motion))}


class PostureFeedback:
    """Running means of the posture scores in a video, with memory independent of its length.

    Motions that are not in the model are skipped.
    """

    def __init__(self, model: PostureModel):
        self._model = model
        # (track, motion, part) -> count, and sums of score, sine and cosine of the angle
        self._sums: dict[tuple[int, str, str], np.ndarray] = defaultdict(lambda: np.zeros(4))

    def add(self, track: int, motion: str, keypoints: np.ndarray) -> None:
        """Adds the key points float [18, 3] of one person in one frame."""
        if motion not in self._model.classes:
            return
        for part in self._model.score_parts(keypoints, motion):
            angle = np.radians(part.angle)
            self._sums[track, motion, part.name] += (1, part.score, np.sin(angle), np.cos(angle))

    def for_track(self, track: int) -> list[dict[str, Any]]:
        """Returns the means for each motion of a track, as `assess` plus the count "frames"."""
        motions: dict[str, tuple[int, list[BodyPart]]] = {}
        for (owner, motion, name), (count, score, sine, cosine) in self._sums.items():
            if owner == track and count >= _MIN_FRAMES:
                frames, parts = motions.get(motion, (0, []))
                angle = float(np.degrees(np.arctan2(sine, cosine)))
                parts.append(BodyPart(name, score / count, angle))
                motions[motion] = max(frames, int(count)), parts
        return [
            {"motion": motion, "frames": frames, "parts": _to_json(parts)}
            for motion, (frames, parts) in motions.items()
        ]


def describe(
    assessment: dict[str, Any], below: float = _POOR_SCORE, limit: int | None = None
) -> str:
    """Formats the result of `assess` as text, for the parts that score at most `below`.

    The lowest scores come first, at most `limit` of them.
    """
    poor = [_describe_part(part) for part in assessment["parts"] if part["score"] <= below]
    return "; ".join(poor[:limit]) or "nothing to correct"


def assess_file(path: Path, model: PostureModel, motion: str = "") -> dict[str, Any]:
    """Adds feedback for every person to a result of launch/recognize.py.

    Args:
        path: the JSON file; it is not changed.
        model: the fitted posture model.
        motion: the motion that all people are meant to do; "": the recognized one.

    Returns:
        The file's content, with `feedback` for each person: the result of `assess` (angles in
        degrees, positive clockwise), or None where the model has no such motion.

    Raises:
        UserError: the file is not a result, or the model has no `motion`.
    """
    if motion:
        model.check(motion)
    try:
        content = json.loads(path.read_text())
        people = [person for frame in content["frames"] for person in frame["people"]]
        for person in people:
            keypoints = person["keypoints"]
            if keypoints is not None:
                keypoints = np.array(keypoints, np.float32).reshape(skeleton.NUM_JOINTS, 3)
            expected = motion or person["motion"]
            known = expected in model.classes
            person["feedback"] = assess(keypoints, expected, model) if known else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a result of launch/recognize.py ({error})") from error
    return content


def _describe_part(part: dict[str, Any]) -> str:
    """Formats one part: "left forearm 0.03: turn 35 degrees clockwise"."""
    direction = "clockwise" if part["angle"] > 0 else "anticlockwise"
    return f"{part['part']} {part['score']:.2f}: turn {abs(part['angle']):.0f} degrees {direction}"


def _to_json(parts: list[BodyPart]) -> list[dict[str, Any]]:
    return [
        {"part": part.name, "score": round(part.score, 4), "angle": round(part.angle, 1)}
        for part in sorted(parts, key=lambda part: part.score)
    ]
