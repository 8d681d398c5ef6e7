"""Scores each dancer's posture by body part, with the angle that corrects it.

python launch/train.py --config=configs/qes.py --workdir=runs/qes --config.data.dir=data/stage
python launch/recognize.py --model=runs/qes --pose=mobilenet_v2_small --input=photos --output=out
python launch/feedback.py --model=runs/qes --input=out [--motion=akimbo]

Writes OUT/<stem>_feedback.json: the recognition result with `feedback` for each person. A score of
1 means the expected direction; 0.5 is average for the motion's training examples, and a score near
0 is unusual. Angles are in degrees, clockwise in the image.
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
from jdance.recognize.formats import Coco
from jdance.train.posture import PostureModel
from jdance.train.qes import POSTURE_FILE

_MODEL = flags.DEFINE_string("model", None, "Folder of a run of configs/qes.py.", required=True)
_INPUT = flags.DEFINE_string(
    "input", None, "Results of launch/recognize.py: a folder or one JSON file.", required=True
)
_MOTION = flags.DEFINE_string(
    "motion", "", "Motion that all people intend. Default: the recognized one."
)
_BELOW = flags.DEFINE_float("below", 0.1, "Print body parts that score at most this.", 0, 1)
_ENDING = "_feedback.json"


def _results(folder: Path) -> list[Path]:
    """The results in a folder and those below it, without files of other formats."""
    others = (_ENDING, Coco.suffix, "_keypoints.json")
    found = files.find_below(folder, ".json")
    return [path for path in found if not path.name.endswith(others)]


def main() -> None:
    model = PostureModel.load(Path(_MODEL.value) / POSTURE_FILE)
    source = Path(_INPUT.value)
    paths = _results(source) if source.is_dir() else [source]
    if not paths:
        raise UserError(f"{source}: no results of launch/recognize.py in it; check --input")
    if _MOTION.value:
        model.check(_MOTION.value)
    failures, unknown = [], Counter[str]()
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
                    unknown[person["motion"]] += 1
                    continue
                where = f"{path.stem}, frame {frame['index']}, person {person['track']}"
                advice = feedback.describe(assessment, _BELOW.value)
                print(f"{where}, {assessment['motion']}: {advice}")
        path.with_name(path.stem + _ENDING).write_text(json.dumps(result) + "\n")
    for motion, count in unknown.items():
        print(f"{count} without feedback: the model has no motion {motion!r}")
    print("\n".join([*failures, f"wrote {counted(len(paths) - len(failures), 'file')} *{_ENDING}"]))
    if failures:
        raise UserError(
            f"{len(failures)} of {counted(len(paths), 'result')} skipped (listed above)"
        )


if __name__ == "__main__":
    run(main)
