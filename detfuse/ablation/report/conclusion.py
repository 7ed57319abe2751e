"""From finished runs to the verdict and the report: what all of them predicted, against the ground truth they share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from detfuse.ablation.plan.prepared import Prepared
from detfuse.ablation.plan.things import listed
from detfuse.ablation.records import Plan, Run
from detfuse.ablation.report import summary_text, write_report
from detfuse.ablation.report.agreement import require_agreement
from detfuse.ablation.report.costs import write_costs
from detfuse.ablation.report.interaction import order_flips
from detfuse.ablation.report.pairing import share_equal
from detfuse.ablation.storage import write_comparison
from detfuse.build import build_data, build_detector
from detfuse.errors import InputError
from detfuse.statistics.comparison import compare_runs
from detfuse.statistics.records import Comparison, Verdict

_ANY_DIVISOR = 32  # nothing is padded here


def conclude(folder: Path, prepared: Prepared, runs: Sequence[Run]) -> str:
    """Write ``comparison.json``, what the arms cost, and the report.

    Args:
        folder: of the ablation.
        prepared: its plan, with what the arms resolve to.
        runs: every planned run, finished or not.

    Returns:
        What a person wants to read at the end, with the place of the report.

    Raises:
        ValueError: if a file of predictions cannot be read, does not belong to the ground truth, or contradicts the
            run's own scores.
    """
    plan = prepared.plan
    finished = [run for run in runs if run.state == "finished"]
    if not any(run.arm == plan.baseline.name for run in finished):
        return f"all runs of the baseline {plan.baseline.name} are missing: there is nothing to compare with yet"
    data = build_data(prepared.resolved[plan.baseline.name].config, _ANY_DIVISOR)
    data.prepare_data()
    data.setup("validate")
    ground_truth, index = data.ground_truth("val"), data.indexes["val"]
    files = dict(zip(index.ids, index.file_names, strict=True))
    found = compare_runs(
        ground_truth,
        {arm.name: {r.seed: partial(_rows, r) for r in finished if r.arm == arm.name} for arm in plan.arms},
        plan.baseline.name,
        equivalence=plan.equivalence,
        missing={
            arm.name: {r.seed: r.reason or r.state for r in runs if r.arm == arm.name and r.state != "finished"}
            for arm in plan.arms
        },
    )
    require_agreement(finished, found.scores)
    shares = _shared_start(prepared, len(data.categories))
    comparisons = [
        replace(one, shared_start=shares[one.arm], verdict=_of_all_things(one, plan)) for one in found.comparisons
    ]
    write_comparison(folder, found.scores, comparisons)
    untimed = write_costs(prepared, runs, index)
    report = write_report(
        folder, plan, runs, found.scores, comparisons, ground_truth, lambda image_id: index.root / files[image_id]
    )
    metric = comparisons[0].differences[0].metric if comparisons[0].differences else "mAP"
    warnings = order_flips(plan, found.scores, metric)
    return "\n".join([summary_text(plan, found.scores, comparisons), *warnings, *untimed, "", f"report: {report}"])


def _of_all_things(comparison: Comparison, plan: Plan) -> Verdict:
    """The verdict; of an arm that changes several things it says that it is about all of them."""
    verdict, things = comparison.verdict, plan.things.get(comparison.arm, ())
    if len(things) < 2 or verdict.kind in ("missing", "identical"):
        return verdict
    told = f"{verdict.text} {comparison.arm} differs from {comparison.baseline} in {listed(things)} together."
    return replace(verdict, text=told)


def _rows(run: Run) -> list[dict[str, Any]]:
    path = run.folder / "predictions.json"
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as predictions ({error}); delete it and start again") from error
    return rows


def _shared_start(prepared: Prepared, num_classes: int) -> Mapping[str, float]:
    """Arm -> the share of parameters that started from the baseline's values, by building both again."""
    configs = {name: resolved.config for name, resolved in prepared.resolved.items()}
    baseline = build_detector(configs[prepared.plan.baseline.name], num_classes)
    return {name: share_equal(build_detector(config, num_classes), baseline) for name, config in configs.items()}
