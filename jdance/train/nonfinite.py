"""Steps whose loss or gradient is not finite: never applied, found without looking at every step.

The device keeps an account of them, which the host reads where it logs anyway; see `journal`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

POLICIES = ("stop", "skip")
SLOTS = 16  # steps that are told apart between two looks

NonfiniteLog = dict[str, Array]


def empty() -> dict[str, np.ndarray]:
    """No such step: `count` int32 [] and their numbers `steps` int32 [16]."""
    return {"count": np.zeros((), np.int32), "steps": np.zeros(SLOTS, np.int32)}


def guard(
    old: Any, new: Any, metrics: dict[str, Array], nonfinite_log: NonfiniteLog, skip: bool
) -> tuple[Any, NonfiniteLog]:
    """Takes an update only if its loss and gradient are finite; to be compiled with the step.

    Args:
        old, new: `TrainState` before and after.
        metrics: of the step, with `loss` and `gradient_norm`.
        account: what was bad before. Unless `skip`, nothing changes after a bad step, so that the
            state is still the one before it when the host sees that.
        skip: constant.

    Returns:
        The state, with the new step's number in either case, and the account.
    """
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"])
    good = finite if skip else finite & (nonfinite_log["count"] == 0)
    kept = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old).replace(step=new.step)
    place = jnp.minimum(nonfinite_log["count"], SLOTS - 1)
    steps = nonfinite_log["steps"]
    return kept, {
        "count": nonfinite_log["count"] + jnp.where(finite, 0, 1),
        "steps": steps.at[place].set(jnp.where(finite, steps[place], new.step)),
    }
