"""Packing of parameters, batch statistics and optimizer state into a few long vectors.

An optimizer update is one kernel per vector instead of one per parameter: 10 instead of 160 for the
paper's network. Only the compiled step sees packed states; checkpoints hold Flax's trees.
"""

import dataclasses
from math import prod
from typing import Any

import jax
import jax.numpy as jnp

from jdance.train.state import TrainState


class Packing:
    """Packs trees of arrays by their top-level names.

    {name: tree} becomes {name: {"kernels": [1, N], "vectors": [M]}}: "kernels" holds the arrays of
    two or more dimensions. Optimizers are unaffected if their masks and learning rates depend only
    on the top-level name and on `ndim > 1`.

    Args:
        state: unpacked, possibly abstract.
    """

    def __init__(self, state: TrainState):
        self._params = {name: _Module(part) for name, part in state.params.items()}
        self._batch_stats = {name: _Module(part) for name, part in state.batch_stats.items()}

    def pack(self, state: TrainState) -> TrainState:
        """Packs a state."""
        return self._convert(state, packed=False)

    def unpack(self, state: TrainState) -> TrainState:
        """The inverse of `pack`."""
        return self._convert(state, packed=True)

    def unpack_variables(self, state: TrainState) -> TrainState:
        """Unpacks only parameters and batch statistics."""
        return dataclasses.replace(
            state,
            params=self._tree(state.params, self._params, packed=True),
            batch_stats=self._tree(state.batch_stats, self._batch_stats, packed=True),
        )

    def pack_params(self, params: Any) -> Any:
        """Packs parameters or gradients."""
        return self._tree(params, self._params, packed=False)

    def pack_batch_stats(self, batch_stats: Any) -> Any:
        return self._tree(batch_stats, self._batch_stats, packed=False)

    def _convert(self, state: TrainState, packed: bool) -> TrainState:
        def is_params(node: Any) -> bool:
            return isinstance(node, dict) and node.keys() == self._params.keys()

        def convert(node: Any) -> Any:
            return self._tree(node, self._params, packed) if is_params(node) else node

        return dataclasses.replace(
            state,
            params=self._tree(state.params, self._params, packed),
            batch_stats=self._tree(state.batch_stats, self._batch_stats, packed),
            opt_state=jax.tree.map(convert, state.opt_state, is_leaf=is_params),
        )

    @staticmethod
    def _tree(tree: Any, modules: dict[str, "_Module"], packed: bool) -> Any:
        # Optax masks modules with nodes that have no leaves.
        return {
            name: part
            if not jax.tree.leaves(part)
            else (modules[name].unpack(part) if packed else modules[name].pack(part))
            for name, part in tree.items()
        }


class _Module:
    """Layout of one module's arrays in the packed ones."""

    def __init__(self, tree: Any):
        leaves, self._structure = jax.tree.flatten(tree)
        self._shapes = [tuple(leaf.shape) for leaf in leaves]
        self._keys = ["kernels" if len(shape) > 1 else "vectors" for shape in self._shapes]

    def pack(self, tree: Any) -> dict[str, jax.Array]:
        parts: dict[str, list[jax.Array]] = {}
        for key, leaf in zip(self._keys, jax.tree.leaves(tree), strict=True):
            flat = leaf.reshape(1, -1) if key == "kernels" else leaf.reshape(-1)
            parts.setdefault(key, []).append(flat)
        return {key: jnp.concatenate(leaves, -1) for key, leaves in parts.items()}

    def unpack(self, packed: dict[str, jax.Array]) -> Any:
        flat = {key: value.reshape(-1) for key, value in packed.items()}
        offsets = dict.fromkeys(flat, 0)
        leaves = []
        for key, shape in zip(self._keys, self._shapes, strict=True):
            start = offsets[key]
            offsets[key] = start + prod(shape)
            leaves.append(flat[key][start : offsets[key]].reshape(shape))
        return jax.tree.unflatten(self._structure, leaves)
