"""What the run folders of an ablation say, arm by arm."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detfuse.ablation.records import DetectorCost, Plan, Run
from detfuse.ablation.report.objects import all_found
from detfuse.ablation.storage import read_cost
from detfuse.annotations import Annotations, Results
from detfuse.config.kinds import kind_of
from detfuse.config.schema.overrides import place_of
from detfuse.evaluation.errors import ERROR_TYPES, Errors, error_types
from detfuse.evaluation.results import matched_ids
from detfuse.files.plain import read_json
from detfuse.files.records import StorageError, from_plain, loaded
from detfuse.files.run_files import COST, FUSION, FUSION_WEIGHTS, METRICS_CSV, PREDICTIONS
from detfuse.files.text import read_table
from detfuse.runs.environment import read_environment
from detfuse.runs.invocation import Typed, read_typed
from detfuse.visualize.graph import Fusion

Curve = dict[str, list[tuple[float, float]]]
"""Column of a CSV file -> (epoch, value) of its rows."""


@dataclass(frozen=True)
class ArmEvidence:
    """All finished runs of one arm.

    Attributes:
        predictions: seed -> results, with the ground truth's positions.
        found: seed -> (I,) how many objects of each image were found (see :func:`objects.num_found`).
        metrics: seed -> what metrics.csv has.
        weights: seed -> what fusion_weights.csv has.
        errors: error type -> AP50 (a fraction) lost to it, mean over the seeds; None where undefined or not available.
        error_counts: error type -> errors per seed.
        cost: as measured, the latency and its quartiles as the median over the seeds; None if no run has a cost.json.
        fusion: the fusion graph and the attention; None if the neck is no graph.
        environments: versions as text, one entry per different environment.
        overrides: of ``train``, as the first run was started, but for where it lies; empty if that was not stored.
    """

    predictions: Mapping[int, Results]
    found: Mapping[int, NDArray[np.int64]]
    metrics: Mapping[int, Curve]
    weights: Mapping[int, Curve]
    errors: Mapping[str, float | None]
    error_counts: Mapping[str, float]
    cost: DetectorCost | None
    fusion: Fusion | None
    environments: tuple[Mapping[str, str], ...]
    overrides: tuple[str, ...]


def collect(
    plan: Plan, runs: Sequence[Run], ground_truth: Annotations, read: Callable[[Path], Results]
) -> dict[str, ArmEvidence]:
    """Read the folders of all finished runs; a file that a run does not have is left out.

    Raises:
        StorageError: if a file is there and cannot be read.
        ValueError: if predictions do not belong to the ground truth.
    """
    finished = {arm.name: [run for run in runs if run.arm == arm.name and run.state == "finished"] for arm in plan.arms}
    return {name: _arm(found, ground_truth, read) for name, found in finished.items()}


def _arm(runs: Sequence[Run], ground_truth: Annotations, read: Callable[[Path], Results]) -> ArmEvidence:
    paths = {run.seed: run.folder / PREDICTIONS for run in runs}
    predictions = {seed: matched_ids(read(path), ground_truth) for seed, path in paths.items() if path.is_file()}
    sorted_errors = [error_types(ground_truth, results) for results in predictions.values()]
    errors = [one for one in sorted_errors if one is not None]
    fusions = [(run.trained_in / FUSION, read_if_there(run.trained_in / FUSION)) for run in runs]
    environments = [read_environment(run.folder) for run in runs]
    different = {json.dumps(one, sort_keys=True): one for one in environments if one is not None}
    return ArmEvidence(
        predictions=predictions,
        found={seed: all_found(ground_truth, results) for seed, results in predictions.items()},
        metrics={run.seed: read_curve(run.folder / METRICS_CSV) for run in runs},
        weights={run.seed: read_curve(run.folder / FUSION_WEIGHTS) for run in runs},
        errors={name: _mean_cost(errors, name) for name in ERROR_TYPES},
        error_counts={name: fmean(one.count[name] for one in errors) for name in ERROR_TYPES if errors},
        cost=_cost([read_cost(run.folder) for run in runs if (run.folder / COST).is_file()]),
        fusion=next((from_plain(Fusion, plain, str(path)) for path, plain in fusions if plain is not None), None),
        environments=tuple(different.values()),
        overrides=_overrides([read_typed(run.folder) for run in runs[:1]]),
    )


def _overrides(first: Sequence[Typed | None]) -> tuple[str, ...]:
    overrides = first[0].overrides if first and first[0] else ()
    return tuple(text for text in overrides if kind_of(place_of(text)) != "place")


def _mean_cost(errors: Sequence[Errors], name: str) -> float | None:
    values = [value for one in errors if (value := one.cost[name]) is not None]
    return fmean(values) if values else None


def _cost(costs: Sequence[DetectorCost]) -> DetectorCost | None:
    if not costs:
        return None
    latency, low, high = (
        median(known) if (known := [value for cost in costs if (value := getattr(cost, name)) is not None]) else None
        for name in ("latency_ms", "latency_low", "latency_high")
    )
    return replace(costs[0], latency_ms=latency, latency_low=low, latency_high=high)


def read_if_there(path: Path) -> Any:
    """The content of a JSON file; None if there is none.

    Raises:
        StorageError: if it cannot be read.
    """
    if not path.is_file():
        return None
    return loaded(path, read_json)


def read_curve(path: Path) -> Curve:
    """The columns of a metrics file over its epochs.

    Empty cells, numbers that are not finite, and a last line that was cut off are left out.

    Raises:
        StorageError: if a cell is no number, or a line has not one cell for each column.
    """
    found: Curve = {}
    table = read_table(path)
    if table.damaged:
        raise StorageError(f"{path} cannot be read: it has not one cell for each column in {table.damaged[0][:100]!r}")
    for row in table.rows:
        try:
            values = {name: float(cell) for name, cell in row.items() if cell}
        except ValueError as error:
            raise StorageError(f"{path} cannot be read: {error}") from error
        epoch = values.pop("epoch", None)
        for name, value in values.items():
            if epoch is not None and math.isfinite(value):
                found.setdefault(name, []).append((epoch, value))
    return found
