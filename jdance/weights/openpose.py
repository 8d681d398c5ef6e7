"""Reads the published COCO weights of OpenPose's network, in Caffe's or in PyTorch's format."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from jdance.errors import UserError
from jdance.pose import weights
from jdance.weights import caffemodel, pth


def import_openpose_vgg19(path: str | Path) -> tuple[dict[str, Any], weights.Variables]:
    """Reads weights of `OpenPoseVGG19`, of as many stages as there are in the file.

    Args:
        path: a .caffemodel (pose_iter_440000.caffemodel, say), or a PyTorch state dictionary whose
            names end in the same layers' names: conv5_1_CPM_L1.weight, maybe after the name of
            a module as in model1_1.conv5_1_CPM_L1.weight.

    Returns:
        The network's configuration and its variables.

    Raises:
        UserError: the file cannot be read, or is not of this network; names the first tensor that
            is missing, left over or mis-shaped.
    """
    is_caffe = Path(path).suffix == ".caffemodel"
    tensors = _caffe_tensors(path) if is_caffe else _pytorch_tensors(path)
    found = (re.match(r"Mconv1_stage(\d+)_L1\.weight", name) for name in tensors)
    stages = max((int(match[1]) for match in found if match), default=1)
    config = {"network": "openpose_vgg19", "stages": stages}
    imported = {}
    for place, expected in weights.abstract_variables(weights.build(config)).items():
        name = _published_name(place)
        if name not in tensors:
            raise UserError(f"{path}: not the weights of openpose_vgg19, {name} is missing")
        tensor = tensors.pop(name)
        if tensor.ndim == 4 and place[-1] == "kernel":
            tensor = tensor.transpose(2, 3, 1, 0)
            if len(expected.shape) == 2 and tensor.shape[:2] == (1, 1):
                tensor = tensor[0, 0]
        if tensor.shape != expected.shape:
            raise UserError(
                f"{path}: not the weights of openpose_vgg19, {name} would be {tensor.shape} and "
                f"not {expected.shape}"
            )
        imported[place] = tensor.astype(np.float32, copy=False)
    if tensors:
        raise UserError(f"{path}: {min(tensors)} is not in openpose_vgg19 of {stages} stages")
    return config, unflatten_dict(imported)


def _caffe_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors by PyTorch's names; old files have biases of four axes."""
    tensors = {}
    for layer, blobs in caffemodel.read(path).items():
        for leaf, blob in zip(("weight", "bias"), blobs, strict=False):
            tensors[f"{layer}.{leaf}"] = blob.reshape(-1) if leaf == "bias" else blob
    return tensors


def _pytorch_tensors(path: str | Path) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}
    for name, tensor in pth.read(path).items():
        short = ".".join(name.split(".")[-2:])
        if short in tensors:
            raise UserError(f"{path}: two tensors are called {short}")
        tensors[short] = tensor
    return tensors


def _published_name(place: tuple[str, ...]) -> str:
    """("params", "stage2_paf", "conv1", "kernel") is Mconv1_stage2_L1.weight, and so on."""
    *scopes, leaf = place[1:]
    layer = scopes[-1]
    if len(scopes) == 1:
        layer += "_CPM" if layer in ("conv4_3", "conv4_4") else ""
    else:
        stage, branch = scopes[0].removeprefix("stage").split("_")
        number, side = layer.removeprefix("conv"), 1 if branch == "paf" else 2
        if stage == "1":
            layer = f"conv5_{number}_CPM_L{side}"
        else:
            layer = f"Mconv{number}_stage{stage}_L{side}"
    return f"{layer}.{'weight' if leaf == 'kernel' else 'bias'}"
