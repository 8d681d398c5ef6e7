"""Contrast of the web page and of the form in reports (WCAG 2.2, level AA), from their styles."""

import itertools
import re
from importlib import resources

import pytest

from jdance.recognize import page
from jdance.report import draw

TEXT, PART = 4.5, 3.0  # minimum contrast of text, and of the edges of controls
STYLE = (resources.files("jdance.serve") / "static" / "style.css").read_text()
MODES = ("light", "dark")
SURFACES = {"style.css": ("var(--back)", "var(--card)"), "labeling.css": ("#fff",)}
# Rules whose elements lie on something else than a surface.
BACKGROUNDS = {
    ".button.primary:hover": ["var(--accent)"],
    ".timeline .segment": [
        "#{:02x}{:02x}{:02x}".format(*draw.motion_color(i)) for i in range(-1, 8)
    ],
}


def rules(text):
    """Yields the selector and the declarations of each rule, also of those in media queries."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    for selector, body in re.findall(r"([^{}]+)\{([^{}]*)\}", text):
        pairs = (line.partition(":") for line in body.split(";") if line.strip())
        yield " ".join(selector.split()), {name.strip(): value.strip() for name, _, value in pairs}


def palette(mode):
    """Returns the colors of a mode by the names of their variables."""
    found = [values for selector, values in rules(STYLE) if selector == ":root"]
    assert len(found) == len(MODES)
    merged = found[0] | (found[1] if mode == "dark" else {})
    return {f"var({name})": value for name, value in merged.items() if name.startswith("--")}


def rgb(color, colors):
    """Returns red, green and blue in 0 to 1; what shines through is taken as white."""
    digits = colors.get(color, color).removeprefix("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) < 6 else digits
    red, green, blue, alpha = (
        int(digits.ljust(8, "f")[i : i + 2], 16) / 255 for i in range(0, 8, 2)
    )
    return [alpha * value + 1 - alpha for value in (red, green, blue)]


def contrast(one, other, colors):
    def luminance(color):
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4
                  for v in rgb(color, colors)]  # fmt: skip
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def first_color(value):
    """Returns the color in a declaration such as "1px solid #fff", or None."""
    found = re.search(r"var\(--[\w-]+\)|#[0-9a-f]{3,8}\b", value)
    return found[0] if found else None


def own_background(values):
    color = first_color(values.get("background", values.get("background-color", "")))
    return [color] if color else []


def too_faint(text, file, colors):
    """Lists the text, and the edges of controls, with too little contrast."""
    problems, checked = [], 0
    for selector, values in rules(text):
        own = BACKGROUNDS.get(selector) or own_background(values)
        wanted = []
        if color := first_color(values.get("color", "")):
            wanted += [(color, back, TEXT) for back in own or SURFACES[file]]
        if "border" in values and re.search(r"button|input\b|select", selector):
            edge = first_color(values["border"])
            wanted += [(edge, back, PART) for back in SURFACES[file] if edge]
        if outline := first_color(values.get("outline", "")):
            wanted += [(outline, back, PART) for back in SURFACES[file]]
        checked += len(wanted)
        problems += [
            f"{selector}: {one} on {other} has {value:.2f}"
            for one, other, minimum in wanted
            if (value := contrast(one, other, colors)) < minimum
        ]
    assert checked > 5
    return problems


@pytest.mark.parametrize("mode", MODES)
def test_page(mode):
    assert not too_faint(STYLE, "style.css", palette(mode))


def test_form_of_reports():
    assert not too_faint(page.static("labeling.css"), "labeling.css", {})


@pytest.mark.parametrize("mode", MODES)
def test_surfaces_that_inherit_their_text(mode):
    """Text on code, on saved motions and on the drop target; the filled part of a bar."""
    colors = palette(mode)
    for text, back in itertools.product(("text", "soft"), ("back", "card", "accent-soft")):
        assert contrast(f"var(--{text})", f"var(--{back})", colors) >= TEXT, (text, back)
    assert contrast("var(--accent)", "var(--accent-soft)", colors) >= PART


def test_measure():
    assert contrast("#fff", "#000", {}) == pytest.approx(21)
    assert contrast("#777", "#fff", {}) == pytest.approx(4.48, abs=0.005)
    assert contrast("#0000", "#ffffff", {}) == pytest.approx(1)
    assert too_faint("a { color: #777; } " * 9, "labeling.css", {})
