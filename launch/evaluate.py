"""Evaluates a trained network on a split and writes DIR/eval_SPLIT.json.

python launch/evaluate.py --workdir=runs/paper --split=test
"""

import json
from pathlib import Path

import jax
from absl import flags

from jdance.data import pipeline
from jdance.data.records import Dataset
from jdance.errors import UserError
from jdance.launcher import run
from jdance.training import loop, nearest_mean
from jdance.training.evaluation import make_eval_step, predict, summarize

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
_SPLIT = flags.DEFINE_string("split", "test", "Which part of the data set.")
_DATA = flags.DEFINE_string("data", "", "Another data set than the run's own.")
_DROP_KEYPOINTS = flags.DEFINE_bool(
    "drop_keypoints", False, "As if nobody had been found; writes eval_SPLIT_no_keypoints.json."
)
_NEAREST_MEAN = flags.DEFINE_bool(
    "nearest_mean", False, "Also what the nearest class mean of the 18 features reaches."
)


def main() -> None:
    workdir = Path(_WORKDIR.value)
    config, classes, variables = loop.load(workdir)
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
    suffix = "_no_keypoints" if _DROP_KEYPOINTS.value else ""
    path = workdir / f"eval_{_SPLIT.value}{suffix}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"accuracy {result['accuracy']:.4f} of {result['n']}, wrote {path}")


if __name__ == "__main__":
    run(main)
