"""The training state, its learning-rate schedule and its optimizer."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array
from ml_collections import ConfigDict

# From parameters to a tree like them of factors of the learning rate.
LrMultipliers = Callable[[Any], Any]


@flax.struct.dataclass
class TrainState:
    """Step int32 [], parameters, batch-norm statistics and optimizer state."""

    step: Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState

    @property
    def variables(self) -> dict[str, Any]:
        return {"params": self.params, "batch_stats": self.batch_stats}


def create(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    seed: int,
    inputs: Sequence[jax.ShapeDtypeStruct],
) -> TrainState:
    """Initializes the state.

    Args:
        model: called with arrays of these inputs.
        optimizer: see `make_optimizer`.
        seed: for the parameters.
        inputs: shapes and dtypes.
    """
    zeros = [jnp.zeros(x.shape, x.dtype) for x in inputs]
    variables = jax.jit(model.init)(jax.random.key(seed), *zeros)
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=jax.jit(optimizer.init)(params),
    )


def make_schedule(
    config: ConfigDict, steps_per_epoch: float, total_steps: int, batch_size: int = 0
) -> optax.Schedule:
    """Learning rate by step.

    "piecewise" multiplies it by `decay` at each of `boundaries` (the paper, section 4.2); "cosine"
    decays it to 0. Both follow a linear warm-up. With `reference_batch_size`, the learning rate is
    scaled linearly by `batch_size` over it (Goyal et al., 2017).
    """
    learning_rate, warmup = config.learning_rate, round(config.warmup * steps_per_epoch)
    if config.reference_batch_size and batch_size:
        learning_rate *= batch_size / config.reference_batch_size
    if config.schedule == "piecewise":
        factors: dict[int, float] = {}
        for epoch in config.boundaries:
            step = round(epoch * steps_per_epoch)
            factors[step] = factors.get(step, 1.0) * config.decay
        schedule = optax.piecewise_constant_schedule(learning_rate, factors)
    elif config.schedule == "cosine":
        schedule = optax.cosine_decay_schedule(learning_rate, max(total_steps, 1))
    else:
        raise ValueError(f"optimizer.schedule={config.schedule!r}: expected piecewise or cosine")
    if not warmup:
        return schedule
    return lambda step: schedule(step) * jnp.minimum((step + 1) / warmup, 1)


def make_optimizer(
    config: ConfigDict,
    schedule: optax.Schedule,
    freeze_steps: float = 0,
    lr_multipliers: LrMultipliers | None = None,
) -> optax.GradientTransformation:
    """SGD with momentum (the paper's), Adam or AdamW; weight decay applies to kernels only.

    Args:
        config: the experiment's `optimizer`.
        schedule: see `make_schedule`.
        freeze_steps: number of steps in which the parameters below "backbone" are frozen; their
            optimizer state starts afterwards.
        lr_multipliers: None: 1 for all parameters.

    Raises:
        ValueError: an unknown name.
    """
    optimizer = _with_frozen_backbone(config, schedule, freeze_steps)
    if lr_multipliers is None:
        return optimizer
    scale = optax.stateless(
        lambda updates, params: jax.tree.map(jnp.multiply, updates, lr_multipliers(params))
    )
    return optax.chain(optimizer, scale)


def _with_frozen_backbone(
    config: ConfigDict, schedule: optax.Schedule, freeze_steps: float
) -> optax.GradientTransformation:
    if not freeze_steps:
        return _base_optimizer(config, schedule)

    def shifted(step: Any) -> Any:  # the backbone's optimizer counts from the end of the freeze
        return schedule(step + freeze_steps)

    def labels(params: Any) -> Any:
        return {name: "later" if name == "backbone" else "always" for name in params}

    return optax.partition(
        {
            "always": _base_optimizer(config, schedule),
            "later": optax.transforms.conditionally_mask(
                _base_optimizer(config, shifted), lambda step: step >= freeze_steps
            ),
        },
        labels,
    )


def _base_optimizer(config: ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    def kernels(params: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    if config.name == "sgd":
        return optax.chain(
            optax.add_decayed_weights(config.weight_decay, kernels),
            optax.sgd(schedule, config.momentum),
        )
    if config.name == "adamw":
        return optax.adamw(schedule, weight_decay=config.weight_decay, mask=kernels)
    if config.name == "adam":  # with L2 regularization as part of the loss
        return optax.chain(
            optax.add_decayed_weights(config.weight_decay, kernels), optax.adam(schedule)
        )
    raise ValueError(f"optimizer.name={config.name!r}: expected sgd, adam or adamw")
