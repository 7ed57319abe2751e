"""The top-level keys of each command; their annotations are checked like those of any ``_target_``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from detfuse.errors import InputError
from detfuse.ranges import Fraction, FractionBelowOne, PositiveInt, Range, Seed, checked

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


@checked
@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """What ``train`` takes besides the parts.

    Args:
        seed: of weights, data order and augmentation.
        project: folder of runs that belong together.
        name: of the run; ``auto`` makes it from the overrides.
        runs_dir: where the runs are written.
        overwrite: replace an existing run of this name.
        resume: ``true`` to continue the run that this command names, or the path of a run folder.
        evaluate: the checkpoint that is scored at the end: the best epoch's, or the last one's.
    """

    seed: Seed
    project: str
    name: str
    runs_dir: str
    overwrite: bool
    resume: bool | str
    evaluate: Literal["best", "last"]

    def __post_init__(self) -> None:
        check_name("project", self.project)
        check_name("name", self.name)
        if self.overwrite and self.resume:
            raise InputError("overwrite=true and resume contradict each other: give one of them")


@checked
@dataclass(frozen=True, kw_only=True)
class AblateSettings:
    """What ``ablate`` takes besides the plan and the overrides that all arms share.

    Args:
        seeds: of every arm; null takes the plan's.
        budget: what is held equal to the baseline; null takes the plan's.
        equalise: what an arm brings along and is set to the baseline's; null takes the plan's.
        allow: differences that would be refused; null takes the plan's.
        jobs: runs at a time; they share the processors, and each has a GPU of its own where there are any.
        plan_only: show the plan with its cost and stop.
        report_only: conclude again from the runs that there are.
        project: folder of ablations that belong together.
        name: of the ablation; ``auto`` is the plan's.
        runs_dir: where everything is written.
        overwrite: delete an ablation of this name and begin again.
    """

    seeds: list[Seed] | None
    budget: Literal["free", "params", "flops"] | None
    equalise: list[Literal["norm", "block", "levels", "scale"]] | None
    allow: list[Literal["levels", "environment", "schedule"]] | None
    jobs: PositiveInt
    plan_only: bool
    report_only: bool
    project: str
    name: str
    runs_dir: str
    overwrite: bool

    def __post_init__(self) -> None:
        check_name("project", self.project)
        check_name("name", self.name)
        if self.report_only and (self.overwrite or self.plan_only):
            raise InputError("report_only=true goes with neither overwrite=true nor plan_only=true")


@checked
@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """What ``evaluate`` takes besides the parts.

    Args:
        checkpoint: path of a ``.ckpt``.
        output: folder for metrics.json and predictions.json; None puts them beside the checkpoint.
    """

    checkpoint: str
    output: str | None


@checked
@dataclass(frozen=True, kw_only=True)
class PredictSettings:
    """What ``predict`` takes besides the parts.

    Args:
        checkpoint: path of a ``.ckpt``, or of an exported ``.onnx`` or ``.pt2``.
        source: an image, a folder of images or a glob pattern.
        threshold: least score that is drawn and written, 0..1.
        output: folder for pictures and detections.json; None makes one named after the checkpoint's run.
    """

    checkpoint: str
    source: str
    threshold: Fraction
    output: str | None


@checked
@dataclass(frozen=True, kw_only=True)
class CostSettings:
    """What ``cost`` takes besides the parts.

    Args:
        seed: of the weights.
        size: [height, width] of the images in pixels, rounded up to what the backbone takes.
        batch: number of images.
        rounds: how often each operator is timed; more of them steady the times.
        output: path of a JSON file with the numbers; None only prints them.
    """

    seed: Seed
    size: tuple[PositiveInt, PositiveInt]
    batch: PositiveInt
    rounds: Annotated[int, Range(at_least=2)]
    output: str | None


@checked
@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """What ``compare`` takes.

    Args:
        a: COCO result file, or a list of them, one per seed.
        b: what a is compared with; lists are paired in the order given.
        annotations: COCO annotations that both were predicted for.
        equivalence: a difference of mAP, 0..1, that nobody would care about.
        output: folder of comparison.json and comparison.csv; null only prints.
    """

    a: str | list[str]
    b: str | list[str]
    annotations: str
    equivalence: FractionBelowOne
    output: str | None


@checked
@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """What ``export`` takes besides the parts.

    Args:
        checkpoint: path of a ``.ckpt``.
        format: ``onnx``, or ``pt2`` (torch's exported program).
        size: [height, width] that images are padded to; None: the smallest that all validation images fit.
        output: path of the file; None puts it into the checkpoint's run folder.
    """

    checkpoint: str
    format: Literal["onnx", "pt2"]
    size: tuple[PositiveInt, PositiveInt] | None
    output: str | None

    def __post_init__(self) -> None:
        if self.output is not None and not self.output.endswith(f".{self.format}"):
            raise InputError(f"output={self.output}: with format={self.format} the name must end in .{self.format}")


Settings = (
    TrainSettings
    | AblateSettings
    | EvaluateSettings
    | PredictSettings
    | ExportSettings
    | CostSettings
    | CompareSettings
)
SETTINGS: dict[str, type[Settings]] = {
    "train": TrainSettings,
    "ablate": AblateSettings,
    "evaluate": EvaluateSettings,
    "predict": PredictSettings,
    "export": ExportSettings,
    "cost": CostSettings,
    "compare": CompareSettings,
}
