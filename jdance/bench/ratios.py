"""Speed ratios of jdance to baselines: as tables, as JSON records, and as regression checks."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jdance import files
from jdance.bench.timing import Times
from jdance.errors import UserError
from jdance.report.html import Table

TOLERANCE = 0.2  # accepted relative loss of a recorded ratio


class Comparison(NamedTuple):
    """Times of jdance and of baselines for the same work.

    Attributes:
        task: name of the work.
        jdance: name and times of the jdance candidate.
        baselines: times by the name of the baseline; the fastest one counts.
        images: number of images per repetition.
    """

    task: str
    jdance: tuple[str, Times]
    baselines: Mapping[str, Times]
    images: int

    def fastest(self, clock: str) -> str:
        """Returns the name of the fastest baseline; `clock` is "wall" or "cpu"."""
        return min(self.baselines, key=lambda name: min(getattr(self.baselines[name], clock)))

    def ratio(self, clock: str) -> float:
        """Returns the baseline's min time over jdance's: above 1, jdance is faster."""
        baseline = self.baselines[self.fastest(clock)]
        return min(getattr(baseline, clock)) / min(getattr(self.jdance[1], clock))


def table(comparisons: list[Comparison], caption: str) -> Table:
    """Tabulates milliseconds per image of all candidates, and the ratios."""
    rows = []
    for comparison in comparisons:
        for name, times in (comparison.jdance, *comparison.baselines.items()):
            values = times.summary()
            seconds = [values[key] for key in ("median_s", "spread_s", "least_s", "cpu_least_s")]
            first = name == comparison.jdance[0]
            ratios = [
                f"{comparison.ratio(clock):.2f}" if first else "" for clock in ("wall", "cpu")
            ]
            cells = [f"{1e3 * value / comparison.images:.2f}" for value in seconds]
            rows.append([f"{comparison.task}: {name}", *cells, *ratios])
    head = ["ms per image", "median", "±", "min", "min CPU time", "ratio", "CPU time ratio"]
    return Table(caption, head, rows)


def write(path: Path, comparisons: list[Comparison], about: Mapping[str, Any]) -> None:
    """Writes ratios and times as JSON, for `check`."""
    tasks = {
        comparison.task: {
            "ratio": comparison.ratio("wall"),
            "cpu_ratio": comparison.ratio("cpu"),
            "images": comparison.images,
            "times": {
                name: times.summary()
                for name, times in (comparison.jdance, *comparison.baselines.items())
            },
        }
        for comparison in comparisons
    }
    files.atomic_write(path, json.dumps({**about, "tasks": tasks}, indent=2) + "\n")


def check(path: Path, comparisons: list[Comparison], clock: str) -> None:
    """Checks comparisons against an earlier record by `write`.

    Args:
        path: the record.
        comparisons: the current ones.
        clock: "wall" or "cpu".

    Raises:
        UserError: the record cannot be read or lacks a task, or a ratio has fallen by more than
            `TOLERANCE`.
    """
    key = "ratio" if clock == "wall" else "cpu_ratio"
    try:
        recorded = {
            name: float(t[key]) for name, t in json.loads(path.read_text())["tasks"].items()
        }
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; make it with --output") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a record ({error!r}); make it with --output") from error
    for comparison in comparisons:
        if comparison.task not in recorded:
            raise UserError(f"{path}: has no task {comparison.task!r}; make it with --output")
        ratio, before = comparison.ratio(clock), recorded[comparison.task]
        if ratio < (1 - TOLERANCE) * before:
            raise UserError(
                f"{comparison.task}: the ratio to {comparison.fastest(clock)} has fallen from "
                f"{before:.2f} to {ratio:.2f} ({clock} time; recorded in {path})"
            )
