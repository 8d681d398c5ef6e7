"""The HTML page of a video: a timeline of the dancers' motions, key frames, feedback."""

from collections.abc import Sequence
from pathlib import Path

from jdance.progress import counted
from jdance.recognize.recognizer import class_index
from jdance.recognize.timeline import Segment
from jdance.report import draw
from jdance.report.charts import Bar, clock, timeline
from jdance.report.html import Block, Figure, Gallery, Section, Table, Text, to_html
from jdance.train.calibration import UNKNOWN

_MAX_KEY_FRAMES = 24
_SCORES = (
    "Means over all frames of a motion, for the three body parts that score lowest. A score of 0.5 "
    "is average, one near 0 is unusual; directions are those in the image."
)


class VideoPage:
    """Collects the content of the page.

    Args:
        title: name of the video.
        classes: the motions, in the order of their colors.
    """

    def __init__(self, title: str, classes: Sequence[str]):
        self._title, self._classes = title, list(classes)
        self._images: list[tuple[float, bytes]] = []

    @property
    def wants_images(self) -> bool:
        return len(self._images) < _MAX_KEY_FRAMES

    def add_image(self, time: float, jpeg: bytes) -> None:
        """Adds a key frame, at a time in seconds."""
        self._images.append((time, jpeg))

    def write(
        self, path: Path, segments: Sequence[Segment], end: float, corrections: Sequence[str] = ()
    ) -> None:
        """Writes the page to an HTML file; see `sections`."""
        text = to_html(self._title, self.sections(segments, end, corrections))
        path.write_text(text, encoding="utf-8")

    def sections(
        self, segments: Sequence[Segment], end: float, corrections: Sequence[str] = ()
    ) -> list[Section]:
        """Returns the page's sections.

        Args:
            segments: motions of all tracks.
            end: duration of the video in seconds.
            corrections: paragraphs of posture feedback.
        """
        tracks = sorted({segment.track for segment in segments})
        found = {segment.motion for segment in segments}
        present = [m for m in dict.fromkeys([*self._classes, UNKNOWN]) if m in found]
        motions: list[Block] = [
            Text(f"{counted(len(tracks), 'dancer')} tracked over {clock(end)}.")
        ]
        if tracks:
            rows = {
                f"dancer {track}": [
                    Bar(s.start, s.end, s.motion, _describe(s))
                    for s in segments
                    if s.track == track
                ]
                for track in tracks
            }
            colors = {motion: self._color(motion) for motion in present}
            alt = "; ".join(f"dancer {s.track}: {_describe(s)}" for s in segments)
            motions.append(Figure("Motions over time.", alt, timeline(rows, colors, end)))
        sections = [Section("Motions", motions)]
        if tracks:
            sections.append(Section("Time spent", [_table(segments, tracks, present)]))
        if corrections:
            sections.append(Section("What to correct", [Text(_SCORES), *map(Text, corrections)]))
        if self._images:
            frames = [
                Figure(clock(time), f"key frame at {clock(time)}", jpeg)
                for time, jpeg in self._images
            ]
            sections.append(Section("Key frames", [Gallery("", frames)]))
        return sections

    def _color(self, motion: str) -> str:
        red, green, blue = draw.motion_color(class_index(motion, self._classes))
        return f"#{red:02x}{green:02x}{blue:02x}"


def _table(segments: Sequence[Segment], tracks: list[int], present: list[str]) -> Table:
    rows = []
    for track in tracks:
        cells = [f"dancer {track}"]
        for motion in present:
            spent = sum(s.seconds for s in segments if (s.track, s.motion) == (track, motion))
            cells.append(f"{spent:.1f}" if spent else "")
        rows.append(cells)
    return Table("Seconds of each motion.", ["", *present], rows)


def _describe(segment: Segment) -> str:
    return (
        f"{segment.motion} {clock(segment.start)} to {clock(segment.end)}, "
        f"confidence {segment.confidence:.2f}"
    )
