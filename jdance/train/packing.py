"""Parameters, statistics and optimizer state as a few long vectors, for the compiled step.

An update is one kernel a vector instead of one a parameter: 10 instead of 160 for the paper's
network. Checkpoints, evaluation and everything outside of the compiled step see Flax's own trees.
"""

import dataclasses
from math import prod
from typing import Any

import jax
import jax.numpy as jnp

from jdance.train.state import TrainState


class Packing:
    """Packs trees of arrays by their top-level names.

    {name: tree} becomes {name: {"kernels": [1, N], "vectors": [M]}}: arrays of two or more
    dimensions in the one, all others in the other. Optimizers whose masks and learning rates
    depend on the top-level name and on `ndim > 1` alone work on both forms alike.
    """

    def __init__(self, state: TrainState):
        """Args: state: unpacked; shapes and dtypes are enough."""
        self._params = {name: _Module(part) for name, part in state.params.items()}
        self._batch_stats = {name: _Module(part) for name, part in state.batch_stats.items()}

    def pack(self, state: TrainState) -> TrainState:
        """Packs all that is in an unpacked state."""
        return self._convert(state, packed=False)

    def unpack(self, state: TrainState) -> TrainState:
        """The inverse of `pack`."""
        return self._convert(state, packed=True)

    def unpack_variables(self, state: TrainState) -> TrainState:
        """Unpacks parameters and statistics alone."""
        return dataclasses.replace(
            state,
            params=self._tree(state.params, self._params, packed=True),
            batch_stats=self._tree(state.batch_stats, self._batch_stats, packed=True),
        )

    def pack_params(self, params: Any) -> Any:
        """Packs parameters, or a tree like them, such as gradients."""
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
        # Optax puts a node without leaves in the place of what an optimizer leaves alone.
        return {
            name: part
            if not jax.tree.leaves(part)
            else (modules[name].unpack(part) if packed else modules[name].pack(part))
            for name, part in tree.items()
        }


class _Module:
    """The arrays of one module: where each lies in the packed ones."""

    def __init__(self, tree: Any):
        leaves, self._structure = jax.tree.flatten(tree)
        self._shapes = [tuple(leaf.shape) for leaf in leaves]
        self._keys = ["kernels" if len(shape) > 1 else "vectors" for shape in self._shapes]

    def pack(self, tree: Any) -> dict[str, jax.Array]:
        parts: dict[str, list[jax.Array]] = {}
        for key, leaf in zip(self._keys, jax.tree.leaves(tree), strict=True):
            parts.setdefault(key, []).append(leaf.reshape(1, -1) if key == "kernels" else
                                             leaf.reshape(-1))  # fmt: skip
        return {key: jnp.concatenate(leaves, -1) for key, leaves in parts.items()}

    def unpack(self, packed: dict[str, jax.Array]) -> Any:
        flat = {key: value.reshape(-1) for key, value in packed.items()}
        ends = dict.fromkeys(flat, 0)
        leaves = []
        for key, shape in zip(self._keys, self._shapes, strict=True):
            start = ends[key]
            ends[key] = start + prod(shape)
            leaves.append(flat[key][start : ends[key]].reshape(shape))
        return jax.tree.unflatten(self._structure, leaves)
