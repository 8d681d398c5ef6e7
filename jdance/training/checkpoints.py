"""Checkpoints of the training state, by orbax."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jdance.errors import UserError


class Checkpoints:
    """The checkpoints of one run, a folder each, named by the step."""

    def __init__(self, workdir: Path, kept: int = 2):
        self._folder = (workdir / "checkpoints").absolute()
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(max_to_keep=kept),
            item_handlers=ocp.StandardCheckpointHandler(),  # so that metadata can be read, too
        )

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, step: int, state: Any) -> None:
        """Starts to write a checkpoint; does nothing if the step has one."""
        if self._manager.latest_step() != step:
            self._manager.save(step, args=ocp.args.StandardSave(state))

    def restore(self, step: int, like: Any) -> Any:
        """The state at a step, with the tree, shapes, dtypes and places of `like`.

        Raises:
            UserError: the checkpoint is of another network or configuration; the first difference
                is named.
        """
        place = f"{self._folder / str(step)}"
        try:
            saved = self._manager.item_metadata(step)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{place}: not a readable checkpoint ({reason})") from error
        difference = first_difference(like, getattr(saved, "tree", saved))
        if difference:
            raise UserError(
                f"{place}: does not fit this configuration: {difference}; use another --workdir"
            )
        try:
            return self._manager.restore(step, args=ocp.args.StandardRestore(like))
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{place}: is damaged ({str(error).splitlines()[0]})") from error

    def newest_variables(self) -> dict[str, Any]:
        """Parameters and batch-norm statistics of the newest checkpoint, of whatever network.

        Returns:
            `params` and `batch_stats`, with NumPy leaves.

        Raises:
            UserError: there is no checkpoint, or it is damaged.
        """
        step = self._manager.latest_step()
        if step is None:
            raise UserError(f"{self._folder}: holds no checkpoint")
        try:
            saved = self._manager.item_metadata(step)
            like = jax.tree.map(
                lambda leaf: np.empty(leaf.shape, leaf.dtype), getattr(saved, "tree", saved)
            )
            whole = self._manager.restore(step, args=ocp.args.StandardRestore(like))
            return {name: whole[name] for name in ("params", "batch_stats")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{self._folder / str(step)}: is damaged ({reason})") from error

    def close(self) -> None:
        """Returns when all that was saved is on the disk."""
        self._manager.wait_until_finished()
        self._manager.close()


def has_checkpoint(workdir: Path) -> bool:
    """Whether a run has a checkpoint to continue from; makes no folders."""
    folder = workdir / "checkpoints"
    return folder.is_dir() and any(path.name.isdigit() for path in folder.iterdir())


def _leaves(tree: Any) -> dict[str, Any]:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        "/".join(
            str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))) for key in path
        ): leaf
        for path, leaf in flat
    }


def first_difference(expected: Any, saved: Any) -> str:
    """Describes the first leaf whose name, shape or dtype differs; empty if none does."""
    ours, theirs = _leaves(expected), _leaves(saved)
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in theirs:
            return f"{name} is missing in the checkpoint"
        if name not in ours:
            return f"{name} is not in the network"
        want, have = ours[name], theirs[name]
        if tuple(want.shape) != tuple(have.shape):
            return f"{name} has shape {tuple(have.shape)}, expected {tuple(want.shape)}"
        if jax.numpy.dtype(want.dtype) != jax.numpy.dtype(have.dtype):
            return f"{name} has dtype {have.dtype}, expected {want.dtype}"
    return ""
