"""Key points of one image in OpenPose's JSON format, which many estimators can write."""

import json
import math
import re
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from jdance import files, skeleton
from jdance.data import crop
from jdance.errors import UserError
from jdance.progress import rounded


def path_for(image: Path, folder: Path) -> Path:
    """Where OpenPose puts the key points of an image: FOLDER/<stem>_keypoints.json."""
    return folder / f"{image.stem}_keypoints.json"


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
        raise UserError(f"{path}: no such file; key points of an image belong there") from None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError,
            MemoryError) as error:  # fmt: skip
        raise UserError(
            f"{path}: not OpenPose key points ({error}); see docs/data-formats.md"
        ) from error
    seen = [person for person in converted if person.any()]
    return np.stack(seen) if seen else np.zeros((0, skeleton.NUM_JOINTS, 3), np.float32)


def path_for_frame(video: str, index: int, folder: Path) -> Path:
    """Where OpenPose puts the key points of a frame of a video."""
    return folder / f"{Path(video).stem}_{index:012d}_keypoints.json"


class VideoFrames:
    """The key points of a video's frames: <stem>_<number>_keypoints.json in a folder.

    Numbers may have any number of digits. A frame whose file is missing or damaged has nobody.

    Attributes:
        problems: {frame: what is wrong with its file} of those that were asked for.

    Raises:
        UserError: the folder has no file of the video.
    """

    def __init__(self, video: str, folder: Path):
        name = re.compile(re.escape(Path(video).stem) + r"_([0-9]+)_keypoints\.json")
        self._paths = {int(m[1]): p for p in frames(folder) if (m := name.fullmatch(p.name))}
        self._expected = partial(path_for_frame, video, folder=folder)
        self.problems: dict[int, str] = {}
        if not self._paths:
            raise UserError(f"{self._expected(0)}: no such file; key points of frames belong there")

    def __call__(self, index: int) -> np.ndarray:
        """People as float32 [N, 18, 3] in frame `index`."""
        try:
            return read(self._paths.get(index) or self._expected(index))
        except UserError as error:
            self.problems[index] = str(error)
            return np.zeros((0, skeleton.NUM_JOINTS, 3), np.float32)


def frames(folder: Path) -> list[Path]:
    """The .json files of a folder in natural order; hidden ones are left out."""
    found = (p for p in folder.glob("*.json") if not p.name.startswith(".") and p.is_file())
    return sorted(found, key=files.natural_key)


def places(paths: Sequence[Path]) -> list[int]:
    """The place in time of each file of a clip, from 0 on, by the number that tells them apart.

    Where a number is missing, so is a frame. It is the place in the list where names differ in
    more than a number, or more numbers are missing than there are.
    """
    numbers = [re.findall("[0-9]+", path.stem) for path in paths]
    if len({len(of_one) for of_one in numbers}) == 1:
        varying = [column for column in zip(*numbers, strict=True) if len(set(column)) > 1]
        if len(varying) == 1:
            counted = [int(number) for number in varying[0]]
            steps = [b - a for a, b in pairwise(counted)]
            step = math.gcd(*steps)
            if min(steps) > 0 and (counted[-1] - counted[0]) // step < 2 * len(paths):
                return [(number - counted[0]) // step for number in counted]
    return list(range(len(paths)))


def read_sequence(paths: Sequence[Path]) -> np.ndarray:
    """One person through the frames of a clip, a file each: float32 [T, 18, 3], see `follow`.

    Frames before the person appears and after they are gone are left out. In a frame without a
    file all joints are missing.

    Raises:
        UserError: a file is something else, or there is nobody in any of them.
    """
    empty = np.zeros((0, skeleton.NUM_JOINTS, 3), np.float32)
    at = dict(zip(places(paths), paths, strict=True))
    track = follow([read(at[i]) if i in at else empty for i in range(max(at, default=-1) + 1)])
    seen = np.flatnonzero(track[..., 2].any(-1))
    if not len(seen):
        raise UserError("nobody in any of its frames")
    return track[seen[0] : seen[-1] + 1]


def follow(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Follows one person through T frames of people [N, 18, 3], whoever is largest in any of them.

    From there, forwards and backwards, it is whose joints are nearest to where they were last seen;
    in a frame in which nobody is within half the person's size, and that again for each frame
    that was missed, up to twice the size, all joints are missing.

    Returns:
        float32 [T, 18, 3].
    """
    track = np.zeros((len(frames), skeleton.NUM_JOINTS, 3), np.float32)
    sizes = [_size(people[crop.largest(people)]) if len(people) else 0 for people in frames]
    if not max(sizes, default=0):
        return track
    start = int(np.argmax(sizes))
    track[start] = frames[start][crop.largest(frames[start])]
    for ways in (range(start + 1, len(frames)), range(start - 1, -1, -1)):
        last, missed = track[start], 0
        for time in ways:
            missed += 1
            distances = [_distance(person, last) for person in frames[time]]
            if distances and min(distances) <= min(0.5 * missed, 2) * _size(last):
                last, missed = frames[time][int(np.argmin(distances))], 0
                track[time] = last
    return track


def _size(person: np.ndarray) -> float:
    """The longer side of a person's box."""
    return max(crop.tight_box(person)[2:])


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """Mean distance of the joints that both have; infinite without any."""
    both = skeleton.is_present(a) & skeleton.is_present(b)
    if not both.any():
        return np.inf
    return float(np.linalg.norm(a[both, :2] - b[both, :2], axis=-1).mean())


def write(path: Path, people: np.ndarray, generator: str = "") -> None:
    """Writes people [N, 18, 3] as COCO-18, and what made them, if it is named."""
    entries = [{"pose_keypoints_2d": rounded(person, 3).reshape(-1).tolist()} for person in people]
    made_by = {"generator": generator} if generator else {}
    path.write_text(json.dumps({"version": 1.3, **made_by, "people": entries}) + "\n")


def generator(path: Path) -> str:
    """What a file says that it was made by; "" where there is no such file, or it does not say."""
    try:
        return str(json.loads(path.read_text())["generator"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""
