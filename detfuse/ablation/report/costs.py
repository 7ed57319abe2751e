"""``cost.json`` of every finished run: what its arm costs, counted, and how long its trained detector takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from detfuse.ablation.plan.budget import cost_of
from detfuse.ablation.plan.prepared import Prepared
from detfuse.ablation.records import DetectorCost, Run
from detfuse.ablation.report.latency import Subject, checkpoint_of, fingerprint, latencies, spread_positions, subject_of
from detfuse.ablation.storage import read_cost, write_cost
from detfuse.build import build_backbone, build_data, size_divisor, without_pretrained
from detfuse.data import AnnotationIndex, DetectionDataModule
from detfuse.errors import InputError, UserError
from detfuse.files.run_files import COST
from detfuse.runs.environment import threads_of_runs


def write_costs(prepared: Prepared, runs: Sequence[Run], index: AnnotationIndex) -> list[str]:
    """Write what every arm costs into the folders of its finished runs.

    All arms are timed together or not at all, so that their latencies can be compared: again only if an arm was not
    timed yet, or if the checkpoint that was timed is another one now.

    Args:
        prepared: the plan.
        runs: of the ablation.
        index: annotations of the validation split, which all arms share.

    Returns:
        For people, which arm's latency could not be measured, and why.
    """
    by_arm = {
        arm.name: [run for run in runs if run.arm == arm.name and run.state == "finished"] for arm in prepared.plan.arms
    }
    finished = {name: found for name, found in by_arm.items() if found}
    timed = {name: checkpoint_of(found) for name, found in finished.items()}
    stored = {name: _stored(found) for name, found in finished.items()}
    costs = {name: cost for name, cost in stored.items() if cost is not None and _is_current(cost, timed[name])}
    if len(costs) < len(finished):
        costs = _measured(prepared, timed, index)
    for name, found in finished.items():
        for run in found:
            if _stored([run]) != costs[name]:
                write_cost(run.folder, costs[name])
    return [f"latency of {name} not measured: {cost.untimed}" for name, cost in costs.items() if cost.untimed]


def _stored(runs: Sequence[Run]) -> DetectorCost | None:
    """What is known of an arm; a measured latency, if any of its runs has one."""
    found = [read_cost(run.folder) for run in runs if (run.folder / COST).is_file()]
    return next((cost for cost in found if cost.timing), found[0] if found else None)


def _is_current(cost: DetectorCost, run: Run | None) -> bool:
    if run is None:  # a checkpoint that was deleted since leaves what was measured on it
        return cost.timing is not None or bool(cost.untimed)
    return cost.timing is not None and cost.timing.checkpoint == fingerprint(run)


def _measured(prepared: Prepared, timed: Mapping[str, Run | None], index: AnnotationIndex) -> dict[str, DetectorCost]:
    """Cost of each arm, timed on the last checkpoint of its run."""
    configs = {name: prepared.resolved[name].config for name in timed}
    data = {name: _data_of(config, index) for name, config in configs.items()}
    num_classes = len(index.categories)
    costs = {name: cost_of(configs[name], num_classes, data[name].largest_inference_size()) for name in timed}
    positions = spread_positions(next(iter(data.values())))  # the same images for all
    subjects: dict[str, Subject] = {}
    for name, run in timed.items():
        try:
            if run is None:
                raise InputError("no finished run has its last checkpoint any more")
            subjects[name] = subject_of(configs[name], run, data[name], positions, prepared.directories)
        except (UserError, OSError) as error:
            costs[name] = replace(costs[name], untimed=str(error))
    for name, (ms, timing) in latencies(subjects, _threads_of(prepared, timed)).items():
        costs[name] = replace(
            costs[name], latency_ms=ms.median, latency_low=ms.low, latency_high=ms.high, timing=timing
        )
    return costs


def _data_of(config: Mapping[str, Any], index: AnnotationIndex) -> DetectionDataModule:
    """An arm's data with the validation split that is read already."""
    data = build_data(config, size_divisor(build_backbone(without_pretrained(config)).out_spec))
    data.indexes["val"] = index
    return data


def _threads_of(prepared: Prepared, timed: Mapping[str, Run | None]) -> int:
    """As many as the runs had."""
    if prepared.plan.threads is not None:
        return prepared.plan.threads
    return threads_of_runs(run.folder for run in timed.values() if run is not None) or torch.get_num_threads()
