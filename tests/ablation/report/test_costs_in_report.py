"""Costs in a report: what they were measured on, and which of them order arms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fake_ablation import FakeAblation
from written import Page, rows

from detfuse.ablation.storage import read_cost, write_cost


def test_latency_without_its_spread_is_no_order(fake: FakeAblation, again: Callable[..., Path], page: Page) -> None:
    assert "quartiles (horizontal bars) overlap" in page.sections["Cost"]
    assert "within 2 % are the same, as the budget has it" in page.sections["Cost"]
    fronts = {row["arm"]: row["on the Pareto front of"] for row in rows(fake.folder / "report" / "costs.csv")}
    assert any("latency" in kinds for kinds in fronts.values())
    before = {run.folder: read_cost(run.folder) for run in fake.runs if run.state == "finished"}
    for place, cost in before.items():
        write_cost(place, replace(cost, latency_low=None, latency_high=None))
    other = again()
    for place, cost in before.items():
        write_cost(place, cost)
    fronts = {row["arm"]: row["on the Pareto front of"] for row in rows(other / "costs.csv")}
    assert not any("latency" in kinds for kinds in fronts.values())
    assert "without its spread: it orders nothing" in (other / "report.md").read_text(encoding="utf-8")


def test_costs_say_what_they_were_measured_on(page: Page, folder: Path) -> None:
    text = " ".join(page.sections["Cost"].split())
    assert "FLOPs: inference up to the candidates on one image of 96 × 96 pixels" in text
    images = "mean of 2 validation images (padded: 64 × 96 to 96 × 96 pixels), median and quartiles of 15"
    assert text.count(images) == 1
    assert "the last checkpoint of seed 0" in text
    assert "Device cpu, threads 2, precision 32-true. bifpn: no finished run has its last checkpoint any more." in text
    by_arm = {row["arm"]: row for row in rows(folder / "costs.csv")}
    times = [f"latency{part} (ms)" for part in ("", ", lower quartile", ", upper quartile")]
    assert [by_arm["fpn"][name] for name in times] == ["9.6", "9.3", "10.0"]
    assert [by_arm["bifpn"][name] for name in times] == ["", "", ""]
    assert "9.60" in (folder / "report.md").read_text(encoding="utf-8")
