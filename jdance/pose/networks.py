"""The pose networks by name: preprocessing, module and decoder."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import ArrayLike

from jdance.models.pose_layers import Maps
from jdance.models.pose_light import LightPose
from jdance.models.pose_lightweight import LightweightOpenPose
from jdance.models.pose_mobilenet import MobileNetV2Small
from jdance.models.pose_movenet import MoveNetMultiPose
from jdance.models.pose_openpose import OpenPoseVGG19
from jdance.pose import movenet_decode
from jdance.pose.decode import DecodeConfig, People, decode
from jdance.pose.letterbox import INPUT_SIZE


def _to_bgr(images: Array) -> Array:
    return images[..., ::-1].astype(jnp.float32)


def _to_unit_rgb(images: Array) -> Array:
    return images.astype(jnp.float32) / 127.5 - 1


def _decode_maps(maps: Maps, config: DecodeConfig, min_joints: ArrayLike) -> People:
    return decode(*maps, config, min_joints)


class PoseNetwork(NamedTuple):
    """A pose network and how to use it.

    Attributes:
        module: the Flax module.
        preprocess: images uint8 RGB [B, H, W, 3] -> the module's input.
        decode: (the module's outputs, `DecodeConfig`, min_joints) -> `People` in pixels of the
            images.
        multiple: H and W must be multiples of this.
        size: default side of the square input in pixels.
        trainable: whether the outputs are heat maps and PAFs, as `PoseTask` requires.
    """

    module: type[nn.Module]
    preprocess: Callable[[Array], Array] = _to_bgr
    decode: Callable[[Any, DecodeConfig, ArrayLike], People] = _decode_maps
    multiple: int = 16
    size: int = INPUT_SIZE
    trainable: bool = True


# By their names in configurations and pose checkpoints.
NETWORKS = {
    "mobilenet_v2_small": PoseNetwork(MobileNetV2Small),
    "light": PoseNetwork(LightPose),
    "openpose_vgg19": PoseNetwork(OpenPoseVGG19, multiple=8),
    "lightweight_openpose": PoseNetwork(LightweightOpenPose, multiple=8),
    "movenet_multipose": PoseNetwork(
        MoveNetMultiPose,
        preprocess=_to_unit_rgb,
        decode=movenet_decode.decode,
        multiple=32,
        size=384,
        trainable=False,
    ),
}
