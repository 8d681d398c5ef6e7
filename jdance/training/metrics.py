"""Where the numbers of a run go: metrics.jsonl and TensorBoard."""

import json
from pathlib import Path

from tensorboardX import SummaryWriter


class MetricWriter:
    """Appends one row a logged step to DIR/metrics.jsonl and the same to TensorBoard events."""

    def __init__(self, workdir: Path):
        self._file = (workdir / "metrics.jsonl").open("a")
        self._events = SummaryWriter(str(workdir / "tensorboard"))

    def write(self, step: int, values: dict[str, float]) -> None:
        row = {name: float(value) for name, value in values.items()}
        self._file.write(json.dumps({"step": step, **row}) + "\n")
        self._file.flush()
        for name, value in row.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        self._file.close()
        self._events.close()
