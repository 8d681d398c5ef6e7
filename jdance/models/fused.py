"""The fused network of the paper: key-point branch, image branch, fusion (section 3, Figure 4)."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from jdance import features
from jdance.models import attention
from jdance.models.layers import MLP, BranchDropout
from jdance.models.resnet import BLOCKS, ResNet
from jdance.skeleton import LAYOUTS

# Mean and standard deviation of ImageNet's RGB, which pretrained ResNets expect.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)

BRANCH_WEIGHTS = "branch_weights"  # the variable [branches] of late fusion, in batch_stats


class FusedNet(nn.Module):
    """Classifies the motion of one person from an image crop, key-point features, or both.

    Attributes:
        classes: number of motions M.
        backbone: of the image branch, [B, H, W, 3] -> [B, h, w, C]; None: no image branch.
        image_widths: dense layers after its global average pool.
        keypoint_widths: dense layers of the key-point branch; empty: no key-point branch.
        fusion_widths: hidden dense layers after concatenation of the branches.
        dropout: rate after each hidden dense layer.
        late: each branch classifies by itself, instead of the fusion layers; the logits are the
            weighted sum of the branches' log probabilities. `calibration` fits the weights.
        keypoint_dropout, image_dropout: probability in training that an example with valid key
            points loses its key-point or its image branch, if there are both; not with `late`.
        freeze_backbone: run the backbone in inference mode (running statistics, no dropout) also
            in training, and stop its gradients.
    """

    classes: int
    backbone: nn.Module | None
    image_widths: Sequence[int] = (512,)
    keypoint_widths: Sequence[int] = (256, 512, 512, 512, 512)
    fusion_widths: Sequence[int] = (512, 512, 256, 256)
    dropout: float = 0.5
    late: bool = False
    keypoint_dropout: float = 0.0
    image_dropout: float = 0.0
    freeze_backbone: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        image: Array,
        features: Array,
        valid: Array | None = None,
        *,
        index: Array | None = None,
        train: bool = False,
    ) -> Array:
        """Logits float32 [B, M]; in training with `late`, log probabilities [B, branches, M].

        Args:
            image: crops [B, H, W, 3], RGB in 0 to 255 (uint8 or float). Unused without a backbone.
            features: key-point features [B, D]. Unused without a key-point branch.
            valid: bool [B], whether there are key points; None: where any feature is not 0.
            index: int32 [B], global indices of the examples, for dropout; None: 0, 1, ...
            train: use batch statistics, and dropout with the "dropout" key.
        """
        if index is None:
            index = jnp.arange(features.shape[0])
        if valid is None:
            valid = (features != 0).any(-1)
        keep_keypoints = keep_image = jnp.ones((len(index), 1), bool)
        if self.keypoint_widths and self.backbone is not None and not self.late:
            keep_keypoints, keep_image = BranchDropout(self.keypoint_dropout, self.image_dropout)(
                index, train
            )
        branches = []
        if self.keypoint_widths:
            x = features.astype(self.dtype)
            x = MLP(self.keypoint_widths, self.dropout, self.dtype, name="keypoints")(
                x, index, train
            )
            branches.append(jnp.where(valid[:, None] & keep_keypoints, x, 0))
        if self.backbone is not None:
            # bfloat16 cannot tell neighboring brightness values apart.
            wide = jnp.promote_types(jnp.float32, self.dtype)
            x = (image.astype(wide) - np.array(MEAN, wide)) / np.array(STD, wide)
            x = x.astype(self.dtype)
            x = self.backbone(x, index, train and not self.freeze_backbone).mean((1, 2))
            if self.freeze_backbone:
                x = jax.lax.stop_gradient(x)
            x = MLP(self.image_widths, self.dropout, self.dtype, name="image")(x, index, train)
            branches.append(jnp.where(keep_image | ~valid[:, None], x, 0))
        if self.late and len(branches) > 1:
            names = ("keypoint_logits", "image_logits")
            heads = [
                nn.log_softmax(nn.Dense(self.classes, name=name)(x.astype(jnp.float32)))
                for name, x in zip(names, branches, strict=True)
            ]
            heads[0] = jnp.where(valid[:, None], heads[0], 0)
            votes = jnp.stack(heads, 1)
            weights = self.variable("batch_stats", BRANCH_WEIGHTS, jnp.ones, len(heads)).value
            return votes if train else jnp.einsum("bkm,k->bm", votes, weights)
        x = jnp.concatenate(branches, axis=-1)
        x = MLP(self.fusion_widths, self.dropout, self.dtype, name="fusion")(x, index, train)
        return nn.Dense(self.classes, name="logits")(x.astype(jnp.float32))


def with_branch_weights(variables: Any, weights: Sequence[float]) -> Any:
    """Variables in which the weights of late fusion are replaced; unchanged if there are none."""
    old = variables.get("batch_stats", {}).get(BRANCH_WEIGHTS)
    if old is None or len(weights) != old.shape[-1]:
        return variables
    new = jnp.broadcast_to(jnp.asarray(weights, old.dtype), old.shape)
    return {**variables, "batch_stats": {**variables["batch_stats"], BRANCH_WEIGHTS: new}}


def keypoint_widths(config: ConfigDict) -> tuple[int, ...]:
    """Dense layers of the key-point branch; () if the network has none."""
    return tuple(config.keypoint_widths) if config.branches != "image" else ()


def inputs(config: ConfigDict) -> features.Inputs:
    """Key-point features and the image crop, or one of them, by `model.branches`."""
    return features.Inputs(
        compute=partial(features.compute, config.features),
        shape=(features.size(config.features, LAYOUTS[config.layout]),),
        feature_set=config.features,
        image=config.branches != "keypoints",
    )


def build(
    config: ConfigDict, axis_name: str | None, freeze_backbone: bool, platform: str
) -> FusedNet:
    """Builds the network; arguments as for `jdance.models.build`."""
    dtype = jnp.dtype(config.dtype)
    backbone = None
    if config.branches != "keypoints":
        backbone = ResNet(
            block=_one_of(config, "block", *BLOCKS),
            stage_sizes=tuple(config.stage_sizes),
            width=config.width,
            version=_one_of(config, "version", "v1", "v1.5"),
            attention=attention.from_config(config, axis_name),
            attention_place=_one_of(config, "attention_place", "end", "blocks"),
            zero_gamma=config.zero_gamma,
            dropout=config.stage_dropout,
            axis_name=axis_name,
            fold_norms=platform != "cpu",
            dtype=dtype,
        )
    return FusedNet(
        classes=config.classes,
        backbone=backbone,
        freeze_backbone=freeze_backbone,
        image_widths=tuple(config.image_widths),
        keypoint_widths=keypoint_widths(config),
        fusion_widths=tuple(config.fusion_widths),
        dropout=config.dropout,
        late=_one_of(config, "fusion", "joint", "late") == "late",
        keypoint_dropout=config.keypoint_dropout,
        image_dropout=config.image_dropout,
        dtype=dtype,
    )


def _one_of(config: ConfigDict, key: str, *values: str) -> str:
    if config[key] not in values:
        raise ValueError(f"model.{key}={config[key]!r}: expected {' or '.join(values)}")
    return str(config[key])
