"""Before the first run: every arm is built, tried on a batch and timed, so that what cannot run is known at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from detfuse.ablation.plan.arms import Read, detector_and_data, device_of, first_batch, of_each
from detfuse.ablation.plan.built import description_of
from detfuse.ablation.plan.first_steps import watched
from detfuse.ablation.plan.schedule import Concern, concerns_of
from detfuse.ablation.plan.start import measured, scale_differences
from detfuse.ablation.plan.things import Pairs
from detfuse.build import build_combine, instantiate
from detfuse.data import DetectionDataModule
from detfuse.detector import Detector
from detfuse.inspect.attention_memory import device_memory, require_fit
from detfuse.inspect.batch_statistics import require_statistics
from detfuse.inspect.timing import seconds_of, with_threads
from detfuse.structures import Batch, Size
from detfuse.training.device import bytes_of, memory_format_of, precision_of
from detfuse.training.length import Length, length_of
from detfuse.training.narrow_maps import widen_narrow_maps

_TIMED_STEPS = 4
_ENOUGH_SECONDS = 4.0  # of one kind of step per arm


@dataclass(frozen=True)
class Facts:
    """What an arm turned out to be.

    Attributes:
        strides: of the maps that the head sees.
        head: its levels and anchors in a line.
        images: how they are normalised.
        num_classes: of the data.
        num_images: of the validation split.
        image_size: (height, width) of the largest image at inference, padded: what FLOPs refer to.
        fed_size: likewise, of training with its augmentation and of inference.
        num_epochs: of a run.
        seconds: predicted for one run; None if it was not timed.
        start: map that the head reads, or output of the head -> its scale at the start (see
            :func:`detfuse.ablation.plan.start.measured`).
        built: what two detectors may differ in beyond their settings: row -> text.
        concerns: what its runs are too short for.
    """

    strides: tuple[int, ...]
    head: str
    images: str
    num_classes: int
    num_images: int
    image_size: Size
    fed_size: Size
    num_epochs: int
    seconds: float | None
    built: Mapping[str, str] = field(default_factory=dict)
    concerns: tuple[Concern, ...] = ()
    start: Mapping[str, float] = field(default_factory=dict)

    def brought_by(self, arm: Facts) -> Pairs:
        """What an arm's choice brings along besides settings, this one being the baseline."""
        rows = {
            "levels": (_strides(self.strides), _strides(arm.strides)),
            "anchors": (self.head, arm.head),
            "images": (self.images, arm.images),
        }
        built = {**self.built, **arm.built}
        rows |= {name: (self.built.get(name, "none"), arm.built.get(name, "none")) for name in built}
        found = {name: values for name, values in rows.items() if values[0] != values[1]}
        return found | scale_differences(self.start, arm.start)


def probe(
    configs: Mapping[str, Mapping[str, Any]],
    *,
    startup: float | None,
    threads: int,
    read: Read,
    shares: Mapping[str, str] | None = None,
) -> dict[str, Facts]:
    """Build every arm that is trained, give it a batch of training and one of validation.

    Args:
        configs: arm -> resolved configuration of ``train``.
        startup: seconds that a process takes to import everything; None: nothing is timed.
        threads: of a run on the CPU.
        read: see :func:`detfuse.ablation.plan.arms.data_of`.
        shares: arm that is not trained -> the arm whose detectors it scores.

    Raises:
        PlanError: naming every arm that cannot be built, and why.
    """
    shares = shares or {}
    trained = {name: config for name, config in configs.items() if name not in shares}
    with with_threads(threads):
        facts = of_each(trained, lambda config: _try(config, startup, read))
    of_each({name: configs[name] for name in shares}, build_combine)
    # a new process and the judge are all that they take, next to which a combination is nothing
    facts |= {name: replace(facts[other], num_epochs=0, seconds=startup) for name, other in shares.items()}
    return {name: facts[name] for name in configs}


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
    detector, data = detector_and_data(config, read)
    length = _length(config, data)
    _require_room(config, detector, data)
    built = time.perf_counter() - start
    train = first_batch(data.train_dataloader(), device_of(config))
    scale = measured(detector, train[0])
    with watched(detector) as seen:
        seconds = _predicted(config, detector, data, train, length, timed=startup is not None)
    return Facts(
        strides=detector.neck.out_spec.strides,
        head=detector.head.describe(),
        images=str(detector.normalization),
        num_classes=len(data.categories),
        num_images=len(data.indexes["val"]),
        image_size=data.largest_inference_size(),
        fed_size=data.largest_padded_size(),
        num_epochs=length.epochs,
        seconds=None if startup is None else startup + built + seconds,
        built=description_of(detector),
        concerns=concerns_of(config, detector, seen, length),
        start=scale,
    )


def _require_room(config: Mapping[str, Any], detector: Detector, data: DetectionDataModule) -> None:
    """See that its norms have numbers enough to compute with, and the device memory enough for its attention."""
    require_statistics(detector, *data.smallest_training_batch(1))
    device = device_of(config)
    require_fit(
        detector,
        data.largest_batch_shape(),
        data.loader.batch_size,
        dtype_bytes=bytes_of(precision_of(config["trainer"]["precision"], device)),
        available=device_memory(device),
    )


def _predicted(
    config: Mapping[str, Any],
    detector: Detector,
    data: DetectionDataModule,
    first: tuple[Batch, float],
    length: Length,
    *,
    timed: bool,
) -> float:
    """Seconds of training and validation, from a few steps of each."""
    device = device_of(config)
    precision = precision_of(config["trainer"]["precision"], device)
    precision.convert_module(detector.to(device).to(memory_format=memory_format_of(config)))
    widen_narrow_maps(detector, str(precision.precision))
    train, load = first
    val, load_val = first_batch(data.val_dataloader(), device)
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
    every = max(config["trainer"]["check_val_every_n_epoch"], 1)
    validations = length.epochs // every + 1  # and that of the last checkpoint
    val_batches = math.ceil(len(data.indexes["val"]) / data.loader.eval_batch_size)
    return float(length.passes * per_step + validations * val_batches * per_batch)


def _length(config: Mapping[str, Any], data: DetectionDataModule) -> Length:
    trainer = config["trainer"]
    processes = _num_processes(trainer)
    return length_of(
        data.train_batches_per_epoch(processes),
        data.images_per_batch(processes),
        limit=trainer["limit_train_batches"],
        accumulate=trainer["accumulate_grad_batches"],
        max_epochs=trainer["max_epochs"],
        max_steps=trainer["max_steps"],
    )


def _num_processes(trainer: Mapping[str, Any]) -> int:
    devices = trainer["devices"]
    if isinstance(devices, list):
        count = len(devices)
    elif str(devices).isdecimal():
        count = int(devices)
    else:  # auto, and -1 for all
        count = max(torch.cuda.device_count(), 1)
    return count * int(trainer["num_nodes"])


def _seconds(call: Callable[[], None], device: torch.device, *, timed: bool) -> float:
    """Median of a few calls after the first, which warms up; of the first alone where it takes long."""
    taken = []
    for _ in range(1 + _TIMED_STEPS if timed else 1):
        taken.append(seconds_of(call, device))
        if sum(taken) > _ENOUGH_SECONDS:
            break
    later = sorted(taken[1:] or taken)
    return later[len(later) // 2]
