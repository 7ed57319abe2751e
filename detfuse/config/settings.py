"""The top-level keys of a command, which a dataclass lists; its annotations are checked like any ``_target_``'s."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Self

from detfuse.errors import InputError
from detfuse.ranges import Seed, checked

NAME = re.compile(r"[A-Za-z0-9._-]+")
_LONGEST = 200  # file systems take 255; a number may be added


def check_name(key: str, name: str) -> None:
    """Run and project names become folders: letters, digits, dots, dashes and underscores only.

    Raises:
        InputError: if a name has anything else, is only dots, or is longer than file systems allow.
    """
    if not NAME.fullmatch(name) or not name.strip("."):
        raise InputError(f"{key}={name}: names are made of letters, digits, '.', '_' and '-' (they become folders)")
    if len(name) > _LONGEST:
        raise InputError(f"{key}={name[:20]}...: {len(name)} letters are too long for a folder; at most {_LONGEST}")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every command's settings have.

    Attributes:
        command: name of the primary configuration, ``conf/<command>.yaml``.
        family: of the command, which is called ``detfuse-<family> <command>`` then.
        open_groups: the groups that may be chosen where a checkpoint decides the rest; None: all of them.
        needs_data: whether it reads a data set, so that one must be named where no checkpoint names one.
    """

    command: ClassVar[str]
    family: ClassVar[str | None] = None
    open_groups: ClassVar[tuple[str, ...] | None] = None
    needs_data: ClassVar[bool] = True

    @classmethod
    def called(cls) -> tuple[str, str]:
        """How the installed command is called, and how its script in a checkout."""
        if cls.family is None:
            return f"detfuse-{cls.command}", f"python scripts/{cls.command}.py"
        return f"detfuse-{cls.family} {cls.command}", f"python scripts/{cls.family}.py {cls.command}"

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """Those in a composed configuration."""
        return cls(**{field.name: config[field.name] for field in fields(cls)})


@checked
@dataclass(frozen=True, kw_only=True)
class TrainSettings(Settings):
    """What ``train`` takes besides the parts.

    Args:
        seed: of weights, data order and augmentation.
        project: folder of runs that belong together.
        name: of the run; ``auto`` makes it from the overrides.
        runs_dir: where the runs are written.
        overwrite: replace an existing run of this name.
        init_from: weights that the run starts from, by the names of modules and classes: a run folder or a checkpoint,
            ``torchvision``, or a file of its weights; None: only the backbone's.
        resume: ``true`` to continue the run that this command names, or the path of a run folder.
        evaluate: the checkpoint that is scored at the end: the best epoch's, or the last one's.
        debug: ``anomaly`` computes the step again at which the run to resume stopped for a number that is not finite.
    """

    command = "train"

    seed: Seed
    project: str
    name: str
    runs_dir: str
    overwrite: bool
    resume: bool | str
    evaluate: Literal["best", "last"]
    debug: Literal["anomaly"] | None = None
    init_from: str | None = None

    def __post_init__(self) -> None:
        check_name("project", self.project)
        check_name("name", self.name)
        if self.overwrite and self.resume:
            raise InputError("overwrite=true and resume contradict each other: give one of them")
