"""The runs of an ablation as ``train`` makes them: their command lines, folders, share of the machine."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from detfuse.ablation.design import override
from detfuse.ablation.plan.control import environment_differences
from detfuse.ablation.plan.prepared import Prepared
from detfuse.ablation.records import Arm, Plan, Run
from detfuse.ablation.run.runner import Job
from detfuse.ablation.storage import read_plan
from detfuse.config.kinds import AFTER_TRAINING, OF_THIS_MACHINE
from detfuse.errors import UserError
from detfuse.files.records import StorageError
from detfuse.files.run_files import CANDIDATES, CONFIG, ENVIRONMENT, LAST, LOG, METRICS, STATE
from detfuse.files.text import write_json
from detfuse.runs.environment import environment, read_environment, threads_of_runs
from detfuse.runs.run_folder import can_continue, empty
from detfuse.runs.threads import described, this_machine, threads_that_fit

_RUNS = "runs"
_NO_PAIRS = "and arms that differ in it cannot be compared"


def folder_of(folder: Path, arm: str, seed: int) -> Path:
    """The run folder of an arm under a seed, in an ablation's folder."""
    return folder / _RUNS / arm / f"seed-{seed}"


def jobs_of(prepared: Prepared, folder: Path) -> list[Job]:
    """All runs, seed by seed, so that an ablation cut short has whole pairs."""
    plan = prepared.plan
    return [
        Job(
            arm.name,
            seed,
            folder_of(folder, arm.name, seed),
            _scored(prepared, folder, arm, seed) if arm.name in plan.shares else _trained(prepared, folder, arm, seed),
            plan.shares.get(arm.name, ""),
        )
        for seed in plan.seeds
        for arm in plan.arms
    ]


def _trained(prepared: Prepared, folder: Path, arm: Arm, seed: int) -> tuple[str, ...]:
    """The command of a run that is trained."""
    return (
        *(sys.executable, "-P", "-m", "detfuse.cli.arm"),
        *prepared.argv(arm, seed),
        override("runs_dir", str(folder / _RUNS)),
        override("project", arm.name),  # which may read as a number
        *(f"name=seed-{seed}", "resume=true", "evaluate=last"),
    )


def _scored(prepared: Prepared, folder: Path, arm: Arm, seed: int) -> tuple[str, ...]:
    """The command of a run that scores another's candidates: its checkpoint, and what is applied after training."""
    trained, resolved = folder_of(folder, prepared.plan.shares[arm.name], seed), prepared.resolved[arm.name]
    settings = {key: resolved.config["trainer"][key] for key in OF_THIS_MACHINE}
    typed = [override(f"trainer.{key}", value) for key, value in settings.items()]
    for part in AFTER_TRAINING:
        typed.append(override(part, resolved.choices[part]))
        options = resolved.config[part].items()
        typed += [override(f"{part}.{key}", value) for key, value in options if not key.startswith("_")]
    return (
        *(sys.executable, "-P", "-m", "detfuse.cli.scored_arm", *prepared.flags, *typed),
        override("checkpoint", str(trained / LAST)),
        override("candidates", str(trained / CANDIDATES)),
        override("output", str(folder_of(folder, arm.name, seed))),
    )


def begin_of(jobs: Sequence[Job]) -> Callable[[Path], None]:
    """What makes the folder of each job ready for it."""
    scored = {job.folder for job in jobs if job.shares}
    return lambda folder: _begin_scored(folder) if folder in scored else begin(folder)


def begin(folder: Path) -> None:
    """Make a run folder ready: ``train resume=true`` goes on from its last checkpoint, or begins in an emptied one."""
    if can_continue(folder):
        return
    _emptied(folder)
    (folder / CONFIG).touch()


def _begin_scored(folder: Path) -> None:
    _emptied(folder)
    write_json(folder / ENVIRONMENT, environment())  # this process's, which the run has too


def _emptied(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    empty(folder, keep=(LOG, STATE))


def slots_of(jobs: int, prepared: Prepared) -> list[dict[str, str]]:
    """The environment of each place for a run: its share of the threads, and a GPU of its own where there are any."""
    import torch

    from detfuse.training.device import compute_device

    trainer = prepared.resolved[prepared.plan.baseline.name].config["trainer"]
    several = trainer["devices"] not in (1, "1")
    if several and jobs > 1:
        raise UserError(
            f"jobs={jobs} with trainer.devices={trainer['devices']}: a run that takes several devices runs alone"
        )
    threads = {"OMP_NUM_THREADS": str(prepared.plan.threads)}
    gpus: list[str] = []
    if not several and compute_device(trainer["accelerator"]).type == "cuda":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
    return [{**threads, **({"CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]} if gpus else {})} for place in range(jobs)]


def processes_of(prepared: Prepared) -> int:
    """Processes of a run: one per device."""
    devices = prepared.resolved[prepared.plan.baseline.name].config["trainer"]["devices"]
    if isinstance(devices, list):
        return max(1, len(devices))
    return max(1, int(devices)) if str(devices).isdecimal() else 1


def threads_of(processes: int, folder: Path | None) -> tuple[int, str]:
    """Threads of each process, and why so many, for people.

    Those that the environment says, else those of the runs that there are, since results depend on the number by
    rounding, else those that fit into this machine at this moment.

    Args:
        processes: at a time, of all runs.
        folder: of the ablation, where it may have been begun; None if it begins anew.
    """
    if given := os.environ.get("OMP_NUM_THREADS"):
        return int(given.split(",")[0]), "OMP_NUM_THREADS"
    if folder is not None and (stored := _stored_threads(folder)):
        return stored, "as it was begun"
    machine = this_machine()
    return threads_that_fit(machine, processes), described(machine)


def _stored_threads(folder: Path) -> int | None:
    """Of the plan, or of the runs of one that is older than this entry."""
    with contextlib.suppress(StorageError):
        threads = read_plan(folder).threads
        if threads is not None:
            return threads
    return threads_of_runs(file.parent for file in sorted((folder / _RUNS).glob(f"*/*/{ENVIRONMENT}")))


def refuse_other_environment(jobs: Sequence[Job], slots: Sequence[Mapping[str, str]], plan: Plan) -> None:
    """Runs that were made with other versions are no pair of those that come now.

    Raises:
        UserError: naming a run and what differs, unless the plan allows it.
    """
    if "environment" in plan.allow:
        return
    now = {**environment(), "threads": slots[0]["OMP_NUM_THREADS"]}
    for job in jobs:
        made = read_environment(job.folder)
        is_begun = (job.folder / METRICS).is_file() if job.shares else can_continue(job.folder)
        if made is None or not is_begun:
            continue
        found = environment_differences(made, now)
        if "CUDA_VISIBLE_DEVICES" in slots[0]:
            found.pop("device", None)  # a run sees only its own GPU
        if found:
            raise UserError(
                f"{job.folder} was made in another environment ({_listed(found)}), {_NO_PAIRS}: go back to it, begin "
                "again by overwrite=true, or say allow=[environment]"
            )


def refuse_mixed_environments(runs: Sequence[Run], plan: Plan) -> None:
    """Finished runs that were made with different versions are no pairs, wherever they are looked at.

    Raises:
        UserError: naming two runs and what differs, unless the plan allows it.
    """
    if "environment" in plan.allow:
        return
    finished = [run.folder for run in runs if run.state == "finished"]
    told = [(folder, made) for folder in finished if (made := read_environment(folder)) is not None]
    for folder, theirs in told[1:]:
        first, ours = told[0]
        found = environment_differences(theirs, ours)
        if "CUDA" in theirs.get("device", "") and "CUDA" in ours.get("device", ""):
            found.pop("device", None)  # which GPU a run got, its place decided
        if found:
            raise UserError(
                f"{folder} was made in another environment ({_listed(found)}) than {first}, {_NO_PAIRS}: "
                "make one of them again, or say allow=[environment]"
            )


def _listed(found: Mapping[str, tuple[str, str]]) -> str:
    return "; ".join(f"{key}: {before} -> {after}" for key, (before, after) in found.items())
