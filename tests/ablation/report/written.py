"""What was written, read again."""

from __future__ import annotations

import csv
from html.parser import HTMLParser
from pathlib import Path

EVIL = '\x1b]0;\x07\x9b<script>alert("1")</script>\u202e'
SHOWN = '\\x1b]0;\\x07\\x9b<script>alert("1")</script>\\u202e'
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """The text of a page by sections; fails where tags do not match."""

    def __init__(self, content: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.sections: dict[str, str] = {"": ""}
        self._title = ""
        self.feed(content)
        self.close()
        assert not self.tags

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.tags.append(tag)
        if tag == "h2":
            self._title = ""

    def handle_endtag(self, tag: str) -> None:
        assert self.tags.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.tags:
            return
        if self.tags and self.tags[-1] == "h2":
            self._title = data
            self.sections[data] = ""
        self.sections[self._title] += f"{data} "


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
