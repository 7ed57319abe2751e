"""Real training of a real detector on three images of very unequal contents, by one process or by several."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detfuse.build import build_parts, build_trainer
from detfuse.training.datamodule import LightningData
from detfuse.training.ema import ExponentialMovingAverage

sys.path.append(str(Path(__file__).parents[1] / "contracts"))

from composing import SMALLEST, compose_train  # type: ignore[import-not-found]  # lies in that folder

SEED, EPOCHS, BATCH, SIDE = 9, 3, 4, 64
OBJECTS = (
    [[4, 4, 24, 20], [30, 6, 14, 14], [10, 36, 40, 24], [40, 24, 20, 30], [2, 50, 12, 12], [20, 20, 16, 16]],
    [[12, 16, 10, 12]],
    [],
)
"""Boxes (xywh) of each image: many, one, none. A batch of four takes all three: two processes have two and one."""

_TOWER = ("head.num_convs=1",)
# all positives are learnt, so that no process draws other lots than one that has all images; and nothing else is, as
# almost every anchor is background, of which there is as much in every image
_TWO_STAGES = (
    *("head.rpn_samples=4000", "head.samples=4000", "head.rpn_background_iou=0.0", "head.background_iou=0.0"),
    *("head.train_proposals=100", "head.box_channels=32", "optimizer.lr=0.02"),
)
_TEMPLATES = ("head.template_scale=0.5", "optimizer.lr=0.05")
HEADS: dict[str, tuple[str, ...]] = {
    "fcos": _TOWER,
    "retinanet": _TOWER,
    "efficientdet": ("head.num_convs=0",),  # without norms, whose statistics are each process's own
    "ssd": (),
    "mscnn_proposal": _TEMPLATES,
    "faster_rcnn": _TWO_STAGES,
}
"""With their settings."""

BY_PROCESS = "_process"
"""Ends the name of a head whose processes each divide by what they have themselves; the others do not."""


def write_data(root: Path) -> None:
    """The images, in COCO's form and layout; they are validated on too."""
    images = [{"id": i + 1, "file_name": f"{i}.png", "width": SIDE, "height": SIDE} for i in range(len(OBJECTS))]
    rows = [(image + 1, box) for image, boxes in enumerate(OBJECTS) for box in boxes]
    annotations = [
        {"id": i + 1, "image_id": image, "category_id": 1 + i % 2, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for i, (image, box) in enumerate(rows)
    ]
    kinds = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    pixels = np.random.default_rng(0)
    for split in ("train", "val"):
        folder = root / f"{split}2017"
        folder.mkdir(parents=True)
        for image in images:
            noise = pixels.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / str(image["file_name"]))
        file = root / "annotations" / f"instances_{split}2017.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": kinds}))


def learnt(root: Path, name: str, devices: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights before and after three steps.

    Args:
        root: folder of the data.
        name: of a head, perhaps with :data:`BY_PROCESS`.
        devices: number of processes.
    """
    head = name.removesuffix(BY_PROCESS)
    config = _for(devices, _learning(root, head))
    if name != head:
        config["head"]["normalizer"] = "process"
    parts = build_parts(config, stage="fit")
    before = {name: weight.detach().clone() for name, weight in parts.detector.named_parameters()}
    build_trainer(config, root, bare=True).fit(parts.module, datamodule=LightningData(parts.data))
    return before, {name: weight.detach().clone() for name, weight in parts.detector.named_parameters()}


def _learning(root: Path, head: str) -> dict[str, Any]:
    composed: dict[str, Any] = compose_train(
        "data=coco",
        f"data.root={root}",
        "data.transform.short_side=64",
        "data.loader.num_workers=0",
        f"seed={SEED}",
        *SMALLEST,
        "backbone.norm=frozen",  # statistics are no matter of losses
        "neck.out_channels=16",
        f"head={head}",
        "optimizer=sgd",
        "optimizer.reference_batch=null",
        "scheduler.warmup_steps=0",
        f"trainer.max_epochs={EPOCHS}",
        "trainer.accelerator=cpu",
        "trainer.gradient_clip_val=null",  # which would hide how large a gradient is
        "trainer.limit_val_batches=0",
        *HEADS[head],
    )
    return composed


def _for(devices: int, config: dict[str, Any]) -> dict[str, Any]:
    """Batches of the same images for one process and for several."""
    config["data"]["loader"]["batch_size"] = BATCH // devices
    config["trainer"] |= {"devices": devices, "strategy": "ddp" if devices > 1 else "auto"}
    return config


def learnt_from_the_generated_data(root: Path, devices: int) -> dict[str, Tensor]:
    """The weights and their average after a run as users have it: the data module that draws its own images,
    augmentation, several batches per step and per epoch, validation between the epochs.

    All images have one size: padding, which depends on the neighbours in a batch, leaks through norms and biases."""
    config = _for(devices, _generated())
    config["data"]["root"] = str(root / "generated")
    config["callbacks"], config["logger"] = {"ema": config["callbacks"]["ema"]}, {}
    parts = build_parts(config, stage="fit")
    trainer = build_trainer(config, root)
    trainer.fit(parts.module, datamodule=LightningData(parts.data))
    (ema,) = (callback for callback in trainer.callbacks if isinstance(callback, ExponentialMovingAverage))
    assert ema.average is not None
    found = {"trained": parts.detector, "average": ema.average}
    assert ema.updates == trainer.global_step == 6  # five batches of four in each of two epochs
    return {
        f"{kind}.{name}": w.detach().clone() for kind, model in found.items() for name, w in model.named_parameters()
    }


def _generated() -> dict[str, Any]:
    composed: dict[str, Any] = compose_train(
        *("data.num_train=21", "data.num_val=3", "data.image_size=64", "data.max_size=40"),
        *("data.transform.short_side=64", "data.transform.brightness=0.5", "data.transform.contrast=0.5"),
        *("data.loader.num_workers=0", *SMALLEST, "backbone.norm=frozen", "neck.out_channels=16"),
        *("head.num_convs=1", "optimizer=sgd", "optimizer.reference_batch=null", "scheduler.warmup_steps=0"),
        *("callbacks=ema", "trainer.max_epochs=2", "trainer.accumulate_grad_batches=2"),
        *("trainer.gradient_clip_val=null", "trainer.accelerator=cpu"),
    )
    return composed


def compose_all(root: Path) -> None:
    """Once, before there are several processes; what is composed is remembered."""
    for head in HEADS:
        _learning(root, head)
    _generated()


def learn_in_two_processes(folder: Path, rank: int) -> None:
    """Store the weights that two processes trained, of every head in both ways."""
    for name in [f"{head}{way}" for head in HEADS for way in ("", BY_PROCESS)]:
        torch.save(learnt(folder / "data", name, 2)[1], folder / f"{name}_{rank}.pt")
    torch.save(learnt_from_the_generated_data(folder, 2), folder / f"generated_{rank}.pt")
