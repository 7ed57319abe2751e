"""Fusion graphs in a report."""

from __future__ import annotations

from pathlib import Path

from written import Page


def test_graphs_are_drawn_against_the_baseline(page: Page) -> None:
    text = page.sections["The fusion graphs"]
    assert "fpn, the baseline." in text
    assert "pafpn: 8 of 17 edges are not in the baseline; gone from the baseline: t4 → p4, t5 → p5." in text


def test_graphs_show_their_factors(page: Page, folder: Path) -> None:
    assert page.sections["The fusion graphs"].count("Under a map: the fixed factor on what its node fuses.") == 1
    assert "× 0.432" in (folder / "figures" / "fusion-pafpn.svg").read_text(encoding="utf-8")
