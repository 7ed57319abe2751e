"""What a command prints and writes: strict JSON, tables, the header of a run. Only the first process speaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer

from detfuse.attention.inserts import inserts_of
from detfuse.build import Parts
from detfuse.detector import Detector
from detfuse.errors import UserError
from detfuse.files.text import write_json as write_json
from detfuse.files.text import write_text as write_text
from detfuse.structures import IMAGENET
from detfuse.training.datamodule import LightningData
from detfuse.training.module import DetectionModule
from detfuse.weights.checkpoint import Checkpoint, load_weights


def score(trainer: Trainer, parts: Parts, checkpoint: Checkpoint) -> DetectionModule:
    """Evaluate a checkpoint on the validation split: the one way, so that all commands give the same numbers.

    Raises:
        UserError: if the data set has other categories than the checkpoint, or the outputs are finite in no image.
    """
    if parts.data.categories != checkpoint.categories:
        ours, theirs = parts.data.categories, checkpoint.categories
        raise UserError(
            f"{checkpoint.path} was trained on the categories {_listed(theirs.names, theirs.ids)}; "
            f"the data set has {_listed(ours.names, ours.ids)}"
        )
    load_weights(parts.detector, checkpoint)
    trainer.validate(parts.module, datamodule=LightningData(parts.data), verbose=False)
    return parts.module


def _listed(names: tuple[str, ...], ids: tuple[int, ...]) -> str:
    shown = [f"{name} (id {i})" for name, i in zip(names, ids, strict=True)]
    return ", ".join(shown[:20]) + (", ..." if len(shown) > 20 else "")


def report(module: DetectionModule, folder: Path) -> None:
    """Print the 12 numbers; write metrics.json and predictions.json."""
    assert module.metrics is not None
    print(f"\n{module.metrics.table()}\n")
    write_json(folder / "metrics.json", module.metrics.as_dict())
    write_json(folder / "predictions.json", module.predictions)


def header(parts: Parts, trainer: Trainer, folder: Path, config: dict[str, Any]) -> str:
    """One screen: what is trained, on what, where."""
    world = trainer.world_size
    batch = parts.data.loader.batch_size * world * trainer.accumulate_grad_batches
    rows = {
        "run": str(folder),
        "data": parts.data.description,
        "model": describe(parts.detector, config),
        "head": parts.detector.head.describe(),
        **_attention_row(parts.detector),
        **_images_row(parts.detector),
        "batch": f"{batch} images per step" + (f" ({world} processes)" if world > 1 else ""),
        "device": f"{device(trainer.strategy.root_device)}, precision {trainer.precision}",
        "seed": str(config["seed"]),
    }
    margin = 2 + max(map(len, rows))
    return "\n".join(f"{name:<{margin}}" + text.replace("\n", "\n" + " " * margin) for name, text in rows.items())


def _attention_row(detector: Detector) -> dict[str, str]:
    """``lateral SE: c3->t3, c4->t4; stage CBAM: c4``; no row without attention."""
    places: dict[str, list[str]] = {}
    for insert in inserts_of(detector).values():
        places.setdefault(f"{insert.site} {insert.kind}", []).append(insert.at)
    text = "; ".join(f"{what}: {', '.join(at)}" for what, at in places.items())
    return {"attention": text} if text else {}


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


def device(used: torch.device) -> str:
    """What a command computes on."""
    if used.type == "cuda":
        return torch.cuda.get_device_name(used)
    return f"{used.type}, {torch.get_num_threads()} threads"
