"""Class sampling during a run: the fraction of examples drawn from each class.

Steered sampling evaluates the confusion matrix on the training data before each round of training
except the first. DIR/sampling.json keeps the matrices by step, so that an interrupted run resumes
with the same fractions.
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

_DECAY = 0.5  # weight of the confusion of earlier rounds


class Sampler:
    """Class fractions of a run.

    Args:
        config: the experiment.
        workdir: of the run.
        source: packed training records.
        classes: their number M.
        round_steps: steps between two evaluations of steered sampling.
    """

    def __init__(
        self, config: ConfigDict, workdir: Path, source: Any, classes: int, round_steps: int
    ):
        self._kind, self._strength = config.data.sampling, config.data.sampling_strength
        self._path, self._round_steps = workdir / "sampling.json", round_steps
        self._balanced: np.ndarray | None = None
        if self._kind != "shuffled":
            self._balanced = sampling.balanced(records.read_labels(source), classes)

    def changes(self, step: int) -> bool:
        """Whether the fractions may change after `step` steps."""
        return self._kind == "confusion" and step % self._round_steps == 0

    def class_fractions(
        self, step: int, evaluate: Callable[[], dict[str, Any]]
    ) -> np.ndarray | None:
        """Fractions float64 [M] from `step` on; None: every example once per epoch.

        Args:
            step: number of finished steps.
            evaluate: evaluates the current network on the training data.

        Raises:
            UserError: sampling.json of a resumed run is missing or damaged.
        """
        if self._kind != "confusion" or step < self._round_steps:
            return self._balanced
        matrices = {at: matrix for at, matrix in self._read().items() if at <= step}
        if self.changes(step):
            matrices.pop(step, None)
            before = np.array(matrices[max(matrices)] if matrices else 0.0)
            matrices[step] = (_DECAY * before + np.array(evaluate()["confusion"])).tolist()
            self._write(matrices)
        if not matrices:
            raise UserError(
                f"{self._path}: has no entry up to step {step}; train again with another --workdir"
            )
        return sampling.confusion_weighted(np.array(matrices[max(matrices)]), self._strength)

    def _read(self) -> dict[int, Any]:
        if not self._path.exists():
            return {}
        try:
            return {int(step): c for step, c in json.loads(self._path.read_text()).items()}
        except (ValueError, AttributeError) as error:
            raise UserError(
                f"{self._path}: is damaged ({error}); train again with another --workdir"
            ) from error

    def _write(self, matrices: dict[int, Any]) -> None:
        if jax.process_index() == 0:  # the matrices are the same on all processes
            files.atomic_write(self._path, json.dumps(matrices) + "\n")
