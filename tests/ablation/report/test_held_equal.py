"""What a report says was held equal, the scale at the start above all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fake_ablation import FakeAblation
from written import Page, rows

from detfuse.ablation.records import Plan
from detfuse.ablation.report.tables import ENOUGH, pairing_table
from detfuse.files.records import from_plain, to_plain
from detfuse.necks.topologies import fpn
from detfuse.visualize.graph import Fusion


def test_the_scale_at_the_start_stands_in_page_markdown_and_csv(page: Page, folder: Path) -> None:
    text = page.sections["What was held equal"]
    assert "Scale at the start: standard deviation of the maps that the head reads" in text
    assert "bifpn 0.75 0.05 0.123" in " ".join(text.split())
    assert "| pafpn | 1 | 0.05 | n/a |" in (folder / "report.md").read_text(encoding="utf-8")
    found = {row["arm"]: row for row in rows(folder / "start.csv")}
    assert found["fpn"] == {"arm": "fpn", "P3": "1.5", "logits": "0.05", "P6": ""}
    assert found["bifpn"]["P6"] == "0.123456"


def test_nothing_is_said_to_be_equal_that_was_not_measured(fake: FakeAblation, again: Callable[..., Path]) -> None:
    nothing = "The choice brought no other setting along."

    def said(plan: Plan) -> str:
        content = (again(plan=plan) / "report.html").read_text(encoding="utf-8")
        return " ".join(Page(content).sections["What was held equal"].split())

    assert nothing not in said(fake.plan)
    same = replace(fake.plan, covariates={"pafpn": {}})
    assert f"{nothing} The scale at the start is the same within 20 %." in said(same)
    old = said(replace(same, start={}))
    assert f"{nothing} The scale at the start was not measured." in old
    assert "standard deviation of the maps" not in old
    scale = replace(same, covariates={"pafpn": {"scale at the start of P3": ("1.5", "1")}})
    assert "pafpn scale at the start of P3 1.5 1" in said(scale)
    assert nothing not in said(scale)


def test_plans_and_graphs_that_are_older_than_the_scale_are_read(fake: FakeAblation, tmp_path: Path) -> None:
    plan = to_plain(fake.plan)
    del plan["start"]
    assert from_plain(Plan, plan) == replace(fake.plan, start={})
    old = to_plain(Fusion(fpn((3, 4, 5))))
    del old["scales"]
    assert from_plain(Fusion, old).scales == {}


def test_scores_of_few_seeds_have_no_correlation(fake: FakeAblation, page: Page) -> None:
    assert "correlation" not in page.sections["What was held equal"]
    (one,) = [c for c in fake.comparisons if c.arm == "pafpn"]
    many = replace(one, seeds=tuple(range(ENOUGH)), pairing_correlation=-0.62)
    few = replace(one, arm="unfused", seeds=tuple(range(ENOUGH - 1)))
    table = pairing_table(fake.plan, [few, many])
    assert [row[-1] for row in table.shown()] == ["n/a", "\N{MINUS SIGN}0.62"]
    assert "correlation over seeds" not in [column.header for column in pairing_table(fake.plan, [few]).columns]
