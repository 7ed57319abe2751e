"""The answer of a report: its headline, its numbers, and what is missing from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fake_ablation import ARMS, FakeAblation
from written import Page, rows

from detfuse.ablation.report import summary_text, write_report
from detfuse.ablation.report.wording import si
from detfuse.statistics.records import Comparison, SeedNoise, Verdict
from detfuse.statistics.resolution import measured, resolvable, seeds_for
from detfuse.words import points


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
    for title in ("By object size and class", "Scores"):  # a panel or a column of nothing says nothing
        assert "AP small" in page.sections[title]
        assert "n/a" not in page.sections[title]
    assert "AP large" not in page.sections["By object size and class"]
    assert "Without an object to find: AP large." in page.sections["Scores"]
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


def test_the_runs_own_noise_says_what_they_can_find(
    fake: FakeAblation, folder: Path, page: Page, again: Callable[..., Path]
) -> None:
    found = {row["arm"]: row for row in rows(folder / "resolution.csv")}
    assert list(found) == list(ARMS[1:])
    noise = measured(next(c for c in fake.comparisons if c.arm == "pafpn").differences[0])
    assert noise is not None
    pafpn = found["pafpn"]
    assert float(pafpn["smallest difference found (points)"]) == pytest.approx(100 * resolvable(noise, 3), abs=1e-5)
    assert pafpn["seeds to find 5"] == str(seeds_for(noise, 0.05))
    assert pafpn["seeds to find 0.5"] == "out of reach"
    assert "by the noise of these runs" in page.sections["Differences to the baseline"]
    single = [replace(c, differences=(replace(c.differences[0], se_seeds=None),)) for c in fake.comparisons]
    other = again(comparisons=single)
    assert not (other / "resolution.csv").exists()
    assert "by the noise of these runs" not in (other / "report.md").read_text(encoding="utf-8")


def test_arms_that_change_several_things_are_named_with_them(fake: FakeAblation, again: Callable[..., Path]) -> None:
    plan = replace(fake.plan, things={"bifpn": ("neck", "operator"), "pafpn": ("neck",)}, remarks=("all is short",))
    worse = [replace(c, verdict=Verdict("worse", "")) for c in fake.comparisons]
    sizes = [points(abs(c.differences[0].estimate)) for c in worse]
    assert summary_text(plan, fake.scores, worse).startswith(
        f"fpn is better than unfused (by {sizes[0]} points AP), pafpn (by {sizes[1]}) and bifpn (neck and operator "
        f"together; by {sizes[2]}). 1 of 9 pairs of runs is missing."
    )
    assert "All arms: all is short." in (again(plan=plan) / "report.md").read_text(encoding="utf-8")


def test_missing_arms_are_in_the_headline(fake: FakeAblation) -> None:
    gone = Comparison("bifpn", "fpn", (), dict.fromkeys((0, 1, 2), "killed"), (), Verdict("missing", ""), None)
    undecided = [replace(c, verdict=Verdict("undecided", "", 4), dropped={}) for c in fake.comparisons[:2]]
    text = summary_text(fake.plan, fake.scores, [*undecided, gone])
    assert text.startswith("No arm is shown to differ from fpn: ")
    assert "; 3 seeds are too few to tell. 3 of 9 pairs of runs are missing, all of bifpn.\n" in text
    text = summary_text(fake.plan, fake.scores, [gone])
    assert text.startswith("Nothing can be said: no arm can be compared with fpn. 3 of 3 pairs of runs are missing")


def test_the_summary_names_every_arm_and_the_answer(fake: FakeAblation) -> None:
    text = summary_text(fake.plan, fake.scores, fake.comparisons)
    lines = text.splitlines()
    assert [line.split()[0] for line in lines[2:]] == list(ARMS)
    assert "baseline" in lines[2]
    same = [replace(c, verdict=Verdict("identical", "")) for c in fake.comparisons]
    assert summary_text(fake.plan, fake.scores, same).startswith("It makes no difference that matters")
    worse = [replace(c, verdict=Verdict("worse", "")) for c in fake.comparisons]
    assert summary_text(fake.plan, fake.scores, worse).startswith("fpn is better than unfused (by ")


def test_the_noise_the_looks_and_all_pairs_are_told(fake: FakeAblation, tmp_path: Path) -> None:
    noise = SeedNoise(0.031, 0.025, ("pafpn", "bifpn"), 2 / 3, 0.0271, 3.4, apart=0.028, apart_share=0.4)
    told = [replace(c, noise=noise) for c in fake.comparisons]
    text = summary_text(fake.plan, fake.scores, told, told[:1])
    assert "67 % of each variance is lent by pafpn and bifpn together" in text
    assert "40 % of it is what the arms show one by one" in text
    assert f"{told[0].arm} minus fpn: " in text
    changed = replace(fake, folder=tmp_path, comparisons=told)
    path = write_report(*changed.arguments, told=["Look 2 of many."], pairs=told[:1])
    page = Page(path.read_text(encoding="utf-8"))
    assert "Look 2 of many." in page.sections[""]
    assert "not with one another" not in page.sections[""]
    (pair,) = rows(path.parent / "pairs.csv")
    assert (pair["arm"], pair["minus"]) == (told[0].arm, "fpn")
    found = rows(path.parent / "noise.csv")
    assert {row["lent by"] for row in found} == {"pafpn, bifpn"}
    assert float(found[0]["used SD (points)"]) == pytest.approx(2.71)
    assert float(found[0]["arm by arm SD (points)"]) == pytest.approx(2.8)


def test_nothing_finished_is_a_report_too(fake: FakeAblation, again: Callable[..., Path]) -> None:
    runs = [replace(run, state="killed", reason="signal 9") for run in fake.runs]
    verdict = Verdict("missing", "No pair of runs finished.")
    comparisons = [replace(c, seeds=(), differences=(), verdict=verdict) for c in fake.comparisons[:2]]
    other = again(runs=runs, scores=[], comparisons=comparisons)
    text = Page((other / "report.html").read_text(encoding="utf-8")).sections
    assert "12 of 12 runs missing" in text[""]
    assert "bifpn cannot be judged: no training of it has a finished one of fpn" in text[""]
    assert "fewer than two arms" in text["Where the arms disagree most"]


def test_numbers_for_people() -> None:
    assert [si(value).split("\N{NARROW NO-BREAK SPACE}") for value in (5_470_000, 12_300, 999, 2.31e12)] == [
        ["5.47", "M"], ["12.3", "k"], ["999"], ["2.31", "T"]
    ]  # fmt: skip
