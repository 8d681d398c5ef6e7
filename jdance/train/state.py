"""What training changes: one immutable pytree."""

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
Factors = Callable[[Any], Any]


@flax.struct.dataclass
class TrainState:
    """step int32 [], parameters, batch-norm statistics and the optimiser's memory."""

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
    """A fresh state; the same seed gives the same numbers.

    Args:
        model: called with arrays like `inputs`.
        optimizer: see `make_optimizer`.
        seed: of the parameters.
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
    """The learning rate as a function of the step.

    "piecewise": multiplied by `decay` at each of `boundaries` (the paper, section 4.2); "cosine":
    down to 0. Both after a linear warm-up. With `rate_for_batch` the configured rate is the one for
    that batch size, and another `batch_size` scales it linearly (Goyal et al., 2017).
    """
    rate, warmup = config.learning_rate, round(config.warmup * steps_per_epoch)
    if config.reference_batch_size and batch_size:
        rate *= batch_size / config.reference_batch_size
    if config.schedule == "piecewise":
        factors: dict[int, float] = {}
        for epoch in config.boundaries:
            step = round(epoch * steps_per_epoch)
            factors[step] = factors.get(step, 1.0) * config.decay
        schedule = optax.piecewise_constant_schedule(rate, factors)
    elif config.schedule == "cosine":
        schedule = optax.cosine_decay_schedule(rate, max(total_steps, 1))
    else:
        raise ValueError(f"optimizer.schedule={config.schedule!r}: expected piecewise or cosine")
    if not warmup:
        return schedule
    return lambda step: schedule(step) * jnp.minimum((step + 1) / warmup, 1)


def make_optimizer(
    config: ConfigDict,
    schedule: optax.Schedule,
    freeze_steps: float = 0,
    factors: Factors | None = None,
) -> optax.GradientTransformation:
    """SGD with momentum (the paper's), Adam or AdamW; weight decay acts on kernels only.

    With `freeze_steps` the parameters below "backbone" do not change in the first so many steps.
    Then they get an optimiser that knows nothing of those steps but the learning rate.

    Args:
        config: the experiment's `optimizer`.
        schedule: see `make_schedule`.
        freeze_steps: 0 where nothing is frozen.
        factors: None where the rate is the same for all parameters.

    Raises:
        ValueError: an unknown name.
    """
    optimizer = _freezing_optimizer(config, schedule, freeze_steps)
    if factors is None:
        return optimizer
    scale = optax.stateless(
        lambda updates, params: jax.tree.map(jnp.multiply, updates, factors(params))
    )
    return optax.chain(optimizer, scale)


def _freezing_optimizer(
    config: ConfigDict, schedule: optax.Schedule, freeze_steps: float
) -> optax.GradientTransformation:
    if not freeze_steps:
        return _make_optimizer(config, schedule)

    def later(step: Any) -> Any:  # this optimiser's own count starts when the freeze ends
        return schedule(step + freeze_steps)

    def groups(params: Any) -> Any:
        return {name: "later" if name == "backbone" else "always" for name in params}

    return optax.partition(
        {
            "always": _make_optimizer(config, schedule),
            "later": optax.transforms.conditionally_mask(
                _make_optimizer(config, later), lambda step: step >= freeze_steps
            ),
        },
        groups,
    )


def _make_optimizer(config: ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    def kernels(params: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    if config.name == "sgd":
        return optax.chain(
            optax.add_decayed_weights(config.weight_decay, kernels),
            optax.sgd(schedule, config.momentum),
        )
    if config.name == "adamw":
        return optax.adamw(schedule, weight_decay=config.weight_decay, mask=kernels)
    if config.name == "adam":  # with L2 regularisation as part of the loss
        return optax.chain(
            optax.add_decayed_weights(config.weight_decay, kernels), optax.adam(schedule)
        )
    raise ValueError(f"optimizer.name={config.name!r}: expected sgd, adam or adamw")
