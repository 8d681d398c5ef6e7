"""Judging finished runs: motion networks, alone or as an ensemble, and pose networks."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jdance.data import pipeline
from jdance.data.records import Dataset
from jdance.errors import UserError
from jdance.training import calibration, experiment, loop, tasks
from jdance.training.checkpoints import NEWEST, suffix
from jdance.training.evaluation import (
    Predictions,
    average,
    judged,
    make_eval_step,
    predict,
)


def judge(
    workdirs: Sequence[Path],
    split: str,
    *,
    data: str = "",
    drop_joints: str = "",
    views: int = 1,
    checkpoint: str = NEWEST,
) -> tuple[dict[str, Any], Path]:
    """Judges a run on a split and writes the result beside it.

    Args:
        workdirs: folders of runs. Several motion networks are judged as an ensemble, by their mean
            probabilities.
        split: which part of the data set.
        data: another data set than the run's own.
        drop_joints: see `pipeline.eval_batches`.
        views: mean probability over so many views of each example, all but the first changed at
            random as in training.
        checkpoint: which one of each run, see `Checkpoints.step_of`.

    Returns:
        The result (see `evaluation.judged` and `pose.evaluation.average_precision`), and the file
        in the first folder that holds it: eval_SPLIT[_ensemble][_without_...][_best|_stepN].json.

    Raises:
        UserError: a folder holds no finished run, or the data does not suit it.
    """
    config, classes = experiment.read(workdirs[0])
    if config.task == "pose":
        if len(workdirs) > 1:
            raise UserError(f"{workdirs[0]}: a pose network; only motion networks make an ensemble")
        _, classes, variables = loop.load(workdirs[0], checkpoint)
        dataset = Dataset(data or config.data.dir, "people")
        result = tasks.make(config, classes).evaluate(variables, dataset, split)
    else:
        loaded = (loop.load(workdir, checkpoint) for workdir in workdirs)
        runs = [_predict(*run, split, data, drop_joints, views) for run in loaded]
        folder, _, first = runs[0]
        for workdir, (other, theirs, predictions) in zip(workdirs, runs, strict=True):
            if theirs != classes or not np.array_equal(predictions["label"], first["label"]):
                raise UserError(f"{workdir}: was trained on other classes, or judges {other}")
        joint = average([predictions for _, _, predictions in runs])
        result = judged(joint, classes, folder, split)
    name = split + ("_ensemble" if len(workdirs) > 1 else "")
    name += (f"_without_{drop_joints}" if drop_joints else "") + suffix(checkpoint)
    return result, write(result, workdirs[0], name)


def write(result: dict[str, Any], workdir: Path, name: str) -> Path:
    """Writes an evaluation's result to WORKDIR/eval_NAME.json, which it returns."""
    path = workdir / f"eval_{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    return path


def calibrate(
    workdir: Path, split: str, *, data: str = "", checkpoint: str = NEWEST
) -> tuple[dict[str, Any], Path]:
    """Fits a motion network's temperature on a split and keeps it with the run.

    Every checkpoint has a temperature of its own.

    Returns:
        See `calibration.calibrate`.

    Raises:
        UserError: the folder holds no finished run of a motion network, or the data does not suit.
    """
    config, _ = experiment.read(workdir)
    if config.task == "pose":
        raise UserError(f"{workdir}: a pose network; only motion networks can be calibrated")
    _, _, predictions = _predict(*loop.load(workdir, checkpoint), split, data, "", 1)
    return calibration.calibrate(
        predictions["probabilities"], predictions["label"], split, workdir, checkpoint
    )


def _predict(
    config: ConfigDict,
    classes: list[str],
    variables: Any,
    split: str,
    data: str,
    drop_joints: str,
    views: int,
) -> tuple[Path, list[str], Predictions]:
    dataset = Dataset(data or config.data.dir)
    foreign = sorted(set(dataset.classes) - set(classes))
    if foreign:
        raise UserError(f"{dataset.folder}: the run knows no class {foreign[0]!r}, only {classes}")
    config.batch_size += -config.batch_size % jax.device_count()  # a multiple of the devices
    source, eval_step = dataset.source(split), make_eval_step(config)
    parts = []
    for view in range(views):
        batches = pipeline.eval_batches(source, config, drop=drop_joints, view=view)
        parts.append(predict(eval_step, variables, batches))
    result = average(parts)
    # The data set may have fewer classes than the run, and so other numbers for them.
    own = np.array([classes.index(name) for name in dataset.classes])
    return dataset.folder, classes, result | {"label": own[result["label"]]}
