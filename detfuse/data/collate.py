"""Samples of different sizes to one padded batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from detfuse.data.scene import Sample
from detfuse.errors import InputError
from detfuse.structures import Batch, Size, Targets

SMALLEST_BUCKET = 8


def target_bucket(num_objects: int) -> int:
    """Rows that targets are padded to: 8, 16, 32 ..., so that few shapes ever reach a compiled loss."""
    bucket = SMALLEST_BUCKET
    while bucket < num_objects:
        bucket *= 2
    return bucket


def padded_size(height: int, width: int, size_divisor: int) -> Size:
    """(height, width) rounded up to multiples of ``size_divisor``."""
    return -(-height // size_divisor) * size_divisor, -(-width // size_divisor) * size_divisor


def collate(samples: Sequence[Sample], *, size_divisor: int, num_targets: int | None = None) -> Batch:
    """Pad images at the bottom and the right, and targets to a bucket.

    The images lie in memory as (B, H, W, 3) (``channels_last``), the order in which files are decoded.

    Args:
        samples: at least one.
        size_divisor: height and width of the batch become multiples of it (the backbone's coarsest stride).
        num_targets: rows per image; None takes the bucket of the fullest image.

    Raises:
        ValueError: if there is no sample, or one with more than ``num_targets`` objects.
    """
    if not samples:
        raise InputError("a batch needs at least one sample")
    most = max(len(sample.objects.boxes) for sample in samples)
    rows = target_bucket(most) if num_targets is None else num_targets
    if most > rows:
        raise InputError(f"an image holds {most} objects, but the batch has room for {rows}")
    sizes = [(sample.image.shape[1], sample.image.shape[2]) for sample in samples]
    height, width = padded_size(max(h for h, _ in sizes), max(w for _, w in sizes), size_divisor)
    count = len(samples)
    pixels = samples[0].image.dtype
    images = torch.zeros(count, 3, height, width, dtype=pixels).contiguous(memory_format=torch.channels_last)
    boxes = torch.zeros(count, rows, 4)
    labels = torch.zeros(count, rows, dtype=torch.int64)
    valid = torch.zeros(count, rows, dtype=torch.bool)
    ignore = torch.zeros(count, rows, dtype=torch.bool)
    for i, sample in enumerate(samples):
        images[i, :, : sizes[i][0], : sizes[i][1]] = sample.image
        n = len(sample.objects.boxes)
        boxes[i, :n] = sample.objects.boxes
        labels[i, :n] = sample.objects.labels
        valid[i, :n] = ~sample.objects.crowd
        ignore[i, :n] = sample.objects.crowd
    return Batch(
        images=images,
        image_sizes=torch.tensor(sizes, dtype=torch.int64),
        original_sizes=torch.tensor([sample.original_size for sample in samples], dtype=torch.int64),
        scales=torch.tensor([sample.scale for sample in samples], dtype=torch.float32),
        image_ids=torch.tensor([sample.image_id for sample in samples], dtype=torch.int64),
        targets=Targets(boxes, labels, valid, ignore),
    )
