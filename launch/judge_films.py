"""Scores recognized videos of StageDance by segment-level F1 of their timelines.

python launch/stage.py --output=films --video --scenes=6 --seed=1001
python launch/recognize.py --model=runs/quickstart --pose=stage --input=films --output=out
python launch/judge_films.py --films=films --results=out
"""

from pathlib import Path

import numpy as np
from absl import flags

from jdance.cli import run
from jdance.errors import UserError
from jdance.progress import counted
from jdance.recognize.score import judge

_FILMS = flags.DEFINE_string("films", None, "Folder by launch/stage.py --video.", required=True)
_RESULTS = flags.DEFINE_string(
    "results", None, "Folder of launch/recognize.py's results for these videos.", required=True
)
_ENDING = "_truth.csv"


def main() -> None:
    films = Path(_FILMS.value)
    truths = sorted(films.glob(f"*{_ENDING}"))
    if not truths:
        raise UserError(f"{films}: no films of launch/stage.py --video in it; check --films")
    scores = []
    for truth in truths:
        stem = truth.name.removesuffix(_ENDING)
        score = judge(Path(_RESULTS.value) / f"{stem}.json", truth, films / f"{stem}_keypoints")
        scores.append(score)
        print(
            f"{stem}: F1@50 {score.f1:.3f}, {score.accuracy:.3f} of the time right, "
            f"{counted(score.tracks, 'track')} of {counted(score.dancers, 'dancer')}"
        )
    f1 = np.array([score.f1 for score in scores])
    print(
        f"{len(scores)} films: F1@50 {f1.mean():.3f}, standard deviation {f1.std():.3f}, "
        f"least {f1.min():.3f}; {np.mean([s.accuracy for s in scores]):.3f} of the time right"
    )


if __name__ == "__main__":
    run(main)
