"""A page about one video: who did what when, in one HTML file that needs nothing else."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from jdance.progress import counted
from jdance.recognize.timeline import Segment
from jdance.report import draw
from jdance.report.html import Block, Gallery, Figure, Section, Table, Text, to_html

_MAX_KEY_FRAMES = 24  # key frames at most
_HOW = (
    "Means of all frames of a motion, the three least usual parts of the body. A score of 0.5 is "
    "as most do it, towards 0 the more unusual; "
    "directions are those in the image."
)


class Report:
    """Gathers what the page shows.

    Args:
        title: what the video is called.
        classes: the motions, in the order of their colours.
    """

    def __init__(self, title: str, classes: Sequence[str]):
        self._title, self._classes = title, list(classes)
        self._images: list[tuple[float, bytes]] = []

    @property
    def wants_images(self) -> bool:
        return len(self._images) < _MAX_KEY_FRAMES

    def add_image(self, time: float, jpeg: bytes) -> None:
        """A key frame, at a time in seconds."""
        self._images.append((time, jpeg))

    def write(
        self, path: Path, segments: Sequence[Segment], end: float, advice: Sequence[str] = ()
    ) -> None:
        """Writes the page; the timeline goes from 0 to `end` seconds.

        `advice` says what dancers could correct, one paragraph each.
        """
        tracks = sorted({segment.track for segment in segments})
        present = [m for m in [*self._classes, "unknown"] if any(s.motion == m for s in segments)]
        followed = Text(f"{counted(len(tracks), 'dancer')} followed over {_clock(end)}.")
        motions: list[Block] = [followed]
        if tracks:
            spoken = "; ".join(f"dancer {s.track}: {_spoken(s)}" for s in segments)
            timeline = self._timeline(segments, tracks, present, end)
            motions.append(Figure("Who did what when.", spoken, timeline))
        sections = [Section("Motions", motions)]
        if tracks:
            sections.append(Section("Time spent", [_table(segments, tracks, present)]))
        if advice:
            sections.append(Section("What to correct", [Text(_HOW), *map(Text, advice)]))
        if self._images:
            frames = [
                Figure(_clock(time), f"key frame at {_clock(time)}", jpeg)
                for time, jpeg in self._images
            ]
            sections.append(Section("Key frames", [Gallery("", frames)]))
        path.write_text(to_html(self._title, sections), encoding="utf-8")

    def _colour(self, motion: str) -> str:
        number = self._classes.index(motion) if motion in self._classes else -1
        red, green, blue = draw.motion_color(number)
        return f"#{red:02x}{green:02x}{blue:02x}"

    def _timeline(
        self, segments: Sequence[Segment], tracks: list[int], present: list[str], end: float
    ) -> str:
        left, width, row = 90, 1000, 26
        scale = (width - left) / max(end, 1e-9)
        bottom = row * len(tracks) + 4
        parts = [
            # On a phone it is scrolled: shrunk, nobody could read it.
            f'<svg viewBox="0 0 {width} {bottom + 54}" style="max-width: none; min-width: 50rem" '
            'font-family="inherit" font-size="12">',
        ]
        for line, track in enumerate(tracks):
            y = line * row
            parts.append(f'<text x="0" y="{y + 17}">dancer {track}</text>')
            for s in segments:
                if s.track == track:
                    parts.append(
                        f'<rect x="{left + s.start * scale:.2f}" y="{y + 3}" '
                        f'width="{max(s.seconds * scale, 0.5):.2f}" height="{row - 6}" '
                        f'fill="{self._colour(s.motion)}"><title>{escape(_spoken(s))}</title></rect>'
                    )
        step = _step(end)
        for i in range(int(end / step) + 1):
            x = left + i * step * scale
            parts.append(
                f'<line x1="{x:.2f}" x2="{x:.2f}" y1="0" y2="{bottom}" stroke="#0002"/>'
                f'<text x="{x:.2f}" y="{bottom + 14}" text-anchor="middle">'
                f"{_clock(i * step)}</text>"
            )
        for i, motion in enumerate(present):
            x, y = left + i * (width - left) / max(len(present), 1), bottom + 32
            parts.append(
                f'<rect x="{x:.2f}" y="{y}" width="12" height="12" fill="{self._colour(motion)}"/>'
                f'<text x="{x + 18:.2f}" y="{y + 11}">{escape(motion)}</text>'
            )
        return "\n".join([*parts, "</svg>"])


def _table(segments: Sequence[Segment], tracks: list[int], present: list[str]) -> Table:
    rows = []
    for track in tracks:
        cells = [f"dancer {track}"]
        for motion in present:
            spent = sum(s.seconds for s in segments if (s.track, s.motion) == (track, motion))
            cells.append(f"{spent:.1f}" if spent else "")
        rows.append(cells)
    return Table("Seconds of each motion.", ["", *present], rows)


def _spoken(segment: Segment) -> str:
    return (
        f"{segment.motion} {_clock(segment.start)} to {_clock(segment.end)}, "
        f"confidence {segment.confidence:.2f}"
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}:{rest:04.1f}"


def _step(end: float) -> float:
    """Seconds between the marks of a timeline, at most twelve of them."""
    for step in (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800):
        if end / step <= 12:
            return float(step)
    return 3600.0
