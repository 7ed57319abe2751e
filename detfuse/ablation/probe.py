"""Before the first run: every arm is built, tried on a batch and timed, so that what cannot run is known at once."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader

from detfuse.ablation.control import Pairs
from detfuse.ablation.design import PlanError
from detfuse.build import build_backbone, build_combine, build_data, build_detector, instantiate, size_divisor
from detfuse.data import DetectionDataModule
from detfuse.detector import Detector
from detfuse.necks.graph_neck import GraphNeck
from detfuse.protocols import Size
from detfuse.structures import Batch
from detfuse.training.attention_memory import device_memory, require_fit
from detfuse.training.device import bytes_of, compute_device, memory_format_of, precision_of

_NO_BUILD = (ValueError, TypeError, OSError, ImportError, LookupError, RuntimeError, AttributeError)
_TIMED_STEPS = 4
_ENOUGH_SECONDS = 4.0  # of one kind of step per arm


@dataclass(frozen=True)
class Facts:
    """What an arm turned out to be.

    Attributes:
        strides: of the maps that the head sees.
        blocks: kinds of the fusion graph's blocks that have weights; empty where the neck is no graph.
        head: its levels and anchors in a line.
        num_classes: of the data.
        num_images: of the validation split.
        image_size: (height, width) of the largest image at inference, padded: what FLOPs refer to.
        fed_size: likewise, of training with its augmentation and of inference.
        num_epochs: of a run.
        seconds: predicted for one run; None if it was not timed.
    """

    strides: tuple[int, ...]
    blocks: tuple[str, ...]
    head: str
    num_classes: int
    num_images: int
    image_size: Size
    fed_size: Size
    num_epochs: int
    seconds: float | None

    def compare(self, arm: Facts) -> Pairs:
        """What an arm's choice brings along besides settings, this one being the baseline."""
        rows = {
            "levels": (_strides(self.strides), _strides(arm.strides)),
            "blocks": (", ".join(self.blocks) or "none", ", ".join(arm.blocks) or "none"),
            "anchors": (self.head, arm.head),
        }
        return {name: values for name, values in rows.items() if values[0] != values[1]}


Read = dict[str, DetectionDataModule]
"""Data that was read already, by its configuration."""


def data_of(config: Mapping[str, Any], divisor: int, read: Read) -> DetectionDataModule:
    """An arm's data, set up; arms of one data set share it.

    Args:
        config: plain and resolved.
        divisor: what image sizes are padded to a multiple of.
        read: what was read before; it is added to.
    """
    key = json.dumps([config["data"], divisor])
    if key not in read:
        data = build_data(config, divisor)
        data.prepare_data()
        data.setup("fit")
        read[key] = data
    return read[key]


def probe(
    configs: Mapping[str, Mapping[str, Any]], *, startup: float | None, threads: int, read: Read
) -> dict[str, Facts]:
    """Build every arm, give it a batch of training and one of validation.

    Args:
        configs: arm -> resolved configuration of ``train``.
        startup: seconds that a process takes to import everything; None: nothing is timed.
        threads: of a run on the CPU.
        read: see :func:`data_of`.

    Raises:
        PlanError: naming every arm that cannot be built, and why.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    facts, problems = {}, []
    try:
        for name, config in configs.items():
            try:
                facts[name] = _try(config, startup, read)
            except _NO_BUILD as error:
                message = error.args[0] if isinstance(error, KeyError) and error.args else error
                problems.append(f"arm {name} cannot be built: {message or type(error).__name__}")
    finally:
        torch.set_num_threads(before)
    if problems:
        raise PlanError(problems)
    return facts


def strides_differ(baseline: str, facts: Mapping[str, Facts]) -> list[str]:
    """Arms whose head sees other strides than the baseline's: they compare levels, not fusion."""
    ours = facts[baseline].strides
    return [
        f"arm {name}: its head sees the {_strides(arm.strides)}, that of {baseline} the {_strides(ours)}: the levels "
        "would be compared with the fusion; choose a neck with the same levels (early_pyramid stands for early "
        "fusion), or say allow=[levels]"
        for name, arm in facts.items()
        if arm.strides != ours
    ]


def _strides(strides: tuple[int, ...]) -> str:
    listed = ", ".join(map(str, strides))
    return f"stride {listed}" if len(strides) == 1 else f"strides {listed}"


def _try(config: Mapping[str, Any], startup: float | None, read: Read) -> Facts:
    start = time.perf_counter()
    backbone = build_backbone(config)
    data = data_of(config, size_divisor(backbone.out_spec), read)
    detector = build_detector(config, len(data.categories), backbone)
    built = time.perf_counter() - start
    seconds = _tried(config, detector, data, timed=startup is not None)
    graph = detector.neck.graph if isinstance(detector.neck, GraphNeck) else None
    return Facts(
        strides=detector.neck.out_spec.strides,
        blocks=tuple(sorted({node.block for node in graph.nodes if node.block not in (None, "relu")})) if graph else (),
        head=detector.head.describe(),
        num_classes=len(data.categories),
        num_images=len(data.indexes["val"]),
        image_size=data.largest_inference_size(),
        fed_size=data.largest_padded_size(),
        num_epochs=_num_epochs(config, _batches_per_epoch(config, data)),
        seconds=None if startup is None else startup + built + seconds,
    )


def _tried(config: Mapping[str, Any], detector: Detector, data: DetectionDataModule, *, timed: bool) -> float:
    """Predicted seconds of training and validation, from a few steps of each."""
    device = device_of(config)
    precision = precision_of(config["trainer"]["precision"], device)
    require_fit(
        detector,
        data.largest_batch_shape(),
        data.loader.batch_size,
        dtype_bytes=bytes_of(precision),
        available=device_memory(device),
    )
    precision.convert_module(detector.to(device).to(memory_format=memory_format_of(config)))
    train, load = _batch(data.train_dataloader(), device)
    val, load_val = _batch(data.val_dataloader(), device)
    train, val = precision.convert_input(train), precision.convert_input(val)
    optimizer = instantiate(config["optimizer"])(detector, len(train.images))
    combine = build_combine(config)

    def step() -> None:
        with precision.forward_context():
            loss = torch.stack(list(detector.loss(train).values())).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        optimizer.step()

    def validate() -> None:
        with torch.inference_mode(), precision.forward_context():
            detector.predict(val.images, val.image_sizes, combine)

    detector.train()
    per_step = _seconds(step, device, timed=timed) + load
    detector.eval()
    per_batch = _seconds(validate, device, timed=timed) + load_val
    batches = _batches_per_epoch(config, data)
    epochs = _num_epochs(config, batches)
    validations = epochs // max(config["trainer"]["check_val_every_n_epoch"], 1) + 1  # and that of the last checkpoint
    val_batches = math.ceil(len(data.indexes["val"]) / data.loader.eval_batch_size)
    seconds: float = epochs * batches * per_step + validations * val_batches * per_batch
    return seconds


def _num_epochs(config: Mapping[str, Any], batches: int) -> int:
    trainer = config["trainer"]
    by_steps = math.inf
    if trainer["max_steps"] >= 0:
        by_steps = math.ceil(trainer["max_steps"] * trainer["accumulate_grad_batches"] / max(batches, 1))
    by_epochs = trainer["max_epochs"] if trainer["max_epochs"] >= 0 else math.inf
    epochs = min(by_steps, by_epochs)
    if epochs == math.inf:
        raise ValueError("a run needs an end: set trainer.max_epochs or trainer.max_steps")
    return int(epochs)


def _batches_per_epoch(config: Mapping[str, Any], data: DetectionDataModule) -> int:
    batches = data.train_batches_per_epoch(1)
    limit = config["trainer"]["limit_train_batches"]
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)


def _batch(loader: DataLoader[Batch], device: torch.device) -> tuple[Batch, float]:
    """A loader's first batch and the seconds that each takes, without starting its workers."""
    assert loader.batch_sampler is not None
    start = time.perf_counter()
    batch: Batch = loader.collate_fn([loader.dataset[key] for key in next(iter(loader.batch_sampler))])
    seconds = (time.perf_counter() - start) / max(1, 2 * loader.num_workers)  # workers decode while others compute
    targets = type(batch.targets)(*(tensor.to(device) for tensor in batch.targets))
    moved = {name: getattr(batch, name).to(device) for name in batch._fields if name != "targets"}
    return batch._replace(targets=targets, **moved), seconds


def _seconds(call: Callable[[], None], device: torch.device, *, timed: bool) -> float:
    """Median of a few calls after the first, which warms up; of the first alone where it takes long."""
    taken = []
    for _ in range(1 + _TIMED_STEPS if timed else 1):
        start = time.perf_counter()
        call()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        taken.append(time.perf_counter() - start)
        if sum(taken) > _ENOUGH_SECONDS:
            break
    later = sorted(taken[1:] or taken)
    return later[len(later) // 2]


def device_of(config: Mapping[str, Any]) -> torch.device:
    """What a run of this configuration computes on."""
    return compute_device(config["trainer"]["accelerator"], config["trainer"]["devices"])
