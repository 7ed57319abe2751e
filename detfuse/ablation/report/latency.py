"""How long each arm's trained detector takes for an image of the data set.

What is timed is what a user of the arm waits for: the last checkpoint of a run, on validation images as validation
prepares them, one at a time, from the uint8 image on the device to its detections. Untrained weights would not do, nor
would a black image: how many candidates are over the score threshold, and so what their suppression costs, depends on
both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from detfuse.ablation.records import Run, Timing
from detfuse.build import build_combine, build_detector, without_pretrained
from detfuse.config import as_stored
from detfuse.data import DetectionDataModule, collate
from detfuse.data.collate import padded_size
from detfuse.data.dataset import Key
from detfuse.files.archive import digest_of
from detfuse.files.run_files import LAST
from detfuse.inspect.timing import Quartiles, Timed, time_in_rounds, with_threads
from detfuse.training.device import name_of
from detfuse.training.inference import Inference
from detfuse.weights.checkpoint import load_weights, read_checkpoint

_IMAGES = 8


@dataclass(frozen=True)
class Subject:
    """A trained detector with the images that it is timed on.

    Attributes:
        run: whose last checkpoint it is.
        inference: the detector as its run validates with it.
        images: (1, 3, H, W) uint8 with its size (1, 2), on the detector's device.
    """

    run: Run
    inference: Inference
    images: tuple[tuple[Tensor, Tensor], ...]


def checkpoint_of(runs: Sequence[Run]) -> Run | None:
    """The first of an arm's finished runs that has its last checkpoint."""
    finished = sorted((run for run in runs if run.state == "finished"), key=lambda run: run.seed)
    return next((run for run in finished if (run.trained_in / LAST).is_file()), None)


def fingerprint(run: Run) -> str:
    """SHA-256 of a run's last checkpoint."""
    return digest_of(run.trained_in / LAST)


def spread_positions(data: DetectionDataModule) -> list[int]:
    """Positions of validation images whose padded sizes are spread from the smallest to the largest."""
    sizes = [data.transform.resized(*size) for size in data.indexes["val"].sizes.tolist()]
    areas = [height * width for height, width in (padded_size(*size, data.size_divisor) for size in sizes)]
    order = sorted(range(len(areas)), key=lambda position: (areas[position], position))
    places = np.linspace(0, len(order) - 1, min(_IMAGES, len(order))).round().astype(int)
    return [order[place] for place in places]


def subject_of(
    config: Mapping[str, Any], run: Run, data: DetectionDataModule, positions: Sequence[int], directories: list[Path]
) -> Subject:
    """What is timed of an arm.

    Args:
        config: the arm's, plain and resolved.
        run: one with its last checkpoint.
        data: the arm's, with its validation split.
        positions: of the images in that split.
        directories: the shipped configuration and the user's, which vouch for what the checkpoint's calls.

    Raises:
        ValueError: if the checkpoint or an image cannot be used, or there is no such device here.
        OSError: likewise.
    """
    checkpoint = read_checkpoint(run.trained_in / LAST)
    # the checkpoint has all weights, and the numbers that its images were normalised by
    stored = as_stored(checkpoint.config, checkpoint.path, directories)
    trained = without_pretrained({**config, "detector": stored["detector"]})
    detector = build_detector(trained, len(checkpoint.categories))
    load_weights(detector, checkpoint)
    inference = Inference(detector, build_combine(config), config)
    dataset = data.dataset("val")
    batches = [collate([dataset[Key(0, position)]], size_divisor=data.size_divisor) for position in positions]
    placed = ((inference.placed(batch.images), batch.image_sizes.to(inference.device)) for batch in batches)
    return Subject(run, inference, tuple(placed))


def latencies(subjects: Mapping[str, Subject], threads: int) -> dict[str, tuple[Quartiles, Timing]]:
    """Milliseconds per image of each subject, and what they were measured on.

    In every round each subject detects on all of its images, and its milliseconds are their mean; the median and the
    quartiles are those of the rounds (:func:`detfuse.inspect.timing.time_in_rounds`).

    Args:
        subjects: with equally many images.
        threads: of the CPU.
    """
    calls = {
        name: Timed([partial(one.inference, *image) for image in one.images], one.inference.device)
        for name, one in subjects.items()
    }
    with with_threads(threads):
        rounds = time_in_rounds(calls)
    return {
        name: (Quartiles.of([1000 * seconds for seconds in taken]), _timing(subjects[name], threads, len(taken)))
        for name, taken in rounds.items()
    }


def _timing(subject: Subject, threads: int, rounds: int) -> Timing:
    return Timing(
        seed=subject.run.seed,
        checkpoint=fingerprint(subject.run),
        device=name_of(subject.inference.device),
        threads=threads,
        precision=str(subject.inference.precision.precision),
        num_images=len(subject.images),
        image_sizes=tuple(sorted({(images.shape[2], images.shape[3]) for images, _ in subject.images}, key=prod)),
        rounds=rounds,
    )
