"""The files of an ablation's folder: strict JSON (the plan is YAML, which people read), written at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from detfuse.ablation.records import Cost, Plan, Run
from detfuse.files.records import StorageError, from_plain, loaded, to_plain
from detfuse.files.text import write_json, write_text
from detfuse.statistics.records import Comparison, Score

PLAN = "plan.yaml"
COMPARISON = "comparison.json"
STATE = "state.json"
COST = "cost.json"


def write_plan(folder: Path, plan: Plan) -> None:
    """``plan.yaml``."""
    write_text(folder / PLAN, plan_yaml(plan))


def plan_yaml(plan: Plan) -> str:
    """A plan as YAML, a line for what fits into one."""
    text: str = yaml.safe_dump(to_plain(plan), sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
    return text


def read_plan(folder: Path) -> Plan:
    """Inverse of :func:`write_plan`.

    Raises:
        StorageError: if the file is missing or is no plan.
    """
    return from_plain(Plan, loaded(folder / PLAN, yaml.safe_load), str(folder / PLAN))


def write_comparison(folder: Path, scores: Sequence[Score], comparisons: Sequence[Comparison]) -> None:
    """``comparison.json``: all that the statistics say."""
    write_json(folder / COMPARISON, {"scores": to_plain(scores), "comparisons": to_plain(comparisons)})


def read_comparison(folder: Path) -> tuple[list[Score], list[Comparison]]:
    """Inverse of :func:`write_comparison`.

    Raises:
        StorageError: if the file is missing or holds something else.
    """
    path = folder / COMPARISON
    content = loaded(path, json.loads)
    if not isinstance(content, Mapping) or not all(isinstance(content.get(k), list) for k in ("scores", "comparisons")):
        raise StorageError(f"{path}: expected the lists 'scores' and 'comparisons'")
    scores = [from_plain(Score, row, f"{path}: scores[{i}]") for i, row in enumerate(content["scores"])]
    rows = enumerate(content["comparisons"])
    return scores, [from_plain(Comparison, row, f"{path}: comparisons[{i}]") for i, row in rows]


def write_run(run: Run) -> None:
    """``state.json`` in the run's folder; it does not say where that lies, so that an ablation can be moved."""
    write_json(run.folder / STATE, {key: value for key, value in to_plain(run).items() if key != "folder"})


def read_run(folder: Path) -> Run:
    """The run of a run folder.

    Raises:
        StorageError: if its state.json is missing or is none.
    """
    path = folder / STATE
    content = loaded(path, json.loads)
    if isinstance(content, Mapping):
        content = {**content, "folder": str(folder)}
    return from_plain(Run, content, str(path))


def write_cost(folder: Path, cost: Cost) -> None:
    """``cost.json`` of a run folder."""
    write_json(folder / COST, to_plain(cost))


def read_cost(folder: Path) -> Cost:
    """Inverse of :func:`write_cost`.

    Raises:
        StorageError: if the file is missing or is none.
    """
    return from_plain(Cost, loaded(folder / COST, json.loads), str(folder / COST))
