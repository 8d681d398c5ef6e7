"""Host-side handling of non-finite steps: reports them, and stops the run or lets it go on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jdance import files
from jdance.data import records, scenes
from jdance.errors import UserError
from jdance.train import distributed, nonfinite

_MAX_SKIPPED, _MAX_SKIPPED_FRACTION = 16, 0.01  # the larger of the two limits holds


class Journal:
    """Keeps the examples of recent steps, and acts on the device's log of non-finite steps.

    Args:
        workdir: gets nonfinite/STEP.json for each non-finite step.
        policy: one of `nonfinite.POLICIES`.
        total_steps: of the run.
        source: packed training records.
        kind: of the data set: "persons" or "people".
    """

    def __init__(self, workdir: Path, policy: str, total_steps: int, source: Any, kind: str):
        self._workdir, self._policy, self._source = workdir, policy, source
        self._max_skipped = max(_MAX_SKIPPED, round(_MAX_SKIPPED_FRACTION * total_steps))
        self._unpack = scenes.unpack if kind == "people" else records.unpack
        self._examples: dict[int, np.ndarray] = {}
        self.skipped = 0
        self.nonfinite_log = distributed.replicate(nonfinite.empty())

    def add(self, step: int, batch: dict[str, np.ndarray]) -> None:
        """Records the examples of a step."""
        self._examples[step] = batch["index"]

    def check(
        self,
        nonfinite_log: dict[str, np.ndarray],
        schedule: Callable[[int], Any],
        checkpoint_step: int,
    ) -> list[str]:
        """Acts on the log and clears it; all processes have the same log and act alike.

        Args:
            nonfinite_log: on the host.
            schedule: the learning rate by step, counted from 0.
            checkpoint_step: step of the newest checkpoint, for the message.

        Returns:
            A line for each skipped step.

        Raises:
            UserError: the run must end.
        """
        count = int(nonfinite_log["count"])
        lines = []
        if count:
            for step in nonfinite_log["steps"][: min(count, nonfinite.SLOTS)].tolist():
                path = self._write(step, float(schedule(step - 1)))
                lines.append(f"step {step}: the loss or its gradient is not finite; see {path}")
                if self._policy == "stop":
                    raise UserError(
                        f"{self._workdir}: at {lines[0]}; lower --config.optimizer.learning_rate, "
                        f"or leave such steps out with --config.on_nonfinite=skip (checkpoints up "
                        f"to step {checkpoint_step} are kept)"
                    )
            self.skipped += count
            self.nonfinite_log = distributed.replicate(nonfinite.empty())
            if count > nonfinite.SLOTS or self.skipped > self._max_skipped:
                raise UserError(
                    f"{self._workdir}: {self.skipped} steps were not finite and skipped, the last "
                    f"{lines[-1]}; lower --config.optimizer.learning_rate"
                )
        self._examples.clear()
        return [f"{line}; skipped" for line in lines]

    def _write(self, step: int, learning_rate: float) -> Path:
        """Writes nonfinite/STEP.json, enough to reproduce a step."""
        path = self._workdir / "nonfinite" / f"{step}.json"
        examples = distributed.interleave(self._examples[step]).tolist()
        if distributed.is_main_process():
            unpacked = [self._unpack(self._source[index]) for index in examples]
            content = {
                "step": step,
                "learning_rate": learning_rate,
                "examples": examples,
                "sources": [
                    example.name if isinstance(example, scenes.SceneRecord) else example.source
                    for example in unpacked
                ],
            }
            path.parent.mkdir(exist_ok=True)
            files.atomic_write(path, json.dumps(content) + "\n")
        return path
