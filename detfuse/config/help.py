"""The text of ``--help``: what the command does, every group with its options, how to write them."""

from __future__ import annotations

import inspect
import textwrap
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from detfuse.config.location import conf_dir
from detfuse.config.mistakes import CHECKPOINT_COMMANDS
from detfuse.config.schema.compose import Composer, composer_of
from detfuse.config.settings import SETTINGS

_PURPOSE = {
    "train": "Train a detector, evaluate its best checkpoint, and write everything into a run folder.",
    "ablate": "Compare arms under the same seeds: plan, run, conclude. Any override of train holds for all arms.",
    "evaluate": "Evaluate a checkpoint: prints exactly the numbers that training printed.",
    "predict": "Detect objects in pictures: writes them with boxes, and the detections as COCO json.",
    "export": "Write a checkpoint's detector with its NMS as one file for other programs, and check that file.",
    "cost": "Compare what each fusion operator costs in a neck: weights, multiply-adds, memory and measured time.",
    "compare": "Compare two sides of COCO result files of any framework: differences with intervals, and a verdict.",
}
_EXAMPLES = {
    "train": """\
        {command}                                            the default: generated data, a small detector
        {command} data=coco data.root=DIR neck=pafpn operator=concat head=fcos
        {command} resample@resample.up=bilinear trainer.max_epochs=20 seed=1
        {command} attention@attention.lateral=se attention@attention.fused=sagan attention.levels.fused=[4]
        {command} -m neck=early,fpn,unfused operator=add,concat seed=0,1      a sweep: every combination
        {command} resume=runs/default/defaults trainer.max_epochs=40          continue a run, for longer
        {command} --config-dir my neck=mine                   your own my/neck/mine.yaml
        {command} neck=pafpn --cfg job                        show the configuration and stop""",
    "ablate": """\
        {command}                                            the quickstart: three necks, three seeds, generated data
        {command} ablation=necks seeds=[0,1,2,3,4] data=coco data.root=DIR
        {command} ablation=necks plan_only=true              the plan and its cost; nothing is run
        {command} ablation=necks jobs=2                      again: what is finished is kept, the rest goes on
        {command} --config-dir my ablation=mine              your own my/ablation/mine.yaml""",
    "evaluate": """\
        {command} checkpoint=runs/default/defaults/checkpoints/best.ckpt
        {command} checkpoint=best.ckpt evaluation.engine=pycocotools
        {command} checkpoint=best.ckpt data.root=DIR trainer.devices=2""",
    "predict": """\
        {command} checkpoint=runs/default/defaults/checkpoints/best.ckpt source=image.jpg
        {command} checkpoint=best.ckpt source=folder threshold=0.5 output=pictures
        {command} checkpoint=best.onnx source=folder          an exported file, which needs nothing else""",
    "export": """\
        {command} checkpoint=runs/default/defaults/checkpoints/best.ckpt
        {command} checkpoint=best.ckpt format=pt2 size=[256,320] output=detector.pt2
        {command} checkpoint=best.ckpt combine=nms combine.iou_threshold=0.5""",
    "cost": """\
        {command}                                             every operator in the default neck
        {command} neck=bifpn backbone=resnet50 neck.out_channels=256 size=[800,1344]
        {command} operator=complex operator.readout=complex_conv output=cost.json""",
    "compare": """\
        {command} a=x/predictions.json b=y/predictions.json annotations=instances_val.json
        {command} a=[x0.json,x1.json,x2.json] b=[y0.json,y1.json,y2.json] annotations=val.json output=DIR""",
}
_SYNTAX = """\
  group=option          choose another part:            neck=pafpn
  group@place=option    where a group has several places: resample@resample.up=bilinear
  key=value             change a setting of a part:     neck.out_channels=64
  +key=value            add one that the YAML does not list
  key=a,b -m            sweep over values
  Quote what the shell or the parser would take apart: 'data.root="/path with spaces, and commas"'."""


def help_text(config_name: str, user: Path | None = None) -> str:
    """The help of a command.

    Args:
        config_name: of the command, such as ``train``.
        user: a folder given by ``--config-dir``, whose options are listed too.
    """
    composer = composer_of(conf_dir(), user, config_name)
    composed = composer.compose([])
    command = f"detfuse-{config_name}"
    usage = f"{command} {'[group=option ...] ' if composed.choices else ''}[key=value ...]"
    examples = textwrap.dedent(_EXAMPLES[config_name]).format(command=command)
    return "\n".join(
        [
            _PURPOSE[config_name],
            "",
            f"{usage} [-m] [--config-dir DIR] [--cfg job]",
            f"(in a checkout: python scripts/{config_name}.py)",
            "",
            *_groups(config_name, composer, composed.choices),
            "Settings of the command:",
            *_settings(config_name, composed.config),
            "",
            *(["How to write:", _SYNTAX, ""] if composed.choices else []),
            "Examples:",
            textwrap.indent(examples, "  "),
            "",
            "Every setting with its default and meaning: --cfg job, and the comments in",
            f"  {conf_dir()}",
        ]
    )


def _groups(config_name: str, composer: Composer, chosen: dict[str, str]) -> list[str]:
    if not chosen:
        return []
    allowed = CHECKPOINT_COMMANDS.get(config_name)
    lines = [
        "Groups (* marks the default):"
        if allowed is None
        else "Groups that may be changed (the default is the checkpoint's):"
    ]
    for group, options in composer.groups.items():
        if allowed is not None and group not in allowed:
            continue  # the checkpoint decides
        places: dict[str, list[str]] = {}  # the options of a group, with its default -> where it is mounted
        for mount in sorted((mount for mount in chosen if mount.split("@")[0] == group), reverse=group == "resample"):
            listed = "  ".join(
                f"{option}*" if allowed is None and option == chosen[mount] else option for option in options
            )
            places.setdefault(listed, []).append(mount)
        for listed, mounts in places.items():
            starts = [f"  {mount}=" for mount in mounts]
            lines += [*starts[:-1], *_wrapped(listed, starts[-1])]
    return [*lines, ""]


def _wrapped(listed: str, start: str) -> list[str]:
    return textwrap.wrap(listed, 118, initial_indent=f"{start:<26}", subsequent_indent=" " * 26)


def _settings(config_name: str, config: DictConfig) -> list[str]:
    lines = []
    for name, meaning in _meanings(SETTINGS[config_name]).items():
        missing = OmegaConf.is_missing(config, name)
        value = "(required)" if missing else "null" if config[name] is None else str(config[name]).lower()
        lines.append(f"  {f'{name}={value}':<24}{meaning}")
    return lines


def _meanings(kind: type[Any]) -> dict[str, str]:
    """What the docstring of a dataclass says about each of its fields, without marks."""
    text = (inspect.getdoc(kind) or "").partition("Args:\n")[2].partition("\n\n")[0]
    lines = textwrap.dedent(text).replace("\n    ", " ").splitlines()  # what is indented goes on
    said = {name: meaning for name, _, meaning in (line.partition(": ") for line in lines)}
    return {field.name: said[field.name].replace("``", "").rstrip(".") for field in fields(kind)}
