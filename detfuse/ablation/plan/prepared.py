"""From a page and a command line to a plan: every arm resolved and checked, all mistakes told together. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from detfuse.ablation.design import Ablation, Allowed, PlanError, arms_of, override
from detfuse.ablation.plan.control import changes, confounds, covariates, notes, overwritten
from detfuse.ablation.plan.sharing import shared_trainings
from detfuse.ablation.plan.things import things
from detfuse.ablation.records import Arm, Plan
from detfuse.ablation.storage import PLAN, read_plan, write_plan
from detfuse.config import TrainSettings, as_stored, check, conf_dir
from detfuse.config.resolve import Resolved, resolve
from detfuse.config.retired import up_to_date
from detfuse.config.schema.overrides import key_of
from detfuse.errors import InputError
from detfuse.files.plain import read_mapping
from detfuse.files.records import loaded, to_plain
from detfuse.files.text import write_text

CONFIGS = "configs"  # folder of the arms' resolved configurations
_REMEDY = "give the new plan a folder of its own by name=..., or begin again by overwrite=true"


@dataclass(frozen=True)
class Prepared:
    """A plan with what its arms resolve to.

    Attributes:
        plan: what will be stored.
        resolved: arm -> its configuration of ``train``; the seed in it is that of the first runs.
        flags: flags that ``train`` needs too, such as ``--config-dir``.
    """

    plan: Plan
    resolved: Mapping[str, Resolved]
    flags: tuple[str, ...]

    @property
    def directories(self) -> list[Path]:
        """The shipped configuration and the user's."""
        return [conf_dir(), *(Path(folder) for flag, folder in pairwise(self.flags) if flag == "--config-dir")]

    def argv(self, arm: Arm, seed: int) -> list[str]:
        """Arguments of ``train`` for one run, without where it is written."""
        return [*self.flags, *self.plan.common, *arm.overrides, f"seed={seed}"]


def prepare(page: Ablation, name: str, typed: Sequence[str], flags: Sequence[str] = ()) -> Prepared:
    """Make the plan of a page.

    Args:
        page: what is compared, with what was typed about it.
        name: of the ablation.
        typed: overrides common to all arms, as typed; they win over the page's ``common``.
        flags: for every command line, such as ``--config-dir``.

    Raises:
        PlanError: with every mistake of every arm, and every difference that would confound a pair.
    """
    _raise_if([*_wrong_numbers(page), *_set_by_the_runner(page, typed)])
    arms = arms_of(page)
    common = _common(page, typed)
    _refuse_typed_factors(arms, typed)
    plan = Plan(
        name=name,
        arms=arms,
        seeds=tuple(page.seeds),
        common=tuple(common),
        budget=page.budget,
        equalise=tuple(page.equalise),
        allow=tuple(page.allow),
        equivalence=page.equivalence,
        together=page.together,
        looks=tuple(page.looks),
        all_pairs=page.all_pairs,
    )
    return resolved_plan(plan, flags)


def resolved_plan(plan: Plan, flags: Sequence[str] = (), before: Prepared | None = None) -> Prepared:
    """Check and resolve every arm of a plan, refuse confounded pairs, list what the choices bring along.

    Args:
        plan: what is compared.
        flags: for every command line.
        before: the plan as it was; arms that are as they were are not composed again, which takes half a second each.

    Raises:
        PlanError: see :func:`prepare`.
    """
    prepared = Prepared(plan, {}, tuple(flags))
    argv = {arm.name: prepared.argv(arm, plan.seeds[0]) for arm in plan.arms}
    known = {} if before is None else _resolved_before(before, argv)
    _raise_if(_shared({name: check(arguments, TrainSettings) for name, arguments in argv.items() if name not in known}))
    resolved = {name: known.get(name) or resolve(arguments, TrainSettings) for name, arguments in argv.items()}
    pairs = {arm.name: (arm, resolved[arm.name]) for arm in plan.arms}
    baseline = pairs[plan.baseline.name]
    against = {arm.name: pairs[arm.name] for arm in plan.arms[1:]}
    every, together = against.values(), plan.together
    _raise_if(_shared({name: confounds(baseline, pair, every, together=together) for name, pair in against.items()}))
    shares = shared_trainings(resolved)
    noted = {
        name: tuple(dict.fromkeys([*pair[0].notes, *notes(baseline, pair), *_sharing(shares.get(name))]))
        for name, pair in against.items()
    }
    plan = replace(
        plan,
        arms=(plan.baseline, *(replace(arm, notes=noted[arm.name]) for arm in plan.arms[1:])),
        covariates={name: covariates(baseline, pair) for name, pair in against.items()},
        shares=shares,
        things={name: tuple(things(baseline, pair)) for name, pair in against.items()},
    )
    return Prepared(plan, resolved, tuple(flags))


def _sharing(trained: str | None) -> list[str]:
    """What to know of an arm that is not trained."""
    return [f"shares the training of {trained}: what that predicted is combined anew"] if trained else []


def stored_plan(folder: Path, allow: Sequence[Allowed] | None, flags: Sequence[str] = ()) -> Prepared:
    """An ablation's own plan, which may be somebody else's: its arms pass the gate of all that comes from a file.

    Args:
        folder: of the ablation.
        allow: differences that are allowed now; None: those of the plan.
        flags: for every command line.

    Raises:
        InputError: if it is no plan, or what an arm would be made of does not belong there; see :func:`prepare`.
    """
    plan = read_plan(folder)
    plan = plan if allow is None else replace(plan, allow=tuple(allow))
    try:
        prepared = resolved_plan(plan, flags)
    except PlanError as error:
        raise InputError(f"{folder / PLAN}: {error}") from error
    for name, resolved in prepared.resolved.items():
        as_stored(resolved.config, folder / f"{PLAN}, arm {name}", prepared.directories)
    return replace(prepared, plan=plan)  # the stored one knows what probing found


def _resolved_before(before: Prepared, argv: Mapping[str, list[str]]) -> dict[str, Resolved]:
    """Arm -> what it resolved to, if its arguments are the same."""
    seed = before.plan.seeds[0]
    same = (arm.name for arm in before.plan.arms if argv.get(arm.name) == before.argv(arm, seed))
    return {name: before.resolved[name] for name in same}


@dataclass(frozen=True)
class Change:
    """What is done to an arm so that something is held equal to the baseline.

    Attributes:
        overrides: added to the arm's.
        note: for the report; empty if there is nothing to say.
    """

    overrides: tuple[str, ...]
    note: str = ""


def changed(prepared: Prepared, changes_of: Mapping[str, Change]) -> Prepared:
    """The plan with some arms changed (arm -> change), checked and resolved again.

    Raises:
        PlanError: see :func:`prepare`.
    """
    plan = prepared.plan
    arms = []
    for arm in plan.arms:
        change = changes_of.get(arm.name, Change(()))
        notes = (*arm.notes, change.note) if change.note else arm.notes
        arms.append(replace(arm, overrides=(*arm.overrides, *change.overrides), notes=notes))
    return resolved_plan(replace(plan, arms=tuple(arms)), prepared.flags, before=prepared)


def store(folder: Path, prepared: Prepared) -> str:
    """Write ``plan.yaml`` and the arms' resolved configurations, once; a folder that has them must agree.

    Returns:
        What was changed about a stored plan, for people: seeds may be added or left out; empty if nothing was.

    Raises:
        PlanError: naming what differs from the stored plan.
    """
    said = ""
    if (folder / PLAN).is_file():
        said = _agree(folder, prepared)
    write_plan(folder, prepared.plan)
    for name, resolved in prepared.resolved.items():
        text = yaml.safe_dump(_without_seed(resolved.config), sort_keys=False, allow_unicode=True)
        write_text(folder / CONFIGS / f"{name}.yaml", text)
    return said


def _agree(folder: Path, prepared: Prepared) -> str:
    old, new = to_plain(read_plan(folder)), to_plain(prepared.plan)
    before, now = {arm["name"]: arm for arm in old["arms"]}, {arm["name"]: arm for arm in new["arms"]}
    problems = [f"the arm {name} is not in it" for name in now if name not in before]
    problems += [f"its arm {name} is gone" for name in before if name not in now]
    keys = ("budget", "equalise", "equivalence", "looks")  # what is allowed or declared one changes no run
    problems += changes({key: old[key] for key in keys}, {key: new[key] for key in keys})
    if not problems and old["arms"][0]["name"] != new["arms"][0]["name"]:
        problems.append(f"its baseline is {old['arms'][0]['name']}, not {new['arms'][0]['name']}")
    for name in now:
        if name in before:
            problems += [f"arm {name}: {change}" for change in config_changes(folder, prepared, name)]
    if problems:
        raise PlanError([f"{folder} holds another plan: {problem}" for problem in problems] + [_REMEDY])
    added = [str(seed) for seed in new["seeds"] if seed not in old["seeds"]]
    gone = [str(seed) for seed in old["seeds"] if seed not in new["seeds"]]
    parts = [f"seeds added: {', '.join(added)}"] * bool(added) + [f"seeds left out: {', '.join(gone)}"] * bool(gone)
    return "; ".join(parts)


def config_changes(folder: Path, prepared: Prepared, arm: str) -> list[str]:
    """``path: stored -> now`` for every setting in which an arm of a stored plan was configured otherwise."""
    file, resolved = folder / CONFIGS / f"{arm}.yaml", prepared.resolved[arm]
    if not file.is_file():  # the command was killed between the plan and this file: no run had begun
        return []
    stored = up_to_date(loaded(file, read_mapping))
    return changes(stored, yaml.safe_load(yaml.safe_dump(_without_seed(resolved.config))))


def _without_seed(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "seed"}


def _wrong_numbers(page: Ablation) -> list[str]:
    problems = []
    if not page.seeds:
        problems.append("seeds=[]: give at least one seed")
    twice = sorted({seed for seed in page.seeds if page.seeds.count(seed) > 1})
    if twice:
        listed = ", ".join(map(str, twice))
        problems.append(f"seeds={page.seeds}: {listed} is given twice; a run counts once")
    if page.looks and (page.looks[0] < 2 or sorted(set(page.looks)) != page.looks):
        problems.append(f"looks={page.looks}: give rising numbers of seeds from 2 on, such as [2, 3, 5]")
    elif page.looks and page.looks[-1] > len(page.seeds):
        problems.append(
            f"looks={page.looks}: the last is after {page.looks[-1]} seeds, and seeds={page.seeds} are fewer"
        )
    return problems


def _set_by_the_runner(page: Ablation, typed: Sequence[str]) -> list[str]:
    problems = overwritten(page.factors or {}, "factors")
    for name, settings in (page.arms or {}).items():
        problems += overwritten(settings or {}, f"arm {name}")
    return [*problems, *overwritten(page.common or {}, "common"), *overwritten(map(key_of, typed), "command line")]


def _common(page: Ablation, typed: Sequence[str]) -> list[str]:
    keys = {key_of(text) for text in typed}
    try:
        own = [override(key, value) for key, value in (page.common or {}).items() if key_of(key) not in keys]
    except InputError as error:
        raise PlanError([f"common: {error}"]) from error
    return [*own, *typed]


def _refuse_typed_factors(arms: Iterable[Arm], typed: Sequence[str]) -> None:
    taken = {key_of(key): arm.name for arm in arms for key in arm.factors}
    _raise_if(
        f"{text}: {key_of(text)} is what the arms differ in (arm {taken[key_of(text)]}); leave it out, or change "
        "the plan's factors"
        for text in typed
        if key_of(text) in taken
    )


def _shared(problems: Mapping[str, list[str]]) -> list[str]:
    """Problems by arm; those that all arms have are named once."""
    everywhere = [p for p in next(iter(problems.values()), []) if all(p in found for found in problems.values())]
    if len(problems) < 2:
        everywhere = []
    own = [f"arm {name}: {p}" for name, found in problems.items() for p in found if p not in everywhere]
    return [f"all arms: {problem}" for problem in everywhere] + own


def _raise_if(problems: Iterable[str]) -> None:
    if listed := list(problems):
        raise PlanError(listed)
