"""What is held equal to the baseline before anything runs: equalisation, budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from detfuse.ablation.budget import cost_of, solve
from detfuse.ablation.design import PlanError
from detfuse.ablation.equalise import Setting, equalised
from detfuse.ablation.plan import Change, Prepared, changed
from detfuse.ablation.probe import Read, data_of
from detfuse.build import build_backbone, size_divisor
from detfuse.data import DetectionDataModule


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
        except ValueError as error:
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
        data: that all arms share, set up; costs are those of its largest image at inference.
    """
    plan = prepared.plan
    if plan.budget == "free":
        return prepared
    num_classes = len(data.categories)
    baseline = cost_of(prepared.resolved[plan.baseline.name].config, num_classes, data.largest_inference_size())
    solved = {
        arm.name: solve(prepared.resolved[arm.name].config, baseline, plan.budget, num_classes) for arm in plan.arms[1:]
    }
    return changed(prepared, {name: Change(found.overrides, found.note) for name, found in solved.items()})


def shared_data(prepared: Prepared, read: Read) -> DetectionDataModule:
    """The data that all arms share, set up."""
    config = prepared.resolved[prepared.plan.baseline.name].config
    return data_of(config, size_divisor(build_backbone(config).out_spec), read)
