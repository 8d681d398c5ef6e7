"""Device-side guard against non-finite steps: drops their updates and logs them.

The host reads the log only where it logs anyway; see `journal`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

POLICIES = ("stop", "skip")
SLOTS = 16  # non-finite steps that are recorded between two reads of the log

NonfiniteLog = dict[str, Array]


def empty() -> dict[str, np.ndarray]:
    """An empty log: `count` int32 [] and the steps' numbers `steps` int32 [16]."""
    return {"count": np.zeros((), np.int32), "steps": np.zeros(SLOTS, np.int32)}


def guard(
    old: Any, new: Any, metrics: dict[str, Array], nonfinite_log: NonfiniteLog, skip: bool
) -> tuple[Any, NonfiniteLog]:
    """Keeps the old state unless the new step's loss and gradient are finite; for use under jit.

    Args:
        old, new: `TrainState` before and after the step.
        metrics: of the step, with `loss` and `gradient_norm`.
        nonfinite_log: the log so far.
        skip: static. If False, the state is frozen after the first non-finite step, until the host
            sees it.

    Returns:
        The state, always with the new counters, and the log.
    """
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"])
    accept = finite if skip else finite & (nonfinite_log["count"] == 0)
    # The counters of the optimizer go on, as the schedule follows the steps.
    state = jax.tree.map(
        lambda a, b: a if jnp.issubdtype(a.dtype, jnp.integer) else jnp.where(accept, a, b),
        new,
        old,
    )
    slot = jnp.minimum(nonfinite_log["count"], SLOTS - 1)
    steps = nonfinite_log["steps"]
    return state, {
        "count": nonfinite_log["count"] + jnp.where(finite, 0, 1),
        "steps": steps.at[slot].set(jnp.where(finite, steps[slot], new.step)),
    }
