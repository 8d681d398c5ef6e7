"""Pure training and evaluation steps, mapped over devices along the axis `AXIS`.

Gradients, batch statistics and metrics are averaged over the axis, so that every device ends a step
with the same state; `distributed` describes the data parallelism as a whole.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array

from jdance.train import nonfinite
from jdance.train.packing import Packing
from jdance.train.state import TrainState

AXIS = "batch"

# (model, variables, batch, dropout key) -> loss [], (metrics {name: []}, updated batch_stats)
Loss = Callable[
    [nn.Module, dict[str, Any], dict[str, Array], Array], tuple[Array, tuple[dict[str, Array], Any]]
]


def cross_entropy(
    logits: Array,
    labels: Array,
    smoothing: float = 0.0,
    partners: tuple[Array, Array] | None = None,
) -> Array:
    """Softmax cross-entropy [B] of logits [B, M].

    Args:
        logits: [B, M].
        labels: int32 [B].
        smoothing: label smoothing.
        partners: labels int32 [B] and weights float32 [B] of the examples mixed in.
    """
    targets = jax.nn.one_hot(labels, logits.shape[-1])
    if partners is not None:
        other, weight = jax.nn.one_hot(partners[0], logits.shape[-1]), partners[1][:, None]
        targets = (1 - weight) * targets + weight * other
    return optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, smoothing))


def partners(batch: dict[str, Array]) -> tuple[Array, Array] | None:
    """The arguments of `cross_entropy` for examples mixed in; None without mixup."""
    if "partner_label" not in batch:
        return None
    return batch["partner_label"], batch["partner_weight"]


def motion_loss(
    model: nn.Module,
    variables: dict[str, Any],
    batch: dict[str, Array],
    key: Array,
    *,
    smoothing: float = 0.0,
) -> tuple[Array, tuple[dict[str, Array], Any]]:
    """Mean cross-entropy and accuracy of a motion network in training mode.

    Args:
        model: the network.
        variables: its params and batch_stats.
        batch: image [B, S, S, 3] (optional), features [B, D], valid, label and index [B]; with
            mixup partner_label and partner_weight [B].
        key: for dropout.
        smoothing: label smoothing.
    """
    logits, updates = model.apply(
        variables,
        batch.get("image"),
        batch["features"],
        batch["valid"],
        index=batch["index"],
        train=True,
        rngs={"dropout": key},
        mutable=["batch_stats"],
    )
    if logits.ndim == 3:  # of branches that each learn by themselves
        each = jax.vmap(cross_entropy, (1, None, None, None))
        losses = each(logits, batch["label"], smoothing, partners(batch))
        loss, logits = losses.mean(), logits.sum(1)
    else:
        loss = cross_entropy(logits, batch["label"], smoothing, partners(batch)).mean()
    accuracy = (logits.argmax(-1) == batch["label"]).mean()
    return loss, ({"accuracy": accuracy}, updates.get("batch_stats", {}))


def train_step(
    state: TrainState,
    batch: dict[str, Array],
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    seed: int,
    loss: Loss = motion_loss,
    accumulate: int = 1,
    packing: Packing | None = None,
) -> tuple[TrainState, dict[str, Array]]:
    """Updates the state with this device's shard of the batch.

    Randomness comes from (seed, step, index of the example), never from the device.

    Args:
        state: replicated.
        batch: arrays [B, ...], as `loss` takes them.
        model, optimizer, seed, loss: constants of the run.
        accumulate: number of gradient-accumulation micro-batches, a divisor of B. The update is
            that of the whole batch, except that batch norm sees one micro-batch at a time.
        packing: of the state; None: it is not packed.

    Returns:
        The new state, and the metrics float32 []: `loss`, those of the loss, and `gradient_norm`.
    """
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    variables = state if packing is None else packing.unpack_variables(state)

    def gradient(batch: dict[str, Array], batch_stats: Any) -> tuple[Any, Any]:
        def loss_function(params: Any) -> tuple[Array, tuple[dict[str, Array], Any]]:
            return loss(model, {"params": params, "batch_stats": batch_stats}, batch, key)

        (value, (metrics, updated)), gradients = jax.value_and_grad(loss_function, has_aux=True)(
            variables.params
        )
        if packing is not None:
            gradients = packing.pack_params(gradients)
        return (value, metrics, gradients), updated

    if accumulate == 1:
        (value, metrics, gradients), batch_stats = gradient(batch, variables.batch_stats)
    else:
        micro_batches = jax.tree.map(lambda x: x.reshape(accumulate, -1, *x.shape[1:]), batch)
        (value, metrics, gradients), batch_stats = _accumulate(
            micro_batches, gradient, variables.batch_stats
        )
    if packing is not None:
        batch_stats = packing.pack_batch_stats(batch_stats)
    # Averages the batch statistics, too, unless synchronized batch norm has done so already.
    gradients, batch_stats = jax.lax.pmean((gradients, batch_stats), AXIS)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    metrics = {"loss": value, **metrics, "gradient_norm": optax.tree.norm(gradients)}
    new_state = TrainState(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=batch_stats,
        opt_state=opt_state,
    )
    return new_state, jax.lax.pmean(metrics, AXIS)


def guarded_step(
    state: TrainState,
    nonfinite_log: nonfinite.NonfiniteLog,
    batch: dict[str, Array],
    *,
    skip: bool,
    **constants: Any,
) -> tuple[TrainState, nonfinite.NonfiniteLog, dict[str, Array]]:
    """`train_step` whose update is dropped if it is not finite; see `nonfinite.guard`."""
    new_state, metrics = train_step(state, batch, **constants)
    return *nonfinite.guard(state, new_state, metrics, nonfinite_log, skip), metrics


def _accumulate(
    micro_batches: dict[str, Array],
    gradient: Callable[[dict[str, Array], Any], tuple[Any, Any]],
    batch_stats: Any,
) -> tuple[Any, Any]:
    """Scans `gradient` over micro-batches [N, B / N, ...].

    Returns:
        The mean of the first results, accumulated in one running sum, and the last batch_stats.
    """
    first = jax.tree.map(lambda x: x[0], micro_batches)
    zeros = optax.tree.zeros_like(jax.eval_shape(gradient, first, batch_stats)[0])

    def add(carry: tuple[Any, Any], micro_batch: dict[str, Array]) -> tuple[tuple[Any, Any], None]:
        total, batch_stats = carry
        value, batch_stats = gradient(micro_batch, batch_stats)
        return (jax.tree.map(jnp.add, total, value), batch_stats), None

    (total, batch_stats), _ = jax.lax.scan(add, (zeros, batch_stats), micro_batches)
    count = len(jax.tree.leaves(micro_batches)[0])
    return jax.tree.map(lambda x: x / count, total), batch_stats


def eval_step(variables: dict[str, Any], batch: dict[str, Array], *, model: nn.Module) -> Array:
    """Class probabilities float32 [B, M] of this device's shard of the batch."""
    logits = model.apply(variables, batch.get("image"), batch["features"], batch["valid"])
    return jax.nn.softmax(jnp.asarray(logits))
