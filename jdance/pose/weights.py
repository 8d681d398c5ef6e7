"""Weights of the pose networks: import of published files, our checkpoints, and calibration.

Variables are the two Flax collections `params` and `batch_stats`, with NumPy leaves.
"""

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from jdance import npz
from jdance.data import images
from jdance.errors import UserError
from jdance.models import pose_mobilenet
from jdance.pose.letterbox import letterbox
from jdance.pose.networks import NETWORKS, PoseNetwork
from jdance.weights import checkpoint, graphdef
from jdance.weights.checkpoint import Variables

# A file may ask for any size; to find out that its variables do not fit must not take for ever.
_LARGEST = {"stages": 32, "width": 4096}

CONFIG_FILE = "pose.json"
_STATISTICS_FILE = Path(__file__).with_name("mobilenet_v2_small_statistics.npz")

# Packed checkpoints that come with the package, by the name that --pose knows them by.
SHIPPED = {"stage": Path(__file__).with_name("stage.npz")}


# The networks and their variables ----------------------------------------------------------------


def find_network(name: object) -> PoseNetwork:
    """The kind of pose network of a name; raises UserError for an unknown one."""
    if not isinstance(name, str) or name not in NETWORKS:
        raise UserError(f"unknown pose network {name!r}; known: {', '.join(NETWORKS)}")
    return NETWORKS[name]


def build(config: Mapping[str, Any]) -> nn.Module:
    """The network of a configuration: {"network": a name, and its attributes by name}.

    Raises:
        UserError: an unknown network, or an attribute or value that it does not have.
    """
    attributes = dict(config)
    name = attributes.pop("network", None)
    if attributes.get("statistics") == "picture":  # checkpoints of jdance 0.1 call it so
        attributes["statistics"] = "instance"
    kind = find_network(name)
    for key, largest in _LARGEST.items():
        if not isinstance(attributes.get(key, 1), int) or attributes.get(key, 1) > largest:
            raise UserError(
                f"pose network {name!r}: {key}={attributes[key]!r}, at most {largest} is possible"
            )
    try:
        net: nn.Module = kind.module(**attributes)
        abstract_variables(net)
    except (TypeError, ValueError, AttributeError, OverflowError, AssertionError) as error:
        raise UserError(f"pose network {name!r}: {error}") from error
    return net


@functools.cache
def abstract_variables(net: nn.Module) -> dict[tuple[str, ...], jax.ShapeDtypeStruct]:
    """The shape and dtype of every variable of a pose network by its path, none computed."""
    image = jax.ShapeDtypeStruct((1, 384, 384, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: net.init(jax.random.key(0), x), image)
    return flatten_dict({name: variables.get(name, {}) for name in ("params", "batch_stats")})


def check(net: nn.Module, variables: Mapping[str, Any], source: object) -> None:
    """Compares variables with what a network has.

    Raises:
        UserError: names `source` and the first variable that is missing, left over, or of
            another shape or dtype.
    """
    checkpoint.check(abstract_variables(net), variables, source)


# Import ------------------------------------------------------------------------------------------


def import_mobilenet_v2_small(path: str | Path) -> Variables:
    """Reads the published graph of "mobilenet_v2_small".

    Args:
        path: the frozen TensorFlow graph (graph_opt.pb of the tf-pose-estimation project).

    Returns:
        The variables of `MobileNetV2Small(statistics="instance")`: the graph holds no running
        statistics for the backbone.

    Raises:
        UserError: not such a graph; names the first tensor that is missing or mis-shaped.
    """
    constants = graphdef.read_constants(path)
    # Freezing appends a counter: SCOPE/weights/read/_2__cf__2.
    tensors = {re.sub(r"/read(/_\d+__cf__\d+)?$", "", name): c for name, c in constants.items()}
    net = pose_mobilenet.MobileNetV2Small(statistics="instance")
    imported = {}
    for path_in_net, expected in abstract_variables(net).items():
        tensor_name = _tensorflow_name(path_in_net)
        shape = _tensorflow_shape(path_in_net, expected.shape)
        if tensor_name not in tensors:
            raise UserError(
                f"{path}: not the whole graph of mobilenet_v2_small, {tensor_name} is missing"
            )
        tensor = tensors[tensor_name]
        if tensor.shape != shape or tensor.dtype != expected.dtype:
            raise UserError(
                f"{path}: not the graph of mobilenet_v2_small, {tensor_name} is {tensor.dtype} "
                f"{tensor.shape} and not {expected.dtype} {shape}"
            )
        # Only axes of size 1 come and go: the order of the numbers stays.
        imported[path_in_net] = tensor.reshape(expected.shape)
    return unflatten_dict(imported)


def _tensorflow_name(path: tuple[str, ...]) -> str:
    """The graph's name of the variable at a path in the network.

    ("params", "backbone", "block01", "expand_bn", "scale") is
    MobilenetV2/expanded_conv_1/expand/BatchNorm/gamma, and
    ("params", "stage1_paf", "sep1_depthwise", "kernel") is
    Openpose/MConv_Stage1_L1_1_depthwise/depthwise_weights.
    """
    _, part, *inner, leaf = path
    layer = inner[-1].removesuffix("_bn")
    if part == "backbone":
        scope = "MobilenetV2/Conv"
        if layer != "stem":
            block = int(inner[0].removeprefix("block"))
            scope = f"MobilenetV2/expanded_conv{f'_{block}' if block else ''}/{layer}"
    else:
        stage, branch = part.split("_")
        branch_number = 1 if branch == "paf" else 2
        unit, _, kind = layer.removeprefix("sep").partition("_")
        # The batch norm of a unit belongs to its pointwise half.
        scope = (
            f"Openpose/MConv_Stage{stage.removeprefix('stage')}_L{branch_number}_{unit}_"
            f"{kind or 'pointwise'}"
        )
    if leaf == "kernel":
        return f"{scope}/{'depthwise_weights' if layer.endswith('depthwise') else 'weights'}"
    leaves = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}
    return f"{scope}/BatchNorm/{leaves[leaf]}"


def _tensorflow_shape(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a variable has in the graph: its kernels all have four axes."""
    if path[-1] == "kernel" and len(shape) == 2:
        return (1, 1, *shape)
    if path[-2].endswith("depthwise"):
        height, width, _, channels = shape
        return (height, width, channels, 1)
    return shape


def default_statistics() -> Variables:
    """Fixed batch-norm statistics for the backbone of the published "mobilenet_v2_small".

    Measured over one batch of 40 letterboxed photos and video frames; replaces `batch_stats`
    of the backbone alone.
    """
    with np.load(_STATISTICS_FILE) as file:
        flat = {tuple(name.split("/")): file[name] for name in file.files}
    return unflatten_dict(flat)


def with_statistics(variables: Mapping[str, Any], backbone: Mapping[str, Any]) -> Variables:
    """The variables with fixed statistics for the backbone: for `statistics="fixed"`."""
    return {**variables, "batch_stats": {**variables["batch_stats"], "backbone": backbone}}


# Calibration -------------------------------------------------------------------------------------


def calibrate(variables: Mapping[str, Any], images: np.ndarray) -> Variables:
    """Measures fixed batch-norm statistics for the backbone of "mobilenet_v2_small".

    All images go through as one batch: each layer's mean and (biased) variance are over all
    pixels of all images, in which every layer before it is normalised by such statistics, too.

    Args:
        variables: `params`, and `batch_stats` of at least the stages.
        images: uint8 RGB [N, H, W, 3], letterboxed. Each takes about 20 MB of memory at 368 x 368.

    Returns:
        The backbone's `batch_stats`, for `with_statistics`.
    """
    net = pose_mobilenet.MobileNetV2Small(statistics="fixed", momentum=0.0)

    @jax.jit
    def measure(variables: Variables, images: jax.Array) -> Variables:
        bgr = images[..., ::-1].astype(jnp.float32)
        _, updated = net.apply(variables, bgr, train=True, mutable=["batch_stats"])
        return updated["batch_stats"]["backbone"]

    return jax.device_get(measure(dict(variables), images))


def calibrate_folder(
    variables: Mapping[str, Any], folder: str | Path, max_images: int = 64
) -> Variables:
    """`calibrate` with the images in a folder and the folders below it, letterboxed.

    Args:
        variables: as for `calibrate`.
        folder: with images (`images.SUFFIXES`); other files are passed over.
        max_images: of a larger folder so many images are used, evenly spaced in the order of
            their names, to bound the memory.

    Raises:
        UserError: the folder holds no image, or one that cannot be read.
    """
    folder = Path(folder)
    below = sorted(path for path in folder.rglob("*") if path.is_dir())
    paths = [path for place in (folder, *below) for path in images.find(place)]
    if not paths:
        raise UserError(f"{folder}: no images in it")
    if len(paths) > max_images:
        paths = [paths[i * len(paths) // max_images] for i in range(max_images)]
    return calibrate(variables, np.stack([letterbox(images.read(path))[0] for path in paths]))


# Checkpoints -------------------------------------------------------------------------------------


def save(folder: str | Path, config: Mapping[str, Any], variables: Mapping[str, Any]) -> None:
    """Writes a pose checkpoint: FOLDER/pose.json (the configuration) and FOLDER/variables (orbax).

    Args:
        folder: new, empty, or a pose checkpoint to replace.
        config: as `build` takes it.
        variables: of that network.

    Raises:
        UserError: the folder holds something else, or the variables do not fit the network.
    """
    folder = Path(folder).absolute()
    check(build(config), variables, source=folder)
    checkpoint.save(folder, CONFIG_FILE, config, variables)


def pack(file: Path, config: Mapping[str, Any], variables: Mapping[str, Any]) -> None:
    """Writes a pose checkpoint into one small file (.npz), the parameters in half precision."""
    check(build(config), variables, source=file)
    arrays: dict[str, Any] = {
        "/".join(path): np.asarray(leaf, np.float16 if path[0] == "params" else np.float32)
        for path, leaf in flatten_dict(dict(variables)).items()
    }
    np.savez_compressed(file, config=np.array(json.dumps(dict(config))), **arrays)


def unpack(file: Path) -> tuple[dict[str, Any], Variables]:
    """Reads what `pack` wrote; see `load`.

    Raises:
        UserError: not such a file, a damaged one, or variables that do not fit the network.
    """
    arrays = npz.read(file)
    try:
        config = json.loads(str(arrays.pop("config")))
        flat = {tuple(name.split("/")): array.astype(np.float32) for name, array in arrays.items()}
        variables = unflatten_dict(flat)
        net = build(config)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file}: not a packed pose checkpoint ({error!r})") from error
    check(net, variables, source=file)
    return config, variables


def load(folder: str | Path) -> tuple[dict[str, Any], Variables]:
    """Reads a pose checkpoint.

    Returns:
        The configuration, and the variables with NumPy leaves.

    Raises:
        UserError: not a pose checkpoint, a damaged one, or variables that do not fit the network;
            names the first difference.
    """
    folder = Path(folder).absolute()
    config = checkpoint.read_config(folder, CONFIG_FILE, "pose")
    try:
        net = build(config)
    except UserError as error:
        raise UserError(f"{folder / CONFIG_FILE}: {error}") from error
    variables = checkpoint.read_variables(folder, "pose")
    check(net, variables, source=folder)
    return config, variables
