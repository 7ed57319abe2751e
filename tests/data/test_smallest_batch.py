"""The least that a training step can be fed: a bound on every batch, and met where nothing is random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detfuse.data import CocoDataModule, Loader, Transforms
from detfuse.data.collate import padded_size
from detfuse.data.dataset import Key
from detfuse.data.loader import TrainBatches


def module(root: Path, batch_size: int = 1, **transform: Any) -> CocoDataModule:
    given = Transforms(**{"short_side": 96, "long_side": None, **transform})
    data = CocoDataModule(16, 0, root=str(root), transform=given, loader=Loader(batch_size=batch_size, num_workers=0))
    data.setup("fit")
    return data


def fed(data: CocoDataModule, epochs: int) -> list[tuple[int, int]]:
    """Padded sizes of single training images."""
    images = data.dataset("train")
    keys = [Key(epoch, index) for epoch in range(epochs) for index in range(len(data.indexes["train"]))]
    return [padded_size(*images[key].image.shape[1:], data.size_divisor) for key in keys]


@pytest.mark.parametrize(
    "transform",
    [
        {},
        {"long_side": 128},
        {"scale_jitter": (0.42, 2.0)},
        {"crop": 1.0},
        {"crop": 1.0, "crop_area": (0.9, 1.0)},
        {"crop": 0.5, "crop_area": (0.01, 0.2), "long_side": 120, "scale_jitter": (0.7, 1.0)},
        {"size": (72, 100)},
    ],
)
def test_no_image_is_smaller_and_one_is_as_small(coco_root: Path, transform: dict[str, Any]) -> None:
    data = module(coco_root, **transform)
    images, size = data.smallest_training_batch(1)
    assert images == 1
    sizes = fed(data, 40 if transform.keys() & {"crop", "scale_jitter"} else 1)
    assert min(max(of_image) for of_image in sizes) == max(size)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("number", [1, 3, 7, 30])
def test_no_process_gets_fewer_images(number: int, world_size: int) -> None:
    batches = TrainBatches(np.linspace(0.5, 2, number), 2, seed=4)
    shares = [
        len(batch[rank::world_size])
        for epoch in range(3)
        for batch in batches.global_batches(epoch, world_size)
        for rank in range(world_size)
    ]
    assert batches.fewest_images(world_size) == min(shares)
