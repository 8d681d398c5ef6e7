"""One table of the motions in all videos of a folder of results, as Parquet and CSV.

Timelines are read one by one and rows written in groups, so that memory does not grow with them.
"""

import csv
import heapq
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jdance import files
from jdance.data import images
from jdance.errors import UserError
from jdance.recognize.timeline import COLUMNS, Segment
from jdance.train.calibration import UNKNOWN

TABLES = ("parquet", "csv")
STEM = "summary"
ROW_GROUP = 2**17  # rows
_CHUNK = 2**14  # rows that are read together
_MIN_EXAMPLE = 0.5  # seconds


class Example(NamedTuple):
    """A segment of a video, which is named as its results."""

    score: float
    video: str
    segment: Segment


class VideoTotal(NamedTuple):
    """The time of each motion in a video in seconds, and the number of dancers."""

    video: str
    dancers: int
    seconds: dict[str, float]


@dataclass
class Totals:
    """What a table holds.

    Attributes:
        rows, videos, dancers: their numbers.
        seconds: time of each motion, over all dancers.
        segments: number of segments of each motion.
        first: the totals of the first videos.
        examples: of each motion the most confident segments, and the longest ones of UNKNOWN, at
            most one from each video.
    """

    rows: int = 0
    videos: int = 0
    dancers: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    segments: Counter[str] = field(default_factory=Counter)
    first: list[VideoTotal] = field(default_factory=list)
    examples: dict[str, list[Example]] = field(default_factory=dict)


def find(folder: Path) -> list[str]:
    """Lists the videos with a timeline in a folder and those below it, in natural order.

    Raises:
        UserError: there are none.
    """
    names = [
        path.relative_to(folder).as_posix().removesuffix(".csv")
        for path in files.find_below(folder, ".csv")
        if _is_timeline(path)
    ]
    if not names:
        raise UserError(f"{folder}: no results of videos by launch/recognize.py in it")
    return names


def _is_timeline(path: Path) -> bool:
    with path.open("rb") as file:
        return file.readline(100).strip() == ",".join(COLUMNS).encode()


class Rows(NamedTuple):
    """Some rows of a timeline, by column.

    Attributes:
        text: the fields of each row as they are in the file.
        track: int32 [N].
        start, end: float64 [N] in seconds.
        motion: [N] names.
        confidence: float32 [N].
    """

    text: list[list[str]]
    track: np.ndarray
    start: np.ndarray
    end: np.ndarray
    motion: Sequence[str]
    confidence: np.ndarray


def read(path: Path, size: int = _CHUNK) -> Iterator[Rows]:
    """Yields the rows of a timeline, at most `size` at a time.

    Raises:
        UserError: a row cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            next(rows)
            while text := list(islice(rows, size)):
                track, start, end, motion, confidence = zip(*text, strict=True)
                yield Rows(
                    text,
                    np.array(track, np.int32),
                    np.array(start, np.float64),
                    np.array(end, np.float64),
                    motion,
                    np.array(confidence, np.float32),
                )
    except (OSError, ValueError, OverflowError, csv.Error) as error:
        raise UserError(f"{path}: not a timeline ({error})") from error


def write(
    folder: Path,
    output: Path,
    tables: Sequence[str] = TABLES,
    *,
    videos: int = 1000,
    examples: int = 6,
) -> Totals:
    """Writes the table with the columns video, track, start, end, motion, confidence.

    `video` is the path of the results in `folder` without suffix, start and end are in seconds.

    Args:
        folder: results of launch/recognize.py.
        output: folder of the tables.
        tables: which of `TABLES` to write.
        videos: number of videos whose totals are returned.
        examples: number of examples of each motion.

    Raises:
        UserError: there are no results, one cannot be read, or pyarrow is missing.
    """
    if "parquet" in tables and not find_spec("pyarrow"):
        raise UserError(
            "summary.parquet needs pyarrow: pip install -e '.[archive]', or choose --tables=csv"
        )
    names, totals = find(folder), Totals()
    with ExitStack() as stack:
        writers = [
            stack.enter_context(closing(_WRITERS[table](output / f"{STEM}.{table}")))
            for table in tables
        ]
        for name in names:
            own: dict[str, float] = {}
            dancers: set[int] = set()
            best: dict[str, Example] = {}
            for rows in read(folder / f"{name}.csv"):
                for writer in writers:
                    writer.add(images.printable(name), rows)
                dancers.update(np.unique(rows.track).tolist())
                _add(rows, name, own, totals.segments, best)
            totals.videos += 1
            totals.dancers += len(dancers)
            for motion, seconds in own.items():
                totals.seconds[motion] = totals.seconds.get(motion, 0.0) + seconds
            if len(totals.first) < videos:
                totals.first.append(VideoTotal(name, len(dancers), own))
            for motion, example in best.items():
                kept = [*totals.examples.get(motion, []), example]
                totals.examples[motion] = heapq.nlargest(examples, kept, key=lambda e: e.score)
        for writer in writers:
            writer.finish()
    totals.rows = totals.segments.total()
    return totals


def _add(
    rows: Rows, name: str, seconds: dict[str, float], segments: Counter[str],
    best: dict[str, Example],
) -> None:  # fmt: skip
    """Adds rows of a video to its time of each motion, the segments, and its best examples."""
    spent = rows.end - rows.start
    motions = np.array(rows.motion)
    for motion in dict.fromkeys(rows.motion):
        chosen = np.flatnonzero(motions == motion)
        seconds[motion] = seconds.get(motion, 0.0) + float(spent[chosen].sum())
        segments[motion] += len(chosen)
        chosen = chosen[spent[chosen] >= _MIN_EXAMPLE]
        if not len(chosen):
            continue
        scores = spent if motion == UNKNOWN else rows.confidence
        i = int(chosen[scores[chosen].argmax()])
        if motion not in best or scores[i] > best[motion].score:
            segment = Segment(
                int(rows.track[i]), float(rows.start[i]), float(rows.end[i]), motion,
                float(rows.confidence[i]),
            )  # fmt: skip
            best[motion] = Example(float(scores[i]), name, segment)


class _Csv:
    """The table as CSV."""

    def __init__(self, path: Path):
        self._output = files.PartialFile(path)
        self._rows = csv.writer(self._output.file, lineterminator="\n")
        self._rows.writerow(["video", *COLUMNS])

    def add(self, video: str, rows: Rows) -> None:
        self._rows.writerows([video, *row] for row in rows.text)

    def finish(self) -> None:
        self._output.commit()

    def close(self) -> None:
        self._output.close()


class _Parquet:
    """The table as Parquet, in row groups of `ROW_GROUP` rows."""

    def __init__(self, path: Path):
        import pyarrow
        from pyarrow import parquet

        self._arrow, self._path = pyarrow, path
        self._partial = path.with_name(f"{path.name}.partial")
        self._schema = pyarrow.schema(
            [
                ("video", pyarrow.string()),
                ("track", pyarrow.int32()),
                ("start", pyarrow.float64()),
                ("end", pyarrow.float64()),
                ("motion", pyarrow.string()),
                ("confidence", pyarrow.float32()),
            ]
        )
        # An open file: pyarrow takes only paths in UTF-8.
        self._file = self._partial.open("wb")
        self._writer = parquet.ParquetWriter(self._file, self._schema, compression="zstd")
        self._tables: list[Any] = []
        self._count = 0

    def add(self, video: str, rows: Rows) -> None:
        columns = [[video] * len(rows.text), *rows[1:]]
        arrays = [
            self._arrow.array(column, type=kind)
            for column, kind in zip(columns, self._schema.types, strict=True)
        ]
        self._tables.append(self._arrow.Table.from_arrays(arrays, schema=self._schema))
        self._count += len(rows.text)
        if self._count >= ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._tables:
            table = self._arrow.concat_tables(self._tables)
            self._writer.write_table(table, row_group_size=ROW_GROUP + _CHUNK)
        self._tables, self._count = [], 0

    def finish(self) -> None:
        self._flush()
        self._writer.close()
        self._file.close()
        os.replace(self._partial, self._path)

    def close(self) -> None:
        self._writer.close()
        self._file.close()
        self._partial.unlink(missing_ok=True)


_WRITERS: dict[str, Any] = {"parquet": _Parquet, "csv": _Csv}
