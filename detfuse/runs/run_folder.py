"""The run folder ``<runs_dir>/<project>/<name>``: how it is named, claimed and found again."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from detfuse.config import TrainSettings
from detfuse.config.kinds import kind_of
from detfuse.config.schema.overrides import place_of
from detfuse.errors import UserError
from detfuse.files.run_files import BEST, CHECKPOINTS, CONFIG, LAST, LOCK

_MAX_LENGTH = 100
# The folder of a run of several processes, for those that Lightning starts: they have the first one's command line and
# environment, and would find the number taken that it has taken.
_OF_FIRST_PROCESS = "DETFUSE_RUN_FOLDER"


def run_folder_of(checkpoint: Path) -> Path:
    """The folder beside a checkpoint: that of its run, if it lies in one."""
    folder = checkpoint.parent
    return folder.parent if folder.name == CHECKPOINTS else folder


def auto_name(overrides: list[str], swept: Collection[str] = ()) -> str:
    """A name from the overrides that make a difference: ``neck-pafpn_seed-0``; the order typed does not matter.

    Long names, and those whose special characters had to be replaced, end in a hash so that they stay unique.

    Args:
        overrides: as typed.
        swept: places by which the runs of a sweep differ, whatever depends on them.
    """
    parts: dict[str, str] = {}
    for override in overrides:
        place = place_of(override)
        if kind_of(place) == "science" or (place in swept and kind_of(place) != "place"):
            left_out = "~" if override.startswith("~") else ""
            parts[left_out + place] = override.partition("=")[2]
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


def base_folder(settings: TrainSettings, typed: list[str], *, multirun: bool, swept: Collection[str] = ()) -> Path:
    """The folder that a command names, before it is known whether it is free."""
    name = settings.name
    if name == "auto":
        name = auto_name(typed, swept)
    elif multirun:
        name = f"{name}_{auto_name(typed, swept)}"  # the runs of a sweep share the typed name
    return Path(settings.runs_dir).expanduser() / settings.project / name


def is_main_process() -> bool:
    """Whether this process is the first of its run; the others follow it."""
    return int(os.environ.get("RANK", "0")) == 0 and int(os.environ.get("LOCAL_RANK", "0")) == 0


def rank() -> int:
    """Of this process in its run, as its environment has it; Lightning's own processes are all on one machine."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))


def is_torchrun() -> bool:
    """Whether the processes were started by torchrun rather than by Lightning."""
    return "TORCHELASTIC_RUN_ID" in os.environ


@dataclass
class Held:
    """A run folder in the hands of a run.

    Attributes:
        path: the folder.
        stays: whether it stays if the run fails: it holds an earlier run, or this one has taken a step.
    """

    path: Path
    stays: bool = True

    def empty(self) -> None:
        """Delete an earlier run: the folder is this one's from here on."""
        if is_main_process():
            empty(self.path, keep=(LOCK,))
            self.stays = False


@contextmanager
def claimed(base: Path, *, numbered: bool, overwrite: bool) -> Iterator[Held]:
    """Make a run folder and hold it. A run that fails before its first step leaves nothing behind.

    Args:
        base: the folder that was asked for.
        numbered: take the next free of ``base``, ``base-2``, ``base-3`` ... where it exists.
        overwrite: take ``base`` with the run that is in it, which the caller deletes when nothing is refused any more.

    Raises:
        UserError: if the folder is taken, is at work, or is none that may be deleted.
    """
    if not is_main_process():
        yield Held(Path(os.environ.get(_OF_FIRST_PROCESS) or base))  # torchrun sets none, and names are not numbered
        return
    replaces = overwrite and _is_taken(base)
    if replaces:
        _require_run_folder(base)
    absent = [folder for folder in base.parents if not folder.exists()]
    folder = base if replaces else _make(base, numbered=numbered and not is_torchrun())
    os.environ[_OF_FIRST_PROCESS] = str(folder)
    with locked(folder) as held:
        held.stays = replaces
        try:
            yield held
            held.stays = True  # it has come to its end, with or without steps
        finally:
            if not held.stays:
                shutil.rmtree(folder)
                _remove_empty(absent)


@contextmanager
def locked(folder: Path) -> Iterator[Held]:
    """Hold a folder that is there; the lock ends with the process, however that ends.

    Raises:
        UserError: if another process holds it.
    """
    if not is_main_process() or os.name != "posix":
        yield Held(folder)
        return
    import fcntl

    with (folder / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another run is at work in {folder}: wait for it, or give another name=") from None
        yield Held(folder)


def empty(folder: Path, *, keep: Sequence[str]) -> None:
    """Delete all that lies in a folder, but for files of these names; what links lead to is left alone."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name not in keep:
            entry.unlink()


def _make(base: Path, *, numbered: bool) -> Path:
    for number in itertools.count(1):
        folder = base if number == 1 else base.with_name(f"{base.name}-{number}")
        if _take(folder):
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


def _require_run_folder(folder: Path) -> None:
    if folder.is_symlink() or not (folder / CONFIG).is_file():
        raise UserError(
            f"overwrite=true: {folder} has no {CONFIG}, so it is no run folder and is left alone; give another name="
        )


def _remove_empty(folders: Sequence[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):  # another run lies there by now
            folder.rmdir()


def folder_to_resume(resume: bool | str, base: Path) -> Path | None:
    """The run folder to continue; None where this command's own has not begun.

    Raises:
        UserError: if there is nothing to continue at an explicit path.
    """
    if resume is False:
        return None
    folder = base if resume is True else Path(resume).expanduser()
    if can_continue(folder):
        return folder
    if resume is not True:
        missing = "there is no such folder" if not folder.is_dir() else f"it has no {CONFIG} with {LAST} or {BEST}"
        raise UserError(f"resume={resume}: nothing to continue: {missing}")
    return None


def checkpoint_of(folder: Path) -> Path:
    """The checkpoint that a run goes on from, relative to its folder.

    A run that was killed before it first wrote ``last.ckpt`` may have a ``best.ckpt``, which holds as much.
    """
    return BEST if (folder / BEST).is_file() and not (folder / LAST).exists() else LAST


def can_continue(folder: Path) -> bool:
    """Whether a folder holds a run with a checkpoint to go on from."""
    return (folder / CONFIG).is_file() and (folder / checkpoint_of(folder)).exists()


def start_again(base: Path) -> bool:
    """Whether a folder holds a run that ended before its first checkpoint was complete: it may begin again in place."""
    return (base / CONFIG).is_file() and not any((base / CHECKPOINTS).glob("[!.]*.ckpt"))
