"""Writers of a run's metrics: metrics.jsonl and TensorBoard events."""

import json
from pathlib import Path

from tensorboardX import SummaryWriter

from jdance import files


class MetricWriter:
    """Appends one row per logged step to DIR/metrics.jsonl and to TensorBoard events.

    Rows after `start_step`, left by an interrupted run, are removed: they will be written again.
    """

    def __init__(self, workdir: Path, start_step: int):
        path = workdir / "metrics.jsonl"
        files.atomic_write(path, "".join(_rows_until(path, start_step)))
        self._file = path.open("a")
        self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=start_step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        row = {name: float(value) for name, value in values.items()}
        self._file.write(json.dumps({"step": step, **row}) + "\n")
        self._file.flush()
        for name, value in row.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        self._file.close()
        self._events.close()


class NoMetrics:
    """Null `MetricWriter` of all processes but the main one."""

    def write(self, step: int, values: dict[str, float]) -> None: ...

    def close(self) -> None: ...


def _rows_until(path: Path, step: int) -> list[str]:
    """The complete rows of a metrics file up to a step."""
    rows = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            if json.loads(line)["step"] <= step:
                rows.append(line + "\n")
        except (ValueError, KeyError, TypeError):  # truncated when the run was killed
            continue
    return rows
