"""Finds everybody in pictures and names their motions.

python launch/recognize.py --model=runs/paper --pose=mobilenet_v2_small --input=photos --output=out

Writes, for each picture, OUT/<stem>.json and the annotated picture beside it.
"""

import json
from collections import Counter
from pathlib import Path

from absl import flags

from jdance.data import images, openpose_json
from jdance.errors import UserError
from jdance.launcher import run
from jdance.progress import Progress
from jdance.recognize import Recognizer, annotate

_MODEL = flags.DEFINE_string("model", None, "Folder of a trained run.", required=True)
_POSE = flags.DEFINE_string(
    "pose", "", "Pose network: a name, an upstream weights file, or a checkpoint folder."
)
_INPUT = flags.DEFINE_string("input", None, "A picture or a folder of pictures.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the results.", required=True)
_KEYPOINTS = flags.DEFINE_string(
    "keypoints",
    "",
    "Key points from another estimator instead of --pose: a folder with OpenPose's "
    "<stem>_keypoints.json for each picture, or one such file for one picture.",
)
_MIN_JOINTS = flags.DEFINE_integer(
    "min_joints", 4, "Joints that a person must have to count as found.", 1, 18
)
_WHOLE_PICTURE = flags.DEFINE_bool(
    "whole_picture", False, "Where nobody is found, judge the picture as a whole."
)


def _inputs() -> list[Path]:
    path = Path(_INPUT.value)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; check --input")
    found = images.find(path) if path.is_dir() else [path]
    if not found:
        raise UserError(f"{path}: no pictures in it; check --input")
    return found


def _recognize(recognizer: Recognizer, path: Path, name: str, output: Path) -> None:
    image = images.read(path)
    keypoints = None
    if _KEYPOINTS.value:
        place = Path(_KEYPOINTS.value)
        keypoints = openpose_json.read(
            openpose_json.path_for(path, place) if place.is_dir() else place
        )
    people = recognizer(image, keypoints, whole_picture=_WHOLE_PICTURE.value)
    frame = {
        "index": 0,
        "time": 0.0,
        "people": [person.to_json(track) for track, person in enumerate(people)],
    }
    result = {
        "source": images.printable(str(path)),
        "width": image.shape[1],
        "height": image.shape[0],
        "fps": None,
        "classes": recognizer.classes,
        "frames": [frame],
    }
    suffix = path.suffix.lower() if path.suffix.lower() in (".jpg", ".jpeg") else ".png"
    images.write(output / f"{name}{suffix}", annotate(image, people, recognizer.classes))
    (output / f"{name}.json").write_text(json.dumps(result) + "\n")


def main() -> None:
    if bool(_POSE.value) == bool(_KEYPOINTS.value):
        raise UserError("give either --pose or --keypoints: one of them tells where people are")
    inputs = _inputs()
    if len(inputs) > 1 and _KEYPOINTS.value and not Path(_KEYPOINTS.value).is_dir():
        raise UserError(f"{_KEYPOINTS.value}: one file for {len(inputs)} pictures; name a folder")
    output = Path(_OUTPUT.value)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output}: cannot be written to ({error.strerror})") from error
    if any(path.parent.resolve() == output.resolve() for path in inputs):
        raise UserError(f"{output}: is the folder of the inputs; choose another --output")
    recognizer = Recognizer.load(_MODEL.value, _POSE.value or None, _MIN_JOINTS.value)
    stems = Counter(path.stem for path in inputs)
    failures = []
    progress = Progress("recognizing", len(inputs))
    for done, path in enumerate(inputs, start=1):
        try:
            name = path.stem if stems[path.stem] == 1 else path.name
            _recognize(recognizer, path, name, output)
        except UserError as error:
            named = str(path) in str(error)
            failures.append(images.printable(str(error) if named else f"{path}: {error}"))
        except OSError as error:
            failures.append(images.printable(f"{path}: {error.filename}: {error.strerror}"))
        progress.update(done)
    for failure in failures:
        print(f"skipped {failure}")
    print(f"wrote {len(inputs) - len(failures)} results to {output}")
    if failures:
        raise UserError(f"{len(failures)} of {len(inputs)} inputs skipped (listed above)")


if __name__ == "__main__":
    run(main)
