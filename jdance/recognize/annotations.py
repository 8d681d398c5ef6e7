"""The motions of dancers over time as text: ELAN, Praat, and subtitles.

Times are rounded to milliseconds.
"""

import os
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from jdance.data import images
from jdance.recognize.timeline import Segment
from jdance.train.calibration import UNKNOWN

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]+")


class Span(NamedTuple):
    """A motion from `start` to `end` in milliseconds."""

    start: int
    end: int
    motion: str


def spans(segments: Sequence[Segment]) -> dict[int, list[Span]]:
    """Returns the motions of each track in order, none of zero length and without overlaps.

    At a changing frame rate, a segment may end after the start of the next one; it is shortened.
    """
    tracks: dict[int, list[Span]] = {}
    for segment in sorted(segments, key=lambda s: (s.track, s.start)):
        own = tracks.setdefault(segment.track, [])
        start, end = round(1000 * segment.start), round(1000 * segment.end)
        if own and own[-1].end > start:
            own[-1] = own[-1]._replace(end=start)
        own.append(Span(start, end, _line(segment.motion)))
    return {track: [span for span in own if span.end > span.start] for track, own in tracks.items()}


def _line(text: str) -> str:
    """Replaces control characters, which no format can hold, and line ends."""
    return _CONTROL.sub(" ", text)


# https://www.mpi.nl/tools/elan/EAF_Annotation_Format_3.0_and_ELAN.pdf
_SCHEMA = "http://www.mpi.nl/tools/elan/EAFv3.0.xsd"
_XSI = "http://www.w3.org/2001/XMLSchema-instance"
_MIME_TYPES = {".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/quicktime",
               ".mpg": "video/mpeg", ".mpeg": "video/mpeg"}  # fmt: skip
_UNDETERMINED = "http://cdb.iso.org/lg/CDB-00130975-001"


def eaf(
    segments: Sequence[Segment], classes: Sequence[str], media: Path | None, folder: Path
) -> str:
    """Returns a document of ELAN's annotation format 3.0.

    It has a tier per dancer, whose annotations are motions of a controlled vocabulary, so that ELAN
    offers them when an annotation is corrected.

    Args:
        segments: the motions of all tracks.
        classes: the vocabulary.
        media: the video, relative to the document or absolute; None: no video is linked.
        folder: of the document.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    root = ElementTree.Element(
        "ANNOTATION_DOCUMENT",
        {"AUTHOR": "jdance", "DATE": now, "FORMAT": "3.0", "VERSION": "3.0",
         "xmlns:xsi": _XSI, "xsi:noNamespaceSchemaLocation": _SCHEMA},
    )  # fmt: skip

    def add(parent: ElementTree.Element, tag: str, text: str = "", **attributes: str) -> Any:
        element = ElementTree.SubElement(parent, tag, attributes)
        element.text = text or None
        return element

    header = add(root, "HEADER", MEDIA_FILE="", TIME_UNITS="milliseconds")
    if media is not None:
        # Like ELAN, without escapes.
        relative = Path(os.path.relpath(media, folder)) if media.is_absolute() else media
        link = images.printable(relative.as_posix())
        link = link if link.startswith("../") else f"./{link}"
        absolute = f"file:///{images.printable(media.as_posix()).lstrip('/')}"
        add(
            header, "MEDIA_DESCRIPTOR",
            MEDIA_URL=_line(absolute if media.is_absolute() else link),
            MIME_TYPE=_MIME_TYPES.get(media.suffix.lower(), "video/*"),
            RELATIVE_MEDIA_URL=_line(link),
        )  # fmt: skip
    tracks = spans(segments)
    count = sum(map(len, tracks.values()))
    add(header, "PROPERTY", str(count), NAME="lastUsedAnnotationId")
    times = add(root, "TIME_ORDER")
    edges = sorted((t, i) for i, t in enumerate(_edges(tracks)))
    slots = {i: f"ts{number}" for number, (_, i) in enumerate(edges, start=1)}
    for time, i in edges:
        add(times, "TIME_SLOT", TIME_SLOT_ID=slots[i], TIME_VALUE=str(time))
    motions = list(dict.fromkeys([*map(_line, classes), UNKNOWN]))
    index = 0
    for track, own in tracks.items():
        name = dancer(track)
        tier = add(root, "TIER", LINGUISTIC_TYPE_REF="motion", PARTICIPANT=name, TIER_ID=name)
        for span in own:
            annotation = add(
                add(tier, "ANNOTATION"), "ALIGNABLE_ANNOTATION", ANNOTATION_ID=f"a{index + 1}",
                CVE_REF=f"cve{motions.index(span.motion)}",
                TIME_SLOT_REF1=slots[2 * index], TIME_SLOT_REF2=slots[2 * index + 1],
            )  # fmt: skip
            add(annotation, "ANNOTATION_VALUE", span.motion)
            index += 1
    add(root, "LINGUISTIC_TYPE", CONTROLLED_VOCABULARY_REF="motions", GRAPHIC_REFERENCES="false",
        LINGUISTIC_TYPE_ID="motion", TIME_ALIGNABLE="true")  # fmt: skip
    add(root, "LANGUAGE", LANG_DEF=_UNDETERMINED, LANG_ID="und", LANG_LABEL="undetermined (und)")
    vocabulary = add(root, "CONTROLLED_VOCABULARY", CV_ID="motions")
    add(vocabulary, "DESCRIPTION", LANG_REF="und")
    for i, motion in enumerate(motions):
        entry = add(vocabulary, "CV_ENTRY_ML", CVE_ID=f"cve{i}")
        add(entry, "CVE_VALUE", motion, DESCRIPTION="", LANG_REF="und")
    ElementTree.indent(root, "    ")
    text = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _edges(tracks: dict[int, list[Span]]) -> Iterator[int]:
    """Yields start and end of all spans in order."""
    for own in tracks.values():
        for span in own:
            yield span.start
            yield span.end


def dancer(track: int) -> str:
    """The name of a track, as on the page of a video."""
    return f"dancer {track}"


def textgrid(segments: Sequence[Segment], end: float) -> str:
    """Returns a TextGrid of Praat with an interval tier per dancer.

    Args:
        segments: the motions of all tracks.
        end: duration of the video in seconds.
    """
    tracks = spans(segments)
    last = max([round(1000 * end), *_edges(tracks)])
    lines = [
        'File type = "ooTextFile"', 'Object class = "TextGrid"', "",
        "xmin = 0", f"xmax = {_seconds(last)}", "tiers? <exists>", f"size = {len(tracks)}",
        "item []:",
    ]  # fmt: skip
    for number, (track, own) in enumerate(tracks.items(), start=1):
        filled = list(_fill(own, last))
        lines += [
            f"    item [{number}]:", '        class = "IntervalTier"',
            f'        name = "{dancer(track)}"', "        xmin = 0",
            f"        xmax = {_seconds(last)}", f"        intervals: size = {len(filled)}",
        ]  # fmt: skip
        for i, span in enumerate(filled, start=1):
            text = span.motion.replace('"', '""')
            lines += [
                f"        intervals [{i}]:", f"            xmin = {_seconds(span.start)}",
                f"            xmax = {_seconds(span.end)}", f'            text = "{text}"',
            ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _fill(own: list[Span], last: int) -> Iterator[Span]:
    """Yields spans that cover 0 to `last`, with the motion "" in gaps."""
    end = 0
    for span in [*own, Span(last, last, "")]:
        if span.start > end:
            yield Span(end, span.start, "")
        if span.end > span.start:
            yield span
        end = span.end


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds // 1000}.{milliseconds % 1000:03}"


def cues(segments: Sequence[Segment]) -> Iterator[tuple[int, int, dict[int, str]]]:
    """Yields start, end in milliseconds, and {track: motion} whenever a motion changes.

    One cue at a time has all dancers, because players place overlapping cues in any order.
    """
    changes: dict[int, dict[int, str]] = {}
    for track, own in spans(segments).items():
        for span in own:
            changes.setdefault(span.start, {})[track] = span.motion
            # A motion that starts at the same time has been or will be entered.
            changes.setdefault(span.end, {}).setdefault(track, "")
    current: dict[int, str] = {}
    for time, after in pairwise(sorted(changes)):
        current = {t: m for t, m in (current | changes[time]).items() if m}
        if current:
            yield time, after, dict(sorted(current.items()))


def srt(segments: Sequence[Segment]) -> str:
    """Returns subtitles in SubRip's format."""
    blocks = []
    for number, (start, end, motions) in enumerate(cues(segments), start=1):
        lines = [f"{dancer(track)}: {motion}" for track, motion in motions.items()]
        times = f"{_clock(start)} --> {_clock(end)}".replace(".", ",")
        blocks.append("\n".join([str(number), times, *lines]) + "\n")
    return "\n".join(blocks)


def vtt(segments: Sequence[Segment]) -> str:
    """Returns subtitles in the format WebVTT; every line names its dancer as the voice, too."""
    blocks = ["WEBVTT\n"]
    for start, end, motions in cues(segments):
        lines = [
            f"<v {dancer(track)}>{dancer(track)}: {escape(motion, quote=False)}</v>"
            for track, motion in motions.items()
        ]
        blocks.append("\n".join([f"{_clock(start)} --> {_clock(end)}", *lines]) + "\n")
    return "\n".join(blocks)


def _clock(milliseconds: int) -> str:
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{_seconds(rest):0>6}"
