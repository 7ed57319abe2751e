"""The run folder ``<runs_dir>/<project>/<name>``: how it is named, claimed and found again."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detfuse.config import TrainSettings
from detfuse.errors import UserError

CONFIG = "config.yaml"
LAST = Path("checkpoints") / "last.ckpt"
BEST = Path("checkpoints") / "best.ckpt"

# What does not change a result, or says only where things lie, is not part of a name.
_NO_SCIENCE = re.compile(
    r"(project|name|runs_dir|overwrite|resume|hydra|logger|callbacks\.(progress|pictures|fusion_weights))\b.*"
    r"|trainer\.(devices|accelerator|num_nodes|strategy|log_every_n_steps|detect_anomaly)"
    r"|data\.(root|train_annotations|train_images|val_annotations|val_images|follow_symlinks|check_images)"
    r"|data\.loader\.num_workers"
)
_MAX_LENGTH = 100
LOCK = ".lock"
_RUN_FOLDER_VARIABLE = "DETFUSE_RUN_FOLDER"


def run_folder_of(checkpoint: Path) -> Path:
    """The folder beside a checkpoint: that of its run, if it lies in one."""
    folder = checkpoint.parent
    return folder.parent if folder.name == LAST.parent.name else folder


def auto_name(overrides: list[str]) -> str:
    """A name from the overrides that make a difference: ``neck-pafpn_seed-0``; the order typed does not matter.

    Long names, and those whose special characters had to be replaced, end in a hash so that they stay unique.
    """
    parts: dict[str, str] = {}
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if not _NO_SCIENCE.fullmatch(key):
            parts[key.partition("@")[2] or key] = value
    # The parts and the seed first: they are what a shortened name must still show.
    ordered = sorted(parts.items(), key=lambda part: ("." in part[0], part[0] == "seed", part[0]))
    exact = "_".join(f"{key}-{value}" for key, value in ordered)
    if not exact:
        return "defaults"
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", exact).strip("-.")
    if name == exact and len(name) <= _MAX_LENGTH:
        return name
    digest = hashlib.sha256(exact.encode()).hexdigest()[:8]
    return f"{name[: _MAX_LENGTH - 9]}-{digest}"


def base_folder(settings: TrainSettings, typed: list[str], *, multirun: bool) -> Path:
    """The folder that a command names, before it is known whether it is free."""
    name = settings.name
    if name == "auto":
        name = auto_name(typed)
    elif multirun:
        name = f"{name}_{auto_name(typed)}"  # the runs of a sweep share the typed name
    return Path(settings.runs_dir).expanduser() / settings.project / name


def is_main_process() -> bool:
    """Whether this process is the first of its run; the others follow it."""
    return int(os.environ.get("RANK", "0")) == 0 and int(os.environ.get("LOCAL_RANK", "0")) == 0


def is_torchrun() -> bool:
    """Whether the processes were started by torchrun rather than by Lightning."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def claim(base: Path, *, numbered: bool, overwrite: bool) -> Path:
    """Make the run folder, which no other run can claim then.

    Args:
        base: the folder that was asked for.
        numbered: take the next free of ``base``, ``base-2``, ``base-3`` ... where it exists.
        overwrite: delete ``base`` first, if it is a run folder.

    Raises:
        UserError: if the folder is taken, or is none that may be deleted.
    """
    if not is_main_process():
        # Lightning starts its child processes with this environment; under torchrun names are not numbered.
        return Path(os.environ.get(_RUN_FOLDER_VARIABLE, str(base)))
    if overwrite and _is_taken(base):
        _delete(base)
    numbered = numbered and not is_torchrun()
    for number in itertools.count(1):
        folder = base if number == 1 else base.with_name(f"{base.name}-{number}")
        if _take(folder):
            os.environ[_RUN_FOLDER_VARIABLE] = str(folder)
            return folder
        if not numbered:
            raise UserError(
                f"{folder} is not empty: give another name=, overwrite=true to replace it, "
                "or resume=true to continue it"
            )
    raise AssertionError("counting does not end")


def _is_taken(folder: Path) -> bool:
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def _take(folder: Path) -> bool:
    """Make a folder; an empty one that is there already will do, unless somebody else takes it just now."""
    if _is_taken(folder):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    try:
        (folder / CONFIG).open("x").close()  # the marker: whoever creates it owns the folder
    except FileExistsError:
        return False
    return True


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder for this run; the lock ends with the process, however that ends.

    Raises:
        UserError: if another run holds it.
    """
    if not is_main_process() or os.name != "posix":
        yield
        return
    import fcntl

    with (folder / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another run is at work in {folder}: wait for it, or give another name=") from None
        yield


def _delete(folder: Path) -> None:
    if folder.is_symlink() or not (folder / CONFIG).is_file():
        raise UserError(
            f"overwrite=true: {folder} has no {CONFIG}, so it is no run folder and is left alone; give another name="
        )
    with locked(folder):
        shutil.rmtree(folder)


def folder_to_resume(resume: bool | str, base: Path) -> Path | None:
    """The run folder to continue; None where this command's own has not begun.

    Raises:
        UserError: if there is nothing to continue at an explicit path, or its last checkpoint is missing.
    """
    if resume is False:
        return None
    folder = base if resume is True else Path(resume).expanduser()
    if (folder / CONFIG).is_file() and (folder / LAST).is_file():
        if is_main_process():
            os.environ[_RUN_FOLDER_VARIABLE] = str(folder)
        return folder
    if resume is not True:
        missing = "there is no such folder" if not folder.is_dir() else f"it has no {CONFIG} with {LAST}"
        raise UserError(f"resume={resume}: nothing to continue: {missing}")
    begun = folder / LAST.parent
    if begun.is_dir() and any(begun.iterdir()):
        raise UserError(
            f"resume=true: {folder} has checkpoints but no {LAST.name}; resuming would begin again and lose them. "
            "Give another name=, or overwrite=true to begin again"
        )
    return None


def start_again(base: Path) -> bool:
    """Whether a folder holds a run that ended before its first checkpoint: it may begin again in place."""
    return (base / CONFIG).is_file() and not (base / LAST.parent).exists()
