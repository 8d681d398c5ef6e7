"""What dancers could correct: QES's judgement of the people whom recognition found."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from jdance import skeleton
from jdance.errors import UserError
from jdance.train.posture import BodyPart, PostureModel

_POOR = 0.25  # mean scores under this are worth a word; who does as most do has 0.5 on average
_FEWEST = 5  # frames of a motion that advice on it needs


def assess(keypoints: np.ndarray | None, motion: str, model: PostureModel) -> dict[str, Any]:
    """How a person [18, 3] does a motion: {"motion", "parts": [{"part", "score", "angle"}]}.

    The least usual part comes first; there is none where there are no key points.

    Raises:
        UserError: the model does not know the motion.
    """
    if keypoints is None:
        keypoints = np.zeros((skeleton.NUM_JOINTS, 3), np.float32)
    parts = sorted(model.assess(keypoints, motion), key=lambda part: part.score)
    return {"motion": motion, "parts": [_to_json(part) for part in parts]}


class Advice:
    """Gathers how the dancers of a video do their motions; memory does not grow with its length.

    Motions that the model does not know are left out.
    """

    def __init__(self, model: PostureModel):
        self._model = model
        # Of a track, a motion and a part: frames, and sums of score, sine and cosine of the angle.
        self._sums: dict[tuple[int, str, str], np.ndarray] = defaultdict(lambda: np.zeros(4))

    def add(self, track: int, motion: str, keypoints: np.ndarray) -> None:
        """A dancer float [18, 3] in one frame."""
        if motion not in self._model.classes:
            return
        for part in self._model.assess(keypoints, motion):
            turn = np.radians(part.angle)
            self._sums[track, motion, part.name] += (1, part.score, np.sin(turn), np.cos(turn))

    def of(self, track: int) -> list[dict[str, Any]]:
        """Of each motion of a track: as `judge`, with the means over its `frames`."""
        motions: dict[str, tuple[int, list[BodyPart]]] = {}
        for (who, motion, name), (count, score, sine, cosine) in self._sums.items():
            if who == track and count >= _FEWEST:
                most, parts = motions.get(motion, (0, []))
                angle = float(np.degrees(np.arctan2(sine, cosine)))
                parts.append(BodyPart(name, score / count, angle))
                motions[motion] = max(most, int(count)), parts
        return [
            {
                "motion": motion,
                "frames": frames,
                "parts": [_to_json(part) for part in sorted(parts, key=lambda part: part.score)],
            }
            for motion, (frames, parts) in motions.items()
        ]


def advice(assessment: dict[str, Any], below: float = _POOR, most: int | None = None) -> str:
    """What `judge` says in words: the parts with a score of at most `below`, the worst first.

    At most so many of them; None: all.
    """
    poor = [sentence(part) for part in assessment["parts"] if part["score"] <= below]
    return "; ".join(poor[:most]) or "nothing to correct"


def assess_file(path: Path, model: PostureModel, motion: str = "") -> dict[str, Any]:
    """Adds the judgement of everybody to a result of launch/recognize.py.

    Args:
        path: its JSON file.
        model: what is usual.
        motion: what everybody is supposed to do; "": what was recognised.

    Returns:
        The file's content, in which each person has `feedback`: {"motion", "parts": [{"part",
        "score", "angle"}]}, the least usual part first, angles in degrees, positive clockwise; None
        where the model does not know what was recognised, such as "unknown".

    Raises:
        UserError: the file is something else, or the model does not know `motion`.
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


def sentence(part: dict[str, Any]) -> str:
    """A correction in words: "left forearm 0.03: turn 35 degrees clockwise"."""
    way = "clockwise" if part["angle"] > 0 else "anticlockwise"
    return f"{part['part']} {part['score']:.2f}: turn {abs(part['angle']):.0f} degrees {way}"


def _to_json(part: BodyPart) -> dict[str, Any]:
    return {"part": part.name, "score": round(part.score, 4), "angle": round(part.angle, 1)}
