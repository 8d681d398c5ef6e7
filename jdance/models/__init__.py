"""The networks, as Flax linen modules: pure functions of their variables and inputs."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jdance import features, skeleton_maps
from jdance.models import attention
from jdance.models.baselines.qes import FlatPostureNet, TwoStagePostureNet
from jdance.models.baselines.str import DenseNet
from jdance.models.fused import FusedNet
from jdance.models.resnet import BLOCKS, ResNet
from jdance.models.sequence import SequenceNet
from jdance.skeleton import LAYOUTS, Layout

BRANCHES = ("fused", "image", "keypoints", "sequence", "str", "qes", "qes_flat")


def build(
    config: ConfigDict,
    axis_name: str | None = None,
    freeze_backbone: bool = False,
    platform: str | None = None,
) -> nn.Module:
    """The network that a configuration's `model` part describes.

    Args:
        config: as `jdance.config.model()`.
        axis_name: the mapped axis over which batch-norm statistics are synchronized in training,
            unless `config.sync_batch_norm` is False.
        freeze_backbone: see `FusedNet`.
        platform: which jax platform a training step will run on; None: the default one.

    Returns:
        A module called as `apply(variables, image, features, valid, index=..., train=...)`.

    Raises:
        ValueError: the configuration describes no network.
    """
    axis_name = axis_name if config.sync_batch_norm else None
    if config.branches not in BRANCHES:
        raise ValueError(
            f"model.branches={config.branches!r}: expected one of {', '.join(BRANCHES)}"
        )
    if config.branches in ("str", "qes", "qes_flat"):
        return _baseline(config, axis_name)
    if config.block not in BLOCKS:
        raise ValueError(f"model.block={config.block!r}: expected {' or '.join(BLOCKS)}")
    if config.version not in ("v1", "v1.5"):
        raise ValueError(f"model.version={config.version!r}: expected v1 or v1.5")
    if config.attention_place not in ("end", "blocks"):
        raise ValueError(
            f"model.attention_place={config.attention_place!r}: expected end or blocks"
        )
    dtype = jnp.dtype(config.dtype)
    make_attention = partial(
        attention.make,
        config.attention,
        config.attention_block,
        gate_norm=config.gate_norm,
        axis_name=axis_name,
        dtype=dtype,
    )
    if config.branches == "sequence":
        if config.sequence.frames < 4:
            raise ValueError(f"model.sequence.frames={config.sequence.frames}: must be 4 or more")
        own = ("frames", "reduction")  # not fields of the network
        parts = {name: value for name, value in config.sequence.items() if name not in own}
        return SequenceNet(
            classes=config.classes,
            attention=make_attention(reduction=config.sequence.reduction),
            stage_dropout=config.stage_dropout,
            dropout=config.dropout,
            axis_name=axis_name,
            dtype=dtype,
            **parts | {"dense_widths": tuple(parts["dense_widths"])},
        )
    backbone = None
    if uses_image(config):
        backbone = ResNet(
            block=config.block,
            stage_sizes=tuple(config.stage_sizes),
            width=config.width,
            version=config.version,
            attention=make_attention(),
            attention_place=config.attention_place,
            zero_gamma=config.zero_gamma,
            dropout=config.stage_dropout,
            axis_name=axis_name,
            fold_norms=(platform or jax.default_backend()) != "cpu",
            dtype=dtype,
        )
    return FusedNet(
        classes=config.classes,
        backbone=backbone,
        freeze_backbone=freeze_backbone,
        image_widths=tuple(config.image_widths),
        keypoint_widths=tuple(config.keypoint_widths) if config.branches != "image" else (),
        fusion_widths=tuple(config.fusion_widths),
        dropout=config.dropout,
        keypoint_dropout=config.keypoint_dropout,
        image_dropout=config.image_dropout,
        dtype=dtype,
    )


def _baseline(config: ConfigDict, axis_name: str | None) -> nn.Module:
    qes = config.qes
    if config.branches == "qes_flat":
        return FlatPostureNet(config.classes, qes.hidden)
    if config.branches == "qes":
        if qes.fuzziness <= 1:
            raise ValueError(f"model.qes.fuzziness={qes.fuzziness}: must be greater than 1")
        # Before the data set has told them, each class is a category of its own.
        categories = tuple(qes.categories) or tuple(range(config.classes))
        if len(categories) != config.classes or set(categories) != set(range(len(set(categories)))):
            raise ValueError(
                f"model.qes.categories={categories}: expected a number from 0 on for each of the "
                f"{config.classes} classes"
            )
        return TwoStagePostureNet(categories, qes.hidden, qes.prototypes, qes.fuzziness)
    if config.str.depth < 7 or (config.str.depth - 4) % 3:
        raise ValueError(f"model.str.depth={config.str.depth}: expected 3 N + 4, such as 16")
    return DenseNet(
        classes=config.classes,
        depth=config.str.depth,
        growth=config.str.growth,
        dropout=config.str.dropout,
        axis_name=axis_name,
        dtype=jnp.dtype(config.dtype),
    )


def summary(config: ConfigDict, image_size: int) -> str:
    """A table of the modules: their inputs, outputs, variables and FLOPs, for one example.

    A multiplication and an addition are two FLOPs, as XLA counts them. Those of a convolution
    stand at the batch norm after it, which computes both.
    """
    image = jnp.zeros((1, image_size, image_size, 3), jnp.uint8)
    numbers = jnp.zeros((1, *feature_shape(config)))
    table = nn.tabulate(
        build(config),
        jax.random.key(0),
        depth=2,
        compute_flops=True,
        console_kwargs={"width": 160, "force_terminal": False},
    )
    return table(image, numbers).strip("\n")


def uses_image(config: ConfigDict) -> bool:
    """Whether the network that `config` describes looks at the image at all."""
    return config.branches in ("fused", "image")


def takes_sequences(config: ConfigDict) -> bool:
    """Whether the network takes sequences of skeletons; STR's takes stills and sequences alike."""
    return config.branches in ("sequence", "str")


def feature_shape(config: ConfigDict) -> tuple[int, ...]:
    """The shape of what one example's key points become, see `compute_features`."""
    if config.branches == "str":
        return (skeleton_maps.SIDE, skeleton_maps.SIDE, 3)
    layout = LAYOUTS[config.layout]
    size = features.size(feature_set(config), layout)
    if config.branches == "sequence":
        return (config.sequence.frames, size + 4 * len(layout))
    return (size,)


def compute_features(config: ConfigDict, keypoints: np.ndarray, layout: Layout) -> np.ndarray:
    """What the network takes of key points, its second argument.

    Args:
        config: as `jdance.config.model()`.
        keypoints: float32 [B, J, 3], or [B, T, J, 3] of sequences.
        layout: what the J joints are.

    Returns:
        float32 features [B, D], of sequences [B, T, D]; for STR its maps, uint8 [B, 32, 32, 3].
    """
    if config.branches == "str":
        return skeleton_maps.compute(keypoints, layout)
    compute = features.sequence if config.branches == "sequence" else features.compute
    return compute(feature_set(config), keypoints, layout)


def feature_set(config: ConfigDict) -> str:
    """The name in `features.NAMES` of the numbers that the network takes."""
    return "segments22" if config.branches in ("qes", "qes_flat") else config.features


def count_parameters(variables: dict) -> int:
    """The number of trainable parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
