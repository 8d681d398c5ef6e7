"""Reports as sections of texts, tables and figures, rendered as HTML or Markdown."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table of text; the first column names the rows.

    Attributes:
        caption: content and unit.
        head: titles of the columns.
        rows: cells, as many per row as in `head`.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """An image with a caption and a text alternative.

    Attributes:
        content: an SVG element as text, or the bytes of a JPEG file.
    """

    caption: str
    alt: str
    content: str | bytes


@dataclass(frozen=True)
class Gallery:
    """A grid of small figures."""

    caption: str
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Html:
    """Elements for pages, which Markdown leaves out."""

    content: str


Block = Text | Table | Figure | Gallery | Html


@dataclass
class Section:
    title: str
    blocks: list[Block] = field(default_factory=list)


_PAGE_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; background: #fff; color: #222;
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; font-weight: 500; line-height: 1.25; }
h2 { font-size: 1.25rem; font-weight: 500; margin: 2.5rem 0 .5rem; padding-top: .75rem;
  border-top: 1px solid #ddd; }
"""
_BLOCK_STYLE = """
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; overflow-wrap: normal; margin: .4rem 0; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #e5e5e5;
  font-variant-numeric: tabular-nums; white-space: nowrap; }
th { font-weight: 500; white-space: normal; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
figure { margin: 1rem 0; overflow-x: auto; }
figcaption { color: #555; font-size: .9rem; }
img { max-width: 100%; }
svg { display: block; width: 100%; height: auto; max-width: 34rem; }
.gallery { display: grid;
  grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: .8rem; }
.gallery figure { margin: 0; }
.gallery img { width: 100%; height: auto; display: block; }
@media (max-width: 34rem) {
  table { font-size: .8rem; }
  th, td { padding: .3rem .35rem; }
}
"""
_STYLE = _PAGE_STYLE + _BLOCK_STYLE
# Inside a notebook, whose own style for tables may be dark.
_FRAGMENT_STYLE = """
background: #fff; color: #222; color-scheme: light; padding: .2rem .8rem; max-width: 60rem;
font: 14px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
h3 { font-size: 1.1rem; font-weight: 500; margin: 1rem 0 .3rem; color: #222; }
tbody tr:nth-child(n), thead tr:nth-child(n) { background: #fff; color: #222; }
"""


def to_html(title: str, sections: Sequence[Section]) -> str:
    """Renders a self-contained page: no external resources; no scripts but those of `Html`."""
    body = [f"<h1>{escape(title)}</h1>"]
    for section in sections:
        blocks = "\n".join(_block_html(block) for block in section.blocks)
        body.append(f"<section>\n<h2>{escape(section.title)}</h2>\n{blocks}\n</section>")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def to_fragment(sections: Sequence[Section]) -> str:
    """Renders sections as an element with its own style, for notebooks; "" is no title."""
    parts = []
    for section in sections:
        if section.title:
            parts.append(f"<h3>{escape(section.title)}</h3>")
        parts += map(_block_html, section.blocks)
    style = f".jdance {{{_FRAGMENT_STYLE}{_BLOCK_STYLE}}}"
    body = "\n".join(parts)
    return f'<div class="jdance">\n<style>{style}</style>\n{body}\n</div>\n'


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """Renders texts and tables; figures become their text alternatives."""
    parts = [f"# {title}"]
    for section in sections:
        parts.append(f"## {section.title}")
        parts += [text for block in section.blocks if (text := _block_markdown(block))]
    return "\n\n".join(parts) + "\n"


def table_markdown(table: Table) -> str:
    """Renders a table without its caption."""
    lines = [list(table.head), ["---"] + ["---:"] * (len(table.head) - 1), *map(list, table.rows)]
    cells = [[str(cell).replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _block_html(block: Block) -> str:
    if isinstance(block, Text):
        return f"<p>{escape(block.text)}</p>"
    if isinstance(block, Html):
        return block.content
    if isinstance(block, Table):
        # Allows line breaks in names such as single_arm_open.
        titles = (escape(cell).replace("_", "_<wbr>") for cell in block.head)
        head = "".join(f'<th scope="col">{title}</th>' for title in titles)
        rows = "\n".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
            for row in block.rows
        )
        return (
            f"<figure><figcaption>{escape(block.caption)}</figcaption>"
            f'<div class="scroll" tabindex="0"><table aria-label="{escape(block.caption)}">\n'
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div></figure>"
        )
    if isinstance(block, Gallery):
        figures = "\n".join(_block_html(figure) for figure in block.figures)
        return f'<p>{escape(block.caption)}</p>\n<div class="gallery">\n{figures}\n</div>'
    if isinstance(block.content, str):
        # Screen readers announce the SVG as one image with this label.
        figure = re.sub(
            "^<svg", f'<svg role="img" aria-label="{escape(block.alt)}"', block.content, count=1
        )
    else:
        data = base64.b64encode(block.content).decode()
        figure = f'<img src="data:image/jpeg;base64,{data}" alt="{escape(block.alt)}">'
    return f"<figure>{figure}<figcaption>{escape(block.caption)}</figcaption></figure>"


def _block_markdown(block: Block) -> str:
    if isinstance(block, Text):
        return block.text
    if isinstance(block, Html):
        return ""
    if isinstance(block, Table):
        return f"{block.caption}\n\n{table_markdown(block)}"
    if isinstance(block, Gallery):
        return "\n".join([block.caption, "", *(f"- {figure.caption}" for figure in block.figures)])
    return f"{block.caption}: {block.alt}"
