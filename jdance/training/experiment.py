"""The configuration of a run: checked before anything is done, and kept in DIR/config.json."""

import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jdance import config as defaults
from jdance.errors import UserError
from jdance.training import state
from jdance.training.tasks import Task

# What may differ when a run is continued: it does not change what is learned.
_FREE = ("epochs", "log_every", "eval_every", "checkpoint_every", "checkpoints_kept", "data.dir",
         "data.threads", "data.workers")  # fmt: skip


def check(task: Task) -> None:
    """Raises UserError, naming the key, for values with which nothing can be trained."""
    config = task.config
    positive = {
        "batch_size", "epochs", "log_every", "eval_every", "checkpoint_every", "checkpoints_kept",
        "data.image_size", "data.threads", "model.width", "optimizer.learning_rate",
    }  # fmt: skip
    for key, value in _flat(config).items():
        if key in positive and not value > 0:
            raise UserError(f"--config.{key}={value}: must be greater than 0")
        if isinstance(value, float) and not np.isfinite(value):
            raise UserError(f"--config.{key}={value}: must be finite")
        if isinstance(value, int | float) and value < 0 and key != "model.attention":
            raise UserError(f"--config.{key}={value}: must not be negative")
    task.check()
    try:
        state.make_optimizer(config.optimizer, state.make_schedule(config.optimizer, 1, 1))
        jax.eval_shape(task.model().init, jax.random.key(0), *task.inputs())
    except (TypeError, ValueError) as error:
        raise UserError(f"--config: {str(error).splitlines()[0]}") from error


def claim(workdir: Path, config: ConfigDict, classes: list[str]) -> None:
    """Makes the folder this run's own: writes DIR/config.json, or compares it if it is there.

    Raises:
        UserError: the folder cannot be written to, or belongs to another experiment; the first
            difference is named.
    """
    path = workdir / "config.json"
    if path.exists():
        old, old_classes = read(workdir)
        if old_classes != classes:
            raise UserError(f"{path}: trained on the classes {old_classes}; use another --workdir")
        before, now = _flat(old), _flat(config)
        for key in now:
            if key not in _FREE and before.get(key) != now[key]:
                raise UserError(
                    f"{path}: this run has {key}={before.get(key)}, not {now[key]}; use another "
                    "--workdir, or the same configuration"
                )
    text = json.dumps({"config": config.to_dict(), "classes": classes}, indent=2) + "\n"
    partial = workdir / "config.json.partial"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        partial.write_text(text)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"{workdir}: cannot be written to ({error.strerror})") from error


def read(workdir: Path) -> tuple[ConfigDict, list[str]]:
    """The configuration and the classes of a run.

    Raises:
        UserError: the folder holds no run.
    """
    path = workdir / "config.json"
    try:
        content = json.loads(path.read_text())
        config = defaults.pose() if content["config"].get("task") == "pose" else defaults.base()
        config.update(content["config"])
        return config, [str(name) for name in content["classes"]]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; train with launch/train.py first") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not the configuration of a run ({error})") from error


def _flat(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """{"data.image_size": 224, ...}; lists as tuples, as JSON does not tell them apart."""
    result: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            result |= _flat(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = tuple(value) if isinstance(value, list) else value
    return result
