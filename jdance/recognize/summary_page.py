"""The page over an archive: time of each motion, examples, what is unknown, and what failed."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from jdance.data import images, videos
from jdance.errors import UserError
from jdance.progress import counted, duration
from jdance.recognize.ledger import FAILURES_FILE
from jdance.recognize.storage import FOLDER
from jdance.recognize.summary import Example, Totals
from jdance.report.blocks import percent
from jdance.report.charts import clock
from jdance.report.html import Block, Figure, Gallery, Section, Table, Text
from jdance.train.calibration import UNKNOWN

_SIDE = 320  # pixels, of the examples
_MAX_FAILURES = 200


# Opens a file of the results by its name; None if there is none.
Opener = Callable[[str], AbstractContextManager[Path | None]]


@contextmanager
def in_folder(folder: Path, name: str) -> Iterator[Path | None]:
    """An `Opener` of a local folder, after its first argument."""
    path = folder / name
    yield path if path.exists() else None


def sections(open_result: Opener, totals: Totals) -> list[Section]:
    """Returns the sections of the page.

    Args:
        open_result: opens files of the results.
        totals: of their table.
    """
    motions = sorted(totals.seconds, key=lambda motion: (motion == UNKNOWN, motion))
    result = [
        Section("Motions", _totals(totals, motions)),
        Section("Videos", _videos(totals, motions)),
    ]
    examples: list[Block] = []
    for motion in motions:
        if figures := _figures(open_result, totals.examples.get(motion, [])):
            caption = f"{motion}: the longest segments" if motion == UNKNOWN else motion
            examples.append(Gallery(caption, figures))
    if examples:
        result.append(Section("Examples", examples))
    if failures := _failures(open_result):
        result.append(Section("Failures", failures))
    return result


def _totals(totals: Totals, motions: Sequence[str]) -> list[Block]:
    spent = sum(totals.seconds.values())
    unknown = percent(totals.seconds.get(UNKNOWN, 0.0) / spent if spent else None)
    text = (
        f"{counted(totals.videos, 'video')} with {counted(totals.dancers, 'dancer')}, "
        f"{duration(spent)} of their time in {counted(totals.rows, 'segment')}; "
        f"{unknown or '0.0'} % of the time is {UNKNOWN}."
    )
    rows = [
        [
            motion,
            duration(totals.seconds[motion]),
            percent(totals.seconds[motion] / spent if spent else None),
            str(totals.segments[motion]),
        ]
        for motion in motions
    ]
    head = ["motion", "time", "% of the time", "segments"]
    return [Text(text), Table("Time of each motion, over all dancers.", head, rows)]


def _videos(totals: Totals, motions: Sequence[str]) -> list[Block]:
    rows = []
    for video in totals.first:
        spent = sum(video.seconds.values())
        times = [duration(video.seconds[m]) if m in video.seconds else "" for m in motions]
        unknown = percent(video.seconds.get(UNKNOWN, 0.0) / spent if spent else None)
        rows.append([images.printable(video.video), str(video.dancers), *times, unknown])
    blocks: list[Block] = []
    if totals.videos > len(rows):
        blocks.append(Text(f"The first {len(rows)} of {totals.videos}; the table has all."))
    head = ["video", "dancers", *motions, f"% {UNKNOWN}"]
    return [*blocks, Table("Time of each motion, over the dancers of a video.", head, rows)]


def _figures(open_result: Opener, examples: Sequence[Example]) -> list[Figure]:
    """Frames from the middle of segments; none of videos that are missing."""
    figures = []
    for example in examples:
        s = example.segment
        with suppress(UserError, OSError):
            frame = images.shrink(_frame(open_result, example.video, (s.start + s.end) / 2), _SIDE)
            caption = f"{images.printable(example.video)}, {clock(s.start)}, dancer {s.track}"
            alt = f"{s.motion}, confidence {s.confidence:.2f}: {caption}"
            figures.append(Figure(caption, alt, images.encode_jpeg(frame, 80)))
    return figures


def _frame(open_result: Opener, name: str, time: float) -> Any:
    """Reads a frame at a time in seconds: of the annotated video, else of the video itself."""
    record: dict[str, Any] = {}
    with open_result(f"{FOLDER}/records/{name}.json") as path, suppress(OSError, ValueError):
        record = json.loads(path.read_bytes()) if path else {}
    for suffix in (".mp4", ".webm"):
        with open_result(f"{name}{suffix}") as annotated:
            if annotated:
                settings = record.get("settings", {})
                start = settings.get("start")
                # It starts at the first recognized frame.
                first = settings.get("from", 0.0) if start is None else start
                return videos.frame_at(annotated, max(time - first, 0.0))
    return videos.frame_at(Path(record.get("source", "")), time)


def _failures(open_result: Opener) -> list[Block]:
    with open_result(FAILURES_FILE) as path:
        if path is None:
            return []
        try:
            with path.open(newline="", encoding="utf-8") as file:
                rows = [[row["reason"], row["status"]] for row in csv.DictReader(file)]
        except (OSError, KeyError, csv.Error):
            return []
    text = f"{counted(len(rows), 'input')}; {FAILURES_FILE} lists all."
    return [Text(text), Table("", ["input", "status"], rows[:_MAX_FAILURES])]
