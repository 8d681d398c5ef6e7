"""A page about one video: who did what when, in one HTML file that needs nothing else."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from jdance import draw
from jdance.timeline import Segment

_PICTURES = 24  # key frames at most
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem;
  color: #222 }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
svg { width: 100%; display: block } svg text { font: 12px system-ui, sans-serif }
table { border-collapse: collapse } td, th { padding: .2rem .9rem .2rem 0; text-align: left }
td.number { text-align: right; font-variant-numeric: tabular-nums }
.key { display: inline-block; margin-right: 1rem }
.key i { display: inline-block; width: .8em; height: .8em; margin-right: .35em }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem }
figure { margin: 0 } figure img { width: 100% } figcaption { color: #555 }
"""


class Report:
    """Gathers what the page shows.

    Args:
        title: what the video is called.
        classes: the motions, in the order of their colours.
    """

    def __init__(self, title: str, classes: Sequence[str]):
        self._title, self._classes = title, list(classes)
        self._pictures: list[tuple[float, bytes]] = []

    @property
    def wants_pictures(self) -> bool:
        return len(self._pictures) < _PICTURES

    def add_picture(self, time: float, jpeg: bytes) -> None:
        """A key frame, at a time in seconds."""
        self._pictures.append((time, jpeg))

    def write(self, path: Path, segments: Sequence[Segment], end: float) -> None:
        """Writes the page; the timeline goes from 0 to `end` seconds."""
        tracks = sorted({segment.track for segment in segments})
        present = [m for m in [*self._classes, "unknown"] if any(s.motion == m for s in segments)]
        key = "".join(
            f'<span class="key"><i style="background:{self._colour(m)}"></i>{html.escape(m)}</span>'
            for m in present
        )
        body = [
            f"<h1>{html.escape(self._title)}</h1>",
            f"<p>{len(tracks)} dancers followed over {_clock(end)}.</p>",
            f"<h2>Motions</h2><p>{key}</p>",
            self._timeline(segments, tracks, end),
            "<h2>Time spent</h2>",
            self._table(segments, tracks, present),
        ]
        if self._pictures:
            body += ["<h2>Key frames</h2>", '<div class="pictures">']
            for time, jpeg in self._pictures:
                data = base64.b64encode(jpeg).decode()
                body.append(
                    f'<figure><img alt="" src="data:image/jpeg;base64,{data}">'
                    f"<figcaption>{_clock(time)}</figcaption></figure>"
                )
            body.append("</div>")
        page = (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
            f"<title>{html.escape(self._title)}</title><style>{_STYLE}</style></head>\n<body>\n"
            + "\n".join(body)
            + "\n</body></html>\n"
        )
        path.write_text(page, encoding="utf-8")

    def _colour(self, motion: str) -> str:
        number = self._classes.index(motion) if motion in self._classes else -1
        red, green, blue = draw.motion_color(number)
        return f"#{red:02x}{green:02x}{blue:02x}"

    def _timeline(self, segments: Sequence[Segment], tracks: list[int], end: float) -> str:
        left, width, row = 90, 1000, 26
        scale = (width - left) / max(end, 1e-9)
        bottom = row * len(tracks) + 4
        parts = [
            f'<svg viewBox="0 0 {width} {bottom + 20}" role="img" aria-label="timeline">',
        ]
        for line, track in enumerate(tracks):
            y = line * row
            parts.append(f'<text x="0" y="{y + 17}">dancer {track}</text>')
            for s in segments:
                if s.track == track:
                    note = (
                        f"{s.motion} {_clock(s.start)} to {_clock(s.end)}, "
                        f"confidence {s.confidence:.2f}"
                    )
                    parts.append(
                        f'<rect x="{left + s.start * scale:.2f}" y="{y + 3}" '
                        f'width="{max(s.seconds * scale, 0.5):.2f}" height="{row - 6}" '
                        f'fill="{self._colour(s.motion)}"><title>{html.escape(note)}</title></rect>'
                    )
        step = _step(end)
        for i in range(int(end / step) + 1):
            x = left + i * step * scale
            parts.append(
                f'<line x1="{x:.2f}" x2="{x:.2f}" y1="0" y2="{bottom}" stroke="#0002"/>'
                f'<text x="{x:.2f}" y="{bottom + 14}" text-anchor="middle">'
                f"{_clock(i * step)}</text>"
            )
        return "\n".join([*parts, "</svg>"])

    def _table(self, segments: Sequence[Segment], tracks: list[int], present: list[str]) -> str:
        head = "".join(f"<th>{html.escape(m)}</th>" for m in present)
        rows = []
        for track in tracks:
            cells = ""
            for motion in present:
                spent = sum(s.seconds for s in segments if (s.track, s.motion) == (track, motion))
                cells += f'<td class="number">{f"{spent:.1f} s" if spent else ""}</td>'
            rows.append(f"<tr><td>dancer {track}</td>{cells}</tr>")
        return f"<table><tr><th></th>{head}</tr>{''.join(rows)}</table>"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}:{rest:04.1f}"


def _step(end: float) -> float:
    """Seconds between the marks of a timeline, at most twelve of them."""
    for step in (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800):
        if end / step <= 12:
            return float(step)
    return 3600.0
