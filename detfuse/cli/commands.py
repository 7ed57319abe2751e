"""Every command: its settings, its help, and where it is done.

Nothing here imports torch: ``--help`` and the check of a command line answer at once. A new command is an entry here, a
module with its ``run``, a file in conf/ and one in scripts/, and a line in pyproject.toml.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Literal

from detfuse.cli.launch import Command, Family
from detfuse.config import Settings, TrainSettings
from detfuse.config.settings import check_name
from detfuse.errors import InputError
from detfuse.ranges import Fraction, FractionBelowOne, PositiveFloat, PositiveInt, Range, Seed, checked
from detfuse.runs.invocation import Invocation


def _run_of(module: str) -> Callable[[Invocation], None]:
    """The ``run`` of a module of this room, which is imported only once there is something to do."""

    def run(invocation: Invocation) -> None:
        import_module(f"detfuse.cli.{module}").run(invocation)

    return run


train = Command(
    settings=TrainSettings,
    purpose="Train a detector, evaluate its best checkpoint, and write everything into a run folder.",
    examples="""\
        {command}                                            the default: generated data, a small detector
        {command} data=coco data.root=DIR neck=pafpn operator=concat head=fcos
        {command} resample@resample.up=bilinear trainer.max_epochs=20 seed=1
        {command} attention@attention.lateral=se attention@attention.fused=sagan attention.levels.fused=[4]
        {command} -m neck=early,fpn,unfused operator=add,concat seed=0,1      a sweep: every combination
        {command} resume=runs/default/defaults trainer.max_epochs=40          continue a run, for longer
        {command} --config-dir my neck=mine                   your own my/neck/mine.yaml
        {command} neck=pafpn --cfg job                        show the configuration and stop""",
    run=_run_of("training_run"),
)


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


ablate = Command(
    settings=AblateSettings,
    purpose="Compare arms under the same seeds: plan, run, conclude. Any override of train holds for all arms.",
    examples="""\
        {command}                                            the quickstart: three necks, three seeds, generated data
        {command} ablation=necks seeds=[0,1,2,3,4] data=coco data.root=DIR
        {command} ablation=necks plan_only=true              the plan and its cost; nothing is run
        {command} ablation=necks jobs=2                      again: what is finished is kept, the rest goes on
        {command} --config-dir my ablation=mine              your own my/ablation/mine.yaml""",
    run=_run_of("ablation_run"),
)


def _require_one(checkpoint: str | None, weights: str | None) -> None:
    """A detector comes from a checkpoint or from published weights."""
    if (checkpoint is None) == (weights is None):
        raise InputError("give checkpoint=..., or experiment=... and weights=..., but not both")


@checked
@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(Settings):
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

    checkpoint: str | None
    output: str | None
    candidates: str | None
    weights: str | None = None
    seed: Seed = 0

    def __post_init__(self) -> None:
        _require_one(self.checkpoint, self.weights)


evaluate = Command(
    settings=EvaluateSettings,
    purpose="Evaluate a checkpoint: prints exactly the numbers that training printed.",
    examples="""\
        {command} checkpoint=runs/default/defaults/checkpoints/best.ckpt
        {command} experiment=retinanet_resnet50_fpn weights=torchvision data.root=DIR
        {command} checkpoint=best.ckpt evaluation.engine=pycocotools
        {command} checkpoint=best.ckpt data.root=DIR trainer.devices=2
        {command} checkpoint=best.ckpt candidates=best.candidates combine=wbf output=DIR""",
    run=_run_of("evaluation_run"),
)


@checked
@dataclass(frozen=True, kw_only=True)
class PredictSettings(Settings):
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

    checkpoint: str | None
    source: str
    threshold: Fraction
    upright: bool
    output: str | None
    weights: str | None = None
    seed: Seed = 0

    def __post_init__(self) -> None:
        _require_one(self.checkpoint, self.weights)


predict = Command(
    settings=PredictSettings,
    purpose="Detect objects in pictures: writes them with boxes, and the detections as COCO json.",
    examples="""\
        {command} checkpoint=runs/default/defaults/checkpoints/best.ckpt source=image.jpg
        {command} checkpoint=best.ckpt source=folder threshold=0.5 output=pictures
        {command} checkpoint=best.onnx source=folder          an exported file, which needs nothing else""",
    run=_run_of("prediction_run"),
)


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


export = Command(
    settings=ExportSettings,
    purpose="Write a checkpoint's detector with its NMS as one file for other programs, and check that file.",
    examples="""\
        {command} checkpoint=runs/default/defaults/checkpoints/best.ckpt
        {command} checkpoint=best.ckpt format=pt2 output=detector.pt2
        {command} checkpoint=best.ckpt format=torchvision output=state_dict.pth
        {command} checkpoint=best.ckpt combine=nms combine.iou_threshold=0.5""",
    run=_run_of("export_run"),
)


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


cost = Command(
    settings=CostSettings,
    purpose="Compare what each fusion operator costs in a neck: weights, multiply-adds, memory and measured time.",
    examples="""\
        {command}                                             every operator in the default neck
        {command} neck=bifpn backbone=resnet50 neck.out_channels=256 size=[800,1344]
        {command} operator=complex operator.readout=complex_conv output=cost.json""",
    run=_run_of("cost_run"),
)


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


compare = Command(
    settings=CompareSettings,
    purpose="Compare two sides of COCO result files of any framework: differences with intervals, and a verdict.",
    examples="""\
        {command} a=x/predictions.json b=y/predictions.json annotations=instances_val.json
        {command} a=[x0.json,x1.json,x2.json] b=[y0.json,y1.json,y2.json] annotations=val.json output=DIR""",
    run=_run_of("compare_run"),
)


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


convert = Command(
    settings=ConvertSettings,
    purpose="Write a data set of any form as COCO json: checked and repaired, as training reads it.",
    examples="""\
        {command} data.root=DIR output=DIR/annotations
        {command} data.root=DIR data.val_annotations=ImageSets/Main/test.txt output=DIR image_ids=numbers""",
    run=_run_of("conversion_run"),
)


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


check = Command(
    settings=CheckSettings,
    purpose="Examine a data set before training: exit code 0 where nothing was found, 1 repairs or notes, 2 errors.",
    examples="""\
        {command} data.root=DIR
        {command} data.root=DIR head=retinanet data.transform.short_side=480     as it would be trained
        {command} data.root=DIR experiment=bccd_fcos_r18 output=check.json
        {command} data.root=DIR fast=true only=[records,images,twins]""",
    run=_run_of("check_run"),
)


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


browse = Command(
    settings=BrowseSettings,
    purpose="Write a page to look at a data set: images as they lie and as training sees them, boxes, histograms.",
    examples="""\
        {command} data.root=DIR
        {command} data.root=DIR data.transform.crop=0.5 data.transform.brightness=0.3 images=60
        {command} data=synthetic output=shapes.html""",
    run=_run_of("browse_run"),
)

data = Family(name="data", purpose="Look after data sets.", commands=(check, browse, convert))

COMMANDS = {
    each.settings.command: each for each in (train, ablate, evaluate, predict, export, cost, compare, *data.commands)
}
