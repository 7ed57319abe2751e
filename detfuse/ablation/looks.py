"""Conclusions that are drawn from an ablation while seeds are added: what each may spend, and which arms need no more.

Every conclusion from other runs than an earlier one's is a look. Planned or not, all looks share the 5 %
(:mod:`detfuse.statistics.looks`), so that whoever adds seeds until it is decided is wrong no more often than others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from detfuse.ablation.records import Look, LookVerdict, Plan, Run
from detfuse.ablation.run.runner import Job, state_of
from detfuse.files.run_files import PREDICTIONS
from detfuse.statistics.dunnett import Family
from detfuse.statistics.looks import Spent, chance, next_level
from detfuse.statistics.records import Comparison, Verdict
from detfuse.words import listed, with_ends

DECIDED = ("better", "worse", "equivalent", "identical")
HOPELESS = 0.1
"""An arm whose chance to be decided at the last planned look is less than this gets no more seeds."""


def look_at(plan: Plan, runs: Sequence[Run], past: Sequence[Look]) -> Look:
    """The look that a conclusion from these runs is: an earlier one if they are the same, else the next.

    Args:
        plan: of the ablation.
        runs: all that are wanted, finished or not.
        past: earlier looks.
    """
    digest = digest_of(runs)
    same = next((look for look in past if look.runs == digest), None)
    if same is not None:
        return same
    waiting = {run.seed for run in runs if run.state in ("waiting", "running")}
    tried = [seed for seed in plan.seeds if seed not in waiting and any(run.seed == seed for run in runs)]
    spent = next_level(_spent(past), plan.looks or (len(plan.seeds),), len(tried))
    return Look(len(past) + 1, len(tried), digest, spent.level, spent.planned, {}, ())


def left_after(plan: Plan, look: Look, past: Sequence[Look]) -> float:
    """What the look after this one may spend."""
    earlier = [one for one in past if one.number < look.number]
    planned = plan.looks or (len(plan.seeds),)
    following = next((seeds for seeds in planned if seeds > look.num_seeds), look.num_seeds + 1)
    return next_level(_spent([*earlier, look]), planned, following).level


def concluded(plan: Plan, look: Look, past: Sequence[Look], comparisons: Sequence[Comparison]) -> Look:
    """A look with what it says, and the arms that need no more seeds."""
    verdicts = {
        one.arm: LookVerdict(one.verdict.kind, one.verdict.text, main.estimate, main.low, main.high)
        for one in comparisons
        for main in one.differences[:1]
    }
    decided = [one.arm for one in comparisons if one.verdict.kind in DECIDED]
    return replace(look, verdicts=verdicts, closed=(*decided, *_hopeless(plan, look, past, comparisons)))


def with_earlier(comparisons: Sequence[Comparison], look: Look, past: Sequence[Look]) -> list[Comparison]:
    """Comparisons in which what an earlier look has decided stays decided."""
    earlier = [one for one in past if one.number < look.number]
    return [_with_earlier(comparison, earlier) for comparison in comparisons]


def closed_arms(plan: Plan, looks: Sequence[Look]) -> set[str]:
    """Arms that get no more seeds; what open arms share the training of runs on, and the baseline while any is open."""
    if not plan.looks:
        return set()
    closed = {arm for look in looks for arm in look.closed}
    if closed >= {arm.name for arm in plan.arms[1:]}:
        return closed | {plan.baseline.name}
    return closed - {trained for arm, trained in plan.shares.items() if arm not in closed}


def wanted_jobs(jobs: Sequence[Job], plan: Plan, looks: Sequence[Look], num_seeds: int) -> list[Job]:
    """The jobs of the first seeds, but for those that no arm needs any more; what is finished stays in.

    Args:
        jobs: of all seeds.
        plan: of the ablation.
        looks: that were taken.
        num_seeds: how many of the plan's seeds.
    """
    closed, seeds = closed_arms(plan, looks), plan.seeds[:num_seeds]
    return [job for job in jobs if job.seed in seeds and (job.arm not in closed or state_of(job).state == "finished")]


def looks_text(plan: Plan, look: Look, past: Sequence[Look]) -> list[str]:
    """Which look this is, what it may spend, and what earlier ones said, for people."""
    planned = f" (planned after {listed([str(seeds) for seeds in plan.looks])})" if plan.looks else ""
    kind = "" if look.planned else ": it was not planned, and takes half of what is left"
    lines = [
        f"Look {look.number}, after {look.num_seeds} seed{'s' if look.num_seeds != 1 else ''}{planned}: it spends "
        f"{100 * look.level:.2g} of the 5 % for false verdicts that all looks share{kind}."
    ]
    for one in past:
        if one.number < look.number:
            said = "; ".join(f"{arm} {_short(verdict)}" for arm, verdict in one.verdicts.items())
            lines.append(f"Look {one.number} (after {one.num_seeds}) said: {said}.")
    if plan.looks and (closed := sorted(closed_arms(plan, [*past, look]))):
        why = f"decided, or with a chance of less than {100 * HOPELESS:.0f} % to be decided at the last look"
        lines.append(f"No more seeds for {listed(closed)}: {why}.")
    return lines


def digest_of(runs: Sequence[Run]) -> str:
    """Of what all finished runs predicted; equal for equal predictions of the same arms and seeds."""
    total = hashlib.sha256()
    for run in sorted(runs, key=lambda run: (run.arm, run.seed)):
        if run.state == "finished":
            with (run.folder / PREDICTIONS).open("rb") as file:
                total.update(f"{run.arm}/{run.seed}/{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def _spent(looks: Sequence[Look]) -> list[Spent]:
    return [Spent(look.level, look.planned) for look in looks]


def _hopeless(plan: Plan, look: Look, past: Sequence[Look], comparisons: Sequence[Comparison]) -> list[str]:
    if not plan.looks or look.num_seeds >= plan.looks[-1]:
        return []
    earlier = [one for one in past if one.number < look.number]
    level = next_level(_spent([*earlier, look]), plan.looks, plan.looks[-1]).level
    family = Family(len(comparisons))
    return [
        one.arm
        for one in comparisons
        if one.verdict.kind == "undecided"
        and one.noise is not None
        and chance(one.differences[0], plan.looks[-1], plan.equivalence, family, level) < HOPELESS
    ]


def _with_earlier(comparison: Comparison, earlier: Sequence[Look]) -> Comparison:
    said: Mapping[int, LookVerdict] = {
        look.number: verdict
        for look in earlier
        if (verdict := look.verdicts.get(comparison.arm)) is not None
        and verdict.kind in ("better", "worse", "equivalent")
    }
    if not said or comparison.verdict.kind != "undecided":
        return comparison
    number, first = next(iter(said.items()))
    text = f"{first.text} That is what look {number} said, and what it decided stays decided."
    return replace(comparison, verdict=Verdict(first.kind, text))


def _short(verdict: LookVerdict) -> str:
    if verdict.estimate is None or verdict.low is None or verdict.high is None:
        return verdict.kind
    return "{} ({} [{}, {}])".format(verdict.kind, *with_ends(verdict.estimate, verdict.low, verdict.high))
