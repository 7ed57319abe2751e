"""Every command: its settings, its help, and where it is done.

Nothing here imports torch: ``--help`` and the check of a command line answer at once. A new command is an entry here,
its ``Settings`` in settings.py, a module with its ``run``, a file in conf/, one in scripts/, a line in pyproject.toml.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from detfuse.cli.launch import Command, CommandFamily
from detfuse.cli.settings import (
    AblateSettings,
    BrowseSettings,
    CheckSettings,
    CompareSettings,
    ConvertSettings,
    CostSettings,
    EvaluateSettings,
    ExportSettings,
    PredictSettings,
)
from detfuse.config import TrainSettings
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

predict = Command(
    settings=PredictSettings,
    purpose="Detect objects in pictures: writes them with boxes, and the detections as COCO json.",
    examples="""\
        {command} checkpoint=runs/default/defaults/checkpoints/best.ckpt source=image.jpg
        {command} checkpoint=best.ckpt source=folder threshold=0.5 output=pictures
        {command} checkpoint=best.onnx source=folder          an exported file, which needs nothing else""",
    run=_run_of("prediction_run"),
)

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

cost = Command(
    settings=CostSettings,
    purpose="Compare what each fusion operator costs in a neck: weights, multiply-adds, memory and measured time.",
    examples="""\
        {command}                                             every operator in the default neck
        {command} neck=bifpn backbone=resnet50 neck.out_channels=256 size=[800,1344]
        {command} operator=complex operator.readout=complex_conv output=cost.json""",
    run=_run_of("cost_run"),
)

compare = Command(
    settings=CompareSettings,
    purpose="Compare two sides of COCO result files of any framework: differences with intervals, and a verdict.",
    examples="""\
        {command} a=x/predictions.json b=y/predictions.json annotations=instances_val.json
        {command} a=[x0.json,x1.json,x2.json] b=[y0.json,y1.json,y2.json] annotations=val.json output=DIR""",
    run=_run_of("compare_run"),
)

convert = Command(
    settings=ConvertSettings,
    purpose="Write a data set of any form as COCO json: checked and repaired, as training reads it.",
    examples="""\
        {command} data.root=DIR output=DIR/annotations
        {command} data.root=DIR data.val_annotations=ImageSets/Main/test.txt output=DIR image_ids=numbers""",
    run=_run_of("conversion_run"),
)

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

browse = Command(
    settings=BrowseSettings,
    purpose="Write a page to look at a data set: images as they lie and as training sees them, boxes, histograms.",
    examples="""\
        {command} data.root=DIR
        {command} data.root=DIR data.transform.crop=0.5 data.transform.brightness=0.3 images=60
        {command} data=synthetic output=shapes.html""",
    run=_run_of("browse_run"),
)

data = CommandFamily(name="data", purpose="Look after data sets.", commands=(check, browse, convert))

COMMANDS = {
    each.settings.command: each for each in (train, ablate, evaluate, predict, export, cost, compare, *data.commands)
}
