"""Dense layers with ReLU and dropout."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from jdance.models.dropout import Dropout


class MLP(nn.Module):
    """Hidden dense layers, each with ReLU and dropout: [B, D] -> [B, widths[-1]]."""

    widths: Sequence[int]
    dropout: float = 0.5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, index: Array, train: bool) -> Array:
        for width in self.widths:
            x = nn.relu(nn.Dense(width, dtype=self.dtype)(x))
            x = Dropout(self.dropout)(x, index, train)
        return x
