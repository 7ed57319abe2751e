"""What each command takes, checked; what ``train`` takes is the configuration itself. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from detfuse.config import Settings
from detfuse.config.settings import check_name
from detfuse.errors import InputError
from detfuse.ranges import Fraction, FractionBelowOne, PositiveFloat, PositiveInt, Range, Seed, checked


@checked
@dataclass(frozen=True, kw_only=True)
class AblateSettings(Settings):
    """What ``ablate`` takes besides the plan and the overrides that all arms share.

    Args:
        seeds: of every arm; null takes the plan's.
        budget: what is held equal to the baseline; null takes the plan's.
        equalise: what an arm brings along and is set to the baseline's; null takes the plan's.
        allow: differences that would be refused; null takes the plan's.
        looks: numbers of seeds after which a verdict is drawn and decided arms stop; null takes the plan's.
        all_pairs: compare the arms with one another, too; null takes the plan's.
        resolve: AP points that are to be found: the plan proposes seeds, looks or images for them; null: nothing.
        jobs: runs at a time; they share the processors, and each has a GPU of its own where there are any.
        plan_only: show the plan with its cost and stop.
        report_only: conclude again from the runs that there are.
        project: folder of ablations that belong together.
        name: of the ablation; ``auto`` is the plan's.
        runs_dir: where everything is written.
        overwrite: delete an ablation of this name and begin again.
    """

    command = "ablate"

    seeds: list[Seed] | None
    budget: Literal["free", "params", "flops"] | None
    equalise: list[Literal["norm", "block", "levels", "scale"]] | None
    allow: list[Literal["levels", "environment", "schedule"]] | None
    looks: list[PositiveInt] | None
    all_pairs: bool | None
    resolve: PositiveFloat | None
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


@dataclass(frozen=True, kw_only=True)
class _OfDetector(Settings):
    """What takes a detector from a checkpoint or from published weights."""

    checkpoint: str | None
    weights: str | None = None
    seed: Seed = 0

    def __post_init__(self) -> None:
        if (self.checkpoint is None) == (self.weights is None):
            raise InputError("give checkpoint=..., or experiment=... and weights=..., but not both")


@checked
@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(_OfDetector):
    """What ``evaluate`` takes besides the parts.

    Args:
        checkpoint: path of a ``.ckpt``.
        weights: in its place, with ``experiment=``: its library (torchvision, effdet), or a file of its weights (.pth,
            .safetensors).
        seed: with ``weights``.
        output: folder for metrics.json and predictions.json; None puts them beside the checkpoint.
        candidates: file of what the detector predicts before it is combined: read in its place, or written where there
            is none; None keeps nothing.
    """

    command = "evaluate"
    open_groups = ("data", "evaluation", "trainer", "combine")

    output: str | None
    candidates: str | None


@checked
@dataclass(frozen=True, kw_only=True)
class PredictSettings(_OfDetector):
    """What ``predict`` takes besides the parts.

    Args:
        checkpoint: path of a ``.ckpt``, or of an exported ``.onnx`` or ``.pt2``.
        weights: in its place, with ``experiment=``: its library (torchvision, effdet), or a file of its weights (.pth,
            .safetensors).
        seed: with ``weights``.
        source: an image, a folder of images or a glob pattern.
        threshold: least score that is drawn and written, 0..1.
        upright: turn pictures as their EXIF orientation says, and the boxes with them; False takes the stored pixels.
        output: folder for pictures and detections.json; None makes one named after the checkpoint's run.
    """

    command = "predict"
    open_groups = ("data", "trainer", "combine")
    needs_data = False

    source: str
    threshold: Fraction
    upright: bool
    output: str | None


@checked
@dataclass(frozen=True, kw_only=True)
class ExportSettings(Settings):
    """What ``export`` takes besides the parts.

    Args:
        checkpoint: path of a ``.ckpt``.
        format: ``onnx``, ``pt2`` (torch's exported program), or ``torchvision`` (a state dict that its model loads).
        output: path of the file; None puts it into the checkpoint's run folder.
    """

    command = "export"
    open_groups = ("data", "combine")

    checkpoint: str
    format: Literal["onnx", "pt2", "torchvision"]
    output: str | None

    def __post_init__(self) -> None:
        if self.output is not None and not self.output.endswith(self.suffix):
            raise InputError(f"output={self.output}: with format={self.format} the name must end in {self.suffix}")

    @property
    def suffix(self) -> str:
        """What the file's name ends in."""
        return ".pth" if self.format == "torchvision" else f".{self.format}"


@checked
@dataclass(frozen=True, kw_only=True)
class CostSettings(Settings):
    """What ``cost`` takes besides the parts.

    Args:
        seed: of the weights.
        size: [height, width] of the images in pixels, rounded up to what the backbone takes.
        batch: number of images.
        rounds: how often each operator is timed; more of them steady the times.
        output: path of a JSON file with the numbers; None only prints them.
    """

    command = "cost"

    seed: Seed
    size: tuple[PositiveInt, PositiveInt]
    batch: PositiveInt
    rounds: Annotated[int, Range(at_least=2)]
    output: str | None


@checked
@dataclass(frozen=True, kw_only=True)
class CompareSettings(Settings):
    """What ``compare`` takes.

    Args:
        a: COCO result file, or a list of them, one per seed.
        b: what a is compared with; lists are paired in the order given.
        annotations: COCO annotations that both were predicted for.
        equivalence: a difference of mAP, 0..1, that nobody would care about.
        output: folder of comparison.json and comparison.csv; null only prints.
    """

    command = "compare"

    a: str | list[str]
    b: str | list[str]
    annotations: str
    equivalence: FractionBelowOne
    output: str | None


@checked
@dataclass(frozen=True, kw_only=True)
class ConvertSettings(Settings):
    """What ``convert`` takes besides the data.

    Args:
        output: folder of the json files.
        image_ids: ``kept``: the images' names where the form has no ids, as in the results of a detector that learns
            from them; ``numbers``: 1, 2, ... in their place, which some tools need.
    """

    command = "convert"
    family = "data"

    output: str
    image_ids: Literal["kept", "numbers"]


@checked
@dataclass(frozen=True, kw_only=True)
class CheckSettings(Settings):
    """What ``check`` takes besides the parts.

    Args:
        only: names of the checks to run; null runs all.
        fast: read the headers of the images only: no duplicates, and broken pixels are not seen.
        workers: images that are decoded at a time; null: one per processor.
        output: path of a JSON file of the findings; null only prints them.
    """

    command = "check"
    family = "data"

    only: (
        list[
            Literal[
                "records",
                "images",
                "leaks",
                "near-leaks",
                "only-in-one-split",
                "too-many",
                "reach",
                "tiny",
                "turned",
                "twins",
                "whole-images",
                "slivers",
                "few",
                "unequal",
                "alike-classes",
                "empty",
                "duplicates",
                "near-duplicates",
                "flat",
                "modes",
                "idle-levels",
                "alike-files",
                "without-record",
            ]
        ]
        | None
    )
    fast: bool
    workers: PositiveInt | None
    output: str | None


@checked
@dataclass(frozen=True, kw_only=True)
class BrowseSettings(Settings):
    """What ``browse`` takes besides the parts.

    Args:
        images: of each split that are shown, at most; the histograms are of all.
        seed: of the augmentation, as in training.
        output: path of the page.
    """

    command = "browse"
    family = "data"

    images: PositiveInt
    seed: Seed
    output: str

    def __post_init__(self) -> None:
        if not self.output.lower().endswith((".html", ".htm")):
            raise InputError(f"output={self.output}: browsers know a page by its name, which must end in .html")
