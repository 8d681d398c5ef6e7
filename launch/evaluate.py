"""Evaluates a trained network on a split and writes DIR/eval_SPLIT.json.

python launch/evaluate.py --workdir=runs/paper --split=test
"""

import json
from pathlib import Path

import jax
import numpy as np
from absl import flags

from jdance.data import pipeline
from jdance.data.records import Dataset
from jdance.errors import UserError
from jdance.launcher import run
from jdance.training import loop, nearest_mean
from jdance.training.evaluation import Predictions, average, make_eval_step, predict, summarize

_WORKDIR = flags.DEFINE_list(
    "workdir",
    None,
    "Folder of the run. Several, with commas, are judged as an ensemble, by their mean "
    "probabilities; writes eval_SPLIT_ensemble.json to the first.",
    required=True,
)
_SPLIT = flags.DEFINE_string("split", "test", "Which part of the data set.")
_DATA = flags.DEFINE_string("data", "", "Another data set than the run's own.")
_DROP_JOINTS = flags.DEFINE_string(
    "drop_joints",
    "",
    "Judge without some joints: all (as if nobody had been found), legs (hips, knees and ankles), "
    "or a share such as 0.2, drawn for each example. Writes eval_SPLIT_without_....json.",
)
_VIEWS = flags.DEFINE_integer(
    "views",
    1,
    "Test-time augmentation: the mean probability over so many views of each example, all but the "
    "first changed at random as in training.",
    lower_bound=1,
)
_NEAREST_MEAN = flags.DEFINE_bool(
    "nearest_mean", False, "Also what the nearest class mean of the 18 features reaches."
)


def _check_drop() -> None:
    try:
        known = _DROP_JOINTS.value in ("", "all", "legs") or 0 <= float(_DROP_JOINTS.value) <= 1
    except ValueError:
        known = False
    if not known:
        raise UserError(f"--drop_joints={_DROP_JOINTS.value}: expected all, legs or 0 to 1")


def _predict(workdir: Path) -> tuple[Dataset, list[str], Predictions]:
    config, classes, variables = loop.load(workdir)
    dataset = Dataset(_DATA.value or config.data.dir)
    foreign = sorted(set(dataset.classes) - set(classes))
    if foreign:
        raise UserError(f"{dataset.folder}: the run knows no class {foreign[0]!r}, only {classes}")
    config.batch_size += -config.batch_size % jax.device_count()  # a multiple of the devices
    source, eval_step = dataset.source(_SPLIT.value), make_eval_step(config)
    views = []
    for view in range(_VIEWS.value):
        batches = pipeline.eval_batches(source, config, drop=_DROP_JOINTS.value, view=view)
        views.append(predict(eval_step, variables, batches))
    result = average(views)
    # The data set may have fewer classes than the run, and so other numbers for them.
    own = np.array([classes.index(name) for name in dataset.classes])
    return dataset, classes, result | {"label": own[result["label"]]}


def main() -> None:
    _check_drop()
    workdirs = [Path(name) for name in _WORKDIR.value]
    runs = [_predict(workdir) for workdir in workdirs]
    dataset, classes, first = runs[0]
    for workdir, (other, their_classes, predictions) in zip(workdirs, runs, strict=True):
        if their_classes != classes or not np.array_equal(predictions["label"], first["label"]):
            raise UserError(f"{workdir}: was trained on other classes, or judges {other.folder}")
    result = summarize(average([predictions for _, _, predictions in runs]), classes)
    if _NEAREST_MEAN.value:
        result["nearest_mean_accuracy"] = nearest_mean.accuracy(dataset, _SPLIT.value)
        print(f"nearest class mean of fused18: {result['nearest_mean_accuracy']:.4f}")
    suffix = "_ensemble" if len(workdirs) > 1 else ""
    suffix += f"_without_{_DROP_JOINTS.value}" if _DROP_JOINTS.value else ""
    path = workdirs[0] / f"eval_{_SPLIT.value}{suffix}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"accuracy {result['accuracy']:.4f} of {result['n']}, wrote {path}")


if __name__ == "__main__":
    run(main)
