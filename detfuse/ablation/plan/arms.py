"""Arms as what they are made of: detectors on their device, and data that they share."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader

from detfuse.ablation.design import PlanError
from detfuse.build import build_backbone, build_data, build_detector, size_divisor
from detfuse.data import DetectionDataModule
from detfuse.detector import Detector
from detfuse.errors import explained
from detfuse.structures import Batch
from detfuse.training.device import compute_device

T = TypeVar("T")

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


def device_of(config: Mapping[str, Any]) -> torch.device:
    """What a run of this configuration computes on."""
    return compute_device(config["trainer"]["accelerator"], config["trainer"]["devices"])


def detector_and_data(config: Mapping[str, Any], read: Read) -> tuple[Detector, DetectionDataModule]:
    """An arm's detector, on the device where it would be trained, and its data (see :func:`data_of`)."""
    backbone = build_backbone(config)
    data = data_of(config, size_divisor(backbone.out_spec), read)
    return build_detector(config, len(data.categories), backbone).to(device_of(config)), data


def first_batch(loader: DataLoader[Batch], device: torch.device) -> tuple[Batch, float]:
    """A loader's first batch and the seconds that each takes, without starting its workers."""
    assert loader.batch_sampler is not None
    start = time.perf_counter()
    batch: Batch = loader.collate_fn([loader.dataset[key] for key in next(iter(loader.batch_sampler))])
    seconds = (time.perf_counter() - start) / max(1, 2 * loader.num_workers)  # workers decode while others compute
    targets = type(batch.targets)(*(tensor.to(device) for tensor in batch.targets))
    moved = {name: getattr(batch, name).to(device) for name in batch._fields if name != "targets"}
    return batch._replace(targets=targets, **moved), seconds
