"""What a report is made of, before it is HTML or Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Text:
    """A paragraph; a note is set smaller."""

    text: str
    note: bool = False


@dataclass(frozen=True)
class Bullets:
    """A list of short texts; a note is set smaller."""

    items: tuple[str, ...]
    note: bool = False


@dataclass(frozen=True)
class Link:
    """A line that leads to another section of the same report."""

    text: str
    section: str


@dataclass(frozen=True)
class Code:
    """Text that is shown as it is."""

    text: str


@dataclass(frozen=True)
class Badge:
    """The verdict on one arm: its colour, name, difference, verdict in a word, and the sentence."""

    color: str
    name: str
    figure: str
    word: str
    text: str


@dataclass(frozen=True)
class Verdicts:
    """The headline and a badge per arm."""

    headline: str
    badges: tuple[Badge, ...]


@dataclass(frozen=True)
class Figure:
    """A drawing.

    Attributes:
        name: of its file, without suffix.
        svg: a whole SVG document.
        caption: what it shows and what it does not.
        foreign: whether it was drawn elsewhere: it is then embedded as an image, apart from the page.
    """

    name: str
    svg: str
    caption: str
    foreign: bool = False

    @property
    def width(self) -> float:
        """In pixels, as the document says."""
        return float(ElementTree.fromstring(self.svg).get("width", "0"))


@dataclass(frozen=True)
class FigureRow:
    """Drawings side by side, as many in a row as there is room for, on one scale."""

    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Picture:
    """A JPEG with its caption."""

    jpeg: bytes
    caption: str


@dataclass(frozen=True)
class PictureRow:
    """Pictures side by side under one heading."""

    heading: str
    pictures: tuple[Picture, ...]


def plain(value: Any) -> str:
    """How a cell is shown where nothing else is said; what is undefined is ``n/a``."""
    return "n/a" if value is None else str(value)


@dataclass(frozen=True)
class Column:
    """A column of a table: its header, and how a value is shown to people."""

    header: str
    show: Callable[[Any], str] = plain
    numeric: bool = True


@dataclass(frozen=True)
class Table:
    """A table; the CSV file has its values as they are, pages show them as the columns say."""

    name: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    caption: str = ""

    def shown(self) -> list[list[str]]:
        """The cells as people see them."""
        return [[column.show(value) for column, value in zip(self.columns, row, strict=True)] for row in self.rows]

    def csv(self) -> str:
        """RFC 4180; undefined cells are empty. Text that a spreadsheet would compute is shielded by an apostrophe."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\r\n")
        writer.writerow([_shielded(column.header) for column in self.columns])
        writer.writerows([[_shielded(value) for value in row] for row in self.rows])
        return buffer.getvalue()


def _shielded(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, int):
        return value
    text = str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


Block = Text | Bullets | Link | Code | Verdicts | Figure | FigureRow | PictureRow | Table


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: Sequence[Block]
    files: tuple[Table, ...] = field(default=())
    """Tables that are too long for a page and are written as CSV only."""

    @property
    def figures(self) -> list[Figure]:
        """All drawings in it, alone or in rows."""
        alone = [block for block in self.blocks if isinstance(block, Figure)]
        return alone + [one for block in self.blocks if isinstance(block, FigureRow) for one in block.figures]


def anchor(title: str) -> str:
    """Where a section begins, as links name it, in HTML and on sites that show Markdown alike."""
    return "-".join(title.lower().split())
