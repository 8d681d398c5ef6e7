"""Corrected motions as the lines of a manifest, see `data.manifest`."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jdance.errors import UserError

# A box holds for one row only, as dancers move: a row per frame at the default frame rate of
# launch/prepare.py.
_ROW_SECONDS = 0.5
_MAX_LABEL = 60
_MAX_CORRECTIONS = 5000


@dataclass(frozen=True)
class Correction:
    """The true motion of a track from `start` to `end` in seconds."""

    track: int
    start: float
    end: float
    label: str


def parse(content: Any) -> list[Correction]:
    """Parses {"corrections": [{"track", "start", "end", "label"}, ...]}.

    Raises:
        UserError: the content is something else.
    """
    try:
        entries = content["corrections"]
        if not isinstance(entries, list) or len(entries) > _MAX_CORRECTIONS:
            raise UserError(f"expected a list of at most {_MAX_CORRECTIONS} corrections")
        return [_parse_one(entry) for entry in entries]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError("corrections: expected track, start, end and label of each") from error


def _parse_one(entry: dict[str, Any]) -> Correction:
    track, start, end = int(entry["track"]), float(entry["start"]), float(entry["end"])
    label = " ".join(str(entry["label"]).split())
    if not 0 <= start < end < math.inf:
        raise UserError(f"correction from {start:g} s to {end:g} s: expected 0 <= start < end")
    if not label or len(label) > _MAX_LABEL or not label.isprintable():
        raise UserError(f"label {label[:_MAX_LABEL]!r}: expected 1 to {_MAX_LABEL} characters")
    return Correction(track, start, end, label)


def to_manifest(
    name: str, corrections: Sequence[Correction], frames: Iterable[dict[str, Any]], video: bool
) -> str:
    """Renders a manifest with the columns path, label, start, end, box.

    Args:
        name: the file's name, relative to the manifest.
        corrections: of this file.
        frames: entries by `frames.frame_json`, in order.
        video: whether the file is a video; images have no times.
    """
    rows: list[tuple[float, list[str]]] = []
    taken: set[tuple[int, int]] = set()  # correction, and the number of its row
    for frame in frames:
        when = frame["time"]
        for person in frame["people"]:
            for i, correction in enumerate(corrections):
                if correction.track != person["track"]:
                    continue
                box = " ".join(f"{value:g}" for value in person["box"])
                if not video:
                    rows.append((0.0, [name, correction.label, "", "", box]))
                    continue
                if not correction.start <= when < correction.end:
                    continue
                number = int((when - correction.start) / _ROW_SECONDS)
                if (i, number) in taken:
                    continue
                taken.add((i, number))
                # Rounded down, not to lose this frame.
                start = math.floor(when * 1000) / 1000
                end = min(correction.start + (number + 1) * _ROW_SECONDS, correction.end)
                if end - start >= 0.001:
                    span = [f"{start:.3f}", f"{end:.3f}"]
                    rows.append((start, [name, correction.label, *span, box]))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["path", "label", "start", "end", "box"])
    writer.writerows(row for _, row in sorted(rows, key=lambda entry: entry[0]))
    return text.getvalue()
