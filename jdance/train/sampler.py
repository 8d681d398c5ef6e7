"""The course of a run's sampling: which shares the classes have, from which step on.

Steered sampling looks, before each round of training but the first, at the confusion matrix on the
training data. What it saw, and after how many steps, is kept in DIR/sampling.json, so that an
interrupted run continues with the shares that it had.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jdance import files
from jdance.data import records, sampling
from jdance.errors import UserError

_FADE = 0.5  # weight of the confusion of earlier rounds against that of the newest


class Sampler:
    """Class shares of a run.

    Args:
        config: the experiment.
        workdir: of the run.
        source: packed training records.
        classes: M.
        round_steps: steps of a round, the period in which steered sampling looks again.
    """

    def __init__(
        self, config: ConfigDict, workdir: Path, source: Any, classes: int, round_steps: int
    ):
        self._kind, self._strength = config.data.sampling, config.data.sampling_strength
        self._path, self._round_steps = workdir / "sampling.json", round_steps
        self._balanced: np.ndarray | None = None
        if self._kind != "shuffled":
            self._balanced = sampling.balanced(records.labels(source), classes)

    def changes(self, step: int) -> bool:
        """Whether the shares after `step` steps may be others than before."""
        return self._kind == "confusion" and step % self._round_steps == 0

    def shares(self, step: int, evaluate: Callable[[], dict[str, Any]]) -> np.ndarray | None:
        """Shares [M] from step `step` on; None: as the examples come.

        Args:
            step: how many steps have been done.
            judge: evaluates the network as it is now on the training data.

        Raises:
            UserError: a run is continued whose sampling.json is missing or damaged.
        """
        if self._kind != "confusion" or step < self._round_steps:
            return self._balanced
        seen = {at: matrix for at, matrix in self._read().items() if at <= step}
        if self.changes(step):
            seen.pop(step, None)
            before = np.array(seen[max(seen)] if seen else 0.0)
            seen[step] = (_FADE * before + np.array(evaluate()["confusion"])).tolist()
            self._write(seen)
        if not seen:
            raise UserError(
                f"{self._path}: does not tell the sampling at step {step}; train anew with another "
                "--workdir"
            )
        return sampling.steered(np.array(seen[max(seen)]), self._strength)

    def _read(self) -> dict[int, Any]:
        if not self._path.exists():
            return {}
        try:
            return {int(step): c for step, c in json.loads(self._path.read_text()).items()}
        except (ValueError, AttributeError) as error:
            raise UserError(
                f"{self._path}: is damaged ({error}); train anew with another --workdir"
            ) from error

    def _write(self, seen: dict[int, Any]) -> None:
        if jax.process_index():  # all processes have seen the same
            return
        files.atomic_write(self._path, json.dumps(seen) + "\n")
