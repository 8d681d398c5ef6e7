"""Charts as SVG text, legible without color.

Not by matplotlib, which is no dependency: these few kB scale with a phone and keep text as text.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

import numpy as np

# Safe for color blindness (Okabe and Ito); each line also has its own dashes.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#000000", "#7a7a7a")
_DASHES = ("none", "7 3", "2 3", "9 3 2 3", "4 2", "1 2", "12 4", "6 2 1 2")
_WIDTH = 430  # small, so that font size 13 is legible on a phone
_LETTER = 9  # width of a wide letter at font size 13
_FONT = 'font-family="system-ui, sans-serif"'


def curves(series: Mapping[str, Sequence[tuple[float, float]]], x_title: str, y_title: str) -> str:
    """Draws line plots of points (x, y), y in 0 to 1, with a legend below."""
    width, plot_height, left, top = _WIDTH, 240, 40, 20
    height = top + plot_height + 48 + 22 * len(series)
    points = [point for line in series.values() for point in line]
    right_end = max((x for x, _ in points), default=1.0) or 1.0
    low = min((y for _, y in points), default=0.0)
    bottom = np.floor(low * 5 - 1e-9) / 5 if low > 0.2 else 0.0  # full fifths

    def scale(x: float, y: float) -> tuple[float, float]:
        return (
            left + x / right_end * (width - left - 16),
            top + (1 - (y - bottom) / (1 - bottom)) * plot_height,
        )

    parts = []
    for y in np.arange(bottom, 1.001, 0.1 if bottom >= 0.5 else 0.2):
        _, line_y = scale(0, float(y))
        parts.append(f'<line x1="{left}" y1="{line_y:.1f}" x2="{width - 16}" y2="{line_y:.1f}" '
                     'stroke="#e5e5e5"/>')  # fmt: skip
        parts.append(_text(left - 8, line_y + 4, f"{y:.1f}", "end"))
    for x in _ticks(right_end):
        tick_x, _ = scale(x, bottom)
        parts.append(_text(tick_x, top + plot_height + 18, f"{x:g}", "middle"))
    parts.append(_text(width - 16, top + plot_height + 36, x_title, "end"))
    parts.append(_text(left, top - 7, y_title, "start"))
    for i, (name, line) in enumerate(series.items()):
        color, dash = _COLORS[i % 8], _DASHES[i % 8]
        style = f'stroke="{color}" stroke-width="2" stroke-dasharray="{dash}" fill="none"'
        path = " ".join("{:.1f},{:.1f}".format(*scale(x, y)) for x, y in line)
        parts.append(f'<polyline points="{path}" {style}/>')
        if len(line) == 1:  # a polyline of one point is invisible
            center = 'cx="{:.1f}" cy="{:.1f}"'.format(*scale(*line[0]))
            parts.append(f'<circle {center} r="3" fill="{color}"/>')
        x, y = left, top + plot_height + 58 + 22 * i
        parts.append(f'<line x1="{x}" y1="{y - 4}" x2="{x + 34}" y2="{y - 4}" {style}/>')
        parts.append(_text(x + 42, y, name, "start"))
    return _svg(width, height, parts)


def confusion(counts: np.ndarray, classes: Sequence[str]) -> str:
    """Draws counts [M, M], true classes in rows, shaded by the fraction of the row."""
    size, lengths = len(classes), [_LETTER * len(name) for name in classes]
    left, top = round(max(lengths, default=0)) + 12, round(0.65 * max(lengths, default=0)) + 20
    cell = max(30, (_WIDTH - left - 50) // max(size, 1))
    # Overhang of the rotated titles beyond the last column.
    overhang = [(i + 0.5 - size) * cell + 0.77 * n for i, n in enumerate(lengths)]
    fractions = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    parts = []
    for row, name in enumerate(classes):
        parts.append(_text(left - 8, top + row * cell + cell / 2 + 4, name, "end"))
        x = left + row * cell + cell / 2
        parts.append(
            f'<text font-size="13" {_FONT} fill="#222" '
            f'transform="translate({x:.1f} {top - 8}) rotate(-40)">{escape(name)}</text>'
        )
        for column in range(size):
            fraction = float(fractions[row, column])
            red, green, blue = (round(255 + fraction * (end - 255)) for end in (0, 83, 138))
            corner = f'x="{left + column * cell}" y="{top + row * cell}"'
            parts.append(f'<rect {corner} width="{cell}" height="{cell}" stroke="#ddd" '
                         f'fill="rgb({red},{green},{blue})"/>')  # fmt: skip
            if counts[row, column]:
                parts.append(
                    _text(
                        left + column * cell + cell / 2,
                        top + row * cell + cell / 2 + 5,
                        str(int(counts[row, column])),
                        "middle",
                        "#fff" if fraction > 0.5 else "#222",
                    )
                )
    right = round(max(8, *overhang)) + 4
    return _svg(left + size * cell + right, top + size * cell + 8, parts)


class Bar(NamedTuple):
    """A bar of a timeline, from start to end in seconds; `text` is its tooltip."""

    start: float
    end: float
    label: str
    text: str


def timeline(rows: Mapping[str, Sequence[Bar]], colors: Mapping[str, str], end: float) -> str:
    """Draws bars over 0 to `end` seconds, with a legend of the labels' colors below."""
    left, width, row_height = 90, 1000, 26
    scale = (width - left - 24) / max(end, 1e-9)  # with room for half of the last time
    bottom = row_height * len(rows) + 4
    parts = [
        # Scrolled on a phone: shrunk, it would be illegible.
        f'<svg viewBox="0 0 {width} {bottom + 54}" style="max-width: none; min-width: 50rem" '
        'font-family="inherit" font-size="12">',
    ]
    for i, (name, bars) in enumerate(rows.items()):
        y = i * row_height
        parts.append(f'<text x="0" y="{y + 17}">{escape(name)}</text>')
        for bar in bars:
            parts.append(
                f'<rect class="bar" x="{left + bar.start * scale:.2f}" y="{y + 3}" '
                f'width="{max((bar.end - bar.start) * scale, 0.5):.2f}" height="{row_height - 6}" '
                f'fill="{colors[bar.label]}"><title>{escape(bar.text)}</title></rect>'
            )
    steps = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800)
    step = float(next((step for step in steps if end / step <= 12), 3600))
    for i in range(int(end / step) + 1):
        x = left + i * step * scale
        parts.append(
            f'<line x1="{x:.2f}" x2="{x:.2f}" y1="0" y2="{bottom}" stroke="#0002"/>'
            f'<text x="{x:.2f}" y="{bottom + 14}" text-anchor="middle">{clock(i * step)}</text>'
        )
    for i, (label, color) in enumerate(colors.items()):
        x, y = left + i * (width - left) / len(colors), bottom + 32
        parts.append(
            f'<rect x="{x:.2f}" y="{y}" width="12" height="12" fill="{color}"/>'
            f'<text x="{x + 18:.2f}" y="{y + 11}">{escape(label)}</text>'
        )
    return "\n".join([*parts, "</svg>"])


def clock(seconds: float) -> str:
    """Formats a time as minutes and seconds: "1:02.0"."""
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{int(minutes)}:{rest:04.1f}"


def _ticks(end: float) -> list[float]:
    step = next(s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 1e9)
                if end / s <= 8)  # fmt: skip
    return [float(x) for x in np.arange(0, end + step * 1e-6, step)]


def _text(x: float, y: float, text: str, anchor: str, color: str = "#222") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="13" {_FONT} text-anchor="{anchor}" '
        f'fill="{color}">{escape(text)}</text>'
    )


def _svg(width: int, height: int, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">'
    return "\n".join([head, *parts, "</svg>"])
