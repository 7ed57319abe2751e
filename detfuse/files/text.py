"""Files that a reader never sees half written, JSON that every reader understands, and tables that grow by lines."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple


def write_text(path: Path, text: str) -> None:
    """Write a file at once: a reader sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def write_json(path: Path, content: Any) -> None:
    """Write strict JSON: no NaN, no Infinity.

    Raises:
        ValueError: for a number that is not finite; nothing is written.
    """
    text = json.dumps(content, allow_nan=False, ensure_ascii=False, indent=1) + "\n"
    # A file's name may be no UTF-8: what of it cannot be written, JSON has an escape for, which is Python's.
    write_text(path, text.encode("utf-8", "backslashreplace").decode())


class CsvLines(NamedTuple):
    """The whole lines of a CSV file that grows line by line.

    Attributes:
        columns: names of the columns; none where not even their line is whole.
        rows: column -> cell, in the order of the file.
        cut: the last line, if it is not whole: its writer was killed, its disk was full, or it is writing just now.
            What it holds may be anything: ``0,1`` may have been ``0,19``.
        damaged: other lines that have not one cell for each column.
    """

    columns: list[str]
    rows: list[dict[str, str]]
    cut: str
    damaged: list[str]


def read_table(path: Path) -> CsvLines:
    """Read a CSV file that may have been cut off while a line was written; one that is not there has no lines.

    Raises:
        OSError: if it is there and cannot be read.
    """
    if not path.is_file():
        return CsvLines([], [], "", [])
    lines = path.read_bytes().decode("utf-8", errors="replace").split("\n")
    cut = lines.pop()  # nothing, where the file ends as it should
    parsed = [(line, _cells(line)) for line in lines if line.strip()]
    columns = parsed.pop(0)[1] if parsed else []
    rows = [dict(zip(columns, cells, strict=True)) for _, cells in parsed if len(cells) == len(columns)]
    damaged = [line for line, cells in parsed if len(cells) != len(columns)]
    if damaged and not cut and parsed[-1][0] is damaged[-1]:
        cut = damaged.pop()
    return CsvLines(columns, rows, cut, damaged)


def _cells(line: str) -> list[str]:
    """Of one line, none if it is no CSV; by itself, so that a quote that is never closed swallows no other line."""
    try:
        return next(csv.reader([line], strict=True), [])
    except csv.Error:
        return []


def as_line(cells: Iterable[Any]) -> str:
    """Cells as a line of CSV, with its line break."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def append_text(path: Path, text: str) -> None:
    """Add to the end of a file, all of it or nothing: what a full disk still took is taken back.

    Raises:
        OSError: if it cannot be written.
    """
    data = text.encode()
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            while data:
                data = data[file.write(data) :]
        except OSError:
            file.truncate(before)
            raise
