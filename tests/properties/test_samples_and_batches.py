"""Transforms and collation against loops over pixels and boxes: each pixel of a test image says where it came from."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slowly import Box, area, boxes, shared

from detfuse.data.collate import collate
from detfuse.data.scene import Objects, Sample
from detfuse.data.steps import generator_for
from detfuse.data.transforms import MIN_SIDE, Transforms
from detfuse.structures import Detections

_SIZES = st.tuples(st.sampled_from([1, 2, 3, 7, 16, 33]), st.sampled_from([1, 2, 5, 8, 21, 50]))  # (height, width)
_OBJECTS = st.lists(st.tuples(boxes(12), st.integers(0, 3), st.booleans()), max_size=5)


def _image(height: int, width: int) -> torch.Tensor:
    """(3, H, W): red is the column, green the row, blue is set."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([columns, rows, torch.full_like(rows, 200)]).to(torch.uint8)


def _objects(found: list[tuple[Box, int, bool]], size: tuple[int, int] = (99, 99)) -> Objects:
    """As the reader leaves them: none leaves its image, none is empty."""
    height, width = size
    cut = [((min(b[0], width), min(b[1], height), min(b[2], width), min(b[3], height)), *rest) for b, *rest in found]
    kept = [each for each in cut if area(each[0])]
    return Objects(
        torch.tensor([box for box, _, _ in kept], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([label for _, label, _ in kept], dtype=torch.int64),
        torch.tensor([crowd for _, _, crowd in kept], dtype=torch.bool),
    )


@given(_SIZES, _OBJECTS)
def test_a_flip(size: tuple[int, int], found: list[tuple[Box, int, bool]]) -> None:
    objects, (_, width) = _objects(found, size), size
    sample = Transforms(size=size, flip=1.0).train(_image(*size), objects, generator_for(0, 0, 0))
    assert sample.image[0].tolist() == [[width - 1 - column for column in range(width)]] * size[0]
    assert sample.image[1].tolist() == [[row] * width for row in range(size[0])]
    assert sample.objects.boxes.tolist() == [
        [width - x1, y0, width - x0, y1] for x0, y0, x1, y1 in objects.boxes.tolist()
    ]
    assert sample.objects.labels.tolist() == objects.labels.tolist()


@given(_SIZES, _OBJECTS, st.integers(1, 40), st.one_of(st.none(), st.integers(0, 40)))
def test_a_size_and_the_way_back(
    size: tuple[int, int], found: list[tuple[Box, int, bool]], short: int, more: int | None
) -> None:
    (height, width), objects = size, _objects(found, size)
    long = None if more is None else short + more
    sample = Transforms(short_side=short, long_side=long).evaluate(_image(*size), objects)
    factor = min(short / min(size), (16 * short if long is None else long) / max(size))
    resized = tuple(max(1, int(side * factor + 0.5)) for side in size)
    assert sample.image.shape == (3, *resized)
    assert sample.scale == (resized[0] / height, resized[1] / width)
    assert int(sample.image[2].min()) == int(sample.image[2].max()) == 200
    y, x = sample.scale
    expected = [[x0 * x, y0 * y, x1 * x, y1 * y] for x0, y0, x1, y1 in objects.boxes.tolist()]
    np.testing.assert_allclose(sample.objects.boxes, np.reshape(expected, (-1, 4)), rtol=1e-5, atol=1e-5)
    none = torch.zeros(len(objects.labels))
    back = Detections(sample.objects.boxes, none, objects.labels, objects.labels)
    restored = back.to_original(torch.tensor(sample.scale), torch.tensor(size)).boxes
    np.testing.assert_allclose(restored, objects.boxes, atol=1e-4)


@given(_SIZES, _OBJECTS, st.integers(0, 999), st.sampled_from(["centre", "visible"]))
def test_a_crop(size: tuple[int, int], found: list[tuple[Box, int, bool]], index: int, keep: Any) -> None:
    objects = _objects(found, size)
    transforms = Transforms(short_side=1, long_side=None, flip=0.0, crop=1.0, crop_area=(0.2, 0.9), crop_keep=keep)
    transforms.steps.pop()  # the resizing, so that pixels stay what they are
    sample = transforms.train(_image(*size), objects, generator_for(0, 0, index))
    height, width = sample.image.shape[1:]
    left, top = int(sample.image[0, 0, 0]), int(sample.image[1, 0, 0])
    assert torch.equal(sample.image, _image(*size)[:, top : top + height, left : left + width])
    expected = []
    for box, label, crowd in zip(*(column.tolist() for column in objects), strict=True):
        frame = (left, top, left + width, top + height)
        seen = [max(box[0], frame[0]), max(box[1], frame[1]), min(box[2], frame[2]), min(box[3], frame[3])]
        centre = (box[0] + box[2]) / 2 - left, (box[1] + box[3]) / 2 - top
        stays = 0 <= centre[0] < width and 0 <= centre[1] < height
        if keep == "visible":
            stays = 2 * shared(box, frame) >= area(box)
        if shared(box, frame) and (stays or crowd) and min(seen[2] - seen[0], seen[3] - seen[1]) >= MIN_SIDE:
            expected.append(([seen[0] - left, seen[1] - top, seen[2] - left, seen[3] - top], label, crowd))
    assert list(zip(*(column.tolist() for column in sample.objects), strict=True)) == expected


@settings(max_examples=settings.default.max_examples // 2)
@given(st.lists(st.tuples(_SIZES, _OBJECTS), min_size=1, max_size=3), st.sampled_from([1, 4, 32]))
def test_a_batch(samples: list[tuple[tuple[int, int], list[tuple[Box, int, bool]]]], divisor: int) -> None:
    made = [
        Sample(_image(*size), _objects(found), size, (1.0, 0.5), number) for number, (size, found) in enumerate(samples)
    ]
    batch = collate(made, size_divisor=divisor)
    height, width = batch.images.shape[2:]
    for least, side in ((max(size[i] for size, _ in samples), (height, width)[i]) for i in (0, 1)):
        assert side % divisor == 0
        assert least <= side < least + divisor
    rows = batch.targets.boxes.shape[1]
    assert rows in (8, 16, 32)
    for i, sample in enumerate(made):
        high, wide = sample.original_size
        pixels = [[[x, y, 200] if y < high and x < wide else [0, 0, 0] for x in range(width)] for y in range(height)]
        assert batch.images[i].permute(1, 2, 0).tolist() == pixels
        listed = list(zip(*(column.tolist() for column in sample.objects), strict=True))
        padded = [*listed, *[([0.0] * 4, 0, None)] * (rows - len(listed))]
        columns = (column[i].tolist() for column in batch.targets)
        assert list(zip(*columns, strict=True)) == [
            (box, label, crowd is False, crowd is True) for box, label, crowd in padded
        ]
    assert batch.image_sizes.tolist() == [list(size) for size, _ in samples]
    assert batch.image_ids.tolist() == list(range(len(samples)))
