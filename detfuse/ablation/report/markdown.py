"""A report as Markdown, for a repository or a merge request; figures are files beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

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
from detfuse.words import printable

FIGURES = "figures"


def markdown(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The whole document; what people or data named is escaped."""
    parts = [f"# {_escaped(title)}", _escaped(subtitle)]
    for section in sections:
        parts += [f"## {_escaped(section.title)}"] if section.title else []
        parts += [_block(block) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> str:
    if isinstance(block, Text):
        return _escaped(block.text)
    if isinstance(block, Bullets):
        return "\n".join(f"- {_escaped(item)}" for item in block.items)
    if isinstance(block, Link):
        return f"[{_escaped(block.text)}](#{anchor(block.section)})"
    if isinstance(block, Code):
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", block.text)), default=0))
        return f"{fence}text\n{printable(block.text.rstrip())}\n{fence}"
    if isinstance(block, Verdicts):
        rows = [[badge.name, badge.figure, badge.word, badge.text] for badge in block.badges]
        return f"**{_escaped(block.headline)}**\n\n" + _grid(["arm", "difference", "verdict", ""], rows)
    if isinstance(block, Figure):
        return f"![{_escaped(block.caption)}]({FIGURES}/{block.name}.svg)\n\n{_escaped(block.caption)}"
    if isinstance(block, FigureRow):
        return "\n\n".join(map(_block, block.figures))
    if isinstance(block, PictureRow):
        captions = [picture.caption for picture in block.pictures]
        return f"### {_escaped(block.heading)}\n\n" + "\n".join(f"- {_escaped(text)}" for text in captions)
    return _table(block)


def _table(table: Table) -> str:
    grid = _grid([column.header for column in table.columns], table.shown(), [c.numeric for c in table.columns])
    return f"{grid}\n\n{_escaped(table.caption)}" if table.caption else grid


def _grid(header: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool] = ()) -> str:
    rule = ["---:" if i < len(numeric) and numeric[i] else "---" for i in range(len(header))]
    cells = [list(map(_escaped, header)), rule, *(list(map(_escaped, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _escaped(text: str) -> str:
    """Shown as it is: no tags, no emphasis, no links, no line breaks."""
    flat = re.sub(r"([\\`*_\[\]|#~])", r"\\\1", printable(" ".join(text.split())))
    return escape(flat, quote=False)
