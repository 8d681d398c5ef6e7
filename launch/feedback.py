"""Tells dancers what to correct: a score for each body part, and the angle to turn it by.

python launch/train.py --config=configs/qes.py --workdir=runs/qes --config.data.dir=data/stage
python launch/recognize.py --model=runs/qes --pose=mobilenet_v2_small --input=photos --output=out
python launch/feedback.py --model=runs/qes --input=out [--motion=akimbo]

Writes OUT/<stem>_feedback.json: the result with each person's `feedback`. A score of 1 is
typical of the motion's training examples; angles are in degrees, positive clockwise in the image.
"""

import json
from collections import Counter
from pathlib import Path

from absl import flags

from jdance import files
from jdance.cli import run
from jdance.errors import UserError
from jdance.progress import counted
from jdance.recognize import feedback
from jdance.train.posture import PostureModel
from jdance.train.qes import POSTURE_FILE

_MODEL = flags.DEFINE_string("model", None, "Folder of a run of configs/qes.py.", required=True)
_INPUT = flags.DEFINE_string(
    "input", None, "Results of launch/recognize.py: a folder or one JSON file.", required=True
)
_MOTION = flags.DEFINE_string(
    "motion", "", "Motion that all people are meant to do. Default: the recognized one."
)
_BELOW = flags.DEFINE_float("below", 0.1, "Print body parts with a score of at most this.", 0, 1)
_ENDING = "_feedback.json"


def main() -> None:
    model = PostureModel.load(Path(_MODEL.value) / POSTURE_FILE)
    place = Path(_INPUT.value)
    paths = sorted(place.glob("*.json"), key=files.natural_key) if place.is_dir() else [place]
    paths = [path for path in paths if not path.name.endswith(_ENDING)]
    if not paths:
        raise UserError(f"{place}: no results of launch/recognize.py in it; check --input")
    if _MOTION.value:
        model.check(_MOTION.value)
    failures, without = [], Counter[str]()
    for path in paths:
        try:
            result = feedback.assess_file(path, model, _MOTION.value)
        except UserError as error:
            failures.append(f"skipped {error}")
            continue
        for frame in result["frames"]:
            for person in frame["people"]:
                assessment = person["feedback"]
                if assessment is None:
                    without[person["motion"]] += 1
                    continue
                named = f"{path.stem}, frame {frame['index']}, person {person['track']}"
                print(f"{named}, {assessment['motion']}: {feedback.advice(assessment, _BELOW.value)}")
        target = path.with_name(path.stem + _ENDING)
        target.write_text(json.dumps(result) + "\n")
    for motion, count in without.items():
        print(f"{count} without feedback: the model knows no motion {motion!r}")
    print("\n".join([*failures, f"wrote {counted(len(paths) - len(failures), 'file')} *{_ENDING}"]))
    if failures:
        raise UserError(
            f"{len(failures)} of {counted(len(paths), 'result')} skipped (listed above)"
        )


if __name__ == "__main__":
    run(main)
