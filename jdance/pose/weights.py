"""Weights of the pose networks: checkpoints, and calibration of batch-norm statistics.

Variables are the two Flax collections `params` and `batch_stats`, with NumPy leaves.
"""

import functools
import json
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
from jdance.models.pose_mobilenet import MobileNetV2Small
from jdance.pose.letterbox import letterbox
from jdance.pose.networks import NETWORKS, PoseNetwork
from jdance.weights import checkpoint
from jdance.weights.checkpoint import Variables

# Limits for configurations in files, so that untrusted ones cannot request huge networks.
_MAX_ATTRIBUTES = {"stages": 32, "width": 4096}

CONFIG_FILE = "pose.json"
_STATISTICS_FILE = Path(__file__).with_name("mobilenet_v2_small_statistics.npz")

# Packed checkpoints in the package, by their names for --pose.
SHIPPED = {"stage": Path(__file__).with_name("stage.npz")}


# The networks and their variables ----------------------------------------------------------------


def find_network(name: object) -> PoseNetwork:
    """The pose network of a name; raises UserError for an unknown one."""
    if not isinstance(name, str) or name not in NETWORKS:
        raise UserError(f"unknown pose network {name!r}; known: {', '.join(NETWORKS)}")
    return NETWORKS[name]


def build(config: Mapping[str, Any]) -> nn.Module:
    """The network of a configuration: {"network": its name, **attributes}.

    Raises:
        UserError: an unknown network, attribute or value.
    """
    attributes = dict(config)
    name = attributes.pop("network", None)
    if attributes.get("statistics") == "picture":  # the name in jdance 0.1
        attributes["statistics"] = "instance"
    kind = find_network(name)
    for key, limit in _MAX_ATTRIBUTES.items():
        if not isinstance(attributes.get(key, 1), int) or attributes.get(key, 1) > limit:
            raise UserError(
                f"pose network {name!r}: {key}={attributes[key]!r}, at most {limit} is possible"
            )
    try:
        net: nn.Module = kind.module(**attributes)
        abstract_variables(net)
    except (TypeError, ValueError, AttributeError, OverflowError, AssertionError) as error:
        raise UserError(f"pose network {name!r}: {error}") from error
    return net


@functools.cache
def abstract_variables(net: nn.Module) -> dict[tuple[str, ...], jax.ShapeDtypeStruct]:
    """Path -> shape and dtype of every variable of a pose network."""
    image = jax.ShapeDtypeStruct((1, 384, 384, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: net.init(jax.random.key(0), x), image)
    return flatten_dict({name: variables.get(name, {}) for name in ("params", "batch_stats")})


def check(net: nn.Module, variables: Mapping[str, Any], source: object) -> None:
    """Checks that variables fit a network, see `checkpoint.check`."""
    checkpoint.check(abstract_variables(net), variables, source)


# Batch-norm statistics of mobilenet_v2_small ------------------------------------------------------


def default_statistics() -> Variables:
    """Fixed `batch_stats` for the backbone of the published "mobilenet_v2_small".

    Measured over one batch of 40 letterboxed photos and video frames.
    """
    with np.load(_STATISTICS_FILE) as file:
        flat = {tuple(name.split("/")): file[name] for name in file.files}
    return unflatten_dict(flat)


def with_statistics(variables: Mapping[str, Any], backbone: Mapping[str, Any]) -> Variables:
    """Variables with the backbone's `batch_stats` replaced, for `statistics="fixed"`."""
    return {**variables, "batch_stats": {**variables["batch_stats"], "backbone": backbone}}


def calibrate(variables: Mapping[str, Any], images: np.ndarray) -> Variables:
    """Measures fixed batch-norm statistics for the backbone of "mobilenet_v2_small".

    All images form one batch: each layer's mean and (biased) variance are over all pixels of all
    images, after the preceding layers are normalized in the same way.

    Args:
        variables: `params`, and `batch_stats` of at least the stages.
        images: letterboxed, uint8 RGB [N, H, W, 3]; about 20 MB of memory each at 368 x 368.

    Returns:
        The backbone's `batch_stats`, for `with_statistics`.
    """
    net = MobileNetV2Small(statistics="fixed", momentum=0.0)

    @jax.jit
    def measure(variables: Variables, images: jax.Array) -> Variables:
        bgr = images[..., ::-1].astype(jnp.float32)
        _, updated = net.apply(variables, bgr, train=True, mutable=["batch_stats"])
        return updated["batch_stats"]["backbone"]

    return jax.device_get(measure(dict(variables), images))


def calibrate_folder(
    variables: Mapping[str, Any], folder: str | Path, max_images: int = 64
) -> Variables:
    """Runs `calibrate` on the letterboxed images in a folder and its subfolders.

    Args:
        variables: as for `calibrate`.
        folder: with images (`images.SUFFIXES`); other files are ignored.
        max_images: maximum number of images, to bound the memory; evenly spaced in the order of
            their names.

    Raises:
        UserError: there is no image, or one that cannot be read.
    """
    folder = Path(folder)
    subfolders = sorted(path for path in folder.rglob("*") if path.is_dir())
    paths = [path for parent in (folder, *subfolders) for path in images.find(parent)]
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
        config: see `build`.
        variables: of this network.

    Raises:
        UserError: the folder holds anything else, or the variables do not fit the network.
    """
    folder = Path(folder).absolute()
    check(build(config), variables, source=folder)
    checkpoint.save(folder, CONFIG_FILE, config, variables)


def pack(file: Path, config: Mapping[str, Any], variables: Mapping[str, Any]) -> None:
    """Writes a pose checkpoint as one .npz file, with float16 parameters."""
    check(build(config), variables, source=file)
    arrays: dict[str, Any] = {
        "/".join(path): np.asarray(leaf, np.float16 if path[0] == "params" else np.float32)
        for path, leaf in flatten_dict(dict(variables)).items()
    }
    np.savez_compressed(file, config=np.array(json.dumps(dict(config))), **arrays)


def unpack(file: Path) -> tuple[dict[str, Any], Variables]:
    """Reads a checkpoint written by `pack`; see `load`.

    Raises:
        UserError: another file, a damaged one, or variables that do not fit the network.
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
        UserError: not a pose checkpoint, a damaged one, or variables that do not fit the network
            (names the first difference).
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
