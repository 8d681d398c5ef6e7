"""The HTML page of a video: a timeline of the dancers' motions, labeling, key frames, feedback."""

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from urllib.parse import quote

from jdance.progress import counted
from jdance.recognize.recognizer import class_index
from jdance.recognize.timeline import Segment
from jdance.report import draw
from jdance.report.charts import Bar, clock, timeline
from jdance.report.html import Block, Figure, Gallery, Html, Section, Table, Text, to_html
from jdance.train.calibration import UNKNOWN

_MAX_KEY_FRAMES = 24
_BOX_SECONDS = 0.25  # between two boxes of a dancer
_SCORES = (
    "Means over all frames of a motion, for the three body parts that score lowest. A score of 0.5 "
    "is average, one near 0 is unusual; directions are those in the image."
)


def static(name: str) -> str:
    """Reads a file of the page."""
    return (resources.files("jdance.recognize") / "static" / name).read_text(encoding="utf-8")


def script() -> str:
    """Returns the page's script, which makes a manifest of corrected motions."""
    return f"\n{static('labels.js')}\n{static('labeling.js')}"


class VideoPage:
    """Collects the content of the page.

    Args:
        title: of the page.
        classes: the motions, in the order of their colors.
        video: file name of the video; "": there is none, so its motions cannot be corrected.
        annotated: file name of the annotated video, beside the page; "": there is none.
    """

    def __init__(self, title: str, classes: Sequence[str], video: str = "", annotated: str = ""):
        self._title, self._classes = title, list(classes)
        self._video, self._annotated = video, annotated
        self._images: list[tuple[float, bytes]] = []
        self._boxes: dict[int, list[list[float]]] = {}
        self._start: float | None = None

    @property
    def wants_images(self) -> bool:
        return len(self._images) < _MAX_KEY_FRAMES

    def add_image(self, time: float, jpeg: bytes) -> None:
        """Adds a key frame, at a time in seconds."""
        self._images.append((time, jpeg))

    def add_boxes(
        self, time: float, boxes: Mapping[int, Sequence[float]], starts_motion: bool
    ) -> None:
        """Adds the boxes of a frame; keeps as many as `labels.js` needs.

        Args:
            time: of the frame in seconds.
            boxes: x, y, width, height in pixels by track.
            starts_motion: whether the motion of a track changes in this frame.
        """
        if self._start is None:
            self._start = time
        for track, box in boxes.items():
            own = self._boxes.setdefault(track, [])
            if not own or starts_motion or time - own[-1][0] >= _BOX_SECONDS - 1e-6:
                own.append([round(time, 4), *(round(float(value), 1) for value in box)])

    def write(
        self, path: Path, segments: Sequence[Segment], end: float, corrections: Sequence[str] = ()
    ) -> None:
        """Writes the page to an HTML file: `sections`, and the form for right motions."""
        sections = self.sections(segments, end, corrections)
        if self._video and segments:
            sections.insert(1, Section("Right motions", [self._form(segments)]))
        text = to_html(self._title, sections)
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

    def _form(self, segments: Sequence[Segment]) -> Html:
        ordered = sorted(segments, key=lambda segment: segment.track)  # as in the timeline
        player = {"path": quote(self._annotated), "start": round(self._start or 0.0, 4)}
        data = {
            "path": self._video,
            "motions": list(dict.fromkeys([*self._classes, UNKNOWN])),
            "segments": [
                {
                    "track": segment.track,
                    "start": round(segment.start, 4),
                    "end": round(segment.end, 4),
                    "motion": segment.motion,
                }
                for segment in ordered
            ],
            "boxes": self._boxes,
            "video": player if self._annotated else None,
        }
        text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
        return Html(
            f"<style>\n{static('labeling.css')}</style>\n{static('labeling.html')}"
            f'<script id="labeling-data" type="application/json">{text}</script>\n'
            f'<script type="module">{script()}</script>'
        )

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
