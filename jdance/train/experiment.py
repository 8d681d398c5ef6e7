"""The configuration of a run: validation, and DIR/config.json."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from jdance import config as defaults
from jdance import files
from jdance.data.records import Dataset
from jdance.errors import UserError
from jdance.train import nonfinite, state
from jdance.train.checkpoints import has_checkpoint
from jdance.train.tasks import Task

# Keys that may change when a run resumes.
_MUTABLE = {
    "epochs", "on_nonfinite", "log_every", "eval_every", "checkpoint_every", "checkpoints_kept",
    "best_checkpoints_kept", "steps_per_dispatch", "data.dir", "data.threads", "data.workers",
}  # fmt: skip
_FRACTIONS = {
    "augment.flip", "augment.erase", "augment.joint_dropout", "augment.legs_dropout",
    "augment.time_crop",
}  # fmt: skip
_DROPOUT_RATES = {
    "model.dropout", "model.stage_dropout", "model.keypoint_dropout", "model.image_dropout",
    "model.str.dropout", "optimizer.label_smoothing", "optimizer.momentum",
}  # fmt: skip


def check(task: Task) -> None:
    """Raises UserError, naming the key, for invalid values."""
    config = task.config
    positive = {
        "batch_size", "accumulate", "steps_per_dispatch", "epochs", "log_every", "eval_every",
        "checkpoint_every", "checkpoints_kept", "data.image_size", "data.threads", "model.width",
        "optimizer.learning_rate",
        "model.str.growth", "model.qes.hidden", "model.qes.prototypes", "model.stage_sizes",
        "model.image_widths", "model.keypoint_widths", "model.fusion_widths",
        "model.sequence.frames", "model.sequence.stem_width", "model.sequence.stem_kernel",
        "model.sequence.width", "model.sequence.blocks", "model.sequence.kernel",
        "model.sequence.reduction", "model.sequence.dense_widths", "data.max_people",
    }  # fmt: skip
    for key, value in _flat(config).items():
        numbers = value if isinstance(value, tuple) else (value,)
        checked = key in positive | _FRACTIONS | _DROPOUT_RATES
        if checked and not all(isinstance(number, int | float) for number in numbers):
            raise UserError(f"--config.{key}={value}: must be a number")
        if key in positive and not all(number > 0 for number in numbers):
            raise UserError(f"--config.{key}={value}: must be greater than 0")
        for number in numbers:
            if isinstance(number, float) and not np.isfinite(number):
                raise UserError(f"--config.{key}={value}: must be finite")
            if isinstance(number, int | float) and number < 0 and key != "model.attention":
                raise UserError(f"--config.{key}={value}: must not be negative")
        if key in _FRACTIONS and value > 1:
            raise UserError(f"--config.{key}={value}: a fraction, must be at most 1")
        if key in _DROPOUT_RATES and value >= 1:
            raise UserError(f"--config.{key}={value}: must be less than 1")
    if config.on_nonfinite not in nonfinite.POLICIES:
        raise UserError(
            f"--config.on_nonfinite={config.on_nonfinite}: expected one of "
            f"{', '.join(nonfinite.POLICIES)}"
        )
    task.check()
    if config.task == "motion":
        _check_branch_dropout(config.model)
    try:
        state.make_optimizer(config.optimizer, state.make_schedule(config.optimizer, 1, 1))
        jax.eval_shape(task.model().init, jax.random.key(0), *task.input_shapes())
    except (TypeError, ValueError, ArithmeticError) as error:
        raise UserError(f"--config: {str(error).splitlines()[0]}") from error


def _check_branch_dropout(model: ConfigDict) -> None:
    """Raises UserError for branch dropout without effect, or that can drop both branches."""
    for key in ("keypoint_dropout", "image_dropout"):
        if model[key] and model.fusion == "late":
            raise UserError(
                f"--config.model.{key}={model[key]}: has no effect with model.fusion=late; set it "
                "to 0"
            )
    if model.keypoint_dropout + model.image_dropout > 1:
        raise UserError(
            f"--config.model.keypoint_dropout={model.keypoint_dropout}: at most 1 together with "
            f"model.image_dropout={model.image_dropout}; lower one of them"
        )


def claim(workdir: Path, config: ConfigDict, dataset: Dataset) -> None:
    """Writes DIR/config.json, or compares it if the folder has checkpoints.

    Raises:
        UserError: the folder cannot be written to, or belongs to another experiment; the first
            difference is named.
    """
    path, classes, data = workdir / "config.json", dataset.classes, dataset.fingerprint()
    if path.exists() and has_checkpoint(workdir):
        old, old_classes = read(workdir)
        if old_classes != classes:
            raise UserError(f"{path}: trained on the classes {old_classes}; use another --workdir")
        if fingerprint(workdir) not in ("", data):
            raise UserError(
                f"{path}: trained on other data than {dataset.name} holds; use another --workdir"
            )
        if changed := difference(old, config):
            raise UserError(
                f"{path}: this run has {changed}; use another --workdir, or the same configuration"
            )
    content = {
        "config": config.to_dict(),
        "classes": classes,
        "data": data,
        "source": dataset.info.get("source", ""),
    }
    text = json.dumps(content, indent=2) + "\n"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        files.atomic_write(path, text)
    except OSError as error:
        raise UserError(f"{workdir}: cannot be written to ({error.strerror})") from error


def difference(old: ConfigDict, new: ConfigDict, *, may_continue: bool = True) -> str:
    """The first difference of a run's configuration to a new one that makes it another run.

    Args:
        old: of the run.
        new: to be compared; its keys count.
        may_continue: whether the run may have other `epochs`.

    Returns:
        "KEY=OLD, not NEW", with the reason if the key may change in other runs; "" if there is no
        difference.
    """
    fixed = {} if may_continue else {"epochs": ""}
    if new.optimizer.schedule == "cosine":
        fixed["epochs"] = ", which optimizer.schedule=cosine depends on"
    if new.data.sampling == "confusion":
        fixed["eval_every"] = ", which data.sampling=confusion depends on"
    before, now = _flat(old), _flat(new)
    for key in now:
        if key not in _MUTABLE - fixed.keys() and before.get(key) != now[key]:
            return f"{key}={before.get(key)}, not {now[key]}{fixed.get(key, '')}"
    return ""


def restored(content: dict[str, Any]) -> ConfigDict:
    """A stored configuration, with the defaults of keys that it lacks.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is not a configuration.
    """
    config = defaults.pose() if content.get("task") == "pose" else defaults.base()
    if config.task == "pose":  # its keys depend on the pose network
        config.model = ConfigDict()
    config.update(content)
    return config


def read(workdir: Path) -> tuple[ConfigDict, list[str]]:
    """Configuration and classes of a run.

    Raises:
        UserError: the folder holds no run.
    """
    path = workdir / "config.json"
    try:
        content = json.loads(path.read_text())
        return restored(content["config"]), [str(name) for name in content["classes"]]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; train with launch/train.py first") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError,
            RecursionError) as error:  # fmt: skip
        raise UserError(f"{path}: not the configuration of a run ({error!r})") from error


def source(workdir: Path) -> str:
    """What a run's data set was prepared from, see `sources.Source`; "" if unknown."""
    return str(json.loads((workdir / "config.json").read_text()).get("source", ""))


def fingerprint(workdir: Path) -> str:
    """`Dataset.fingerprint` of the data set that a run was trained on; "" if unknown."""
    return str(json.loads((workdir / "config.json").read_text()).get("data", ""))


def _flat(config: ConfigDict) -> dict[str, Any]:
    """{"data.image_size": 224, ...}, with tuples for lists: JSON does not distinguish them."""
    flat = flatten_dict(config.to_dict(), sep=".")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in flat.items()}
