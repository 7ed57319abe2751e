"""What a run says at its start: one screen, and the model in a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning import Trainer

from detfuse.attention.inserts import inserts_of
from detfuse.build import Parts
from detfuse.detector import Detector
from detfuse.files.text import write_json as write_json
from detfuse.files.text import write_text as write_text
from detfuse.runs.environment import describe_device
from detfuse.structures import IMAGENET, Pretrained
from detfuse.training.length import run_length


def header(parts: Parts, trainer: Trainer, folder: Path, config: dict[str, Any]) -> str:
    """One screen: what is trained, on what, where."""
    rows = {
        "run": str(folder),
        "data": parts.data.description,
        **_ceiling_row(parts, config),
        "model": describe(parts.detector, config),
        "head": parts.detector.head.describe(),
        **_attention_row(parts.detector),
        **_weights_row(parts.detector),
        **_images_row(parts.detector),
        "batch": _batch(parts, trainer),
        "device": f"{describe_device(trainer.strategy.root_device)}, precision {trainer.precision}",
        "seed": str(config["seed"]),
    }
    margin = 2 + max(map(len, rows))
    return "\n".join(f"{name:<{margin}}" + text.replace("\n", "\n" + " " * margin) for name, text in rows.items())


def _ceiling_row(parts: Parts, config: dict[str, Any]) -> dict[str, str]:
    """Where an image has more objects than detections can count, or can be; no row where none has."""
    lines = [parts.module.evaluator.ceiling] if parts.module.evaluator is not None else []
    limit = config["combine"].get("max_detections")
    truth = parts.data.ground_truth("val")
    most = int(np.bincount(truth.images[truth.counted], minlength=1).max(initial=0))
    if limit is not None and most > limit:
        lines.append(
            f"an image has {most:,} objects, and no more than combine.max_detections={limit} detections: more of these "
            f"are also scored by themselves, as mAP@{most} with combine.max_detections={most}"
        )
    text = "\n".join(filter(None, lines))
    return {"ceiling": text} if text else {}


def _batch(parts: Parts, trainer: Trainer) -> str:
    if "train" not in parts.data.indexes:
        return f"{parts.data.loader.eval_batch_size} images at a time"
    world = trainer.world_size
    images = run_length(trainer, parts.data).batch
    return f"{images} images per step" + (f" ({world} processes)" if world > 1 else "")


def _attention_row(detector: Detector) -> dict[str, str]:
    """``lateral SE: c3->t3, c4->t4; stage CBAM: c4``; no row without attention."""
    places: dict[str, list[str]] = {}
    for insert in inserts_of(detector).values():
        places.setdefault(f"{insert.site} {insert.kind}", []).append(insert.at)
    text = "; ".join(f"{what}: {', '.join(at)}" for what, at in places.items())
    return {"attention": text} if text else {}


def _weights_row(detector: Detector) -> dict[str, str]:
    """What the backbone's weights were read from; no row from scratch."""
    told = Pretrained.of(detector.backbone)
    return {"weights": f"backbone of {told.source}"} if told else {}


def _images_row(detector: Detector) -> dict[str, str]:
    """How images are normalised; no row for ImageNet's mean and deviation."""
    return {} if detector.normalization == IMAGENET else {"images": str(detector.normalization)}


def describe(detector: Detector, config: dict[str, Any]) -> str:
    """The model in a line: ``resnet18 + fpn (pyramid fusion, Add) + FCOSHead, 19.1 M parameters``."""
    neck = config["neck"]
    topology = neck.get("topology") or {}
    name = str(topology.get("_target_", neck["_target_"])).rpartition(".")[2]
    if neck.get("nodes"):
        name = "own graph"
    parameters = sum(parameter.numel() for parameter in detector.parameters())
    head = str(config["head"]["_target_"]).rpartition(".")[2]
    backbone = config["backbone"].get("name", config["backbone"]["_target_"])
    fusion = detector.neck.describe()
    return f"{backbone} + {name}{f' ({fusion})' if fusion else ''} + {head}, {parameters / 1e6:.2f} M parameters"
