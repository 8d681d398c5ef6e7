"""Charts as SVG text: plain, light, legible without colour."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

# Told apart by the colour-blind (Okabe and Ito), each with dashes of its own.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#000000", "#7a7a7a")
_DASHES = ("none", "7 3", "2 3", "9 3 2 3", "4 2", "1 2", "12 4", "6 2 1 2")
_WIDTH = 430  # few units, so that letters of 13 are legible on a phone
_LETTER = 7.5  # width of a wide letter of size 13
_FONT = 'font-family="system-ui, sans-serif"'


def curves(series: Mapping[str, Sequence[tuple[float, float]]], x_title: str, y_title: str) -> str:
    """Lines through points (x, y), y in 0 to 1, with a legend below."""
    width, plot_height, left, top = _WIDTH, 240, 40, 20
    height = top + plot_height + 48 + 22 * len(series)
    points = [point for line in series.values() for point in line]
    right_end = max((x for x, _ in points), default=1.0) or 1.0
    low = min((y for _, y in points), default=0.0)
    bottom = np.floor(low * 5 - 1e-9) / 5 if low > 0.2 else 0.0  # full fifths

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + x / right_end * (width - left - 16),
            top + (1 - (y - bottom) / (1 - bottom)) * plot_height,
        )

    parts = []
    for y in np.arange(bottom, 1.001, 0.1 if bottom >= 0.5 else 0.2):
        _, at = place(0, float(y))
        parts.append(f'<line x1="{left}" y1="{at:.1f}" x2="{width - 16}" y2="{at:.1f}" '
                     'stroke="#e5e5e5"/>')  # fmt: skip
        parts.append(_text(left - 8, at + 4, f"{y:.1f}", "end"))
    for x in _ticks(right_end):
        at, _ = place(x, bottom)
        parts.append(_text(at, top + plot_height + 18, f"{x:g}", "middle"))
    parts.append(_text(width - 16, top + plot_height + 36, x_title, "end"))
    parts.append(_text(left, top - 7, y_title, "start"))
    for number, (name, line) in enumerate(series.items()):
        colour, dash = _COLOURS[number % 8], _DASHES[number % 8]
        style = f'stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}" fill="none"'
        path = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in line)
        parts.append(f'<polyline points="{path}" {style}/>')
        if len(line) == 1:  # a line of one point would not be seen
            spot = 'cx="{:.1f}" cy="{:.1f}"'.format(*place(*line[0]))
            parts.append(f'<circle {spot} r="3" fill="{colour}"/>')
        x, y = left, top + plot_height + 58 + 22 * number
        parts.append(f'<line x1="{x}" y1="{y - 4}" x2="{x + 34}" y2="{y - 4}" {style}/>')
        parts.append(_text(x + 42, y, name, "start"))
    return _svg(width, height, parts)


def confusion(counts: np.ndarray, classes: Sequence[str]) -> str:
    """A matrix of counts [M, M]: true classes down, guesses across, shaded by share of the row."""
    size, lengths = len(classes), [_LETTER * len(name) for name in classes]
    left, top = round(max(lengths, default=0)) + 12, round(0.65 * max(lengths, default=0)) + 20
    cell = max(30, (_WIDTH - left - 50) // max(size, 1))
    # How far slanted titles reach beyond the last column.
    beyond = [(i + 0.5 - size) * cell + 0.77 * n for i, n in enumerate(lengths)]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    parts = []
    for row, name in enumerate(classes):
        parts.append(_text(left - 8, top + row * cell + cell / 2 + 4, name, "end"))
        x = left + row * cell + cell / 2
        parts.append(
            f'<text font-size="13" {_FONT} fill="#222" '
            f'transform="translate({x:.1f} {top - 8}) rotate(-40)">{escape(name)}</text>'
        )
        for column in range(size):
            share = float(shares[row, column])
            red, green, blue = (round(255 + share * (end - 255)) for end in (0, 83, 138))
            at = f'x="{left + column * cell}" y="{top + row * cell}"'
            parts.append(f'<rect {at} width="{cell}" height="{cell}" stroke="#ddd" '
                         f'fill="rgb({red},{green},{blue})"/>')  # fmt: skip
            if counts[row, column]:
                parts.append(
                    _text(
                        left + column * cell + cell / 2,
                        top + row * cell + cell / 2 + 5,
                        str(int(counts[row, column])),
                        "middle",
                        "#fff" if share > 0.5 else "#222",
                    )
                )
    right = round(max(8, *beyond)) + 4
    return _svg(left + size * cell + right, top + size * cell + 8, parts)


def _ticks(end: float) -> list[float]:
    step = next(s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 1e9)
                if end / s <= 8)  # fmt: skip
    return [float(x) for x in np.arange(0, end + step * 1e-6, step)]


def _text(x: float, y: float, text: str, anchor: str, colour: str = "#222") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="13" {_FONT} text-anchor="{anchor}" '
        f'fill="{colour}">{escape(text)}</text>'
    )


def _svg(width: int, height: int, parts: Sequence[str]) -> str:
    inside = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">\n{inside}\n</svg>'
    )
