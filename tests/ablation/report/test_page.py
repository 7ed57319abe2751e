"""The whole report: it shows what it should, nothing that is a tag, and needs nothing but itself."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

from fake_ablation import FakeAblation
from written import EVIL, SHOWN, Page, rows

from detfuse.ablation.records import Run
from detfuse.ablation.report import write_report
from detfuse.ablation.storage import read_plan
from detfuse.files.records import from_plain
from detfuse.statistics.records import Comparison, Score, Verdict


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
        "How to read a verdict",
        "To repeat it",
    ]
    assert all("bifpn" in text for title, text in page.sections.items() if title not in ("", "How to read a verdict"))


def test_the_page_needs_nothing_but_itself(folder: Path, page: Page) -> None:
    content = (folder / "report.html").read_text(encoding="utf-8")
    links = [value for _, attributes in page.seen for key, value in attributes.items() if key in ("src", "href")]
    assert links
    within = {f"#{attributes['id']}" for _, attributes in page.seen if "id" in attributes}
    assert all(str(link).startswith("data:image/") or link in within for link in links)
    assert "#how-to-read-a-verdict" in links
    assert set(re.findall(r"https?://[^\s\"'<]+", content)) == {"http://www.w3.org/2000/svg"}
    assert "url(" not in content
    assert not {tag for tag, _ in page.seen} & {"script", "link", "iframe", "object", "base", "form"}
    assert len(content) < 3_000_000


def test_what_data_name_is_never_a_tag(fake: FakeAblation, folder: Path) -> None:
    for name in ("report.html", "figures/classes.svg"):
        content = (folder / name).read_text(encoding="utf-8")
        assert "<script" not in content
        assert "&lt;script&gt;" in content
        assert SHOWN.partition("<")[0] in content
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
    assert all(SHOWN in text[title] for title in ("", "Scores", "What was held equal"))
    assert EVIL.partition("<")[2].partition('"')[0] in text["To repeat it"], "in a plan, as YAML escapes it"
    shown = re.sub("```.*?```", "", (other / "report.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert "<script" not in shown
    for name in ("report.html", "report.md"):
        assert not set(EVIL).difference(SHOWN).intersection((other / name).read_text(encoding="utf-8"))


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
    content = json.loads((fake.folder / "comparison.json").read_text())
    scores = [from_plain(Score, row) for row in content["scores"]]
    comparisons = [from_plain(Comparison, row) for row in content["comparisons"]]
    other = again(plan=read_plan(fake.folder), scores=scores, comparisons=comparisons)
    assert (other / "report.html").read_bytes() == (folder / "report.html").read_bytes()


def test_csv_cells_are_quoted_and_no_formulas(fake: FakeAblation, again: Callable[..., Path]) -> None:
    bad = Run("bifpn", 2, fake.runs[-1].folder, "failed", '=HYPERLINK("x";\n"y"), or so')
    other = again(runs=[*fake.runs[:-1], bad])
    assert rows(other / "runs.csv")[-1]["reason"] == "'" + bad.reason
    worse = next(row for row in rows(other / "differences.csv") if row["arm"] == "unfused")
    assert float(worse["difference (points)"]) < 0, "a negative number is no formula"


def test_markdown_shows_names_as_they_are(folder: Path) -> None:
    content = (folder / "report.md").read_text(encoding="utf-8")
    assert "<script" not in content
    for drawing in re.findall(r"\]\((figures/[^)]+)\)", content):
        assert (folder / drawing).is_file()
    tables = [line for line in content.splitlines() if line.startswith("| fpn |")]
    assert tables


def test_one_command_repeats_all(page: Page, fake: FakeAblation, tmp_path: Path) -> None:
    command = "python scripts/ablate.py ablation=necks 'seeds=[0,1,2]'"
    path = write_report(*replace(fake, folder=tmp_path).arguments, command=command)
    assert command in Page(path.read_text(encoding="utf-8")).sections["To repeat it"]
    assert command in (path.parent / "report.md").read_text(encoding="utf-8")
    assert "one command" not in page.sections["To repeat it"], "of an older folder it is not known"


def test_the_commands_are_those_that_were_run(page: Page, fake: FakeAblation, again: Callable[..., Path]) -> None:
    text = page.sections["To repeat it"]
    assert "python scripts/train.py data=coco neck=pafpn seed=0 evaluate=last\n" in text
    assert str(fake.folder) not in text
    assert "2.15.0" in text
    unfinished = [replace(run, state="failed") for run in fake.runs]
    content = (again(runs=unfinished) / "report.html").read_text(encoding="utf-8")
    assert "python scripts/train.py data=coco trainer.max_epochs=12 neck=pafpn neck.width=56 seed=0" in content
