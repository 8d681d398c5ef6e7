"""Checkpoints of imported weights: a folder with a JSON configuration and an orbax checkpoint.

Variables are Flax collections (`params`, `batch_stats`) with NumPy leaves.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict

from jdance.errors import UserError

Variables = dict[str, Any]
Shapes = Mapping[tuple[str, ...], jax.ShapeDtypeStruct]

_VARIABLES_FOLDER = "variables"


def check(expected: Shapes, variables: Mapping[str, Any], source: object) -> None:
    """Checks that variables fit a network.

    Raises:
        UserError: names `source` and the first variable that is missing, left over, or of
            another shape or dtype.
    """
    found = flatten_dict(dict(variables))
    for path, value in expected.items():
        name = "/".join(path)
        if path not in found:
            raise UserError(f"{source}: {name} is missing; it was made for another network")
        if (found[path].shape, found[path].dtype) != (value.shape, value.dtype):
            raise UserError(
                f"{source}: {name} is {found[path].dtype} {found[path].shape}, but the network "
                f"has {value.dtype} {value.shape}; it was made for another network"
            )
    for path in found:
        if path not in expected:
            name = "/".join(path)
            raise UserError(f"{source}: {name} is not in the network; it was made for another one")


def save(folder: Path, file: str, config: Mapping[str, Any], variables: Mapping[str, Any]) -> None:
    """Writes FOLDER/`file` (the configuration) and FOLDER/variables (orbax).

    Raises:
        UserError: the folder cannot be written, or holds anything but such a checkpoint.
    """
    folder = folder.absolute()
    try:
        if folder.exists() and not (folder / file).exists() and any(folder.iterdir()):
            raise UserError(f"{folder}: holds something else; choose a new or empty folder")
        folder.mkdir(parents=True, exist_ok=True)
        # The configuration first, as it marks the folder, then orbax's atomic save: an interrupted
        # save is never mistaken for a complete one and can be overwritten.
        shutil.rmtree(folder / _VARIABLES_FOLDER, ignore_errors=True)
        (folder / file).write_text(json.dumps(dict(config), indent=2) + "\n")
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(
                folder / _VARIABLES_FOLDER, jax.device_get(dict(variables)), force=True
            )
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from error


def read_config(folder: Path, file: str, kind: str) -> dict[str, Any]:
    """The configuration in FOLDER/`file`; `kind` names such a checkpoint in error messages.

    Raises:
        UserError: there is none, or it is not a JSON object.
    """
    try:
        config = json.loads((folder / file).read_text())
    except OSError as error:
        raise UserError(f"{folder}: not a {kind} checkpoint, it has no {file}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{folder / file}: not valid JSON ({error})") from error
    if not isinstance(config, dict):
        raise UserError(f"{folder / file}: expected an object with the key 'network'")
    return config


def read_variables(folder: Path, kind: str) -> Variables:
    """The variables in FOLDER/variables, with NumPy leaves.

    Raises:
        UserError: they are missing or damaged.
    """
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            restored = checkpointer.restore(folder.absolute() / _VARIABLES_FOLDER)
        return dict(jax.tree.map(np.asarray, restored))
    except Exception as error:  # orbax and tensorstore raise various types
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{folder}: a damaged {kind} checkpoint ({reason})") from error
