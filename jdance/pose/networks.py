"""The pose networks: what each one is given, and how its outputs become people."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import ArrayLike

from jdance.models import pose_mobilenet
from jdance.models.pose_light import LightPose
from jdance.models.pose_lightweight import LightweightOpenPose
from jdance.models.pose_movenet import MoveNetMultiPose
from jdance.models.pose_openpose import OpenPoseVGG19
from jdance.pose import movenet_decode
from jdance.pose.decode import DecodeConfig, People, decode
from jdance.pose.letterbox import INPUT_SIZE


def _to_bgr(images: Array) -> Array:
    return images[..., ::-1].astype(jnp.float32)


def _to_unit_rgb(images: Array) -> Array:
    return images.astype(jnp.float32) / 127.5 - 1


def _decode_maps(maps: pose_mobilenet.Maps, config: DecodeConfig, min_joints: ArrayLike) -> People:
    return decode(*maps, config, min_joints)


class PoseNetwork(NamedTuple):
    """A kind of pose network; everything that depends on the kind is here.

    Attributes:
        module: its Flax module, called with what `preprocess` returns; outputs are its maps.
        preprocess: uint8 RGB [B, H, W, 3] -> what the module is called with.
        decode: (maps, `DecodeConfig`, min_joints) -> people, in pixels of the images.
        multiple: H and W are multiples of this.
        size: side of the square input if none is named, in pixels.
        trainable: maps are heat maps and PAFs, which `PoseTask` trains.
    """

    module: type[nn.Module]
    preprocess: Callable[[Array], Array] = _to_bgr
    decode: Callable[[Any, DecodeConfig, ArrayLike], People] = _decode_maps
    multiple: int = 16
    size: int = INPUT_SIZE
    trainable: bool = True


# By the name that configurations and pose checkpoints give them.
NETWORKS = {
    "mobilenet_v2_small": PoseNetwork(pose_mobilenet.MobileNetV2Small),
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
