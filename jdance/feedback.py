"""What dancers could correct: QES's judgement of the people whom recognition found."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from jdance import skeleton
from jdance.errors import UserError
from jdance.models.baselines.posture_feedback import Part, PostureModel


def judge_file(path: Path, model: PostureModel, motion: str = "") -> dict[str, Any]:
    """Adds the judgement of everybody to a result of launch/recognize.py.

    Args:
        path: its JSON file.
        model: what is usual.
        motion: what everybody is supposed to do; "": what was recognised.

    Returns:
        The file's content, in which each person has `feedback`: {"motion", "parts": [{"part",
        "score", "angle"}]}, the least usual part first, angles in degrees, positive clockwise.

    Raises:
        UserError: the file is something else, or the model does not know a motion.
    """
    try:
        content = json.loads(path.read_text())
        people = [person for frame in content["frames"] for person in frame["people"]]
        for person in people:
            keypoints = np.zeros((skeleton.NUM_JOINTS, 3), np.float32)
            if person["keypoints"] is not None:
                keypoints = np.array(person["keypoints"], np.float32).reshape(keypoints.shape)
            supposed = motion or person["motion"]
            parts = sorted(model.judge(keypoints, supposed), key=lambda part: part.score)
            person["feedback"] = {"motion": supposed, "parts": [_to_json(part) for part in parts]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a result of launch/recognize.py ({error})") from error
    return content


def sentence(part: dict[str, Any]) -> str:
    """A correction in words: "left forearm 0.03: turn 35 degrees clockwise"."""
    way = "clockwise" if part["angle"] > 0 else "anticlockwise"
    return f"{part['part']} {part['score']:.2f}: turn {abs(part['angle']):.0f} degrees {way}"


def _to_json(part: Part) -> dict[str, Any]:
    return {"part": part.name, "score": round(part.score, 4), "angle": round(part.angle, 1)}
