"""The host's side of `nonfinite`: which examples recent steps had, and what becomes of bad ones."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from jdance import files
from jdance.data import records, scenes
from jdance.errors import UserError
from jdance.train import distributed, nonfinite

_FEW = 16, 0.01  # steps, or share of all, that may be skipped before the run ends


class Journal:
    """Remembers what recent steps were made of, and acts on those that were not finite.

    Args:
        workdir: of the run; gets nonfinite/STEP.json for each bad step.
        policy: one of `nonfinite.POLICIES`.
        total_steps: of the run.
        source: packed training records.
        kind: of the data set.
    """

    def __init__(self, workdir: Path, policy: str, total_steps: int, source: Any, kind: str):
        self._workdir, self._policy, self._source = workdir, policy, source
        self._most = max(_FEW[0], round(_FEW[1] * total_steps))
        self._unpack = scenes.unpack if kind == "people" else records.unpack
        self._examples: dict[int, np.ndarray] = {}
        self.skipped = 0
        self.nonfinite_log = distributed.replicate(nonfinite.empty())

    def add(self, step: int, batch: dict[str, np.ndarray]) -> None:
        """Remembers what a step is made of."""
        self._examples[step] = batch["index"]

    def look(self, nonfinite_log: dict[str, np.ndarray], rates: Any, kept: int) -> list[str]:
        """Acts on the account up to here, as all processes do alike, and starts another.

        Args:
            account: on the host.
            rates: the learning rate of a step, counted from 0.
            kept: the step of the newest checkpoint.

        Returns:
            A line for each step that was skipped.

        Raises:
            UserError: the run must end.
        """
        count = int(nonfinite_log["count"])
        lines = []
        if count:
            for step in nonfinite_log["steps"][: min(count, nonfinite.SLOTS)].tolist():
                path = self._write(step, float(rates(step - 1)))
                lines.append(f"step {step}: the loss or its gradient is not finite; see {path}")
                if self._policy == "stop":
                    raise UserError(
                        f"{self._workdir}: at {lines[0]}; lower --config.optimizer.learning_rate, "
                        f"or leave such steps out with --config.on_nonfinite=skip (checkpoints up "
                        f"to step {kept} are kept)"
                    )
            self.skipped += count
            self.nonfinite_log = distributed.replicate(nonfinite.empty())
            if count > nonfinite.SLOTS or self.skipped > self._most:
                raise UserError(
                    f"{self._workdir}: {self.skipped} steps were not finite and skipped, the last "
                    f"{lines[-1]}; lower --config.optimizer.learning_rate"
                )
        self._examples.clear()
        return [f"{line}; skipped" for line in lines]

    def _write(self, step: int, rate: float) -> Path:
        """Writes what is needed to do a step again: nonfinite/STEP.json."""
        path = self._workdir / "nonfinite" / f"{step}.json"
        examples = distributed.interleave(self._examples[step]).tolist()
        if distributed.is_first():
            found = [self._unpack(self._source[index]) for index in examples]
            names = [example.name if isinstance(example, scenes.SceneRecord) else example.source
                     for example in found]  # fmt: skip
            content = {
                "step": step, "learning_rate": rate, "examples": examples, "sources": names,
            }  # fmt: skip
            path.parent.mkdir(exist_ok=True)
            files.atomic_write(path, json.dumps(content) + "\n")
        return path
