"""The report: what it shows, that it shows nothing wrong, and that it needs nothing but itself."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from fake_ablation import ARMS, FakeAblation, make_ablation

from detfuse.ablation.records import Plan, Run
from detfuse.ablation.report import summary_text, write_report
from detfuse.ablation.report.evidence import read_curve
from detfuse.ablation.storage import read_comparison, read_cost, read_plan, write_cost
from detfuse.files.records import StorageError, from_plain, to_plain
from detfuse.necks.topologies import fpn
from detfuse.statistics.records import Comparison, Verdict
from detfuse.visualize.graph import Fusion

EVIL = '<script>alert("1")</script>'
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


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> FakeAblation:
    return make_ablation(tmp_path_factory.mktemp("ablation"), rename={9: EVIL})


@pytest.fixture(scope="module")
def folder(fake: FakeAblation) -> Path:
    path = write_report(*fake.arguments)
    assert path == fake.folder / "report" / "report.html"
    return path.parent


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


@pytest.fixture
def again(fake: FakeAblation, tmp_path: Path) -> Callable[..., Path]:
    """Writes another report, with some arguments changed; returns its folder."""

    def write(**changes: Any) -> Path:
        return write_report(*replace(fake, folder=tmp_path, **changes).arguments).parent

    return write


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_sections_stand_in_their_order(page: Page) -> None:
    assert list(page.sections) == [
        "",
        "Differences to the baseline",
        "Scores",
        "What was held equal",
        "Cost",
        "Learning curves",
        "By object size and class",
        "What goes wrong",
        "Where the arms disagree most",
        "The fusion graphs",
        "What fusion learnt",
        "To repeat it",
    ]
    assert all(arm in text for title, text in page.sections.items() for arm in ("bifpn",) if title)


def test_the_page_needs_nothing_but_itself(folder: Path, page: Page) -> None:
    content = (folder / "report.html").read_text(encoding="utf-8")
    links = [value for _, attributes in page.seen for key, value in attributes.items() if key in ("src", "href")]
    assert links
    assert all(str(link).startswith("data:image/") for link in links)
    assert set(re.findall(r"https?://[^\s\"'<]+", content)) == {"http://www.w3.org/2000/svg"}
    assert "url(" not in content
    assert not {tag for tag, _ in page.seen} & {"script", "link", "iframe", "object", "base", "form"}
    assert len(content) < 3_000_000


def test_what_data_name_is_never_a_tag(fake: FakeAblation, folder: Path) -> None:
    for name in ("report.html", "figures/classes.svg"):
        content = (folder / name).read_text(encoding="utf-8")
        assert "<script" not in content
        assert "&lt;script&gt;" in content
    assert f"mAP/{EVIL}" in {row["metric"] for row in rows(folder / "differences.csv")}


def test_nothing_that_was_written_by_others_is_a_tag(fake: FakeAblation, again: Callable[..., Path]) -> None:
    arms = tuple(replace(arm, factors={EVIL: 1}, notes=(EVIL,)) for arm in fake.plan.arms)
    plan = replace(fake.plan, name=EVIL, arms=arms, equalise=(EVIL,), covariates={"bifpn": {EVIL: (EVIL, EVIL)}})
    runs = [replace(run, reason=EVIL) for run in fake.runs]
    verdict = Verdict("undecided", EVIL)
    comparisons = [replace(c, verdict=verdict, dropped={0: EVIL}) for c in fake.comparisons]
    other = again(plan=plan, runs=runs, comparisons=comparisons)
    content = (other / "report.html").read_text(encoding="utf-8")
    assert "<script" not in content
    text = Page(content).sections
    assert all(EVIL in text[title] for title in ("", "Scores", "What was held equal", "To repeat it"))
    shown = re.sub("```.*?```", "", (other / "report.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert re.findall(r"(?<!\\)<script", shown) == []


def test_a_missing_run_is_shown_with_its_reason(page: Page, folder: Path) -> None:
    assert "1 of 12 runs missing: bifpn seed 2 (out of memory)." in page.sections[""]
    assert "exit code 137: the system killed it for its memory" in page.sections["Scores"]
    assert "2 of 3 pairs" in page.sections["Differences to the baseline"]
    assert "out of memory" in (folder / "report.md").read_text(encoding="utf-8")
    assert {row["state"] for row in rows(folder / "runs.csv")} == {"finished", "out of memory"}


def test_undefined_numbers_are_n_a_and_never_minus_one(page: Page, folder: Path) -> None:
    # the objects are at most 60 pixels long: none is large
    large = [row for row in rows(folder / "differences.csv") if row["metric"] == "APl"]
    assert [row["difference (points)"] for row in large] == ["", "", ""]
    assert "n/a" in page.sections["By object size and class"]
    assert "n/a" in page.sections["Scores"]
    for text in (*page.sections.values(), (folder / "report.md").read_text(encoding="utf-8")):
        assert "\N{MINUS SIGN}100.0" not in text
        assert not {"nan", "None"} & set(text.split())


def test_arms_that_learnt_nothing_are_no_result(again: Callable[..., Path], fake: FakeAblation) -> None:
    poor = [replace(score, mean=0.004) for score in fake.scores]
    assert "No arm reaches one point" in (again(scores=poor) / "report.html").read_text(encoding="utf-8")
    assert "No arm reaches one point" not in (again() / "report.html").read_text(encoding="utf-8")


def test_the_numbers_are_those_of_the_records(fake: FakeAblation, folder: Path, page: Page) -> None:
    main = {comparison.arm: comparison.differences[0] for comparison in fake.comparisons}
    found = {row["arm"]: row for row in rows(folder / "differences.csv") if row["metric"] == "mAP"}
    for arm, difference in main.items():
        assert float(found[arm]["difference (points)"]) == pytest.approx(100 * difference.estimate, abs=1e-5)
        sign = "+" if difference.estimate > 0 else "\N{MINUS SIGN}"
        assert f"{sign}{abs(100 * difference.estimate):.1f} [" in page.sections[""]
    first = next(s for s in fake.scores if (s.arm, s.metric) == ("pafpn", "mAP"))
    assert f"{100 * first.mean:.1f} ± {100 * first.deviation:.1f}" in page.sections["Scores"]


def test_captions_say_what_the_intervals_cover(page: Page, again: Callable[..., Path], fake: FakeAblation) -> None:
    assert "95 % interval over 2 to 3 seeds and 24 images" in page.sections["Differences to the baseline"]
    assert "Exploratory: not corrected" in page.sections["By object size and class"]
    single = [replace(comparison, seeds=(0,)) for comparison in fake.comparisons]
    content = (again(comparisons=single) / "report.html").read_text(encoding="utf-8")
    assert "with one seed the spread between seeds is not covered" in content


def test_every_mark_lies_on_its_canvas(folder: Path) -> None:
    drawings = sorted((folder / "figures").glob("*.svg"))
    assert {drawing.stem for drawing in drawings} >= {
        "differences", "thresholds", "cost", "curves", "sizes", "classes", "errors", "weights-bifpn", "fusion-pafpn"
    }  # fmt: skip
    for drawing in drawings:
        root = ElementTree.parse(drawing).getroot()
        _, _, width, height = map(float, str(root.get("viewBox")).split())
        for element in root.iter():
            if element.get("transform"):
                continue
            for keys, limit in ((("x", "x1", "x2", "cx"), width), (("y", "y1", "y2", "cy"), height)):
                values = [float(v) for key in keys if (v := element.get(key)) is not None]
                assert all(-0.5 <= value <= limit + 0.5 for value in values), (drawing.name, element.attrib)
            for pair in (element.get("points") or "").split():
                x, y = map(float, pair.split(","))
                assert -0.5 <= x <= width + 0.5, drawing.name
                assert -0.5 <= y <= height + 0.5, drawing.name


def test_the_same_input_gives_the_same_bytes(folder: Path, again: Callable[..., Path]) -> None:
    other = again()
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    assert all((folder / name).read_bytes() == (other / name).read_bytes() for name in files)


def test_a_report_is_rebuilt_from_what_was_stored(fake: FakeAblation, folder: Path, again: Callable[..., Path]) -> None:
    scores, comparisons = read_comparison(fake.folder)
    other = again(plan=read_plan(fake.folder), scores=scores, comparisons=comparisons)
    assert (other / "report.html").read_bytes() == (folder / "report.html").read_bytes()


def test_csv_cells_are_quoted_and_no_formulas(fake: FakeAblation, again: Callable[..., Path]) -> None:
    bad = Run("bifpn", 2, fake.runs[-1].folder, "failed", '=HYPERLINK("x";\n"y"), or so')
    other = again(runs=[*fake.runs[:-1], bad])
    assert rows(other / "runs.csv")[-1]["reason"] == "'" + bad.reason
    worse = next(row for row in rows(other / "differences.csv") if row["arm"] == "unfused")
    assert float(worse["difference (points)"]) < 0, "a negative number is no formula"


def test_the_commands_are_those_that_were_run(page: Page, fake: FakeAblation, again: Callable[..., Path]) -> None:
    text = page.sections["To repeat it"]
    assert "python scripts/train.py data=coco neck=pafpn seed=0 evaluate=last\n" in text
    assert str(fake.folder) not in text
    assert "2.15.0" in text
    unfinished = [replace(run, state="failed") for run in fake.runs]
    content = (again(runs=unfinished) / "report.html").read_text(encoding="utf-8")
    assert "python scripts/train.py data=coco trainer.max_epochs=12 neck=pafpn neck.width=56 seed=0" in content


def test_graphs_are_drawn_against_the_baseline(page: Page) -> None:
    text = page.sections["The fusion graphs"]
    assert "fpn, the baseline." in text
    assert "pafpn: 8 of 17 edges are not in the baseline; gone from the baseline: t4 → p4, t5 → p5." in text


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


def test_graphs_show_their_factors(page: Page, folder: Path) -> None:
    assert page.sections["The fusion graphs"].count("Under a map: the fixed factor on what its node fuses.") == 1
    assert "× 0.432" in (folder / "figures" / "fusion-pafpn.svg").read_text(encoding="utf-8")


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


def test_arms_that_change_several_things_are_named_with_them(fake: FakeAblation, again: Callable[..., Path]) -> None:
    plan = replace(fake.plan, things={"bifpn": ("neck", "operator"), "pafpn": ("neck",)}, remarks=("all is short",))
    worse = [replace(c, verdict=Verdict("worse", "")) for c in fake.comparisons]
    assert summary_text(plan, fake.scores, worse).startswith(
        "fpn is better than unfused, pafpn and bifpn (neck and operator together). 1 of 9 pairs of runs is missing."
    )
    assert "All arms: all is short." in (again(plan=plan) / "report.md").read_text(encoding="utf-8")


def test_missing_arms_are_in_the_headline(fake: FakeAblation) -> None:
    gone = Comparison("bifpn", "fpn", (), dict.fromkeys((0, 1, 2), "killed"), (), Verdict("missing", ""), None)
    undecided = [replace(c, verdict=Verdict("undecided", ""), dropped={}) for c in fake.comparisons[:2]]
    text = summary_text(fake.plan, fake.scores, [*undecided, gone])
    assert text.startswith("No arm is shown to differ from fpn. 3 of 9 pairs of runs are missing, all of bifpn.")
    text = summary_text(fake.plan, fake.scores, [gone])
    assert text.startswith("Nothing can be said: no arm can be compared with fpn. 3 of 3 pairs of runs are missing")


def test_pictures_are_those_with_the_largest_spread(page: Page, fake: FakeAblation) -> None:
    text = page.sections["Where the arms disagree most"]
    found = [float(value) for value in re.findall(r"mean over the seeds ([\d.]+)\)", text)]
    spreads = [max(found[i : i + 4]) - min(found[i : i + 4]) for i in range(0, len(found), 4)]
    assert len(spreads) == 5
    assert all(b <= a + 0.11 for a, b in pairwise(spreads)), "printed with one decimal"
    assert spreads[-1] > 0
    pictures = [a for tag, a in page.seen if tag == "img" and str(a["src"]).startswith("data:image/jpeg")]
    assert len(pictures) == 20


def test_an_image_that_is_gone_costs_no_report(fake: FakeAblation, again: Callable[..., Path]) -> None:
    content = (again(image_of=lambda image: Path(f"gone-{image}.jpg")) / "report.html").read_text(encoding="utf-8")
    assert "is not shown: gone-" in content
    assert "image/jpeg" not in content


def test_runs_without_their_extra_files_are_reported(
    fake: FakeAblation, again: Callable[..., Path], tmp_path: Path
) -> None:
    runs = []
    for run in fake.runs:
        place = tmp_path / "bare" / run.arm / str(run.seed)
        place.mkdir(parents=True)
        if run.state == "finished":
            (place / "predictions.json").write_text((run.folder / "predictions.json").read_text())
        runs.append(replace(run, folder=place))
    text = Page((again(runs=runs) / "report.html").read_text(encoding="utf-8")).sections
    assert "No run has measured its cost" in text["Cost"]
    assert "No run has logged a validation" in text["Learning curves"]
    assert "bifpn: no run has stored a fusion graph" in text["The fusion graphs"]
    assert "No arm has learnt scalars of fusion" in text["What fusion learnt"]


def test_nothing_finished_is_a_report_too(fake: FakeAblation, again: Callable[..., Path]) -> None:
    runs = [replace(run, state="killed", reason="signal 9") for run in fake.runs]
    verdict = Verdict("missing", "No pair of runs finished.")
    comparisons = [replace(c, seeds=(), differences=(), verdict=verdict) for c in fake.comparisons[:2]]
    other = again(runs=runs, scores=[], comparisons=comparisons)
    text = Page((other / "report.html").read_text(encoding="utf-8")).sections
    assert "12 of 12 runs missing" in text[""]
    assert "bifpn has no pair with the baseline." in text[""]
    assert "fewer than two arms" in text["Where the arms disagree most"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cost.json", "{}"),
        ("metrics.csv", "epoch,val/mAP\n0,high\n"),
        ("metrics.csv", "epoch,val/mAP\n0,.5,.5\n1,.5\n"),
    ],
)
def test_a_broken_file_is_named(fake: FakeAblation, again: Callable[..., Path], name: str, content: str) -> None:
    path = fake.runs[0].folder / name
    before = path.read_text()
    path.write_text(content)
    try:
        with pytest.raises(StorageError, match=re.escape(str(path))):
            again()
    finally:
        path.write_text(before)


def test_a_line_that_was_cut_off_is_no_point_of_a_curve(tmp_path: Path) -> None:
    for cut in ("2", "2,", "2,0.5"):
        (tmp_path / "metrics.csv").write_text(f"epoch,val/mAP\n0,0.25\n1,0.375\n{cut}")
        assert read_curve(tmp_path / "metrics.csv") == {"val/mAP": [(0.0, 0.25), (1.0, 0.375)]}


def test_markdown_shows_names_as_they_are(folder: Path) -> None:
    content = (folder / "report.md").read_text(encoding="utf-8")
    assert "<script" not in content.replace("\\<script", "")
    for drawing in re.findall(r"\]\((figures/[^)]+)\)", content):
        assert (folder / drawing).is_file()
    tables = [line for line in content.splitlines() if line.startswith("| fpn |")]
    assert tables


def test_the_summary_names_every_arm_and_the_answer(fake: FakeAblation) -> None:
    text = summary_text(fake.plan, fake.scores, fake.comparisons)
    lines = text.splitlines()
    assert [line.split()[0] for line in lines[2:]] == list(ARMS)
    assert "baseline" in lines[2]
    same = [replace(c, verdict=Verdict("identical", "")) for c in fake.comparisons]
    assert summary_text(fake.plan, fake.scores, same).startswith("It makes no difference that matters")
    worse = [replace(c, verdict=Verdict("worse", "")) for c in fake.comparisons]
    assert summary_text(fake.plan, fake.scores, worse).startswith("fpn is better than unfused, pafpn and bifpn.")


def test_predictions_of_other_data_are_refused(fake: FakeAblation, again: Callable[..., Path]) -> None:
    truth = json.loads(json.dumps(fake.ground_truth))
    for image in truth["images"]:
        image["id"] += 1000
    truth["annotations"] = []
    with pytest.raises(ValueError, match=r"image id .* is not in the ground truth"):
        again(ground_truth=truth)


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
