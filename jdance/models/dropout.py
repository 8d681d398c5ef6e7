"""Dropout whose masks belong to the examples, not to the devices that hold them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array


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
