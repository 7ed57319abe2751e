"""Before the first run: every arm is built, tried on a batch and timed, so that what cannot run is known at once."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader

from detfuse.ablation.design import PlanError
from detfuse.ablation.plan.built import description_of
from detfuse.ablation.plan.schedule import Concern, Length, concerns_of, watched
from detfuse.ablation.plan.start import differences, measured
from detfuse.ablation.plan.things import Pairs
from detfuse.build import build_backbone, build_combine, build_data, build_detector, instantiate, size_divisor
from detfuse.data import DetectionDataModule
from detfuse.detector import Detector
from detfuse.errors import InputError, explained
from detfuse.inspect.attention_memory import device_memory, require_fit
from detfuse.inspect.batch_statistics import require_statistics
from detfuse.protocols import Size
from detfuse.structures import Batch
from detfuse.training.device import bytes_of, compute_device, memory_format_of, precision_of

T = TypeVar("T")

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

    def compare(self, arm: Facts) -> Pairs:
        """What an arm's choice brings along besides settings, this one being the baseline."""
        rows = {
            "levels": (_strides(self.strides), _strides(arm.strides)),
            "anchors": (self.head, arm.head),
            "images": (self.images, arm.images),
        }
        built = {**self.built, **arm.built}
        rows |= {name: (self.built.get(name, "none"), arm.built.get(name, "none")) for name in built}
        found = {name: values for name, values in rows.items() if values[0] != values[1]}
        return found | differences(self.start, arm.start)


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
    try:
        return of_each(configs, lambda config: _try(config, startup, read))
    finally:
        torch.set_num_threads(before)


def of_each(configs: Mapping[str, Mapping[str, Any]], find: Callable[[Mapping[str, Any]], T]) -> dict[str, T]:
    """Arm -> what is found about its configuration by building it.

    Raises:
        PlanError: naming every arm that cannot be built, and why.
    """
    found, problems = {}, []
    for name, config in configs.items():
        try:
            found[name] = find(config)
        except Exception as error:
            mistake = explained(error)
            if mistake is None:  # a bug, of ours or of a private part: no reason to call the arm impossible
                error.add_note(f"while arm {name} was built and tried")
                raise
            problems.append(f"arm {name} cannot be built: {mistake}")
    if problems:
        raise PlanError(problems)
    return found


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
    _require_room(config, detector, data)
    built = time.perf_counter() - start
    train = first_batch(data.train_dataloader(), device_of(config))
    scale = measured(detector, train[0])
    with watched(detector) as seen:
        seconds = _tried(config, detector, data, train, timed=startup is not None)
    return Facts(
        strides=detector.neck.out_spec.strides,
        head=detector.head.describe(),
        images=str(detector.normalization),
        num_classes=len(data.categories),
        num_images=len(data.indexes["val"]),
        image_size=data.largest_inference_size(),
        fed_size=data.largest_padded_size(),
        num_epochs=_num_epochs(config, _batches_per_epoch(config, data)),
        seconds=None if startup is None else startup + built + seconds,
        built=description_of(detector),
        concerns=concerns_of(config, detector, seen, _length(config, data)),
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


def detector_and_data(config: Mapping[str, Any], read: Read) -> tuple[Detector, DetectionDataModule]:
    """An arm's detector, on the device where it would be trained, and its data (see :func:`data_of`)."""
    backbone = build_backbone(config)
    data = data_of(config, size_divisor(backbone.out_spec), read)
    return build_detector(config, len(data.categories), backbone).to(device_of(config)), data


def _tried(
    config: Mapping[str, Any],
    detector: Detector,
    data: DetectionDataModule,
    first: tuple[Batch, float],
    *,
    timed: bool,
) -> float:
    """Predicted seconds of training and validation, from a few steps of each."""
    device = device_of(config)
    precision = precision_of(config["trainer"]["precision"], device)
    precision.convert_module(detector.to(device).to(memory_format=memory_format_of(config)))
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
    batches = _batches_per_epoch(config, data)
    epochs = _num_epochs(config, batches)
    validations = epochs // max(config["trainer"]["check_val_every_n_epoch"], 1) + 1  # and that of the last checkpoint
    val_batches = math.ceil(len(data.indexes["val"]) / data.loader.eval_batch_size)
    seconds: float = epochs * batches * per_step + validations * val_batches * per_batch
    return seconds


def _length(config: Mapping[str, Any], data: DetectionDataModule) -> Length:
    """Of a run, as :class:`detfuse.training.module.DetectionModule` counts its steps."""
    trainer, batches = config["trainer"], _batches_per_epoch(config, data)
    epochs, accumulated = _num_epochs(config, batches), trainer["accumulate_grad_batches"]
    passes, steps = epochs * batches, epochs * math.ceil(batches / accumulated)
    if 0 <= trainer["max_steps"] < steps:
        steps = trainer["max_steps"]
        passes = min(passes, steps * accumulated)
    return Length(passes, steps, data.loader.batch_size * accumulated * _num_processes(trainer))


def _num_processes(trainer: Mapping[str, Any]) -> int:
    devices = trainer["devices"]
    if isinstance(devices, list):
        count = len(devices)
    elif str(devices).isdecimal():
        count = int(devices)
    else:  # auto, and -1 for all
        count = max(torch.cuda.device_count(), 1)
    return count * int(trainer["num_nodes"])


def _num_epochs(config: Mapping[str, Any], batches: int) -> int:
    trainer = config["trainer"]
    by_steps = math.inf
    if trainer["max_steps"] >= 0:
        by_steps = math.ceil(trainer["max_steps"] * trainer["accumulate_grad_batches"] / max(batches, 1))
    by_epochs = trainer["max_epochs"] if trainer["max_epochs"] >= 0 else math.inf
    epochs = min(by_steps, by_epochs)
    if epochs == math.inf:
        raise InputError("a run needs an end: set trainer.max_epochs or trainer.max_steps")
    return int(epochs)


def _batches_per_epoch(config: Mapping[str, Any], data: DetectionDataModule) -> int:
    batches = data.train_batches_per_epoch(_num_processes(config["trainer"]))
    limit = config["trainer"]["limit_train_batches"]
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)


def first_batch(loader: DataLoader[Batch], device: torch.device) -> tuple[Batch, float]:
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
