"""Evaluates a trained network on a split and writes DIR/eval_SPLIT.json.

python launch/evaluate.py --workdir=runs/paper --split=test
python launch/evaluate.py --workdir=runs/pose_stage --split=test
python launch/evaluate.py --pose=mobilenet_v2_small --data=data/pose --split=test

Motion networks: accuracy and confusion. Pose networks: AP, AP50, AP75 and AR by COCO's own program,
of a run or of whatever --pose takes; --data is what launch/prepare.py --for=pose wrote.
"""

import json
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict

from jdance.data import pipeline
from jdance.data.records import Dataset
from jdance.errors import UserError
from jdance.launcher import run
from jdance.pose import PoseEstimator
from jdance.pose.evaluation import average_precision
from jdance.training import loop, nearest_mean, tasks
from jdance.training.evaluation import make_eval_step, predict, summarize

_WORKDIR = flags.DEFINE_string("workdir", "", "Folder of the run.")
_POSE = flags.DEFINE_string("pose", "", "A pose network instead of a run; needs --data.")
_SPLIT = flags.DEFINE_string("split", "test", "Which part of the data set.")
_DATA = flags.DEFINE_string("data", "", "Another data set than the run's own.")
_DROP_KEYPOINTS = flags.DEFINE_bool(
    "drop_keypoints", False, "As if nobody had been found; writes eval_SPLIT_no_keypoints.json."
)
_NEAREST_MEAN = flags.DEFINE_bool(
    "nearest_mean", False, "Also what the nearest class mean of the 18 features reaches."
)


def _evaluate_motions(config: ConfigDict, classes: list[str], variables: Any) -> dict[str, Any]:
    dataset = Dataset(_DATA.value or config.data.dir)
    if dataset.classes != classes:
        raise UserError(f"{dataset.folder}: its classes are not those of the run: {classes}")
    config.batch_size += -config.batch_size % jax.device_count()  # a multiple of the devices
    batches = pipeline.eval_batches(dataset.source(_SPLIT.value), config)
    if _DROP_KEYPOINTS.value:
        batches = map(pipeline.without_keypoints, batches)
    result = summarize(predict(make_eval_step(config), variables, batches), classes)
    if _NEAREST_MEAN.value:
        result["nearest_mean_accuracy"] = nearest_mean.accuracy(dataset, _SPLIT.value)
        print(f"nearest class mean of fused18: {result['nearest_mean_accuracy']:.4f}")
    print(f"accuracy {result['accuracy']:.4f} of {result['n']}")
    return result


def _print_precision(result: dict[str, Any]) -> None:
    numbers = ", ".join(f"{name} {result[name]:.4f}" for name in ("AP", "AP50", "AP75", "AR"))
    print(f"{numbers} on {result['n']} pictures")


def main() -> None:
    if bool(_WORKDIR.value) == bool(_POSE.value):
        raise UserError("give either --workdir, a run, or --pose, a pose network")
    if _POSE.value:
        if not _DATA.value:
            raise UserError("--pose needs --data, what launch/prepare.py --for=pose wrote")
        source = Dataset(_DATA.value, "people").source(_SPLIT.value)
        _print_precision(average_precision(PoseEstimator.load(_POSE.value), source))
        return
    workdir = Path(_WORKDIR.value)
    config, classes, variables = loop.load(workdir)
    if config.task == "pose":
        dataset = Dataset(_DATA.value or config.data.dir, "people")
        result = tasks.make(config, classes).evaluate(variables, dataset, _SPLIT.value)
        _print_precision(result)
    else:
        result = _evaluate_motions(config, classes, variables)
    suffix = "_no_keypoints" if _DROP_KEYPOINTS.value else ""
    path = workdir / f"eval_{_SPLIT.value}{suffix}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    run(main)
