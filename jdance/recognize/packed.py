"""Trained motion models as one small file, and those that come with the package."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from jdance import config as defaults
from jdance import npz, shipped
from jdance.errors import UserError
from jdance.remote import runs
from jdance.train import calibration, experiment, loop, tasks
from jdance.train.checkpoints import NEWEST
from jdance.weights import checkpoint as weights

# Sequence networks that classify the tracks in videos, by the model that classifies images.
SEQUENCE_FORMS = {"dance6": "dance6_sequence"}


class MotionModel(NamedTuple):
    """A trained motion network.

    Attributes:
        config: its experiment.
        classes: the motions' names.
        variables: of the network.
        temperature: divides the logits.
        min_confidence: probability below which a motion is unknown.
        source: what its data set was prepared from, see `experiment.source`.
    """

    config: ConfigDict
    classes: list[str]
    variables: Any
    temperature: float
    min_confidence: float
    source: str


def load(model: str | Path, checkpoint: str = NEWEST) -> MotionModel:
    """Reads a motion network.

    Args:
        model: the folder of a run, a file that `pack` wrote, their address in a store, or a name in
            `shipped.FILES`.
        checkpoint: of a run, see `Checkpoints.resolve`; a packed model has only one.

    Raises:
        UserError: the model is none of these, or damaged.
    """
    path = runs.local(model, checkpoint)
    if str(model) in shipped.FILES and not path.exists():
        path = shipped.FILES[str(model)]
    if path.suffix == ".npz" and path.is_file():
        if checkpoint != NEWEST:
            raise UserError(f"{model}: a packed model has no checkpoint {checkpoint!r}")
        return _unpack(path)
    config, classes, variables, step = loop.restore(path, checkpoint)
    return MotionModel(
        config,
        classes,
        variables,
        calibration.load_temperature(path, checkpoint, step),
        calibration.load_min_confidence(path, checkpoint, step),
        experiment.source(path),
    )


def pack(workdir: Path, file: Path, checkpoint: str = NEWEST) -> None:
    """Writes a run's motion network into one small file (.npz), parameters in half precision.

    Raises:
        UserError: the file has another suffix or cannot be written to, or the folder holds no
            finished run of a motion network.
    """
    if file.suffix != ".npz":
        raise UserError(f"{file}: a packed model must end in .npz; name {file}.npz")
    model = load(workdir, checkpoint)
    if model.config.task != "motion":
        raise UserError(f"{workdir}: is not a motion network; only these can be packed")
    arrays: dict[str, Any] = {
        "/".join(path): np.asarray(leaf, np.float16 if path[0] == "params" else np.float32)
        for path, leaf in flatten_dict(dict(jax.device_get(model.variables))).items()
    }
    model.config.data.dir = ""  # of the machine that trained it
    info = model._asdict() | {"config": model.config.to_dict()}
    del info["variables"]
    try:
        np.savez_compressed(file, model=np.array(json.dumps(info)), **arrays)
    except OSError as error:
        raise UserError(f"{file}: cannot be written to ({error.strerror})") from error


def _unpack(file: Path) -> MotionModel:
    arrays = npz.read(file)
    try:
        info = json.loads(str(arrays.pop("model")))
        config = defaults.base()
        config.update(info["config"])
        flat = {tuple(name.split("/")): array.astype(np.float32) for name, array in arrays.items()}
        model = MotionModel(
            config,
            [str(name) for name in info["classes"]],
            unflatten_dict(flat),
            float(info["temperature"]),
            float(info["min_confidence"]),
            str(info["source"]),
        )
        if not model.classes or not 0 < model.temperature < np.inf:
            raise ValueError("no classes, or an impossible temperature")
        if not 0 <= model.min_confidence <= 1:
            raise ValueError("a threshold beyond 0 to 1")
        expected = abstract_variables(config, model.classes)
    except (ArithmeticError, ValueError, LookupError, TypeError, AttributeError,
            RecursionError) as error:  # fmt: skip
        raise UserError(f"{file}: not a packed motion model ({error!r})") from error
    weights.check(expected, model.variables, file)
    return model


def abstract_variables(config: ConfigDict, classes: list[str]) -> weights.Shapes:
    """The shape and dtype of every variable of a motion network by its path."""
    task = tasks.make(config, classes)
    return flatten_dict(
        dict(jax.eval_shape(task.model().init, jax.random.key(0), *task.input_shapes()))
    )
