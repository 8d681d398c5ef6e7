"""Steps whose loss or gradient is not finite: never applied, found without looking at every step.

The device keeps an account of them, which the host reads where it logs anyway. It remembers itself
which examples the steps since then were made of.
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jdance import files
from jdance.data import people, records
from jdance.errors import UserError
from jdance.training import cluster, devices

POLICIES = ("stop", "skip")
_SLOTS = 16  # steps that are told apart between two looks
_FEW = 16, 0.01  # steps, or share of all, that may be skipped before the run ends

Account = dict[str, Array]


def empty() -> dict[str, np.ndarray]:
    """No such step: `count` int32 [] and their numbers `steps` int32 [16]."""
    return {"count": np.zeros((), np.int32), "steps": np.zeros(_SLOTS, np.int32)}


def guard(
    old: Any, new: Any, metrics: dict[str, Array], account: Account, skip: bool
) -> tuple[Any, Account]:
    """Takes an update only if its loss and gradient are finite; to be compiled with the step.

    Args:
        old, new: `TrainState` before and after.
        metrics: of the step, with `loss` and `gradient_norm`.
        account: what was bad before. Unless `skip`, nothing changes after a bad step, so that the
            state is still the one before it when the host sees that.
        skip: constant.

    Returns:
        The state, with the new step's number in either case, and the account.
    """
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"])
    good = finite if skip else finite & (account["count"] == 0)
    kept = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old).replace(step=new.step)
    place = jnp.minimum(account["count"], _SLOTS - 1)
    steps = account["steps"]
    return kept, {
        "count": account["count"] + jnp.where(finite, 0, 1),
        "steps": steps.at[place].set(jnp.where(finite, steps[place], new.step)),
    }


class Journal:
    """The host's side: which examples recent steps had, and what is written of bad ones.

    Args:
        workdir: of the run; gets nonfinite/STEP.json for each bad step.
        policy: one of `POLICIES`.
        total_steps: of the run.
        source: packed training records.
        kind: of the data set.
    """

    def __init__(self, workdir: Path, policy: str, total_steps: int, source: Any, kind: str):
        self._workdir, self._policy, self._source = workdir, policy, source
        self._most = max(_FEW[0], round(_FEW[1] * total_steps))
        self._unpack = people.unpack if kind == "people" else records.unpack
        self._examples: dict[int, np.ndarray] = {}
        self.skipped = 0
        self.account = devices.put(empty())

    def add(self, step: int, batch: dict[str, np.ndarray]) -> None:
        """Remembers what a step is made of."""
        self._examples[step] = batch["index"]

    def look(self, account: dict[str, np.ndarray], rates: Any, kept: int) -> list[str]:
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
        count = int(account["count"])
        lines = []
        if count:
            for step in account["steps"][: min(count, _SLOTS)].tolist():
                path = self._write(step, float(rates(step - 1)))
                lines.append(f"step {step}: the loss or its gradient is not finite; see {path}")
                if self._policy == "stop":
                    raise UserError(
                        f"{self._workdir}: at {lines[0]}; lower --config.optimizer.learning_rate, "
                        f"or leave such steps out with --config.on_nonfinite=skip (checkpoints up "
                        f"to step {kept} are kept)"
                    )
            self.skipped += count
            self.account = devices.put(empty())
            if count > _SLOTS or self.skipped > self._most:
                raise UserError(
                    f"{self._workdir}: {self.skipped} steps were not finite and skipped, the last "
                    f"{lines[-1]}; lower --config.optimizer.learning_rate"
                )
        self._examples.clear()
        return [f"{line}; skipped" for line in lines]

    def _write(self, step: int, rate: float) -> Path:
        """Writes what is needed to do a step again: nonfinite/STEP.json."""
        path = self._workdir / "nonfinite" / f"{step}.json"
        examples = cluster.interleave(self._examples[step]).tolist()
        if cluster.is_first():
            found = [self._unpack(self._source[index]) for index in examples]
            names = [example.name if isinstance(example, people.People) else example.source
                     for example in found]  # fmt: skip
            content = {
                "step": step, "learning_rate": rate, "examples": examples, "sources": names,
            }  # fmt: skip
            path.parent.mkdir(exist_ok=True)
            files.write_at_once(path, json.dumps(content) + "\n")
        return path
