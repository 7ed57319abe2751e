"""What is held equal to the baseline before anything runs: settings, budget, scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from detfuse.ablation.design import PlanError, override
from detfuse.ablation.plan.budget import cost_of, solve
from detfuse.ablation.plan.equalise import Setting, equalised
from detfuse.ablation.plan.prepared import Change, Prepared, changed, config_changes
from detfuse.ablation.plan.probe import Read, data_of, detector_and_data, device_of, first_batch, of_each
from detfuse.ablation.plan.start import Factors, magnitudes, shown, solve_factors
from detfuse.ablation.storage import PLAN, read_plan
from detfuse.build import build_backbone, size_divisor
from detfuse.data import DetectionDataModule
from detfuse.detector import Detector
from detfuse.errors import InputError
from detfuse.structures import Batch

_SCALES = "neck.scales"
_SCALE_NOTE = "scale: "  # begins what is said about factors


def arms_equalised(prepared: Prepared) -> Prepared:
    """The plan with the settings that arms bring along (norm, block, levels, fill) as the baseline has them.

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
            settings = ["fill" if name == "scale" else name for name in plan.equalise]
            note = f"{' and '.join(settings)} as {plan.baseline.name} has it" if overrides else ""
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


def arms_with_scale(prepared: Prepared, read: Read, stored: Mapping[str, Change]) -> Prepared:
    """The plan with every fused map of every arm at the baseline's scale, as far as the plan says so.

    Comes last: what was held equal before changes the weights.

    Args:
        prepared: the plan.
        read: data that was read already; it is added to.
        stored: arms whose factors are known, see :func:`stored_scales`.

    Raises:
        PlanError: naming every arm that cannot be built, or has no nodes.
    """
    plan = prepared.plan
    if "scale" not in plan.equalise:
        return prepared
    configs = {arm.name: prepared.resolved[arm.name].config for arm in plan.arms if arm.name not in stored}
    baseline, found = plan.baseline.name, dict(stored)

    def begun(config: Mapping[str, Any]) -> tuple[Detector, Batch]:
        detector, data = detector_and_data(config, read)
        return detector, first_batch(data.train_dataloader(), device_of(config))[0]

    if len(configs) > 1:
        base = of_each({baseline: configs.pop(baseline)}, lambda config: magnitudes(*begun(config)))[baseline]
        factors = of_each(configs, lambda config: solve_factors(*begun(config), base))
        found.update({name: _scaled(one, baseline) for name, one in factors.items()})
    return changed(prepared, found)


def stored_scales(folder: Path, prepared: Prepared) -> dict[str, Change]:
    """The factors of a stored plan, by arm: they were measured once, and another seed or machine changes them not.

    Left out are arms that, but for their factors, are configured otherwise now.
    """
    if not (folder / PLAN).is_file() or "scale" not in (old := read_plan(folder)).equalise:
        return {}
    before = {arm.name: arm for arm in old.arms}

    def is_known(name: str) -> bool:
        return name in before and all(text.startswith(_SCALES) for text in config_changes(folder, prepared, name))

    base, *others = (arm.name for arm in prepared.plan.arms)
    found = {}
    for name in filter(is_known, others if is_known(base) else ()):
        overrides = tuple(text for text in before[name].overrides if text.startswith(f"{_SCALES}="))
        notes = (note for note in before[name].notes if note.startswith(_SCALE_NOTE))
        found[name] = Change(overrides[-1:], next(notes, ""))
    return found


def _scaled(factors: Factors, baseline: str) -> Change:
    listed = ", ".join(f"{node} × {shown(factor)}" for node, factor in factors.by_node.items())
    done = f"what its nodes fuse is multiplied to be as large as {baseline}'s: {listed}"
    note = done if listed else f"nothing that it fuses is multiplied to be as large as {baseline}'s"
    if factors.left:
        note += f"; as they are: {', '.join(factors.left)}, which {baseline} has nothing to compare with"
    overrides = (override(_SCALES, dict(factors.by_node)),) if listed else ()
    return Change(overrides, _SCALE_NOTE + note)


def shared_data(prepared: Prepared, read: Read) -> DetectionDataModule:
    """The data that all arms share, set up."""
    config = prepared.resolved[prepared.plan.baseline.name].config
    return data_of(config, size_divisor(build_backbone(config).out_spec), read)
