"""Imports ResNet weights of torchvision and of CBAM's authors into the image branch.

Both use the same tensor names: conv1, bn1, layer1.0.conv1, ..., layer1.0.downsample.0, fc. CBAM
adds attention to every block, channel gate first (order 0), with batch norm in the spatial gate:
layer1.0.cbam.ChannelGate.mlp.1, layer1.0.cbam.SpatialGate.spatial.conv, ... Both stride in the 3x3
convolution (v1.5) and expect images normalized by ImageNet's mean and standard deviation, as in
`jdance.models.fused`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from jdance import config as defaults
from jdance import models, weights
from jdance.errors import UserError
from jdance.weights import checkpoint
from jdance.weights.checkpoint import Shapes, Variables

KINDS: dict[str, dict[str, Any]] = {
    "resnet18": dict(block="basic", stage_sizes=(2, 2, 2, 2)),
    "resnet34": dict(block="basic", stage_sizes=(3, 4, 6, 3)),
    "resnet50": dict(block="bottleneck", stage_sizes=(3, 4, 6, 3)),
    "resnet101": dict(block="bottleneck", stage_sizes=(3, 4, 23, 3)),
}

# The strided convolution, and the order of CBAM if there is one.
FORMULATION: dict[str, Any] = dict(version="v1.5", attention=0)

CONFIG_FILE = "model.json"


def abstract_variables(model: ConfigDict) -> Shapes:
    """Path -> shape and dtype of every variable of a network (`jdance.config.model`)."""
    return flatten_dict(models.abstract_variables(model))


def import_file(kind: str, path: str | Path) -> tuple[ConfigDict, Variables]:
    """Imports the weights of a ResNet, with or without classifier and CBAM.

    Args:
        kind: the network, a key of `KINDS`.
        path: a .pth or .safetensors file.

    Returns:
        The configuration of an image classifier (`jdance.config.model`) and its variables. Without
        a classifier in the file, classes=0 and there are no `logits`.

    Raises:
        UserError: names the first tensor that is missing, left over or of another shape.
    """
    tensors = read(path)
    attention = any(".cbam." in name for name in tensors)
    fc = tensors.get("fc.bias", np.zeros(0))
    config = defaults.model()
    config.update(
        KINDS[kind],
        branches="image",
        image_widths=(),
        fusion_widths=(),
        classes=fc.size or 1,
        attention=0 if attention else -1,
        attention_place="blocks" if attention else "end",
        gate_norm=any("spatial.bn" in name for name in tensors),
    )
    expected = abstract_variables(config)
    if not fc.size:
        config.classes = 0
        expected = {name: leaf for name, leaf in expected.items() if name[1] != "logits"}
    variables = unflatten_dict(convert(tensors, expected, path))
    checkpoint.check(expected, variables, path)
    return config, variables


def save(folder: str | Path, kind: str, config: ConfigDict, variables: Variables) -> None:
    """Writes an imported network: FOLDER/model.json and FOLDER/variables (orbax)."""
    content = {"network": kind, "model": config.to_dict()}
    checkpoint.save(Path(folder), CONFIG_FILE, content, variables)


def read(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a file, without batch-norm counters and DataParallel's prefix."""
    return {
        name.removeprefix("module."): tensor
        for name, tensor in weights.read(path).items()
        if not name.endswith(".num_batches_tracked")
    }


def convert(
    tensors: Mapping[str, np.ndarray], expected: Shapes, source: object
) -> dict[tuple[str, ...], np.ndarray]:
    """Path -> value of the network's variables that are in a file.

    A classifier of another shape is left out.

    Args:
        tensors: see `read`.
        expected: every variable of the network: `backbone`, and `logits` for the classifier.
        source: the file, for error messages.

    Raises:
        UserError: a tensor is not in the backbone, or has another shape there.
    """
    paths = {_torch_name(path): path for path in expected}
    found = {}
    for name, tensor in tensors.items():
        path = paths.get(name)
        classifier = name in ("fc.weight", "fc.bias")
        if path is None or not name:
            if classifier:
                continue
            raise UserError(f"{source}: {name} is not in the network; it was made for another one")
        shape = _torch_shape(path, expected[path].shape)
        if tensor.shape == shape:
            found[path] = _from_torch(path, tensor, expected[path])
        elif not classifier:
            raise UserError(
                f"{source}: {name} has shape {tensor.shape}, but the network {shape}; "
                "it was made for another network"
            )
    return found


_LAYERS = {
    # The layers of bottlenecks, basic blocks (torchvision) and CBAM (its authors' code).
    ("reduce", "dense"): "conv1",
    ("reduce_norm",): "bn1",
    ("conv",): "conv2",
    ("conv_norm",): "bn2",
    ("expand", "dense"): "conv3",
    ("expand_norm",): "bn3",
    ("conv1",): "conv1",
    ("conv1_norm",): "bn1",
    ("conv2",): "conv2",
    ("conv2_norm",): "bn2",
    ("shortcut", "dense"): "downsample.0",
    ("shortcut_norm",): "downsample.1",
    ("attention", "channel", "squeeze"): "cbam.ChannelGate.mlp.1",
    ("attention", "channel", "expand"): "cbam.ChannelGate.mlp.3",
    ("attention", "spatial", "conv"): "cbam.SpatialGate.spatial.conv",
    ("attention", "spatial", "norm"): "cbam.SpatialGate.spatial.bn",
}
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def _torch_name(path: tuple[str, ...]) -> str:
    """A variable's name in the file; empty if it is never in a file.

    ("params", "backbone", "stage1_block2", "reduce", "dense", "kernel") is layer1.1.conv1.weight.
    """
    _, module, *layer, leaf = path
    if module == "logits":
        return f"fc.{_LEAVES[leaf]}"
    if module != "backbone":
        return ""
    if layer in (["stem"], ["stem_norm"]):
        return f"{'conv1' if layer == ['stem'] else 'bn1'}.{_LEAVES[leaf]}"
    block, *inner = layer
    if not block.startswith("stage"):  # attention after the last stage
        return ""
    stage, number = block.removeprefix("stage").split("_block")
    return f"layer{stage}.{int(number) - 1}.{_LAYERS[tuple(inner)]}.{_LEAVES[leaf]}"


def _torch_shape(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a variable in the file: output channels first."""
    if path[-1] != "kernel":
        return shape
    *window, inputs, outputs = shape
    return (outputs, inputs, *(window or ((1, 1) if path[-2] == "dense" else ())))


def _from_torch(
    path: tuple[str, ...], tensor: np.ndarray, leaf: jax.ShapeDtypeStruct
) -> np.ndarray:
    if path[-1] == "kernel":
        if path[-3:-1] == ("spatial", "conv"):
            tensor = tensor[:, ::-1]  # CBAM stacks maximum and mean, jdance mean and maximum
        tensor = np.moveaxis(tensor, (0, 1), (-1, -2)).reshape(leaf.shape)
    return np.ascontiguousarray(tensor, leaf.dtype)
