"""``ablate``: from a plan to a verdict. The plan and its mistakes come before torch, torch before the first run."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detfuse.ablation.design import Ablation, PlanError
from detfuse.ablation.looks import wanted_jobs
from detfuse.ablation.plan.outline import plan_text, runs_table
from detfuse.ablation.plan.prepared import Prepared, prepare, store, stored_plan
from detfuse.ablation.records import Run
from detfuse.ablation.run.jobs import (
    begin_of,
    folder_of,
    jobs_of,
    processes_of,
    refuse_mixed_environments,
    refuse_other_environment,
    slots_of,
    threads_of,
)
from detfuse.ablation.run.launcher import LocalLauncher
from detfuse.ablation.run.monitor import Monitor
from detfuse.ablation.run.runner import Job, Runner, state_of
from detfuse.ablation.storage import PLAN, read_looks
from detfuse.cli.settings import AblateSettings
from detfuse.config.schema.overrides import key_of
from detfuse.errors import UserError
from detfuse.files.run_files import LOCK
from detfuse.runs import run_folder
from detfuse.runs.invocation import Invocation
from detfuse.runs.outputs import require_folder, require_inside

if TYPE_CHECKING:
    from detfuse.ablation.plan.arms import Read
    from detfuse.ablation.plan.probe import Facts

_EXIT = {signal.SIGTERM: 143, signal.SIGINT: 130}  # 128 + the signal, as shells have it


def run(invocation: Invocation) -> None:
    """Plan, try every arm, run what is not finished, conclude.

    Raises:
        UserError: whatever the user can put right; runs that are missing at the end.
    """
    settings = AblateSettings.of(invocation.config)
    page = _page(invocation, settings)
    if invocation.multirun:
        raise UserError("-m: an ablation is a sweep of its own; give the values as levels of a factor")
    name = invocation.choices["ablation"] if settings.name == "auto" else settings.name
    folder = require_folder(Path(settings.runs_dir).expanduser() / settings.project / name)
    require_inside(folder, filter(Path.is_symlink, folder.rglob("*")))
    if settings.report_only:
        _conclude_again(folder, settings, invocation)
        return
    prepared = prepare(page, name, _common(invocation), _flags(invocation))
    prepared, why = _with_threads(prepared, folder, settings)
    prepared, facts = _tried(prepared, folder, settings)
    prepared = replace(prepared, plan=replace(prepared.plan, typed=_typed(invocation)))
    resolution = _resolution(prepared, facts, folder, settings)
    print(
        plan_text(prepared.plan, facts, folder=str(folder), jobs=settings.jobs, resolution=resolution, why_threads=why)
    )
    if settings.plan_only:
        return
    slots, jobs = slots_of(settings.jobs, prepared), jobs_of(prepared, folder)
    with _claimed(folder, settings):
        refuse_other_environment(jobs, slots, prepared.plan)
        said = store(folder, prepared)
        print(f"\n{said}" if said else "", flush=True)
        for num_seeds in [*prepared.plan.looks, len(prepared.plan.seeds)]:
            wanted = wanted_jobs(jobs, prepared.plan, read_looks(folder), num_seeds)
            if num_seeds < len(prepared.plan.seeds):
                _look(wanted, slots, facts, folder, prepared, num_seeds)
        runs = _run_all(wanted, slots, facts, folder)
        conclude(folder, prepared, runs)
    _require_all(runs, "start the same command to try them again")


def conclude(folder: Path, prepared: Prepared, runs: Sequence[Run]) -> None:
    """Print and report what the runs say.

    Args:
        folder: of the ablation.
        prepared: what was planned.
        runs: every run that is wanted, finished or not.
    """
    from detfuse.ablation.report.conclusion import write_conclusion

    plan = prepared.plan
    print(f"\n{plan.name}: {len(runs)} runs, each scored by its last checkpoint\n")
    print(runs_table(runs), flush=True)
    print(f"\n{write_conclusion(folder, prepared, runs)}\nfolder: {folder}", flush=True)


def _conclude_again(folder: Path, settings: AblateSettings, invocation: Invocation) -> None:
    """The folder may be somebody else's: what it holds is read, and runs nothing."""
    prepared = stored_plan(folder, settings.allow, _flags(invocation))
    from detfuse.runs.stored import with_own_data  # torch, which a plan that is refused needs not wait for

    placed = {
        name: replace(arm, config=with_own_data(arm.config, invocation.config))
        for name, arm in prepared.resolved.items()
    }
    plan = prepared.plan
    plan = plan if plan.typed else replace(plan, typed=_with_common(_typed(invocation), plan.common))
    prepared = replace(prepared, plan=plan, resolved=placed)
    jobs = [
        Job(arm.name, seed, folder_of(folder, arm.name, seed), (), plan.shares.get(arm.name, ""))
        for seed in plan.seeds
        for arm in plan.arms
    ]
    runs = [state_of(job) for job in wanted_jobs(jobs, plan, read_looks(folder), len(plan.seeds))]
    refuse_mixed_environments(runs, plan)
    conclude(folder, prepared, runs)
    _require_all(runs, "start the command without report_only to make them")


def _require_all(runs: Sequence[Run], remedy: str) -> None:
    missing = [run for run in runs if run.state != "finished"]
    if missing:
        raise UserError(f"{len(missing)} of {len(runs)} runs are missing; {remedy}")


# ---- the plan


def _page(invocation: Invocation, settings: AblateSettings) -> Ablation:
    node = invocation.config["ablation"]
    option = invocation.choices["ablation"]
    known = [field.name for field in fields(Ablation)]
    target = f"{Ablation.__module__}.{Ablation.__qualname__}"
    if node["_target_"] != target:
        raise UserError(
            f"ablation={option}: its YAML is no plan; begin it with `_target_: {target}`, then {', '.join(known)}"
        )
    page = Ablation(**{key: value for key, value in node.items() if key != "_target_"})
    typed = {name: getattr(settings, name) for name in ("seeds", "budget", "equalise", "allow", "looks", "all_pairs")}
    return replace(page, **{name: value for name, value in typed.items() if value is not None})


def _common(invocation: Invocation) -> list[str]:
    """What was typed besides the ablation's own settings: overrides of ``train`` for all arms."""
    own = {field.name for field in fields(AblateSettings)} | {"ablation"}
    return [text for text in invocation.typed if key_of(text).split(".")[0] not in own]


def _typed(invocation: Invocation) -> tuple[str, ...]:
    """What was typed, but for what is about this one call."""
    once = ("overwrite", "report_only", "plan_only", "resolve", "hydra")
    return tuple(text for text in invocation.typed if key_of(text).split(".")[0] not in once)


def _with_common(typed: Sequence[str], common: Sequence[str]) -> tuple[str, ...]:
    """What must have been typed for a plan that does not say it: what is typed now, and all that its arms share."""
    keys = {key_of(text) for text in typed}
    return (*typed, *(text for text in common if key_of(text) not in keys))


def _flags(invocation: Invocation) -> list[str]:
    directories = invocation.directories[1:]
    return ["--config-dir", str(directories[0])] if directories else []


def _with_threads(prepared: Prepared, folder: Path, settings: AblateSettings) -> tuple[Prepared, str]:
    """The plan with the number of threads of every run, and why so many; this process tries the arms with as many."""
    processes = settings.jobs * processes_of(prepared)
    threads, why = threads_of(processes, None if settings.overwrite else folder)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # torch reads it when it is imported
    return replace(prepared, plan=replace(prepared.plan, threads=threads)), why


def _tried(prepared: Prepared, folder: Path, settings: AblateSettings) -> tuple[Prepared, dict[str, Facts]]:
    """Build every arm before the first run; complete what their choices bring along."""
    start = time.perf_counter()
    from detfuse.ablation.plan.probe import probe, strides_differ
    from detfuse.ablation.plan.schedule import schedules_differ

    startup = time.perf_counter() - start
    read: Read = {}
    prepared = _matched(prepared, read, None if settings.overwrite else folder)
    states = [] if settings.overwrite else [state_of(job).state for job in jobs_of(prepared, folder)]
    done = bool(states) and set(states) == {"finished"}
    plan = prepared.plan
    configs = {name: resolved.config for name, resolved in prepared.resolved.items()}
    facts = probe(configs, startup=None if done else startup, threads=plan.threads or 1, read=read, shares=plan.shares)
    baseline, base = plan.baseline.name, facts[plan.baseline.name]
    concerns = {name: of_arm.concerns for name, of_arm in facts.items()}
    problems, notes, remarks = schedules_differ(baseline, concerns, allowed="schedule" in plan.allow)
    if "levels" not in plan.allow:
        problems = strides_differ(baseline, facts) + problems
    if problems:
        raise PlanError(problems)
    plan = replace(
        plan,
        arms=tuple(replace(arm, notes=(*arm.notes, *notes.get(arm.name, ()))) for arm in plan.arms),
        covariates={name: {**pairs, **base.brought_by(facts[name])} for name, pairs in plan.covariates.items()},
        remarks=tuple(remarks),
        start={name: arm.start for name, arm in facts.items()},
    )
    return replace(prepared, plan=plan), facts


def _matched(prepared: Prepared, read: Read, stored: Path | None) -> Prepared:
    """The plan with what it holds equal to the baseline; a stored plan's factors stay as they were measured."""
    if prepared.plan.budget == "free" and not prepared.plan.equalise:
        return prepared
    from detfuse.ablation.plan.held_equal import (
        arms_equalised,
        arms_with_budget,
        arms_with_scale,
        shared_data,
        stored_scales,
    )

    prepared = arms_equalised(prepared)
    prepared = arms_with_budget(prepared, shared_data(prepared, read))
    return arms_with_scale(prepared, read, stored_scales(stored, prepared) if stored else {})


def _resolution(prepared: Prepared, facts: Mapping[str, Facts], folder: Path, settings: AblateSettings) -> str:
    """The smallest difference that this number of seeds and images can resolve, for people."""
    from detfuse.ablation.plan.measured import measured_noise
    from detfuse.statistics.resolution import assumed, proposal, resolution_text

    plan = prepared.plan
    num_images, num_arms = facts[plan.baseline.name].num_images, len(plan.arms) - 1
    found = measured_noise(folder, prepared)
    noise, by = (None, "") if found is None else found
    text = resolution_text(len(plan.seeds), num_images, num_arms=num_arms, found=noise, by=by)
    if settings.resolve is None:
        return text
    times = [facts[arm.name].seconds for arm in plan.arms if arm.name not in plan.shares]
    known = [seconds for seconds in times if seconds is not None]
    seconds = sum(known) / settings.jobs if len(known) == len(times) else None
    return f"{text}\n{proposal(settings.resolve / 100, noise or assumed(num_images), num_arms, seconds)}"


# ---- the runs


def _run_all(
    jobs: Sequence[Job], slots: Sequence[Mapping[str, str]], facts: Mapping[str, Facts], folder: Path
) -> list[Run]:
    epochs = {name: arm.num_epochs for name, arm in facts.items()}
    predicted = {name: arm.seconds or 0.0 for name, arm in facts.items()}
    with _stopped_by_signals(folder), Monitor(epochs, predicted, slots=len(slots)) as monitor:
        return Runner(LocalLauncher(), slots, begin_of(jobs), monitor).run(jobs)


def _look(
    jobs: Sequence[Job],
    slots: Sequence[Mapping[str, str]],
    facts: Mapping[str, Facts],
    folder: Path,
    prepared: Prepared,
    num_seeds: int,
) -> None:
    """Run what the next planned look needs, and take it, unless it was taken."""
    if any(look.num_seeds >= num_seeds for look in read_looks(folder)):
        return
    from detfuse.ablation.report.conclusion import write_look

    runs = _run_all(jobs, slots, facts, folder)
    print(f"\n{runs_table(runs)}\n\n{write_look(folder, prepared, runs)}\n", flush=True)


@contextmanager
def _stopped_by_signals(folder: Path) -> Iterator[None]:
    """SIGTERM and SIGINT end the runs too, and say how to go on."""

    def stop(number: int, _: Any) -> None:
        raise SystemExit(_EXIT[signal.Signals(number)])

    before = {number: signal.signal(number, stop) for number in _EXIT}
    try:
        yield
    except SystemExit:
        print(f"\nstopped: what is finished in {folder} is kept; start the same command to go on", file=sys.stderr)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _claimed(folder: Path, settings: AblateSettings) -> Iterator[None]:
    """Hold the ablation's folder; delete what was in it if that was asked for."""
    foreign = folder.exists() and any(entry.name != LOCK for entry in folder.iterdir())
    if foreign and not (folder / PLAN).is_file():
        raise UserError(f"{folder} is not empty and has no {PLAN}, so it is no ablation's: give another name=")
    folder.mkdir(parents=True, exist_ok=True)
    with run_folder.locked(folder):
        if settings.overwrite:
            run_folder.empty(folder, keep=(LOCK,))
        yield
