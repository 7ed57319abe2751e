"""From finished runs to the verdict and the report: what all of them predicted, against the ground truth they share."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

from detfuse.ablation.looks import concluded, left_after, look_at, looks_text, with_earlier
from detfuse.ablation.plan.prepared import Prepared
from detfuse.ablation.records import Plan, Run
from detfuse.ablation.report import summary_text, write_report
from detfuse.ablation.report.agreement import require_agreement
from detfuse.ablation.report.costs import write_costs
from detfuse.ablation.report.interaction import order_flips
from detfuse.ablation.report.pairing import share_equal
from detfuse.ablation.storage import append_look, read_looks, write_comparison
from detfuse.annotations import Results
from detfuse.build import build_data, build_detector, without_pretrained
from detfuse.config.schema.overrides import key_of
from detfuse.errors import InputError
from detfuse.evaluation import read_results
from detfuse.evaluation.replicates import ReplicateEvaluator
from detfuse.evaluation.scoring import score_runs
from detfuse.files.run_files import PREDICTIONS
from detfuse.statistics.comparison import Statistics, judge, weightings
from detfuse.statistics.records import Comparison, Verdict
from detfuse.statistics.verdict import POWER
from detfuse.words import listed, shown

MOST_TYPED = 50  # seeds that are worth typing
_ANY_DIVISOR = 32  # nothing is padded here


def write_conclusion(folder: Path, prepared: Prepared, runs: Sequence[Run]) -> str:
    """Write ``comparison.json``, what the arms cost, and the report; a look that is new is added to ``looks.json``.

    Args:
        folder: of the ablation.
        prepared: its plan, with what the arms resolve to.
        runs: every run that is wanted, finished or not.

    Returns:
        What a person wants to read at the end, with the place of the report.

    Raises:
        ValueError: if a file of predictions cannot be read, does not belong to the ground truth, or contradicts the
            run's own scores.
    """
    plan = prepared.plan
    said = _concluded(folder, prepared, runs)
    if said is None:
        return f"all runs of the baseline {plan.baseline.name} are missing: there is nothing to compare with yet"
    found, index, read, told = said
    write_comparison(folder, found.scores, found.comparisons, found.pairs)
    untimed = write_costs(prepared, runs, index)
    files = dict(zip(index.ids, index.file_names, strict=True))
    report = write_report(
        folder,
        plan,
        runs,
        found.scores,
        found.comparisons,
        index,
        lambda image_id: index.root / files[image_id],
        read,
        told=told,
        pairs=found.pairs,
        command=_command(prepared) if plan.typed else "",
    )
    metric = found.comparisons[0].differences[0].metric if found.comparisons[0].differences else "mAP"
    warnings = order_flips(plan, found.scores, metric)
    summary = summary_text(plan, found.scores, found.comparisons, found.pairs)
    more = _more_seeds(prepared, found.comparisons)
    return "\n".join([summary, *told, *more, *warnings, *untimed, "", f"report: {report}"])


def write_look(folder: Path, prepared: Prepared, runs: Sequence[Run]) -> str:
    """Add a look to ``looks.json`` while others are still to come; returns what it says, for people.

    Raises:
        ValueError: see :func:`write_conclusion`.
    """
    said = _concluded(folder, prepared, runs)
    if said is None:
        return f"all runs of the baseline {prepared.plan.baseline.name} are missing: there is nothing to look at"
    return "\n".join([summary_text(prepared.plan, said.found.scores, said.found.comparisons), *said.told])


class _Concluded(NamedTuple):
    """What the runs say; the images; what reads a run's predictions; and which look it is."""

    found: Statistics
    index: Any
    read: Callable[[Path], Results]
    told: list[str]


def _concluded(folder: Path, prepared: Prepared, runs: Sequence[Run]) -> _Concluded | None:
    """Judge the runs, and keep that they were looked at; None without a run of the baseline."""
    plan = prepared.plan
    finished = [run for run in runs if run.state == "finished"]
    if not any(run.arm == plan.baseline.name for run in finished):
        return None
    data = build_data(prepared.resolved[plan.baseline.name].config, _ANY_DIVISOR)
    data.prepare_data()
    data.setup("validate")
    index = data.indexes["val"]
    read = cache(read_results)  # each file is parsed once; as columns, those of all runs fit into memory
    evaluator = ReplicateEvaluator(index)
    results = {
        arm.name: {r.seed: partial(_results, r, read) for r in finished if r.arm == arm.name} for arm in plan.arms
    }
    past = read_looks(folder)
    look = look_at(plan, runs, past)
    found = judge(
        score_runs(evaluator, results, weightings(evaluator.num_images)),
        evaluator.metrics,
        plan.baseline.name,
        equivalence=plan.equivalence,
        num_images=evaluator.num_images,
        level=look.level,
        next_level=left_after(plan, look, past),
        all_pairs=plan.all_pairs,
        missing={
            arm.name: {r.seed: r.reason or r.state for r in runs if r.arm == arm.name and r.state != "finished"}
            for arm in plan.arms
        },
    )
    require_agreement(finished, found.scores)
    shares = _shared_start(prepared, len(data.categories))
    comparisons = [
        replace(
            one,
            shared_start=shares[one.arm],
            verdict=_of_all_things(one, plan),
            dropped=_without_stopped(one.dropped, one.arm, runs),
        )
        for one in found.comparisons
    ]
    look = concluded(plan, look, past, comparisons)
    if look.number > len(past):
        append_look(folder, look)  # before anybody reads it
    told = looks_text(plan, look, past)
    return _Concluded(replace(found, comparisons=tuple(with_earlier(comparisons, look, past))), index, read, told)


def _without_stopped(dropped: Mapping[int, str], arm: str, runs: Sequence[Run]) -> dict[int, str]:
    """Pairs that are missing, but for seeds that an arm no longer needs."""
    wanted = {run.seed for run in runs if run.arm == arm}
    return {seed: why for seed, why in dropped.items() if seed in wanted}


def _command(prepared: Prepared, *more: str) -> str:
    """The one that made the ablation, as it is typed; what is given besides takes the place of what was given then."""
    keys = {key_of(text) for text in more}
    kept = (text for text in prepared.plan.typed if key_of(text) not in keys)
    return shlex.join(["python", "scripts/ablate.py", *prepared.flags, *map(shown, kept), *more])


def _more_seeds(prepared: Prepared, comparisons: Sequence[Comparison]) -> list[str]:
    """The command that is to decide what is open, if a number of seeds can; for people."""
    plan = prepared.plan
    needed = [one.verdict.more_seeds for one in comparisons if one.verdict.kind == "undecided"]
    more = max((number for number in needed if number is not None), default=0)
    if not more:
        return []
    free = (seed for seed in count() if seed not in plan.seeds)
    seeds = [*plan.seeds, *islice(free, more)] if more <= MOST_TYPED else []
    if not seeds:
        return [
            f"To decide all that is open takes about {more} more seeds; more images, or a larger difference, take less."
        ]
    command = _command(prepared, f"seeds=[{','.join(map(str, seeds))}]")
    return [f"To decide what is open with {100 * POWER:.0f} % probability each: {command}"]


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
