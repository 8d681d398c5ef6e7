"""Dropout whose masks belong to the examples, not to the devices that hold them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array


class BranchDropout(nn.Module):
    """Silences one of two branches at random, never both, so that neither leans on the other.

    Called with int32 [B], returns bool [B, 1] twice: whether the first branch (silenced with
    probability `first`) and the second (`second`) are kept. The sum of both must be at most 1.
    """

    first: float
    second: float

    @nn.compact
    def __call__(self, index: Array, train: bool) -> tuple[Array, Array]:
        if not train or self.first + self.second == 0:
            kept = jnp.ones((len(index), 1), bool)
            return kept, kept
        keys = jax.vmap(jax.random.fold_in, (None, 0))(self.make_rng("dropout"), index)
        draw = jax.vmap(jax.random.uniform)(keys)[:, None]
        return draw >= self.first, draw < 1 - self.second


class Dropout(nn.Module):
    """Zeroes values of [B, ...] with probability `rate` and scales the rest by 1 / (1 - rate).

    Each example's mask comes from the "dropout" key, the module's place in the network, and the
    example's `index` (int32 [B]): the same numbers on one device or on many.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, index: Array, train: bool) -> Array:
        if not train or self.rate == 0:
            return x
        keys = jax.vmap(jax.random.fold_in, (None, 0))(self.make_rng("dropout"), index)
        draw = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - self.rate, x.shape[1:]))
        return jnp.where(draw(keys), x / (1 - self.rate), 0)
