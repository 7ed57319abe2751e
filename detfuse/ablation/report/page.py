"""A report as one HTML file: no network, no scripts, printable; everything that was written by others is escaped."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path

from detfuse.ablation.report.blocks import (
    Block,
    Bullets,
    Code,
    Figure,
    FigureRow,
    Link,
    PictureRow,
    Section,
    Table,
    Text,
    Verdicts,
    anchor,
)
from detfuse.words import escaped

ROOM, SCALES = 1050.0, (0.64, 0.8)
"""Pixels for drawings side by side, and the least and the greatest scale of them."""
MOST_COLUMNS = 4  # of pictures; more are shown three in a row

_STYLE = Path(__file__).with_name("page.css")


def page(title: str, kicker: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The whole document.

    Args:
        title: of the ablation.
        kicker: the small line above it.
        subtitle: what was compared, in a line.
        sections: the content; one without a title stands at the top.
    """
    style = _STYLE.read_text(encoding="utf-8")
    body = "\n".join(_section(section) for section in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>{escaped(title)}: ablation</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f'<header><p class="kicker">{escaped(kicker)}</p><h1>{escaped(title)}</h1><p>{escaped(subtitle)}</p></header>\n'
        f"{body}\n</main>\n</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    heading = f'<h2 id="{anchor(section.title)}">{escaped(section.title)}</h2>\n' if section.title else ""
    return f"<section>\n{heading}" + "\n".join(_block(block) for block in section.blocks) + "\n</section>"


def _block(block: Block) -> str:
    if isinstance(block, Text):
        return f'<p class="note">{escaped(block.text)}</p>' if block.note else f"<p>{escaped(block.text)}</p>"
    if isinstance(block, Bullets):
        items = "".join(f"<li>{escaped(item)}</li>" for item in block.items)
        return f'<ul class="note">{items}</ul>' if block.note else f"<ul>{items}</ul>"
    if isinstance(block, Link):
        return f'<p class="note"><a href="#{anchor(block.section)}">{escaped(block.text)}</a></p>'
    if isinstance(block, Code):
        return f"<pre>{escaped(block.text)}</pre>"
    if isinstance(block, Verdicts):
        return _verdicts(block)
    if isinstance(block, Figure):
        return _figure(block)
    if isinstance(block, FigureRow):
        return _side_by_side(block)
    if isinstance(block, PictureRow):
        return _pictures(block)
    return _table(block)


def _verdicts(block: Verdicts) -> str:
    items = "".join(
        f'<li style="border-left-color:{badge.color}"><b style="color:{badge.color}">{escaped(badge.name)}</b>'
        f'<span class="number">{escaped(badge.figure)}</span><span class="word">{escaped(badge.word)}</span>'
        f'<span class="said">{escaped(badge.text)}</span></li>'
        for badge in block.badges
    )
    return f'<p class="headline">{escaped(block.headline)}</p>\n<ul class="verdicts">{items}</ul>'


def _figure(figure: Figure, width: float | None = None) -> str:
    drawing = figure.svg
    if figure.foreign:
        drawing = _image("image/svg+xml", figure.svg.encode(), figure.caption, width)
    start = '<figure class="foreign">' if figure.foreign else "<figure>"
    return f"{start}{drawing}<figcaption>{escaped(figure.caption)}</figcaption></figure>"


def _side_by_side(row: FigureRow) -> str:
    """All on one scale, so that what is alike looks alike: one at which two fit into a row and can still be read."""
    first, *others = (figure.width for figure in row.figures)
    widest = max((width for width in others if first + width <= ROOM / SCALES[0]), default=0.0)
    scale = min(ROOM / (first + widest), SCALES[1])
    figures = "".join(_figure(figure, scale * figure.width) for figure in row.figures)
    return f'<div class="side">{figures}</div>'


def _pictures(row: PictureRow) -> str:
    figures = "".join(
        f"<figure>{_image('image/jpeg', picture.jpeg, picture.caption)}"
        f"<figcaption>{escaped(picture.caption)}</figcaption></figure>"
        for picture in row.pictures
    )
    columns = len(row.pictures) if len(row.pictures) <= MOST_COLUMNS else 3
    return f'<h3>{escaped(row.heading)}</h3>\n<div class="pictures" style="--columns:{columns}">{figures}</div>'


def _image(kind: str, content: bytes, alternative: str, width: float | None = None) -> str:
    size = "" if width is None else f' style="width:{width:.0f}px"'
    return f'<img alt="{escaped(alternative)}"{size} src="data:{kind};base64,{b64encode(content).decode("ascii")}">'


def _table(table: Table) -> str:
    kinds = [' class="number"' if column.numeric else "" for column in table.columns]
    head = "".join(f"<th{kind}>{escaped(c.header)}</th>" for kind, c in zip(kinds, table.columns, strict=True))
    rows = "".join(
        "<tr>" + "".join(f"<td{kind}>{escaped(cell)}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in table.shown()
    )
    caption = f"<caption>{escaped(table.caption)}</caption>" if table.caption else ""
    return f'<div class="scroll"><table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
