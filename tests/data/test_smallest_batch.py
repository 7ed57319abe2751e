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

LONG = [(128, 64), (64, 128)]


@pytest.mark.parametrize(
    "transform",
    [
        {},
        {"long_side": 120},
        {"scale_jitter": (0.42, 2.0)},
        {"crop": 1.0},
        {"crop": 1.0, "crop_area": (0.9, 1.0)},
        {"crop": 1.0, "crop_area": (0.01, 0.2), "scale_jitter": (0.7, 1.0)},
        {"size": (72, 100)},
    ],
)
def test_no_image_is_smaller_and_one_is_as_small(tmp_path: Path, write_split: Any, transform: dict[str, Any]) -> None:
    for split in ("train", "val"):  # twice as long as wide, so that a crop may be nearer to a square
        write_split(tmp_path / f"annotations/instances_{split}2017.json", tmp_path / f"{split}2017", LONG)
    given = Transforms(**{"short_side": 84, "long_side": None, **transform})
    data = CocoDataModule(16, 0, root=str(tmp_path), transform=given, loader=Loader(batch_size=1, num_workers=0))
    data.setup("fit")
    images, size = data.smallest_training_batch(1)
    assert images == 1
    dataset = data.dataset("train")
    fed = [dataset[Key(epoch, index)].image.shape[1:] for epoch in range(100) for index in range(len(LONG))]
    assert min(max(padded_size(*sides, data.size_divisor)) for sides in fed) == max(size)


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
