"""Scores recognized StageDance videos by the segment-level F1 of their timelines.

python launch/stage.py --output=videos --video --scenes=6 --seed=1001
python launch/recognize.py --model=runs/quickstart --pose=stage --input=videos --output=out
python launch/score_videos.py --truth=videos --results=out
python launch/score_videos.py --truth=videos --results=out --fit   # smoothing over time
"""

from pathlib import Path

import numpy as np
from absl import flags

from jdance.cli import former_name, run
from jdance.errors import UserError
from jdance.progress import counted
from jdance.recognize.score import fit_smoothing, read, score_video

_TRUTH = flags.DEFINE_string(
    "truth", None, "Folder of videos by launch/stage.py --video.", required=True
)
former_name("films", "truth")
_RESULTS = flags.DEFINE_string(
    "results", None, "Folder of their results by launch/recognize.py.", required=True
)
_FIT = flags.DEFINE_bool(
    "fit", False, "Learn the two parameters of jdance/recognize/smoothing.py from the results."
)
_ENDING = "_truth.csv"


def main() -> None:
    videos = Path(_TRUTH.value)
    truths = sorted(videos.glob(f"*{_ENDING}"))
    if not truths:
        raise UserError(f"{videos}: no videos by launch/stage.py --video in it; check --truth")
    results, scores = [], []
    for truth in truths:
        stem = truth.name.removesuffix(_ENDING)
        results.append(
            read(Path(_RESULTS.value) / f"{stem}.json", truth, videos / f"{stem}_keypoints")
        )
        scores.append(score := score_video(results[-1]))
        print(
            f"{stem}: F1@50 {score.f1:.3f}, {score.accuracy:.3f} of the time right, "
            f"{counted(score.tracks, 'track')} of {counted(score.dancers, 'dancer')}"
        )
    f1 = np.array([score.f1 for score in scores])
    print(
        f"{len(scores)} videos: F1@50 {f1.mean():.3f}, standard deviation {f1.std():.3f}, "
        f"min {f1.min():.3f}; {np.mean([s.accuracy for s in scores]):.3f} of the time right"
    )
    if _FIT.value:
        print(fit_smoothing(results))


if __name__ == "__main__":
    run(main)
