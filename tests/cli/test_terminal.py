"""A terminal shows what others named, and does not obey it."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

import pytest
from rich.console import Console

from detfuse.cli import train
from detfuse.cli.terminal import control_characters_shown
from detfuse.files.text import write_json

NAME = "\x1b]0;PWN\x07\x9b31mred\u202e"


def test_whatever_is_printed_by_whomever_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout
    with control_characters_shown():
        print(f"1 {NAME}\nnext\tline")
        print(f"error: {NAME}", file=sys.stderr)
        traceback.print_exception(ValueError(f"category {NAME}"))
        Console(force_terminal=True).print("bar", style="red")
        assert sys.stdout.isatty() == before.isatty()
    assert sys.stdout is before
    printed = capsys.readouterr()
    shown = r"\x1b]0;PWN\x07\x9b31mred\u202e"
    assert printed.out == f"1 {shown}\nnext\tline\n\x1b[31mbar\x1b[0m\n", "what rich writes itself moves the cursor"
    assert printed.err.startswith(f"error: {shown}\n")
    assert f"category {shown}" in printed.err


def test_commands_print_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["train", f"data.root='{NAME}'", "data=nothing"])
    with pytest.raises(SystemExit):
        train()
    assert "\x1b" not in (printed := capsys.readouterr()).out + printed.err
    monkeypatch.setattr(sys, "argv", ["train", f"name='{NAME}'"])
    with pytest.raises(SystemExit):
        train()
    assert r"\x1b]0;PWN" in capsys.readouterr().err


def test_a_name_that_is_no_utf8_is_written_as_python_has_it(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", [{"file_name": "bad\udcff.jpg"}])
    assert r"bad\udcff.jpg" in (tmp_path / "x.json").read_text(encoding="utf-8")
