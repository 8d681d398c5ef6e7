"""Evaluation of finished runs: motion networks, single or ensembles, and pose networks."""

import json
import re
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jdance import files, models
from jdance.data import loader, records
from jdance.data.records import Dataset
from jdance.errors import UserError
from jdance.models import fused
from jdance.remote import objects
from jdance.train import baselines, calibration, experiment, loop, motion, tasks
from jdance.train.checkpoints import NEWEST, suffix
from jdance.train.evaluation import Predictions, average, make_eval_step, predict, summarize


def evaluate(
    workdirs: Sequence[Path],
    split: str,
    *,
    data: str = "",
    drop_joints: str = "",
    views: int = 1,
    checkpoint: str = NEWEST,
    output: Path | None = None,
    with_baselines: bool = False,
) -> tuple[dict[str, Any], Path]:
    """Evaluates a run on a split and writes the result.

    Args:
        workdirs: folders of runs. Several motion networks form an ensemble: their probabilities
            are averaged.
        split: of the data set.
        data: folder of a data set, by default the run's own.
        drop_joints: see `loader.eval_batches`.
        views: number of augmented views per example to average, see `loader.eval_batches`.
        checkpoint: of each run, see `Checkpoints.resolve`.
        output: folder for the result, by default that of the first run.
        with_baselines: whether to compare with the baselines of the first run, see
            `baselines.compare`; their result is added as "baselines".

    Returns:
        The result (see `evaluation.summarize` and `pose.evaluation.average_precision`) with data,
        split, views, drop_joints, checkpoint, step, and calibration if there are branch weights
        (an ensemble: runs with these two); and its file,
        eval_SPLIT[_ensemble][_on_DATA][_without_...][_viewsN][_best|_stepN].json.

    Raises:
        UserError: a folder holds no finished run, the data set does not fit it or (without `data`)
            is not the one it was trained on, the runs of an ensemble evaluate different examples,
            or the baselines lack scikit-learn or the training data.
    """
    config, classes = experiment.read(workdirs[0])
    if config.task == "pose":
        if len(workdirs) > 1:
            raise UserError(f"{workdirs[0]}: a pose network; only motion networks make an ensemble")
        if views > 1 or drop_joints or with_baselines:
            raise UserError(f"{workdirs[0]}: a pose network; only motion networks have --views, "
                            "--drop_joints and --baselines")  # fmt: skip
        run = loop.restore(workdirs[0], checkpoint)
        dataset, members = _dataset(workdirs[0], config, data, split), [{"step": run.step}]
        result = tasks.make(config, classes).evaluate(run.variables, dataset, split)
        result |= {"data": dataset.name, "split": split}
    else:
        train = _training_data(workdirs[0], config) if with_baselines else None
        members, runs = [], []
        for workdir in workdirs:
            run = loop.restore(workdir, checkpoint)
            members.append({"step": run.step} | _calibration(workdir, checkpoint, run.step, split))
            other = _dataset(workdir, run.config, data, split)
            runs.append((other, *_predict(run, other, split, drop_joints, views)))
        dataset, _, first = runs[0]
        for workdir, (other, run_classes, predictions) in zip(workdirs, runs, strict=True):
            if (
                run_classes != classes
                or not np.array_equal(predictions["label"], first["label"])
                or _checksums(other, split) != _checksums(dataset, split)
            ):
                raise UserError(
                    f"{workdir}: was trained on other classes, or evaluates {other.name}; an "
                    "ensemble needs the same classes and examples, such as those of one --data"
                )
        averaged = average([predictions for _, _, predictions in runs])
        groups = records.read_groups(dataset.source(split))
        result = summarize(averaged, classes, dataset.name, split, groups)
        if train is not None:
            result["baselines"] = baselines.compare(
                config, classes, train, dataset, split, averaged, groups,
                drop=drop_joints, views=views,
            )  # fmt: skip
    result |= {"views": views, "drop_joints": drop_joints, "checkpoint": checkpoint}
    if len(workdirs) == 1:
        result |= {"workdir": str(workdirs[0])} | members[0]
    else:
        result["runs"] = [
            {"workdir": str(workdir)} | member
            for workdir, member in zip(workdirs, members, strict=True)
        ]
    name = split + ("_ensemble" if len(workdirs) > 1 else "")
    same_place = _resolved(data) == _resolved(config.data.dir)
    if data and not (same_place and _is_own(workdirs[0], dataset)):
        name += f"_on_{short_name(data)}"
    name += f"_without_{drop_joints}" if drop_joints else ""
    name += (f"_views{views}" if views > 1 else "") + suffix(checkpoint)
    return result, write(result, output or workdirs[0], name)


def _calibration(workdir: Path, checkpoint: str, step: int, split: str) -> dict[str, Any]:
    """{"calibration": branch weights and their split}, {} without; warns if it is `split`."""
    fitted = calibration.fitted_branches(workdir, checkpoint, step)
    if fitted and fitted["split"] == split:
        print(
            f"warning: {workdir}: the weights of its branches were fitted on {split}, the split "
            "that is evaluated; calibrate on another",
            file=sys.stderr,
        )
    return {"calibration": fitted} if fitted else {}


def _dataset(workdir: Path, config: ConfigDict, data: str, split: str) -> Dataset:
    """The data set to evaluate a run on: `data`, or its own.

    Raises:
        UserError: the split is damaged, or the run's own data set is not that of its training.
    """
    dataset = Dataset(data or config.data.dir, tasks.data_kind(config))
    dataset.verify_checksums([split])
    if not data and not _is_own(workdir, dataset):
        raise UserError(
            f"{dataset.name}: is not the data that {workdir} was trained on; prepare that again, "
            f"or add --data={dataset.name} to evaluate on this as other data"
        )
    return dataset


def _is_own(workdir: Path, dataset: Dataset) -> bool:
    """Whether a run was trained on a data set, as far as known."""
    return experiment.fingerprint(workdir) in ("", dataset.fingerprint())


def _checksums(dataset: Dataset, split: str) -> list[str] | None:
    """Of the shards of a split; None for data sets from before there were checksums."""
    return dataset.info["splits"][split].get("checksums")


def _training_data(workdir: Path, config: ConfigDict) -> Dataset:
    """The data set of a run, for its baselines.

    Raises:
        UserError: scikit-learn is not installed, or the data is missing or has changed.
    """
    baselines.require()
    try:
        dataset = Dataset(config.data.dir)
    except UserError as error:
        raise UserError(f"--baselines needs the training data of {workdir}: {error}") from error
    if not _is_own(workdir, dataset):
        raise UserError(
            f"{dataset.name}: is not the data that {workdir} was trained on, which --baselines "
            "needs; prepare that again, or train again"
        )
    return dataset


def _resolved(folder: str) -> str:
    """The absolute path of a data set, or its address in a store."""
    return folder.rstrip("/") if objects.is_remote(folder) else str(Path(folder).resolve())


def short_name(data: str) -> str:
    """A unique name for a data set, fit for use in a file name."""
    folder = _resolved(data)
    name = re.sub(r"[^\w.=+-]+", "_", folder.rpartition("/")[2])[:60]
    return f"{name}-{zlib.crc32(folder.encode()):08x}"


def write(result: dict[str, Any], folder: Path, name: str) -> Path:
    """Writes a result to FOLDER/eval_NAME.json and returns this path.

    Raises:
        UserError: the folder cannot be written to.
    """
    path = folder / f"eval_{name}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files.atomic_write(path, json.dumps(result, indent=2) + "\n")
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written to ({error.strerror}); name another folder with --output"
        ) from error
    return path


def calibrate(
    workdir: Path, split: str, *, data: str = "", checkpoint: str = NEWEST
) -> tuple[dict[str, Any], Path]:
    """Fits the temperature of a motion network's checkpoint on a split.

    Returns:
        See `calibration.calibrate`.

    Raises:
        UserError: the folder holds no finished run of a motion network, or the data set does not
            fit it or (without `data`) is not the one it was trained on.
    """
    config, _ = experiment.read(workdir)
    if config.task == "pose":
        raise UserError(f"{workdir}: a pose network; only motion networks can be calibrated")
    run = loop.restore(workdir, checkpoint)
    dataset = _dataset(workdir, config, data, split)
    weights: list[float] = []
    branches = run.variables.get("batch_stats", {}).get(fused.BRANCH_WEIGHTS)
    if branches is not None:
        each = []
        for only in np.eye(branches.shape[-1]):  # the probabilities of one branch by itself
            alone = run._replace(variables=fused.with_branch_weights(run.variables, only.tolist()))
            _, found = _predict(alone, dataset, split, "", 1)
            each.append(np.log(np.maximum(found["probabilities"], 1e-30)))
        weights = calibration.fit_branches(np.stack(each, 1), found["label"]).tolist()
        run = run._replace(variables=fused.with_branch_weights(run.variables, weights))
    classes, predictions = _predict(run, dataset, split, "", 1)
    return calibration.calibrate(
        predictions["probabilities"],
        predictions["label"],
        split,
        workdir,
        checkpoint,
        classes,
        weights,
        run.step,
    )


def _predict(
    run: loop.Restored, dataset: Dataset, split: str, drop_joints: str, views: int
) -> tuple[list[str], Predictions]:
    config, classes = run.config, run.classes
    motion.check_fits(dataset, config.model)
    unknown = sorted(set(dataset.classes) - set(classes))
    if unknown:
        raise UserError(f"{dataset.name}: the run knows no class {unknown[0]!r}, only {classes}")
    config.batch_size += -config.batch_size % jax.device_count()  # rounded up to a multiple
    source, eval_step = dataset.source(split), make_eval_step(config)
    inputs = models.inputs(config.model)
    per_view = []
    for view in range(views):
        batches = loader.eval_batches(source, config, inputs, drop=drop_joints, view=view)
        per_view.append(predict(eval_step, run.variables, batches))
    result = average(per_view)
    # The data set may have fewer classes than the run: map its labels to the run's.
    labels = np.array([classes.index(name) for name in dataset.classes])
    return classes, result | {"label": labels[result["label"]]}
