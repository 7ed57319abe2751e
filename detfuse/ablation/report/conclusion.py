"""From finished runs to the verdict and the report: what all of them predicted, against the ground truth they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from detfuse.ablation.plan.prepared import Prepared
from detfuse.ablation.records import Plan, Run
from detfuse.ablation.report import summary_text, write_report
from detfuse.ablation.report.agreement import require_agreement
from detfuse.ablation.report.costs import write_costs
from detfuse.ablation.report.interaction import order_flips
from detfuse.ablation.report.pairing import share_equal
from detfuse.ablation.storage import write_comparison
from detfuse.annotations import Results
from detfuse.build import build_data, build_detector, without_pretrained
from detfuse.errors import InputError
from detfuse.evaluation import read_results
from detfuse.evaluation.replicates import ReplicateEvaluator
from detfuse.evaluation.scoring import score_runs
from detfuse.files.run_files import PREDICTIONS
from detfuse.statistics.comparison import judge, weightings
from detfuse.statistics.records import Comparison, Verdict
from detfuse.words import listed

_ANY_DIVISOR = 32  # nothing is padded here


def write_conclusion(folder: Path, prepared: Prepared, runs: Sequence[Run]) -> str:
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
    index = data.indexes["val"]
    files = dict(zip(index.ids, index.file_names, strict=True))
    read = cache(read_results)  # each file is parsed once; as columns, those of all runs fit into memory
    evaluator = ReplicateEvaluator(index)
    results = {
        arm.name: {r.seed: partial(_results, r, read) for r in finished if r.arm == arm.name} for arm in plan.arms
    }
    found = judge(
        score_runs(evaluator, results, weightings(evaluator.num_images)),
        evaluator.metrics,
        plan.baseline.name,
        equivalence=plan.equivalence,
        num_images=evaluator.num_images,
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
        folder, plan, runs, found.scores, comparisons, index, lambda image_id: index.root / files[image_id], read
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


def _results(run: Run, read: Callable[[Path], Results]) -> Results:
    try:
        return read(run.folder / PREDICTIONS)
    except InputError as error:
        raise InputError(f"{error}; delete {run.folder} and start the same command again") from None


def _shared_start(prepared: Prepared, num_classes: int) -> Mapping[str, float]:
    """Arm -> the share of parameters that started from the baseline's values, by building both again.

    Nothing is read or downloaded for that: backbones that are told to read the same start alike, others do not.
    """
    configs = {name: resolved.config for name, resolved in prepared.resolved.items()}
    base = configs[prepared.plan.baseline.name]
    baseline = build_detector(without_pretrained(base), num_classes)
    shares = {}
    for name, config in configs.items():
        apart = () if _read(config) == _read(base) else ("backbone.",)
        shares[name] = share_equal(build_detector(without_pretrained(config), num_classes), baseline, apart)
    return shares


def _read(config: Mapping[str, Any]) -> list[Any] | None:
    """What a backbone reads; None if nothing, so that it starts from the seed."""
    backbone = config["backbone"]
    return [backbone.get(key) for key in ("_target_", "name", "pretrained")] if backbone.get("pretrained") else None
