"""The no-confound check: what may differ between two arms, and what else does. No torch.

A pair that differs in more than one thing is no comparison of any of them, unless the plan has each part of the step as
an arm of its own (a factorial) or declares them one (``together``). What a choice itself brings along (a neck's own
norm, operator, resampling) is a covariate: it is listed beside the verdict.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from detfuse.ablation.plan.things import (
    NO_SCIENCE,
    Configured,
    Pairs,
    of_science,
    other_options,
    stand_alone,
    things,
)
from detfuse.ablation.records import Arm
from detfuse.config.kinds import keys_of
from detfuse.config.leaves import ABSENT, differences, shown
from detfuse.config.schema.overrides import is_below, place_of
from detfuse.words import listed

# What the runner itself says about every run, so that whatever an arm says would be overwritten.
_RUNNERS = {
    **dict.fromkeys(
        keys_of("place"),
        "every run has its own folder in the ablation's, which project=, name= and runs_dir= of the command name",
    ),
    "seed": "give the seeds of all arms by seeds=[0,1,2]",
    "resume": "every run goes on where it was stopped, by itself",
    "overwrite": "overwrite=true of the command begins the whole ablation again",
    "evaluate": "every run is scored by its last checkpoint: the best one is chosen on the images that score it",
    "hydra": "it says nothing about a run",
}
# What arms of one plan may differ in within one experiment; the rest of `data` decides what they are scored on.
_DATA_OF_TRAINING = ("data.transform", "data.loader")
_JUDGE = ("data", "evaluation")
# What a choice brings along by its own defaults list.
_BROUGHT = {"neck": ("operator", "resample")}


def confounds(baseline: Configured, arm: Configured, others: Iterable[Configured], *, together: bool) -> list[str]:
    """Every difference between two arms that makes them no comparison, with the reason.

    Args:
        baseline: what the arm is compared with.
        arm: the other one.
        others: the plan's other arms, which may be the parts of a factorial.
        together: several things at once were declared to be one.
    """
    changed = {thing: values for thing, values in things(baseline, arm).items() if not _is_judging(thing)}
    declared = [place_of(key) for key in _declared(baseline[0], arm[0])]
    places = [*declared, *_matched(baseline[0], arm[0])]
    areas = [area for place in places for area in (place, *_BROUGHT.get(place, ()))]
    problems = []
    for path, (ours, theirs) in of_science(differences(baseline[1].config, arm[1].config)).items():
        values = f"{path} is {shown(ours)} in {baseline[0].name} and {shown(theirs)} in {arm[0].name}"
        if _is_judging(path):
            problems.append(f"{values}: they would be scored on different images, or by different judges")
        elif not is_below(path, areas):
            problems.append(f"{values}, but what is compared is {', '.join(declared) or 'nothing'}")
    if len(changed) > 1 and not together and not stand_alone(changed, baseline, arm, others):
        what = listed([f"{thing} ({ours} and {theirs})" for thing, (ours, theirs) in changed.items()])
        problems.append(
            f"{arm[0].name} and {baseline[0].name} differ in {what}: which of them made the difference could not be "
            "told; set all but one alike in `common`, have an arm for each of them alone too (factors with design: "
            "factorial), or declare them one choice by together: true"
        )
    return problems


def covariates(baseline: Configured, arm: Configured) -> Pairs:
    """What the choice brings along: settings that both arms have, that differ, and that nobody set."""
    declared = _declared(baseline[0], arm[0])
    chosen = [place_of(key) for key in declared]
    by_hand = [place_of(key) for key in declared if "." in key] + _matched(baseline[0], arm[0])
    options = other_options(baseline[1], arm[1])
    brought = {place: values for place, values in options.items() if place not in chosen}
    listed_already = list(brought)  # their settings are those of another option
    for path, (left, right) in of_science(differences(baseline[1].config, arm[1].config)).items():
        is_choice = path.endswith(("_target_", "_partial_")) or is_below(path, by_hand)
        if left is not ABSENT and right is not ABSENT and not is_below(path, listed_already) and not is_choice:
            brought[path] = (shown(left), shown(right))
    return brought


def notes(baseline: Configured, arm: Configured) -> list[str]:
    """What a reader has to know about a pair besides what it brings along."""
    changed = list(things(baseline, arm))
    found = differences(baseline[1].config, arm[1].config)
    idle = [path for path in found if is_below(path, NO_SCIENCE)]
    no_result = f"nothing of a result depends on {listed(idle)}"
    said = []
    if not of_science(found):
        said.append(f"{no_result if idle else f'configured exactly as {baseline[0].name}'}: any difference is noise")
    elif idle:
        said.append(no_result)
    if len(changed) > 1:
        said.append(f"differs from {baseline[0].name} in {listed(changed)}: the difference belongs to them together")
    return said


def overwritten(keys: Iterable[str], where: str) -> list[str]:
    """Settings that the runner says itself, which an ablation therefore cannot be given.

    Args:
        keys: of overrides.
        where: how errors call the place where they stand.
    """
    found = {key: place_of(key).split(".")[0] for key in dict.fromkeys(keys)}
    return [
        f"{where}: {key} is what the ablation sets itself: {_RUNNERS[root]}"
        for key, root in found.items()
        if root in _RUNNERS
    ]


def environment_differences(ours: Mapping[str, str], theirs: Mapping[str, str]) -> Pairs:
    """Versions, device and threads in which two runs differ, by their environment.json; the number of cores may."""
    return {
        key: (ours.get(key, "unknown"), theirs.get(key, "unknown"))
        for key in dict.fromkeys([*ours, *theirs])
        if key != "cpu_count" and ours.get(key) != theirs.get(key)
    }


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """``path: before -> now`` for every leaf of two plain configurations that differs and matters."""
    return [f"{path}: {shown(a)} -> {shown(b)}" for path, (a, b) in of_science(differences(before, now)).items()]


def _is_judging(path: str) -> bool:
    return is_below(path, _JUDGE) and not is_below(path, _DATA_OF_TRAINING)


def _declared(baseline: Arm, arm: Arm) -> list[str]:
    """Keys that either of two arms names, unless both give them the same value."""
    keys = dict.fromkeys([*baseline.factors, *arm.factors])
    return [k for k in keys if baseline.factors.get(k, ABSENT) != arm.factors.get(k, ABSENT)]


def _matched(*arms: Arm) -> list[str]:
    """Keys that were set to hold something equal (budget, equalisation): what else the arms override."""
    return [
        text.partition("=")[0] for arm in arms for text in arm.overrides if text.partition("=")[0] not in arm.factors
    ]
