"""Importers: published weights files to a pose network's configuration and variables."""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from jdance.errors import UserError
from jdance.pose import weights
from jdance.weights import caffemodel, graphdef, openvino, pth, tfjs

Imported = tuple[dict[str, Any], weights.Variables]
VariablePath = tuple[str, ...]  # ("params", "stage2_paf", "conv1", "kernel")
Tensors = Mapping[str, np.ndarray]


def _assign(
    path: str | Path,
    config: dict[str, Any],
    tensors: Tensors,
    name_of: Callable[[VariablePath], str],
    axis_order: str,
    complete: bool = False,
) -> Imported:
    """Assigns the tensors of a file to the variables of a network.

    Args:
        path: the file, for error messages.
        config: the network's configuration.
        tensors: by their names in the file.
        name_of: a variable's path -> its name in the file.
        axis_order: "OIHW" (PyTorch, Caffe, OpenVINO) or "HWIO" (TensorFlow, whose depthwise kernels
            are [h, w, channels, 1]).
        complete: reject tensors that the network does not have.

    Returns:
        The configuration and the variables.

    Raises:
        UserError: names the first tensor that is missing, left over or of another shape or dtype.
    """
    error = f"{path}: not the weights of {config['network']}"
    variables, remaining = {}, set(tensors)
    for variable, expected in weights.abstract_variables(weights.build(config)).items():
        name = name_of(variable)
        if name not in tensors:
            raise UserError(f"{error}, {name} is missing")
        remaining.discard(name)
        tensor = tensors[name]
        if variable[-1] == "kernel" and tensor.ndim == 4:
            if axis_order == "OIHW":
                tensor = tensor.transpose(2, 3, 1, 0)
            elif variable[-2].endswith("depthwise"):
                tensor = tensor.transpose(0, 1, 3, 2)
            if tensor.shape == (1, 1, *expected.shape):
                tensor = tensor[0, 0]
        if tensor.shape != expected.shape or tensor.dtype != expected.dtype:
            raise UserError(
                f"{error}, {name} is {tensors[name].dtype} {tensors[name].shape} and does not fit "
                f"{'/'.join(variable)}, {expected.dtype} {expected.shape}"
            )
        variables[variable] = np.ascontiguousarray(tensor)
    if complete and remaining:
        stages = config["stages"]
        raise UserError(f"{error} with {stages} stages, {min(remaining)} is not in this network")
    return config, unflatten_dict(variables)


def _count_stages(pattern: str, names: Iterable[str]) -> int:
    """The highest stage number in names that match a pattern; 1 without any."""
    matches = (re.fullmatch(pattern, name) for name in names)
    return max((int(match[1]) for match in matches if match), default=1)


# mobilenet_v2_small -------------------------------------------------------------------------------


def import_mobilenet_v2_small(path: str | Path) -> Imported:
    """Imports the published graph of "mobilenet_v2_small".

    Args:
        path: the frozen TensorFlow graph (graph_opt.pb of the tf-pose-estimation project).

    Returns:
        The configuration, with statistics="instance" as the graph has no running statistics for
        the backbone, and the variables.

    Raises:
        UserError: another graph; names the first tensor that is missing or does not fit.
    """
    # Freezing appends a counter: SCOPE/weights/read/_2__cf__2.
    tensors = {
        re.sub(r"/read(/_\d+__cf__\d+)?$", "", name): tensor
        for name, tensor in graphdef.read_constants(path).items()
    }
    config = {"network": "mobilenet_v2_small", "statistics": "instance"}
    return _assign(path, config, tensors, _tensorflow_name, "HWIO")


def _tensorflow_name(variable: VariablePath) -> str:
    """A variable's name in the graph.

    ("params", "backbone", "block01", "expand_bn", "scale") is
    MobilenetV2/expanded_conv_1/expand/BatchNorm/gamma, and
    ("params", "stage1_paf", "sep1_depthwise", "kernel") is
    Openpose/MConv_Stage1_L1_1_depthwise/depthwise_weights.
    """
    _, module, *inner, leaf = variable
    layer = inner[-1].removesuffix("_bn")
    if module == "backbone":
        scope = "MobilenetV2/Conv"
        if layer != "stem":
            block = int(inner[0].removeprefix("block"))
            scope = f"MobilenetV2/expanded_conv{f'_{block}' if block else ''}/{layer}"
    else:
        stage, branch = module.removeprefix("stage").split("_")
        unit, _, half = layer.removeprefix("sep").partition("_")
        # A unit's batch norm belongs to its pointwise convolution.
        scope = f"Openpose/MConv_Stage{stage}_L{_BRANCHES[branch]}_{unit}_{half or 'pointwise'}"
    if leaf == "kernel":
        return f"{scope}/{'depthwise_weights' if layer.endswith('depthwise') else 'weights'}"
    leaves = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}
    return f"{scope}/BatchNorm/{leaves[leaf]}"


_BRANCHES = {"paf": 1, "heat": 2}  # the numbers of OpenPose's two branches


# openpose_vgg19 -----------------------------------------------------------------------------------


def import_openpose_vgg19(path: str | Path) -> Imported:
    """Imports OpenPose's published COCO weights.

    Args:
        path: a .caffemodel (such as pose_iter_440000.caffemodel), or a PyTorch state dictionary
            with the same layer names, which a module name may precede:
            model1_1.conv5_1_CPM_L1.weight.

    Returns:
        The configuration, with the number of stages in the file, and the variables.

    Raises:
        UserError: the file cannot be read, or is of another network; names the first tensor that is
            missing, left over or does not fit.
    """
    read = _caffe_tensors if Path(path).suffix == ".caffemodel" else _pytorch_tensors
    tensors = {name: tensor.astype(np.float32, copy=False) for name, tensor in read(path).items()}
    stages = _count_stages(r"Mconv1_stage(\d+)_L1\.weight", tensors)
    config = {"network": "openpose_vgg19", "stages": stages}
    return _assign(path, config, tensors, _openpose_name, "OIHW", complete=True)


def _caffe_tensors(path: str | Path) -> Tensors:
    """The tensors by their PyTorch names; old files have biases with four axes."""
    tensors = {}
    for layer, blobs in caffemodel.read(path).items():
        for leaf, blob in zip(("weight", "bias"), blobs, strict=False):
            tensors[f"{layer}.{leaf}"] = blob.reshape(-1) if leaf == "bias" else blob
    return tensors


def _pytorch_tensors(path: str | Path) -> Tensors:
    """The tensors by the last two components of their names."""
    tensors: dict[str, np.ndarray] = {}
    for name, tensor in pth.read(path).items():
        short = ".".join(name.split(".")[-2:])
        if short in tensors:
            raise UserError(f"{path}: two tensors are called {short}")
        tensors[short] = tensor
    return tensors


def _openpose_name(variable: VariablePath) -> str:
    """("params", "stage2_paf", "conv1", "kernel") is Mconv1_stage2_L1.weight, for example."""
    _, *scopes, leaf = variable
    layer = scopes[-1]
    if len(scopes) == 1:
        layer += "_CPM" if layer in ("conv4_3", "conv4_4") else ""
    else:
        stage, branch = scopes[0].removeprefix("stage").split("_")
        number, side = layer.removeprefix("conv"), _BRANCHES[branch]
        layer = f"conv5_{number}_CPM" if stage == "1" else f"Mconv{number}_stage{stage}"
        layer += f"_L{side}"
    return f"{layer}.{'weight' if leaf == 'kernel' else 'bias'}"


# lightweight_openpose -----------------------------------------------------------------------------


def import_lightweight_openpose(path: str | Path) -> Imported:
    """Imports `LightweightOpenPose`, with folded batch norm, from an OpenVINO IR.

    Args:
        path: the .xml of Intel's human-pose-estimation-0001 (FP32, FP16 or FP16-INT8, whose weights
            are dequantized) or of a variant of this network, beside its .bin.

    Returns:
        The configuration, with the number of stages in the file, and the variables.

    Raises:
        UserError: the files cannot be read, or are of another network; names the first tensor that
            is missing, left over or does not fit.
    """
    layers = openvino.read(path)
    tensors = {
        f"{layer}.{leaf}": tensor
        for layer, convolution in layers.items()
        for leaf, tensor in convolution._asdict().items()
    }
    stages = _count_stages(r"Mconv1_stage(\d+)_L1/sq", layers)
    config = {"network": "lightweight_openpose", "stages": stages}
    return _assign(path, config, tensors, _openvino_name, "OIHW", complete=True)


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


def _openvino_name(variable: VariablePath) -> str:
    layer = variable[1]
    for module, published in _OPENVINO_NAMES:
        if match := re.fullmatch(module, layer):
            layer = match.expand(published)
            break
    return f"{layer}.{variable[-1]}"


# movenet_multipose --------------------------------------------------------------------------------


def import_movenet_multipose(path: str | Path) -> Imported:
    """Imports MoveNet MultiPose from a TensorFlow.js model.

    Args:
        path: the model's .json, beside the files that it names.

    Returns:
        The configuration and the variables.

    Raises:
        UserError: the files cannot be read, or are of another network; names the first tensor that
            is missing or does not fit.
    """
    # The file also holds tensors of the decoder and of unused heads.
    tensors = {
        re.sub(r"^.*center_net_[^/]*/|^StatefulPartitionedCall/", "", name): tensor
        for name, tensor in tfjs.read(path).items()
    }
    return _assign(path, {"network": "movenet_multipose"}, tensors, _tfjs_name, "HWIO")


_TFJS_HEADS = ("center", "kpt_heatmap", "kpt_regress", "kpt_offset")
_TFJS_NUMBERS = {"center": 3, "kpt_heatmap": 6, "kpt_regress": 7, "kpt_offset": 8}


def _tfjs_name(variable: VariablePath) -> str:
    """A variable's name in the graph, without its outer scopes."""
    module, is_kernel = variable[1], variable[-1] == "kernel"
    part, _, kind = module.partition("_")
    weights_or_offset = "Conv2D_weights" if is_kernel else "Conv2D_bn_offset"
    operation = "Conv2D/ReadVariableOp" if is_kernel else "BiasAdd/ReadVariableOp"
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
        return f"model_1/conv2d{f'_{number}' if number else ''}/{operation}"
    if part.startswith("merge"):
        number = int(part.removeprefix("merge"))
        scope = f"model_1/separable_conv2d{f'_{number}' if number else ''}/separable_conv2d"
        if kind == "depthwise":
            return f"{scope}/ReadVariableOp"
        return f"{scope}_{'weights' if is_kernel else 'bn_offset'}"
    head = next(name for name in _TFJS_HEADS if part in name)
    number = _TFJS_NUMBERS[head]
    if not kind:
        return f"{head}_0/conv2d_{number + 1}/{operation}"
    scope = f"{head}_0/separable_conv2d_{number}"
    if kind == "depthwise":
        return f"{scope}/separable_conv2d/ReadVariableOp"
    return f"{scope}/{'separable_conv2d/ReadVariableOp_1' if is_kernel else operation}"


IMPORTERS: dict[str, Callable[[str | Path], Imported]] = {
    "mobilenet_v2_small": import_mobilenet_v2_small,
    "openpose_vgg19": import_openpose_vgg19,
    "lightweight_openpose": import_lightweight_openpose,
    "movenet_multipose": import_movenet_multipose,
}

# The network in published files of a suffix; other suffixes are frozen TensorFlow graphs.
_NETWORK_OF_SUFFIX = {
    ".pb": "mobilenet_v2_small",
    ".pth": "openpose_vgg19",
    ".pt": "openpose_vgg19",
    ".caffemodel": "openpose_vgg19",
    ".xml": "lightweight_openpose",
    ".json": "movenet_multipose",
}


def import_file(path: Path) -> Imported:
    """Imports a published file; its suffix selects the network.

    Raises:
        UserError: see the importers.
    """
    return IMPORTERS[_NETWORK_OF_SUFFIX.get(path.suffix, "mobilenet_v2_small")](path)


def find(folder: Path) -> Path | None:
    """The published file in a folder; None without any, and for a pose checkpoint.

    Raises:
        UserError: there are several.
    """
    if (folder / weights.CONFIG_FILE).exists():
        return None
    found = [path for path in sorted(folder.iterdir()) if path.suffix in _NETWORK_OF_SUFFIX]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UserError(f"{folder}: holds several published files ({names}); name one of them")
    return found[0] if found else None
