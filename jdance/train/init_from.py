"""Fine-tuning: initial variables from another run or from imported weights."""

import dataclasses
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jdance import npz, shipped
from jdance.errors import UserError
from jdance.remote import runs
from jdance.train.checkpoints import NEWEST, Checkpoints, retry_during_training
from jdance.train.state import TrainState
from jdance.weights import checkpoint, resnet

Flat = dict[tuple[str, ...], np.ndarray]


def read(path: str | Path, shapes: Mapping[str, Any]) -> tuple[Flat, str]:
    """Reads the variables that fit a network.

    The backbone must fit as a whole, except for attention blocks that the source lacks. Other
    layers are loaded if all their variables have the same paths and shapes.

    Args:
        path: a run (its newest checkpoint), a folder by launch/import_weights.py, a .pth or
            .safetensors file of a ResNet, a file by launch/pack.py, or a name in `shipped.FILES`.
        shapes: the network's variables or their shapes.

    Returns:
        The variables by path, and a line for the user on what is loaded and what stays random.

    Raises:
        UserError: nothing fits, or the backbone is another one; the first difference is named.
    """
    expected = flatten_dict(dict(shapes))
    found = _read(runs.local(path, NEWEST), expected)
    if any(_in_backbone(name) for name in found):
        _check_backbone(found, expected, path)
    fits = {
        name: name in found and found[name].shape == leaf.shape for name, leaf in expected.items()
    }
    # By layers: a pretrained bias is useless beside a random kernel.
    unfit = {name[1:-1] for name in expected if not fits[name]}
    loaded = {
        name: np.asarray(found[name], leaf.dtype)
        for name, leaf in expected.items()
        if name[1:-1] not in unfit
    }
    if not loaded:
        raise UserError(f"--config.init_from={path}: nothing in it fits the network")
    fresh = _parts(expected.keys() - loaded.keys())
    return loaded, (
        f"starting from {path}: {len(loaded)} of {len(expected)} variables "
        f"({_parts(loaded)}); fresh: {fresh or 'none'}"
    )


def apply(state: TrainState, loaded: Flat) -> TrainState:
    """Replaces variables of the state by the loaded ones."""
    variables = unflatten_dict(flatten_dict(state.variables) | loaded)
    return dataclasses.replace(
        state, params=variables["params"], batch_stats=variables.get("batch_stats", {})
    )


def _read(path: Path, expected: Mapping[tuple[str, ...], Any]) -> Flat:
    if not path.exists():
        path = shipped.FILES.get(str(path), path)
    if not path.exists():
        known = ", ".join(shipped.FILES)
        raise UserError(f"--config.init_from={path}: no such file or folder, nor one of {known}")
    if path.suffix == ".npz":
        arrays = npz.read(path)
        return {tuple(name.split("/")): a for name, a in arrays.items() if a.dtype.kind == "f"}
    if path.is_file():
        return resnet.convert(resnet.read(path), expected, path)
    if (path / resnet.CONFIG_FILE).exists():
        return flatten_dict(checkpoint.read_variables(path, "ResNet"))
    if not (path / "checkpoints").is_dir():
        raise UserError(f"--config.init_from={path}: neither a run nor imported weights")
    return retry_during_training(path, lambda: _newest(path))


def _newest(workdir: Path) -> Flat:
    with closing(Checkpoints(workdir)) as checkpoints:
        return flatten_dict(checkpoints.newest_variables())


def _check_backbone(found: Flat, expected: Mapping[tuple[str, ...], Any], path: str | Path) -> None:
    for name in sorted(filter(_in_backbone, found.keys() | expected.keys())):
        label = "/".join(name)
        if name not in expected:
            raise UserError(f"{path}: {label} is not in this network; its backbone is another one")
        if name not in found:
            if "attention" in name:
                continue
            raise UserError(f"{path}: {label} is missing; its backbone is another one")
        if found[name].shape != expected[name].shape:
            raise UserError(
                f"{path}: {label} has shape {found[name].shape}, but the network "
                f"{expected[name].shape}; its backbone is another one"
            )


def _in_backbone(name: tuple[str, ...]) -> bool:
    return name[1] == "backbone"


def _parts(names: Any) -> str:
    """Lists the network's modules in variable paths: "backbone, backbone/attention, fusion"."""
    parts = {
        "/".join(name[1 : name.index("attention") + 1]) if "attention" in name else name[1]
        for name in names
    }
    return ", ".join(sorted(parts))
