"""What is held equal to the baseline before anything runs (equalisation, budget), and what every arm then costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from detfuse.ablation.budget import cost_of, latencies, solve
from detfuse.ablation.design import PlanError
from detfuse.ablation.equalise import Setting, equalised
from detfuse.ablation.plan import Change, Prepared, changed
from detfuse.ablation.probe import Read, data_of, device_of
from detfuse.ablation.records import Cost, Run
from detfuse.ablation.storage import COST, write_cost
from detfuse.build import build_backbone, build_combine, build_detector, size_divisor
from detfuse.data import DetectionDataModule
from detfuse.errors import InputError
from detfuse.protocols import Size

_LATENCY_ROUNDS = 20


def arms_equalised(prepared: Prepared) -> Prepared:
    """The plan with what arms bring along (norm, block, levels) set to the baseline's, as far as the plan says so.

    Raises:
        PlanError: naming every arm and setting that cannot be equalised.
    """
    plan = prepared.plan
    if not plan.equalise:
        return prepared
    base = prepared.resolved[plan.baseline.name].config
    what = cast("Sequence[Setting]", plan.equalise)  # the page's annotation has been checked
    found, problems = {}, []
    for arm in plan.arms[1:]:
        try:
            overrides = equalised(prepared.resolved[arm.name].config, base, what)
        except InputError as error:
            problems.append(f"arm {arm.name}: {error}")
        else:
            note = f"{' and '.join(plan.equalise)} as {plan.baseline.name} has it" if overrides else ""
            found[arm.name] = Change(overrides, note)
    if problems:
        raise PlanError(problems)
    return changed(prepared, found)


def arms_with_budget(prepared: Prepared, data: DetectionDataModule) -> Prepared:
    """The plan with every arm as expensive as the baseline, as far as the plan says so and its neck can.

    Args:
        prepared: the plan.
        data: that all arms share, set up; costs are those of its largest image.
    """
    plan = prepared.plan
    if plan.budget == "free":
        return prepared
    num_classes = len(data.categories)
    baseline = cost_of(prepared.resolved[plan.baseline.name].config, num_classes, data.largest_padded_size())
    solved = {
        arm.name: solve(prepared.resolved[arm.name].config, baseline, plan.budget, num_classes) for arm in plan.arms[1:]
    }
    return changed(prepared, {name: Change(found.overrides, found.note) for name, found in solved.items()})


def shared_data(prepared: Prepared, read: Read) -> DetectionDataModule:
    """The data that all arms share, set up."""
    config = prepared.resolved[prepared.plan.baseline.name].config
    return data_of(config, size_divisor(build_backbone(config).out_spec), read)


def write_costs(
    configs: Mapping[str, Mapping[str, Any]], runs: Sequence[Run], num_classes: int, image_size: Size
) -> None:
    """``cost.json`` of every finished run; all arms are timed in turn, as a machine is not equally fast all the time.

    Args:
        configs: arm -> resolved configuration of ``train``.
        runs: of the ablation.
        num_classes: of the data.
        image_size: (height, width) of the largest image, padded.
    """
    finished = [run for run in runs if run.state == "finished"]
    if all((run.folder / COST).is_file() for run in finished):
        return
    costs = _costs(configs, num_classes, image_size)
    for run in finished:
        write_cost(run.folder, costs[run.arm])


def _costs(configs: Mapping[str, Mapping[str, Any]], num_classes: int, image_size: Size) -> dict[str, Cost]:
    costs = {name: cost_of(config, num_classes, image_size) for name, config in configs.items()}
    detectors = [build_detector(config, num_classes).to(device_of(config)) for config in configs.values()]
    combine = build_combine(next(iter(configs.values())))
    times = latencies(detectors, image_size, _LATENCY_ROUNDS, combine)
    return {name: replace(cost, latency_ms=ms) for (name, cost), ms in zip(costs.items(), times, strict=True)}
