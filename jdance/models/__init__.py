"""The motion networks, as Flax linen modules: pure functions of their variables and inputs.

`model.branches` names a network: a key of `NETWORKS`, or a Python module on PYTHONPATH. Such a
module has two functions of a configuration's `model` part: `inputs(config) -> features.Inputs`, and
`build(config, axis_name, freeze_backbone, platform)`, which returns a Flax module called as
`apply(variables, image, features, valid, index=..., train=...)`; it returns logits [B, M].
"""

import importlib
from types import ModuleType

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jdance.features import Inputs
from jdance.models import fused, sequence
from jdance.models.baselines import qes
from jdance.models.baselines import str as str_densenet

NETWORKS: dict[str, ModuleType] = {
    "fused": fused,
    "image": fused,
    "keypoints": fused,
    "sequence": sequence,
    "str": str_densenet,
    "qes": qes,
    "qes_flat": qes,
}


def network(config: ConfigDict) -> ModuleType:
    """The module of a configuration's network: a name in NETWORKS or "package.module".

    Raises:
        ValueError: an unknown name, or a module without `inputs` and `build`.
    """
    name = config.branches
    if name in NETWORKS:
        return NETWORKS[name]
    try:
        found = importlib.import_module(name)
        assert found.inputs and found.build
    except (ImportError, ValueError, AttributeError) as error:
        raise ValueError(
            f"model.branches={name!r}: expected one of {', '.join(NETWORKS)}, or the name of a "
            f"Python module on PYTHONPATH with the functions inputs and build ({error})"
        ) from error
    return found


def inputs(config: ConfigDict) -> Inputs:
    """Inputs that a configuration's network takes for each example."""
    result: Inputs = network(config).inputs(config)
    return result


def build(
    config: ConfigDict,
    axis_name: str | None = None,
    freeze_backbone: bool = False,
    platform: str | None = None,
) -> nn.Module:
    """Builds a configuration's network.

    Args:
        config: as `jdance.config.model()`.
        axis_name: the mapped axis over which batch-norm statistics are synchronized in training,
            unless `config.sync_batch_norm` is False.
        freeze_backbone: see `FusedNet`.
        platform: the JAX platform that the network will run on; None: the default one.

    Raises:
        ValueError: the configuration describes no network.
    """
    axis_name = axis_name if config.sync_batch_norm else None
    net: nn.Module = network(config).build(
        config, axis_name, freeze_backbone, platform or jax.default_backend()
    )
    return net


def abstract_variables(config: ConfigDict, image_size: int = 64) -> dict:
    """Shapes and dtypes of the variables of a configuration's network, none computed."""
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.uint8)
    features = jax.ShapeDtypeStruct((1, *inputs(config).shape), jnp.float32)
    variables: dict = jax.eval_shape(build(config).init, jax.random.key(0), image, features)
    return variables


def summary(net: nn.Module, *shapes: jax.ShapeDtypeStruct) -> str:
    """A table of a network's modules: their inputs, outputs, variables and FLOPs.

    A multiplication and an addition are two FLOPs, as XLA counts them. Those of a convolution
    stand at the batch norm after it, which computes both.

    Args:
        net: a motion or pose network.
        *shapes: shapes and dtypes of its inputs, for one example.
    """
    table = nn.tabulate(
        net,
        jax.random.key(0),
        depth=2,
        compute_flops=True,
        console_kwargs={"width": 160, "force_terminal": False},
    )
    return table(*(jnp.zeros(shape.shape, shape.dtype) for shape in shapes)).strip("\n")


def count_parameters(variables: dict) -> int:
    """The number of trainable parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
