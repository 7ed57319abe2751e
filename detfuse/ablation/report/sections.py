"""The sections of a report, in their order: first the answer, then what it rests on, then how to repeat it."""

from __future__ import annotations

import shlex

from detfuse.ablation.report import answer, behaviour
from detfuse.ablation.report.blocks import Block, Code, Column, Section, Table, Text
from detfuse.ablation.report.findings import Findings
from detfuse.ablation.report.graphs import graphs
from detfuse.ablation.report.guide import guide
from detfuse.ablation.report.pictures import disagreements
from detfuse.ablation.storage import plan_yaml


def all_sections(found: Findings) -> list[Section]:
    """The report, from the verdict to the recipe."""
    sections = [
        answer.opening(found),
        answer.differences(found),
        answer.scores(found),
        answer.control(found),
        answer.costs(found),
        behaviour.learning_curves(found),
        behaviour.details(found),
        behaviour.errors(found),
        Section("Where the arms disagree most", disagreements(found.evidence, found.ground_truth, found.image_of)),
        graphs(found),
        behaviour.weights(found),
        guide(found),
        _repeat(found),
    ]
    return [section for section in sections if section.blocks]


def subtitle(found: Findings) -> str:
    """What was compared, in a line."""
    plan = found.plan
    factors = " and ".join(dict.fromkeys(factor for arm in plan.arms for factor in arm.factors)) or "arms"
    seeds = f"{len(plan.seeds)} seed{'s' if len(plan.seeds) > 1 else ''}"
    budget = {"free": "budget free", "params": "equal parameters", "flops": "equal FLOPs"}[plan.budget]
    images = f"{len(found.ground_truth):,} images"
    return f"{factors}: {len(plan.arms)} arms × {seeds} · {images} · {budget} · baseline {plan.baseline.name}"


def _repeat(found: Findings) -> Section:
    plan = found.plan
    commands = []
    for arm in plan.arms:
        planned = (*plan.common, *arm.overrides, f"seed={plan.seeds[0]}")
        typed = found.evidence[arm.name].overrides or planned
        commands.append(shlex.join(["python", "scripts/train.py", *typed]))
    environments = list({str(e): e for one in found.evidence.values() for e in one.environments}.values())
    keys = list(dict.fromkeys(key for one in environments for key in one))
    blocks: list[Block] = []
    if found.command:
        blocks.append(Text("All of it, in one command. What is finished in its folder is not run again:"))
        blocks.append(Code(found.command))
    blocks += [
        Text(f"One run of every arm; the others differ in seed={','.join(map(str, plan.seeds))}:"),
        Code("\n".join(commands)),
        Text("The plan (plan.yaml):"),
        Code(plan_yaml(plan)),
    ]
    if environments:
        header = ["runs"] if len(environments) == 1 else [f"runs ({i + 1})" for i in range(len(environments))]
        columns = (Column("", numeric=False), *(Column(name, numeric=False) for name in header))
        rows = tuple((key, *(one.get(key, "n/a") for one in environments)) for key in keys)
        blocks.append(Table("environment", columns, rows, "Versions and machine."))
    return Section("To repeat it", blocks)
