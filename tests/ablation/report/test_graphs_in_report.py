"""Fusion graphs in a report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree

from fake_ablation import FakeAblation
from written import Page

from detfuse.ablation.report.graphs import against
from detfuse.files.records import to_plain
from detfuse.files.text import write_json
from detfuse.necks.topologies import early_pyramid, fpn, unfused
from detfuse.visualize.graph import Fusion


def test_graphs_are_drawn_against_the_baseline(page: Page) -> None:
    text = page.sections["The fusion graphs"]
    assert "fpn, the baseline." in text
    assert "pafpn: 8 of 17 edges are not in the baseline; gone from the baseline: t4 → p4, t5 → p5." in text


def test_graphs_show_their_factors(page: Page, folder: Path) -> None:
    assert page.sections["The fusion graphs"].count("Under a map: the fixed factor on what its node fuses.") == 1
    assert "× 0.432" in (folder / "figures" / "fusion-pafpn.svg").read_text(encoding="utf-8")


def test_what_a_node_is_made_of_is_told_where_it_differs() -> None:
    early, other = early_pyramid((3, 4, 5)), unfused((3, 4, 5))
    way = "conv3 instead of no block, the neck's down-sampling instead of strided_conv"
    assert f"p6 and p7 are made otherwise: {way}" in against(early, other)
    assert against(other, other) == "the same graph as the baseline's"


def test_arms_with_one_graph_share_its_drawing(fake: FakeAblation, again: Callable[..., Path], tmp_path: Path) -> None:
    runs = []
    for run in fake.runs:
        place = tmp_path / "runs" / run.arm / str(run.seed)
        if run.folder.is_dir():
            copytree(run.folder, place)
        if run.arm in ("pafpn", "bifpn") and (place / "fusion.json").is_file():
            write_json(place / "fusion.json", to_plain(Fusion(fpn((3, 4, 5)))))
        runs.append(replace(run, folder=place))
    folder = again(runs=runs)
    names = {path.stem for path in (folder / "figures").glob("fusion-*.svg")}
    assert names == {"fusion-fpn", "fusion-unfused", "fusion-pafpn"}, "fpn's has attention on an edge"
    content = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert "pafpn and bifpn: the same graph as the baseline's." in content.sections["The fusion graphs"]
    widths = [str(a["style"]) for tag, a in content.seen if tag == "img" and "svg" in str(a["src"])]
    assert len(widths) == 3
