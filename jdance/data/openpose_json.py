"""OpenPose's JSON format for key points, which many pose estimators can write."""

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
from jdance.progress import counted, rounded

# OpenPose writes them without the networks for face and hands, too.
_EMPTY_KEYS = (
    "face_keypoints_2d", "hand_left_keypoints_2d", "hand_right_keypoints_2d", "pose_keypoints_3d",
    "face_keypoints_3d", "hand_left_keypoints_3d", "hand_right_keypoints_3d",
)  # fmt: skip


def path_for(name: str, folder: Path) -> Path:
    """Path of an image's key points; its name is the stem, or the whole name if stems are equal."""
    return folder / f"{name}_keypoints.json"


def read(path: Path, shape: tuple[int, ...] = ()) -> np.ndarray:
    """Reads the people of an image, float32 [N, 18, 3]: x, y in pixels, score.

    "pose_keypoints_2d" may be in the layout COCO-18, BODY_25 or COCO-17, inferred from its length.

    Args:
        path: of the file.
        shape: height and width of the image in pixels; (): unknown.

    Raises:
        UserError: the file is missing, has another format, or is for another image.
    """
    try:
        entries = json.loads(path.read_text())["people"]
        arrays = [np.array(entry["pose_keypoints_2d"], np.float32) for entry in entries]
        converted = [skeleton.to_coco18(array.reshape(-1, 3)) for array in arrays]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected the key points of an image") from None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError,
            MemoryError) as error:  # fmt: skip
        raise UserError(
            f"{path}: not OpenPose key points ({error}); see docs/data-formats.md"
        ) from error
    present = [person for person in converted if person.any()]
    people = np.stack(present) if present else np.zeros((0, skeleton.NUM_JOINTS, 3), np.float32)
    if shape:
        _check_pixels(path, people, *shape)
    return people


def _check_pixels(path: Path, people: np.ndarray, height: int, width: int) -> None:
    """Raises UserError if people [N, 18, 3] cannot be those of an image of this size."""
    xy = people[skeleton.is_present(people), :2]
    if not len(xy):
        return
    if xy.max() <= skeleton.MAX_FRACTION < min(height, width):
        raise UserError(
            f"{path}: its key points look like fractions of the image; write them in pixels "
            "(OpenPose's --keypoint_scale=0)"
        )
    if not ((xy >= 0) & (xy <= (width, height))).all(-1).any():
        raise UserError(
            f"{path}: its key points lie outside the image of {width} x {height} pixels; detect "
            "them in an image of this size"
        )


def path_for_frame(video: str, index: int, folder: Path) -> Path:
    """Path of the key points of a video's frame."""
    return path_for(f"{Path(video).stem}_{index:012d}", folder)


class VideoKeypoints:
    """Key points of a video's frames, in files <stem>_<number>_keypoints.json of a folder.

    Numbers may have any number of digits. Frames with missing or damaged files have no people.

    Attributes:
        problems: {frame: error message} of the frames read so far.

    Args:
        video: name of its file.
        folder: of the files.
        shape: of its frames, see `read`.

    Raises:
        UserError: the folder has no file of the video.
    """

    def __init__(self, video: str, folder: Path, shape: tuple[int, ...] = ()):
        self._shape = shape
        self._paths = video_frames(video, folder)
        self._expected = partial(path_for_frame, video, folder=folder)
        self.problems: dict[int, str] = {}
        if not self._paths:
            raise UserError(f"{self._expected(0)}: no such file; expected the key points of frames")

    def __call__(self, index: int) -> np.ndarray:
        """Reads the people in frame `index`, float32 [N, 18, 3]."""
        try:
            return read(self._paths.get(index) or self._expected(index), self._shape)
        except UserError as error:
            self.problems[index] = str(error)
            return np.zeros((0, skeleton.NUM_JOINTS, 3), np.float32)


def video_frames(video: str, folder: Path) -> dict[int, Path]:
    """Finds the files <stem>_<number>_keypoints.json of a video in a folder: {number: path}."""
    name = re.compile(re.escape(Path(video).stem) + r"_([0-9]+)_keypoints\.json")
    paths = (p for p in folder.glob("*.json") if name.fullmatch(p.name) and p.is_file())
    return {int(p.name.split("_")[-2]): p for p in sorted(paths, key=files.natural_key)}


def frames(folder: Path) -> list[Path]:
    """Lists a folder's .json files in natural order, without hidden files."""
    paths = (p for p in folder.glob("*.json") if not p.name.startswith(".") and p.is_file())
    return sorted(paths, key=files.natural_key)


def frame_indices(paths: Sequence[Path]) -> list[int]:
    """Frame indices of a clip's files, from the one number in which their names differ.

    Gaps in the numbers are missing frames. Falls back to the position in the list if several
    numbers differ, or if more frames would be missing than present.
    """
    numbers = [re.findall("[0-9]+", path.stem) for path in paths]
    if len({len(in_name) for in_name in numbers}) == 1:
        varying = [column for column in zip(*numbers, strict=True) if len(set(column)) > 1]
        if len(varying) == 1:
            counted = [int(number) for number in varying[0]]
            steps = [b - a for a, b in pairwise(counted)]
            step = math.gcd(*steps)
            if min(steps) > 0 and (counted[-1] - counted[0]) // step < 2 * len(paths):
                return [(number - counted[0]) // step for number in counted]
    return list(range(len(paths)))


def read_sequence(paths: Sequence[Path], min_joints: int = 1) -> np.ndarray:
    """Reads a clip and tracks its largest person: float32 [T, 18, 3], see `track_largest`.

    Leading and trailing frames without the person are removed. Frames without a file are all zeros.
    People with fewer than `min_joints` joints are ignored.

    Raises:
        UserError: a file has another format, or no frame has a person.
    """
    empty = np.zeros((0, skeleton.NUM_JOINTS, 3), np.float32)
    at = dict(zip(frame_indices(paths), paths, strict=True))
    track = track_largest(
        [
            with_joints(read(at[i]), min_joints) if i in at else empty
            for i in range(max(at, default=-1) + 1)
        ]
    )
    visible = np.flatnonzero(track[..., 2].any(-1))
    if not len(visible):
        raise UserError(f"no person with at least {counted(min_joints, 'joint')} in any frame")
    return track[visible[0] : visible[-1] + 1]


def with_joints(people: np.ndarray, minimum: int) -> np.ndarray:
    """Those of the people [N, 18, 3] who have a minimum number of joints."""
    return people[skeleton.is_present(people).sum(-1) >= minimum]


def track_largest(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Tracks the person who is largest in any of T frames of people [N, 18, 3].

    Tracks forwards and backwards from that frame to the person whose joints are nearest to the last
    known ones. The maximum mean distance is half the person's size, plus half of it for each missed
    frame, up to twice the size.

    Returns:
        float32 [T, 18, 3], all zeros in frames without the person.
    """
    track = np.zeros((len(frames), skeleton.NUM_JOINTS, 3), np.float32)
    sizes = [_size(people[crop.largest_person(people)]) if len(people) else 0 for people in frames]
    if not max(sizes, default=0):
        return track
    start = int(np.argmax(sizes))
    track[start] = frames[start][crop.largest_person(frames[start])]
    for direction in (range(start + 1, len(frames)), range(start - 1, -1, -1)):
        last, missed = track[start], 0
        for time in direction:
            missed += 1
            distances = [_distance(person, last) for person in frames[time]]
            if distances and min(distances) <= min(0.5 * missed, 2) * _size(last):
                last, missed = frames[time][int(np.argmin(distances))], 0
                track[time] = last
    return track


def _size(person: np.ndarray) -> float:
    """Longer side of a person's bounding box."""
    return max(crop.tight_box(person)[2:])


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """Mean distance of the common joints of two people; infinite without any."""
    both = skeleton.is_present(a) & skeleton.is_present(b)
    if not both.any():
        return np.inf
    return float(np.linalg.norm(a[both, :2] - b[both, :2], axis=-1).mean())


def to_text(people: np.ndarray, generator: str = "", tracks: Sequence[int] | None = None) -> str:
    """Returns people [N, 18, 3] in the layout COCO-18, with all keys that OpenPose writes.

    Args:
        people: x, y in pixels, score.
        generator: name of the program that made them; "": not stated.
        tracks: number of each person's track, for `person_id`; None: unknown.
    """
    entries = [
        {
            "person_id": [track],
            "pose_keypoints_2d": rounded(person, 3).reshape(-1).tolist(),
            **dict.fromkeys(_EMPTY_KEYS, ()),
        }
        for person, track in zip(people, tracks or [-1] * len(people), strict=True)
    ]
    made_by = {"generator": generator} if generator else {}
    return json.dumps({"version": 1.3, **made_by, "people": entries}) + "\n"


def write(
    path: Path, people: np.ndarray, generator: str = "", tracks: Sequence[int] | None = None
) -> None:
    """Writes people [N, 18, 3] to a JSON file; see `to_text`."""
    path.write_text(to_text(people, generator, tracks))


def read_generator(path: Path) -> str:
    """Reads the generator's name from a file; "" if it is missing."""
    try:
        return str(json.loads(path.read_text())["generator"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""
