"""Where the numbers of a run go: metrics.jsonl and TensorBoard."""

import json
from pathlib import Path

from tensorboardX import SummaryWriter

from jdance import files


class MetricWriter:
    """Writes one row a logged step to DIR/metrics.jsonl, and the same to TensorBoard events.

    Rows after `start_step`, which an interrupted run wrote and this one will write again, go.
    """

    def __init__(self, workdir: Path, start_step: int):
        path = workdir / "metrics.jsonl"
        rows = _rows_until(path, start_step)
        # At once, so that nothing is lost whatever happens in between.
        files.atomic_write(path, "".join(rows))
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
    """The `MetricWriter` of processes that write nothing."""

    def write(self, step: int, values: dict[str, float]) -> None: ...

    def close(self) -> None: ...


def _rows_until(path: Path, step: int) -> list[str]:
    """The whole rows of a metrics file that belong to steps up to `step`."""
    rows = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            if json.loads(line)["step"] <= step:
                rows.append(line + "\n")
        except (ValueError, KeyError, TypeError):  # half written when the run was killed
            continue
    return rows
