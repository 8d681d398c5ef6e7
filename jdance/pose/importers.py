"""Published weights files, each to a pose network's configuration and variables."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from jdance.errors import UserError
from jdance.pose import weights
from jdance.weights import openpose, openvino, tfjs

Imported = tuple[dict[str, Any], weights.Variables]


def _mobilenet_v2_small(path: str | Path) -> Imported:
    config = {"network": "mobilenet_v2_small", "statistics": "instance"}
    return config, weights.import_mobilenet_v2_small(path)


def import_lightweight_openpose(path: str | Path) -> Imported:
    """Reads weights of `LightweightOpenPose` in OpenVINO's format, with batch norm folded in.

    Args:
        path: the .xml of Intel's human-pose-estimation-0001 (FP32, FP16 or FP16-INT8, whose weights
            are dequantized) or of another network of this family, with its .bin beside it.

    Returns:
        The network's configuration, of as many stages as there are in the file, and its variables.

    Raises:
        UserError: the files cannot be read, or are not of this network; names the first
            convolution that is missing, left over or mis-shaped.
    """
    layers = openvino.read(path)
    found = (re.fullmatch(r"Mconv1_stage(\d+)_L1/sq", name) for name in layers)
    stages = max((int(match[1]) for match in found if match), default=1)
    config = {"network": "lightweight_openpose", "stages": stages}
    net = "not the weights of lightweight_openpose"
    imported, used = {}, set()
    for place, expected in weights.abstract_variables(weights.build(config)).items():
        name = _openvino_name(place[1])
        if name not in layers:
            raise UserError(f"{path}: {net}, {name} is missing")
        used.add(name)
        tensor = layers[name].bias
        if place[-1] == "kernel":  # [out, in, h, w] to [h, w, in, out], depthwise to [h, w, 1, out]
            tensor = layers[name].kernel.transpose(2, 3, 1, 0)
        if tensor.shape != expected.shape:
            raise UserError(f"{path}: {net}, {name} is {tensor.shape} and not {expected.shape}")
        imported[place] = np.ascontiguousarray(tensor)
    if left := sorted(set(layers) - used):
        raise UserError(f"{path}: {left[0]} is not in lightweight_openpose of {stages} stages")
    return config, unflatten_dict(imported)


# Module names in the network -> layer names in the graph.
_OPENVINO_NAMES = (
    (r"(conv\d_\d)_depthwise", r"\1/dw"),
    (r"(conv\d_\d)_pointwise", r"\1/sep"),
    (r"context_align", r"conv4_3_CPM/al"),
    (r"context_reduce", r"conv4_3_CPM/red"),
    (r"context_depthwise(\d)", r"conv4_3_CPM/dw\1"),
    (r"context_pointwise3", r"conv4_3_CPM/inc"),
    (r"context_pointwise(\d)", r"conv4_3_CPM/dw\1/1x1"),
    (r"context", r"conv4_4_CPM"),
    (r"stage1_conv(\d)", r"conv5_\1_CPM_L1"),
    (r"stage1_paf_hidden", r"conv5_4_CPM_L1"),
    (r"stage1_heat_hidden", r"conv5_4_CPM_L2"),
    (r"stage1_paf", r"conv5_5_CPM_L1"),
    (r"stage1_heat", r"conv5_5_CPM_L2"),
    (r"stage(\d+)_block(\d)_squeeze", r"Mconv\2_stage\1_L1/sq"),
    (r"stage(\d+)_block(\d)_conv1", r"Mconv\2_stage\1_L1/3x3"),
    (r"stage(\d+)_block(\d)_conv2", r"Mconv\2_stage\1_L1/3x3/2"),
    (r"stage(\d+)_paf_hidden", r"Mconv6_stage\1_L1"),
    (r"stage(\d+)_heat_hidden", r"Mconv6_stage\1_L2"),
    (r"stage(\d+)_paf", r"Mconv7_stage\1_L1"),
    (r"stage(\d+)_heat", r"Mconv7_stage\1_L2"),
)


def _openvino_name(module: str) -> str:
    for ours, published in _OPENVINO_NAMES:
        if match := re.fullmatch(ours, module):
            return match.expand(published)
    return module


def import_movenet_multipose(path: str | Path) -> Imported:
    """Reads MoveNet MultiPose in TensorFlow.js' format.

    Args:
        path: the model's .json, with the files that it names beside it.

    Returns:
        The network's configuration and its variables.

    Raises:
        UserError: the files cannot be read, or are not of this network; names the first tensor
            that is missing or mis-shaped.
    """
    # Tensors of the decode, too, are in the file, and heads that are not used.
    tensors = {
        re.sub(r"^.*center_net_[^/]*/|^StatefulPartitionedCall/", "", name): tensor
        for name, tensor in tfjs.read(path).items()
    }
    config = {"network": "movenet_multipose"}
    imported = {}
    for place, expected in weights.abstract_variables(weights.build(config)).items():
        name = _tfjs_name(place[1], place[-1])
        if name not in tensors:
            raise UserError(f"{path}: not the weights of movenet_multipose, {name} is missing")
        tensor = tensors[name]
        if place[-2] == "depthwise" and tensor.ndim == 4:  # [h, w, channels, 1]
            tensor = tensor.transpose(0, 1, 3, 2)
        if tensor.shape != expected.shape or tensor.dtype != expected.dtype:
            raise UserError(
                f"{path}: not the weights of movenet_multipose, {name} is {tensor.dtype} "
                f"{tensor.shape} and not {expected.dtype} {expected.shape}"
            )
        imported[place] = np.ascontiguousarray(tensor)
    return config, unflatten_dict(imported)


_TFJS_HEADS = ("center", "kpt_heatmap", "kpt_regress", "kpt_offset")
_TFJS_NUMBERS = {"center": 3, "kpt_heatmap": 6, "kpt_regress": 7, "kpt_offset": 8}


def _tfjs_name(module: str, leaf: str) -> str:
    """The tensor's name in the graph, without its outer scopes."""
    part, _, kind = module.partition("_")
    is_kernel = leaf == "kernel"
    weights_or_offset = "Conv2D_weights" if is_kernel else "Conv2D_bn_offset"
    variable = "Conv2D/ReadVariableOp" if is_kernel else "BiasAdd/ReadVariableOp"
    if module in ("stem", "last"):
        return f"model_1/model/{'Conv1' if module == 'stem' else 'Conv_1'}/{weights_or_offset}"
    if part.startswith("block"):
        number = int(part.removeprefix("block"))
        scope = f"model_1/model/{f'block_{number}' if number else 'expanded_conv'}_{kind}"
        if kind == "depthwise":
            return f"{scope}/{'depthwise_weights' if is_kernel else 'depthwise_bn_offset'}"
        return f"{scope}/{weights_or_offset}"
    if part == "top" or part.startswith("lateral"):
        number = 0 if part == "top" else 1 + int(part.removeprefix("lateral"))
        return f"model_1/conv2d{f'_{number}' if number else ''}/{variable}"
    if part.startswith("merge"):
        number = int(part.removeprefix("merge"))
        scope = f"model_1/separable_conv2d{f'_{number}' if number else ''}/separable_conv2d"
        if kind == "depthwise":
            return f"{scope}/ReadVariableOp"
        return f"{scope}_{'weights' if is_kernel else 'bn_offset'}"
    head = next(name for name in _TFJS_HEADS if part in name)
    number = _TFJS_NUMBERS[head]
    if not kind:
        return f"{head}_0/conv2d_{number + 1}/{variable}"
    scope = f"{head}_0/separable_conv2d_{number}"
    if kind == "depthwise":
        return f"{scope}/separable_conv2d/ReadVariableOp"
    return f"{scope}/{'separable_conv2d/ReadVariableOp_1' if is_kernel else variable}"


# By the network's name.
IMPORTERS = {
    "mobilenet_v2_small": _mobilenet_v2_small,
    "openpose_vgg19": openpose.import_openpose_vgg19,
    "lightweight_openpose": import_lightweight_openpose,
    "movenet_multipose": import_movenet_multipose,
}

# The network that published files of a suffix are of; others are frozen graphs.
_BY_SUFFIX = {
    ".pth": "openpose_vgg19",
    ".pt": "openpose_vgg19",
    ".caffemodel": "openpose_vgg19",
    ".xml": "lightweight_openpose",
    ".json": "movenet_multipose",
}


def import_file(path: Path) -> Imported:
    """Reads a published file, whose suffix tells the network.

    Raises:
        UserError: see the importers.
    """
    return IMPORTERS[_BY_SUFFIX.get(path.suffix, "mobilenet_v2_small")](path)


def find(folder: Path) -> Path | None:
    """The published file in a folder that is no pose checkpoint; None unless there is just one."""
    if (folder / weights.CONFIG_FILE).exists():
        return None
    found = [path for path in sorted(folder.iterdir()) if path.suffix in _BY_SUFFIX]
    return found[0] if len(found) == 1 else None
