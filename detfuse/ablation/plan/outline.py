"""A plan as a person reads it before anything runs, and the table of its runs afterwards. No torch."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import chain, repeat
from typing import TYPE_CHECKING

from detfuse.ablation.records import Plan, Run
from detfuse.ablation.run.runner import score_of
from detfuse.words import aligned, clock, listed, points

if TYPE_CHECKING:
    from detfuse.ablation.plan.probe import Facts

_WIDTH = 118
_LONGEST = 60  # characters of one override or value
_BUDGETS = {
    "free": "free: each arm costs what it costs",
    "params": "parameters as the baseline's, within 2 %",
    "flops": "FLOPs as the baseline's, within 2 %",
}


def plan_text(
    plan: Plan, facts: Mapping[str, Facts], *, folder: str, jobs: int, resolution: str = "", why_threads: str = ""
) -> str:
    """What will be run, what differs besides, and what it costs.

    Args:
        plan: what will be run.
        facts: of every arm.
        folder: where.
        jobs: runs at a time.
        resolution: the smallest difference that this plan can resolve, for people.
        why_threads: why each run has so many threads, for people.
    """
    seeds = ", ".join(map(str, plan.seeds))
    count = len(plan.arms) * len(plan.seeds)
    trained = f", {count - len(plan.shares) * len(plan.seeds)} of them trained" if plan.shares else ""
    base = facts[plan.baseline.name]
    rows = [
        (
            "ablation",
            f"{plan.name}: {len(plan.arms)} arms x {_counted(len(plan.seeds), 'seed')} ({seeds}) = {count} runs"
            + trained,
        ),
        ("folder", folder),
        ("common", " ".join(map(_short, plan.common)) or "the defaults of train"),
        ("data", f"{base.num_images} validation images, {_counted(base.num_classes, 'category', 'categories')}"),
        ("images", _images(base)),
        ("budget", _BUDGETS[plan.budget]),
    ]
    rows += [("equalised", ", ".join(plan.equalise))] * bool(plan.equalise)
    rows += [("allowed", "different " + " and ".join(plan.allow))] * bool(plan.allow)
    if plan.looks:
        rows.append(("looks", f"after {listed([str(n) for n in plan.looks])} seeds; arms that are decided stop there"))
    rows += [("all arms", remark) for remark in plan.remarks]
    lines = [_row(name, text) for name, text in rows]
    lines += ["", *_arms(plan), ""]
    lines += [_row("resolves", resolution)] if resolution else []
    if plan.threads is not None:
        each = f"{_counted(plan.threads, 'thread')} each" + (f" ({why_threads})" if why_threads else "")
        lines.append(_row("machine", f"{_counted(jobs, 'run')} at a time, {each}"))
    return "\n".join([*lines, _row("time", _time(plan, facts, jobs))])


def runs_table(runs: Sequence[Run]) -> str:
    """Arm, seed, state, AP in points, time; what is missing with its reason."""
    rows = [("arm", "seed", "state", "mAP", "time")]
    for run in runs:
        score = score_of(run) if run.state == "finished" else None
        rows.append((run.arm, str(run.seed), run.state, points(score, unknown="-"), clock(run.seconds)))
    reasons = ["", *(run.reason for run in runs)]
    return "\n".join(
        f"{line}  {reason}".rstrip() for line, reason in zip(aligned(rows, left=(0, 2)), reasons, strict=True)
    )


def _arms(plan: Plan) -> list[str]:
    width = max(len(arm.name) for arm in plan.arms) + len(" (baseline)")
    indent = " " * (width + 2)
    lines = []
    for arm in plan.arms:
        name = f"{arm.name} (baseline)" if arm is plan.baseline else arm.name
        lines += _wrapped(" ".join(map(_short, arm.overrides)) or "as it is", indent, first=f"{name:<{width}}  ")
        brought = plan.covariates.get(arm.name, {})
        if brought:
            listed = "; ".join(
                f"{setting} {_short(ours)} -> {_short(theirs)}" for setting, (ours, theirs) in brought.items()
            )
            lines += _wrapped(f"brings along: {listed}", indent)
        for note in arm.notes:
            lines += _wrapped(f"note: {note}", indent)
    return lines


def _wrapped(text: str, indent: str, first: str | None = None) -> list[str]:
    start = indent if first is None else first
    return textwrap.wrap(text, _WIDTH, initial_indent=start, subsequent_indent=indent + "  ", break_on_hyphens=False)


def _images(facts: Facts) -> str:
    """The sizes that costs and memory depend on."""
    at_inference = f"up to {_pixels(facts.image_size)} at inference, to which FLOPs refer"
    if facts.fed_size == facts.image_size:
        return at_inference
    return f"{at_inference}; up to {_pixels(facts.fed_size)} in training, with its augmentation"


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} pixels"


def _time(plan: Plan, facts: Mapping[str, Facts], jobs: int) -> str:
    each = [facts[arm.name].seconds for arm in plan.arms]
    known = [seconds for seconds in each if seconds is not None]
    if not known:
        return "not measured: every run is finished"
    total = sum(known) * len(plan.seeds) / jobs
    low, high = clock(min(known)), clock(max(known))
    each_text = f"about {low}" if low == high else f"about {low} to {high}"
    at_a_time = "" if jobs == 1 else f" with {jobs} at a time (measured alone: sharing a machine costs more)"
    return f"{each_text} per run, {clock(total)} in all{at_a_time}, by a few timed steps of each arm"


def _row(name: str, text: str) -> str:
    indent = " " * 10
    heads = chain([f"{name:<10}"], repeat(indent))
    lines = zip(heads, text.splitlines() or [""], strict=False)
    return "\n".join(
        textwrap.fill(line, _WIDTH, initial_indent=head, subsequent_indent=indent, break_on_hyphens=False)
        for head, line in lines
    )


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _counted(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
