"""Our speed beside an alternative's: how the comparison is shown, kept, and held to a record."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jdance import files
from jdance.bench.timing import Times
from jdance.errors import UserError
from jdance.report.html import Table

TOLERANCE = 0.2  # share of a recorded ratio that may be lost


class Comparison(NamedTuple):
    """A piece of work that both did.

    Fields:
        task: what it is.
        ours, theirs: by the name of the candidate; the quickest of theirs counts.
        per: how many images a repetition works through.
    """

    task: str
    ours: tuple[str, Times]
    theirs: Mapping[str, Times]
    per: int

    def best(self, clock: str) -> str:
        """The quickest alternative's name; `clock` is "wall" or "cpu"."""
        return min(self.theirs, key=lambda name: min(getattr(self.theirs[name], clock)))

    def ratio(self, clock: str) -> float:
        """Their least time over ours: above 1, ours is the quicker."""
        theirs = self.theirs[self.best(clock)]
        return min(getattr(theirs, clock)) / min(getattr(self.ours[1], clock))


def table(comparisons: list[Comparison], caption: str) -> Table:
    """Milliseconds an image of everybody, and our ratio to the quickest of the others."""
    rows = []
    for comparison in comparisons:
        for name, times in (comparison.ours, *comparison.theirs.items()):
            values = times.summary()
            numbers = [values[key] for key in ("median_s", "spread_s", "least_s", "cpu_least_s")]
            own = name == comparison.ours[0]
            shown = [f"{comparison.ratio(clock):.2f}" if own else "" for clock in ("wall", "cpu")]
            cells = [f"{1e3 * number / comparison.per:.2f}" for number in numbers]
            rows.append([f"{comparison.task}: {name}", *cells, *shown])
    head = ["ms an image", "median", "±", "least", "least of CPU", "ratio", "ratio, CPU time"]
    return Table(caption, head, rows)


def write(path: Path, comparisons: list[Comparison], about: Mapping[str, Any]) -> None:
    """Writes ratios and times as JSON, for `check` and for others."""
    tasks = {
        comparison.task: {
            "ratio": comparison.ratio("wall"),
            "cpu_ratio": comparison.ratio("cpu"),
            "images": comparison.per,
            "times": {
                name: times.summary()
                for name, times in (comparison.ours, *comparison.theirs.items())
            },
        }
        for comparison in comparisons
    }
    files.atomic_write(path, json.dumps({**about, "tasks": tasks}, indent=2) + "\n")


def check(path: Path, comparisons: list[Comparison], clock: str) -> None:
    """Holds comparisons to what `write` has recorded earlier.

    Args:
        path: the record.
        comparisons: of now.
        clock: "wall" or "cpu", what is looked at.

    Raises:
        UserError: the record cannot be read, or knows nothing of a task, or a ratio has fallen by
            more than `TOLERANCE`.
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
            raise UserError(f"{path}: knows nothing of {comparison.task!r}; make it with --output")
        now, before = comparison.ratio(clock), recorded[comparison.task]
        if now < (1 - TOLERANCE) * before:
            raise UserError(
                f"{comparison.task}: the ratio to {comparison.best(clock)} has fallen from "
                f"{before:.2f} to {now:.2f} ({clock} time; recorded in {path})"
            )
