"""Key points of one picture in OpenPose's JSON format, which many estimators can write."""

import json
from pathlib import Path

import numpy as np

from jdance import skeleton
from jdance.errors import UserError


def path_for(picture: Path, folder: Path) -> Path:
    """Where OpenPose puts the key points of a picture: FOLDER/<stem>_keypoints.json."""
    return folder / f"{picture.stem}_keypoints.json"


def read(path: Path) -> np.ndarray:
    """Reads people as float32 [N, 18, 3]: x, y in pixels, score.

    Each entry of "people" has "pose_keypoints_2d", 3 numbers a joint, in the layout COCO-18,
    BODY_25 or COCO-17, told by its length.

    Raises:
        UserError: the file is missing or something else.
    """
    try:
        entries = json.loads(path.read_text())["people"]
        people = [np.array(entry["pose_keypoints_2d"], np.float32) for entry in entries]
        converted = [skeleton.to_coco18(person.reshape(-1, 3)) for person in people]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; key points of a picture belong there") from None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"{path}: not OpenPose key points ({error}); see the README") from error
    seen = [person for person in converted if person.any()]
    return np.stack(seen) if seen else np.zeros((0, skeleton.NUM_JOINTS, 3), np.float32)


def write(path: Path, people: np.ndarray) -> None:
    """Writes people [N, 18, 3] as COCO-18."""
    entries = [{"pose_keypoints_2d": np.round(p, 3).reshape(-1).tolist()} for p in people]
    path.write_text(json.dumps({"version": 1.3, "people": entries}) + "\n")
