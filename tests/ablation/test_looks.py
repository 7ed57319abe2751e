"""Looks: what each may spend, which arms stop, and what stays decided."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from detfuse.ablation.design import Ablation, PlanError
from detfuse.ablation.looks import closed_arms, concluded, left_after, look_at, looks_text, wanted_jobs, with_earlier
from detfuse.ablation.plan.prepared import prepare
from detfuse.ablation.records import Arm, Look, Plan, Run
from detfuse.ablation.run.runner import Job
from detfuse.ablation.storage import LOOKS, append_look, read_looks, write_run
from detfuse.files.records import StorageError
from detfuse.statistics.records import Comparison, Difference, SeedNoise, Verdict, VerdictKind

ARMS = tuple(Arm(name, {}, ()) for name in ("base", "good", "poor", "far"))


def plan_of(looks: tuple[int, ...] = (2, 3, 5), seeds: int = 5) -> Plan:
    return Plan("x", ARMS, tuple(range(seeds)), (), looks=looks)


def runs_of(folder: Path, seeds: int, planned: int = 0) -> list[Run]:
    """The first seeds of all arms finished, the rest of those planned waiting."""
    runs = []
    for arm in ARMS:
        for seed in range(max(seeds, planned)):
            place = folder / arm.name / f"seed-{seed}"
            place.mkdir(parents=True, exist_ok=True)
            (place / "predictions.json").write_text(f"{arm.name} {seed}")
            runs.append(Run(arm.name, seed, place, "finished" if seed < seeds else "waiting"))
    return runs


def comparison(arm: str, kind: VerdictKind, estimate: float, seeds: int = 2, deviation: float = 0.01) -> Comparison:
    se = deviation / seeds**0.5
    main = Difference("mAP", dict.fromkeys(range(seeds), estimate), estimate, estimate - se, estimate + se, se, 0.0, "")
    noise = SeedNoise(deviation, None, (), 0.0, deviation, seeds - 1)
    verdict = Verdict(kind, f"{arm} is {kind}.")
    return Comparison(arm, "base", tuple(range(seeds)), {}, (main,), verdict, None, noise=noise)


def test_the_same_runs_are_the_same_look_and_others_are_the_next(tmp_path: Path) -> None:
    plan, past = plan_of(), list[Look]()
    for seeds, planned in ((2, True), (3, True), (4, False), (5, True)):
        look = look_at(plan, runs_of(tmp_path, seeds), past)
        assert (look.number, look.num_seeds, look.planned) == (len(past) + 1, seeds, planned)
        assert look_at(plan, runs_of(tmp_path, seeds), [*past, look]) == look
        past.append(look)
    assert sum(look.level for look in past) < 0.05
    assert left_after(plan, past[0], past) == pytest.approx(past[1].level)
    runs = runs_of(tmp_path, 5)
    (tmp_path / "good" / "seed-0" / "predictions.json").write_text("other")
    again = look_at(plan, runs, past)
    assert (again.number, again.planned) == (5, False)


def test_without_a_plan_the_first_whole_conclusion_is_the_planned_one(tmp_path: Path) -> None:
    plan = plan_of((), 3)
    early = look_at(plan, runs_of(tmp_path, 1, planned=3), [])
    assert (early.num_seeds, early.planned) == (1, False)
    whole = look_at(plan, runs_of(tmp_path, 3), [early])
    assert (whole.planned, whole.level) == (True, pytest.approx(0.045))
    more = look_at(plan_of((), 6), runs_of(tmp_path, 6), [early, whole])
    assert not more.planned
    assert more.level < early.level


def test_decided_and_hopeless_arms_stop_and_the_baseline_runs_on(tmp_path: Path) -> None:
    plan = plan_of()
    look = look_at(plan, runs_of(tmp_path, 2), [])
    said = concluded(
        plan,
        look,
        [],
        [
            comparison("good", "better", 0.1),
            comparison("poor", "undecided", 0.03),
            comparison("far", "undecided", 0.0001, deviation=0.05),
        ],
    )
    assert said.closed == ("good", "far")
    assert closed_arms(plan, [said]) == {"good", "far"}
    assert closed_arms(plan_of(()), [said]) == set()
    assert closed_arms(replace(plan, shares={"poor": "good"}), [said]) == {"far"}
    done = replace(said, number=2, closed=("poor",))
    assert closed_arms(plan, [said, done]) == {"base", "good", "poor", "far"}
    text = "\n".join(looks_text(plan, replace(look, number=2, num_seeds=3), [said]))
    assert "Look 2, after 3 seeds (planned after 2, 3 and 5): it spends" in text
    assert "Look 1 (after 2) said: good better (+10.0 [" in text
    assert "No more seeds for far and good: decided, or with a chance of less than 10 %" in text


def test_what_is_decided_frees_its_place(tmp_path: Path) -> None:
    plan = plan_of()
    look = look_at(plan, runs_of(tmp_path, 2), [])
    arms = [comparison("good", "better", 0.1), comparison("poor", "undecided", 0.03), comparison("far", "worse", -0.1)]
    said = concluded(plan, look, [], arms)
    jobs = [Job(arm.name, seed, tmp_path / arm.name / f"seed-{seed}", ()) for seed in plan.seeds for arm in ARMS]
    write_run(Run("good", 0, tmp_path / "good/seed-0", "finished"))
    (tmp_path / "good/seed-0/metrics.json").write_text("{}")

    def wanted(looks: list[Look], seeds: int) -> list[tuple[int, str]]:
        return [(job.seed, job.arm) for job in wanted_jobs(jobs, plan, looks, seeds)]

    assert wanted([], 2) == [(seed, arm.name) for seed in (0, 1) for arm in ARMS]
    open_arms = [(seed, arm) for seed in (0, 1, 2) for arm in ("base", "poor")]
    assert sorted(wanted([said], 3)) == sorted([*open_arms, (0, "good")])
    over = replace(said, closed=("good", "poor", "far"))
    assert wanted([over], 5) == [(0, "good")]


def test_what_a_look_decided_stays_decided(tmp_path: Path) -> None:
    plan = plan_of()
    first = look_at(plan, runs_of(tmp_path, 2), [])
    first = concluded(plan, first, [], [comparison("good", "better", 0.1), comparison("poor", "undecided", 0.0)])
    second = look_at(plan, runs_of(tmp_path, 3), [first])
    now = [comparison("good", "undecided", 0.02, 3), comparison("poor", "worse", -0.1, 3)]
    good, poor = with_earlier(now, second, [first])
    assert good.verdict.kind == "better"
    assert "look 1 said" in good.verdict.text
    assert good.differences == now[0].differences
    assert poor == now[1]


def test_looks_are_only_added_to(tmp_path: Path) -> None:
    assert read_looks(tmp_path) == []
    first = concluded(plan_of(), look_at(plan_of(), [], []), [], [comparison("good", "better", 0.1)])
    append_look(tmp_path, first)
    append_look(tmp_path, replace(first, number=2))
    assert read_looks(tmp_path) == [first, replace(first, number=2)]
    (tmp_path / LOOKS).write_text("{}")
    with pytest.raises(StorageError, match=r"looks\.json: expected a list"):
        read_looks(tmp_path)


@pytest.mark.parametrize("looks", [[3, 2], [1, 3], [2, 2], [2, 4]])
def test_looks_rise_and_have_their_seeds(looks: list[int]) -> None:
    with pytest.raises(PlanError, match="looks="):
        prepare(Ablation(factors={"neck": ["fpn", "pafpn"]}, seeds=[0, 1, 2], looks=looks), "x", [])
