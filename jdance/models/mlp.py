"""Dense layers with ReLU and dropout."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from jdance.models.dropout import Dropout


class MLP(nn.Module):
    """Hidden dense layers, each with ReLU and dropout: [B, D] -> [B, widths[-1]].

    With `norm`, a function that makes a normalising module, given its `name`, each dense layer is
    followed by one. `input_dropout` is the rate before the first one.
    """

    widths: Sequence[int]
    dropout: float = 0.5
    dtype: DTypeLike = jnp.float32
    input_dropout: float = 0.0
    norm: Callable[..., nn.Module] | None = None

    @nn.compact
    def __call__(self, x: Array, index: Array, train: bool) -> Array:
        if self.input_dropout:
            x = Dropout(self.input_dropout)(x, index, train)
        for number, width in enumerate(self.widths):
            x = nn.Dense(width, dtype=self.dtype)(x)
            if self.norm is not None:
                x = self.norm(name=f"norm_{number}")(x)
            x = nn.relu(x)
            x = Dropout(self.dropout)(x, index, train)
        return x
