"""Fine-tuning: initial variables from another run or from imported weights."""

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from jdance import config as defaults
from jdance import npz, shipped
from jdance.errors import UserError
from jdance.models.fused import BRANCH_WEIGHTS
from jdance.remote import runs
from jdance.train.checkpoints import NEWEST, Checkpoints, retry_during_training
from jdance.train.state import TrainState
from jdance.weights import checkpoint, resnet

Flat = dict[tuple[str, ...], np.ndarray]

_IMAGE_BRANCH = ("backbone", "image", "image_logits")
_HEADS = ("logits", "keypoint_logits", "image_logits")


def read(
    path: str | Path, shapes: Mapping[str, Any], model: ConfigDict, classes: Sequence[str]
) -> tuple[Flat, str]:
    """Reads the variables that fit a network.

    The backbone must fit as a whole, except for attention blocks that the source lacks. Other
    layers are loaded if all their variables have the same paths and shapes. If the source has other
    key-point features, only the image branch is loaded; of the same classes in another order, the
    classifiers are loaded in the network's order, of other classes they are not.

    Args:
        path: a run (its newest checkpoint), a folder by launch/import_weights.py, a .pth or
            .safetensors file of a ResNet, a file by launch/pack.py, or a name in `shipped.FILES`.
        shapes: the network's variables or their shapes.
        model: the network's configuration, see `jdance.config.model`.
        classes: the names of its motions.

    Returns:
        The variables by path, and a line for the user on what is loaded and what stays random.

    Raises:
        UserError: nothing fits, or the backbone is another one; the first difference is named.
    """
    expected = flatten_dict(dict(shapes))
    found, source, source_classes = _read(runs.local(path, NEWEST), expected)
    found.pop(("batch_stats", BRANCH_WEIGHTS), None)  # calibrated on other data
    notes = ""
    if "image" not in (source.branches, model.branches) and (
        (source.features, source.layout) != (model.features, model.layout)
    ):
        found = {name: value for name, value in found.items() if name[1] in _IMAGE_BRANCH}
        notes += (
            f"; it has the features {source.features} of {source.layout}, the network "
            f"{model.features} of {model.layout}"
        )
    if source_classes and sorted(source_classes) != sorted(classes):
        found = {name: value for name, value in found.items() if name[1] not in _HEADS}
        notes += "; it has other classes"
    elif source_classes:
        order = [source_classes.index(name) for name in classes]
        found |= {
            name: value[..., order]
            for name, value in found.items()
            if name[1] in _HEADS and value.shape[-1:] == (len(order),)
        }
    if any(_in_backbone(name) for name in found):
        _check_backbone(found, expected, path)
    _check_keys(found.keys() & expected.keys(), source, model, path)
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
        raise UserError(
            f"--config.init_from={path}: nothing in it fits the network{notes}; leave it empty to "
            "start from random weights"
        )
    fresh = _parts(expected.keys() - loaded.keys())
    return loaded, (
        f"starting from {path}: {len(loaded)} of {len(expected)} variables "
        f"({_parts(loaded)}); fresh: {fresh or 'none'}{notes}"
    )


def apply(state: TrainState, loaded: Flat) -> TrainState:
    """Replaces variables of the state by the loaded ones."""
    variables = unflatten_dict(flatten_dict(state.variables) | loaded)
    return dataclasses.replace(
        state, params=variables["params"], batch_stats=variables.get("batch_stats", {})
    )


def _read(
    path: Path, expected: Mapping[tuple[str, ...], Any]
) -> tuple[Flat, ConfigDict, list[str]]:
    """Variables, configuration (`jdance.config.model`) and classes; [] if these are unknown."""
    if not path.exists():
        path = shipped.FILES.get(str(path), path)
    if not path.exists():
        known = ", ".join(shipped.FILES)
        raise UserError(f"--config.init_from={path}: no such file or folder, nor one of {known}")
    if path.suffix == ".npz":
        arrays = npz.read(path)
        found = {tuple(name.split("/")): a for name, a in arrays.items() if a.dtype.kind == "f"}
        return found, *_describe(str(arrays.get("model")), path)
    if path.is_file():
        model = defaults.model()
        model.update(branches="image", **resnet.FORMULATION)
        return resnet.convert(resnet.read(path), expected, path), model, []
    if (path / resnet.CONFIG_FILE).exists():
        found = flatten_dict(checkpoint.read_variables(path, "ResNet"))
        return found, *_describe((path / resnet.CONFIG_FILE).read_text(), path)
    if not (path / "checkpoints").is_dir():
        raise UserError(f"--config.init_from={path}: neither a run nor imported weights")
    found = retry_during_training(path, lambda: _newest(path))
    return found, *_describe((path / "config.json").read_text(), path)


def _describe(text: str, path: Path) -> tuple[ConfigDict, list[str]]:
    """Configuration and classes in the JSON of a run, a packed model or imported weights."""
    model = defaults.model()
    try:
        content = json.loads(text)
        model.update(content.get("config", content)["model"])
        return model, [str(name) for name in content.get("classes", [])]
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError,
            RecursionError) as error:  # fmt: skip
        raise UserError(
            f"--config.init_from={path}: has no configuration of a motion network ({error!r})"
        ) from error


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


def _check_keys(
    loaded: Collection[tuple[str, ...]], source: ConfigDict, model: ConfigDict, path: str | Path
) -> None:
    """Raises UserError for keys that change a network, but not the shapes of its variables."""
    keys = []
    if any(map(_in_backbone, loaded)) and model.block == "bottleneck":
        keys.append("version")
    custom = source.attention_block or model.attention_block
    if any("attention" in name for name in loaded) and not custom:
        keys.append("attention")
    for key in keys:
        if source[key] != model[key]:
            raise UserError(
                f"{path}: has model.{key}={source[key]}, the network {model[key]}; set "
                f"--config.model.{key}={source[key]}"
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
