from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from detfuse.data import CocoDataModule, Loader, Objects, Scene, Transforms, collate
from detfuse.data.collate import target_bucket
from detfuse.data.scene import Scenes
from detfuse.data.steps import Resize, generator_for
from detfuse.structures import Batch


def scene(height: int = 60, width: int = 90) -> tuple[Tensor, Objects]:
    """A dark image with a bright rectangle, and that rectangle as the object beside a crowd."""
    image = torch.full((3, height, width), 10, dtype=torch.uint8)
    image[:, 20:40, 20:50] = 240
    boxes = torch.tensor([[20.0, 20, 50, 40], [0, 0, width, height]])
    return image, Objects(boxes, torch.tensor([1, 0]), torch.tensor([False, True]))


def bright_box(image: Tensor) -> list[int]:
    y, x = torch.where(image[0] > 120)
    return [int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1]


@pytest.mark.parametrize(
    ("size", "short_side", "long_side", "expected"),
    [
        ((480, 640), 240, None, (240, 320)),
        ((480, 640), 800, 1333, (800, 1067)),
        ((400, 1000), 800, 1333, (533, 1333)),
        ((1, 1), 30, None, (30, 30)),
        ((1, 1000), 10, 100, (1, 100)),
        ((20, 320), 128, None, (128, 2048)),
        ((1, 4000), 128, None, (1, 2048)),  # not 128 x 512,000
        ((20_000, 20), 128, None, (2048, 2)),
    ],
)
def test_resized_keeps_the_aspect(
    size: tuple[int, int], short_side: int, long_side: int | None, expected: tuple[int, int]
) -> None:
    transform = Transforms(short_side=short_side, long_side=long_side)
    assert transform.resized(*size) == expected
    sample = transform.evaluate(torch.zeros(3, *size, dtype=torch.uint8))
    assert sample.image.shape == (3, *expected)
    assert sample.scale == (expected[0] / size[0], expected[1] / size[1])
    assert sample.original_size == size


@pytest.mark.parametrize("long_side", [None, 66])
@pytest.mark.parametrize("size", [(48, 64), (64, 48), (50, 50), (24, 64)])
def test_no_augmentation_makes_an_image_larger_than_the_bound(size: tuple[int, int], long_side: int | None) -> None:
    """Which is nearly reached, in each direction that crops can take."""
    for changes in ({"crop": 1.0}, {"crop": 1.0, "crop_area": (0.9, 1.0)}, {"crop": 1.0, "scale_jitter": (1.4, 1.5)}):
        transform = Transforms(short_side=40, long_side=long_side, **changes)
        image = torch.zeros(3, *size, dtype=torch.uint8)
        samples = [transform.train(image, Objects.none(), generator_for(0, i, 0)) for i in range(200)]
        fed = {(sample.image.shape[1], sample.image.shape[2]) for sample in samples}
        bounds = transform.largest(*size)
        assert not [(h, w) for h, w in fed if not any(h <= bound[0] and w <= bound[1] for bound in bounds)]
        for height, width in bounds:
            assert min(max(height - h, width - w) for h, w in fed) <= 0.06 * (height + width)


def test_a_crop_may_become_larger_than_the_whole_image_does() -> None:
    assert Transforms().largest(480, 640) == [(800, 1067)]
    assert Transforms(crop=0.5).largest(480, 640)[0] == (800, 1333)
    assert 1.3 < Transforms(crop=0.5, long_side=None).largest(480, 640)[0][1] / 1067 < 1.35
    assert Transforms(crop=0.5, size=(300, 300)).largest(480, 640) == [(300, 300)]


def test_evaluation_scales_boxes_with_the_pixels() -> None:
    image, objects = scene()
    sample = Transforms(short_side=180, long_side=None).evaluate(image, objects, image_id=4)
    assert sample.objects.boxes.tolist() == [[60, 60, 150, 120], [0, 0, 270, 180]]
    assert sample.objects.boxes[0].tolist() == bright_box(sample.image)
    assert (sample.image.dtype, sample.image_id) == (torch.uint8, 4)


def test_an_exact_size_changes_the_aspect_and_is_not_padded() -> None:
    image, objects = scene(60, 90)
    transform = Transforms(size=(30, 70), crop=1.0)
    sample = transform.evaluate(image, objects)
    assert sample.image.shape == (3, 30, 70)
    assert sample.scale == (30 / 60, 70 / 90)
    torch.testing.assert_close(sample.objects.boxes[0], torch.tensor([140 / 9, 10.0, 350 / 9, 20.0]))
    trained = transform.train(image, objects, generator_for(0, 0, 0))
    batch = collate([sample, trained], size_divisor=transform.divisor(32))
    assert batch.images.shape == (2, 3, 30, 70)
    assert batch.image_sizes.tolist() == [[30, 70], [30, 70]]
    assert Transforms().divisor(32) == 32


@pytest.mark.parametrize("crop_keep", ["centre", "visible"])
def test_boxes_stay_on_their_objects_through_every_augmentation(crop_keep: str) -> None:
    transform = Transforms(
        short_side=120,
        long_side=None,
        scale_jitter=(0.5, 2.0),
        crop=0.7,
        crop_area=(0.2, 1.0),
        crop_keep=crop_keep,  # type: ignore[arg-type]  # parametrised
        brightness=0.2,
        contrast=0.2,
        saturation=0.2,
    )
    kept = 0
    for index in range(60):
        image, objects = scene()
        sample = transform.train(image, objects, generator_for(0, 0, index))
        height, width = sample.image.shape[1:]
        boxes = sample.objects.boxes
        assert boxes.dtype == torch.float32
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([width, height, width, height])).all()
        assert sample.objects.crowd.sum() == 1
        seen = boxes[~sample.objects.crowd]
        kept += len(seen)
        if len(seen):
            assert seen[0].tolist() == pytest.approx(bright_box(sample.image), abs=1.6)
    assert 20 < kept < 60


def test_a_crowd_follows_its_pixels_and_goes_with_them() -> None:
    """Flip, crop and resize; a crowd is kept as long as some of it is seen, wherever its middle is."""
    image, objects = scene()
    objects = objects._replace(crowd=torch.tensor([True, False]))  # the rectangle is the crowd
    transform = Transforms(short_side=60, long_side=None, crop=1.0, crop_area=(0.05, 0.4), flip=0.5)
    seen = lost = 0
    for index in range(60):
        sample = transform.train(image, objects, generator_for(2, 0, index))
        boxes = sample.objects.boxes[sample.objects.crowd]
        bright = bool((sample.image[0] > 120).any())
        if len(boxes):
            assert boxes[0].tolist() == pytest.approx(bright_box(sample.image), abs=2.6)
        seen, lost = seen + len(boxes), lost + (not len(boxes) and not bright)
        assert len(boxes) or not (sample.image[0] > 200).any()
    assert seen > 20
    assert lost > 3


def test_inputs_are_left_alone() -> None:
    image, objects = scene()
    before = image.clone(), [tensor.clone() for tensor in objects]
    transform = Transforms(short_side=60, crop=1.0, flip=1.0, brightness=0.5, contrast=0.5, saturation=0.5)
    for index in range(5):
        transform.train(image, objects, generator_for(0, 0, index))
    transform.evaluate(image, objects)
    assert torch.equal(image, before[0])
    assert all(torch.equal(a, b) for a, b in zip(objects, before[1], strict=True))


def test_flip_probability_and_the_global_random_state() -> None:
    image, objects = scene()
    state = torch.random.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002  the one to be left alone
    flipped = 0
    for index in range(200):
        sample = Transforms(short_side=60, flip=0.25).train(image, objects, generator_for(3, 1, index))
        flipped += int(torch.equal(sample.image, image.flip(-1)))
    assert 30 < flipped < 70
    assert torch.equal(state[0], torch.random.get_rng_state())
    assert state[1] == np.random.get_state()[1].tolist()  # noqa: NPY002


def test_an_option_does_not_change_what_the_others_draw() -> None:
    image, objects = scene()
    plain = Transforms(short_side=60)
    coloured = Transforms(short_side=60, brightness=0.3)
    for index in range(10):
        a = plain.train(image, objects, generator_for(0, 0, index))
        b = coloured.train(image, objects, generator_for(0, 0, index))
        assert torch.equal(a.objects.boxes, b.objects.boxes)


class Draws:
    """A step that draws, and does nothing."""

    name, scenes = "draws", 1

    def __call__(self, scene: Scene, generator: np.random.Generator, others: Scenes) -> Scene:
        generator.random(7)
        return scene


@pytest.mark.parametrize("place", [0, 1, 5])
def test_a_new_step_rerolls_no_other_wherever_it_stands(place: int) -> None:
    options: dict[str, Any] = {"short_side": 60, "crop": 0.7, "scale_jitter": (0.5, 2.0), "brightness": 0.3}
    plain, longer = Transforms(**options), Transforms(**options)
    longer.steps.insert(place, Draws())
    image, objects = scene()
    for index in range(10):
        a, b = (transform.train(image, objects, generator_for(0, 0, index)) for transform in (plain, longer))
        assert torch.equal(a.image, b.image)
        assert torch.equal(a.objects.boxes, b.objects.boxes)


def test_each_step_of_each_sample_has_its_own_generator() -> None:
    keys = [(*numbers, step) for numbers in product((0, 1), repeat=3) for step in ("a", "b")]
    drawn = {generator_for(*key)(step).random() for *key, step in keys}
    assert len(drawn) == len(keys)
    assert generator_for(3, 4, 5)("crop").random() == generator_for(3, 4, 5)("crop").random()


class Mosaic:
    """Four scenes in one of the first one's size: itself at the top left, three others of the data set."""

    name, scenes = "mosaic", 4

    def __call__(self, scene: Scene, generator: np.random.Generator, others: Scenes) -> Scene:
        height, width = scene.size
        positions = generator.integers(len(others), size=3).tolist()
        parts = [scene, *(others[position] for position in positions)]
        half = [Resize.to(part, (height // 2, width // 2)) for part in parts]
        image = torch.zeros_like(scene.image)
        boxes = []
        for i, part in enumerate(half):
            top, left = (height // 2) * (i // 2), (width // 2) * (i % 2)
            image[:, top : top + height // 2, left : left + width // 2] = part.image
            boxes.append(part.objects.boxes + torch.tensor([left, top, left, top]))
        columns = [torch.cat([part.objects[k] for part in half]) for k in (1, 2)]
        return scene._replace(image=image, objects=Objects(torch.cat(boxes), *columns), cut=True)


def test_a_step_may_take_in_other_scenes(tmp_path: Path, write_split: Any) -> None:
    """Through the loader, with and without worker: the batch has room for all objects, and is the same every time."""
    boxes = [[[1, 1, 9, 9, 3, 0]] * 3] * 6
    for split, first in (("train", 1), ("val", 11)):
        write_split(tmp_path / f"{split}.json", tmp_path / "images", [(40, 32)] * 6, boxes, first_id=first)

    def batches(num_workers: int) -> list[Batch]:
        transform = Transforms(short_side=64, long_side=None)
        transform.steps.insert(0, Mosaic())
        loader = Loader(batch_size=3, num_workers=num_workers)
        data = CocoDataModule(32, 0, root=str(tmp_path), transform=transform, loader=loader)
        data.setup("fit")
        assert next(iter(data.val_dataloader())).targets.boxes.shape[1] == 8
        return list(data.train_dataloader())

    alone = batches(0)
    assert len(alone) == 2
    assert {tuple(batch.targets.valid.sum(1).tolist()) for batch in alone} == {(12, 12, 12)}
    assert {batch.targets.boxes.shape[1] for batch in alone} == {16}
    for a, b in zip(alone, batches(1), strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.targets.boxes, b.targets.boxes)


def test_an_image_without_objects_passes_everywhere() -> None:
    transform = Transforms(short_side=40, crop=1.0, flip=1.0, scale_jitter=(0.5, 1.5))
    image = torch.zeros(3, 50, 70, dtype=torch.uint8)
    sample = transform.train(image, Objects.none(), generator_for(0, 0, 0))
    assert sample.objects.boxes.shape == (0, 4)
    batch = collate([sample, transform.evaluate(image)], size_divisor=32)
    assert batch.targets.boxes.shape == (2, 8, 4)
    assert not batch.targets.valid.any()


def test_a_crop_that_sees_no_object_keeps_none() -> None:
    objects = Objects(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([0]), torch.tensor([False]))
    transform = Transforms(short_side=50, crop=1.0, crop_area=(0.05, 0.06))
    counts = [
        len(transform.train(torch.zeros(3, 99, 99, dtype=torch.uint8), objects, generator_for(0, 0, i)).objects.boxes)
        for i in range(20)
    ]
    assert 0 in counts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"short_side": 0}, "short_side"),
        ({"short_side": 900, "long_side": 800}, "at most long_side"),
        ({"flip": 1.5}, "flip must lie in 0..1"),
        ({"scale_jitter": (2.0, 1.0)}, "scale_jitter must be"),
        ({"crop_area": (0.0, 1.0)}, "crop_area must lie"),
        ({"crop_keep": "all"}, "crop_keep must be"),
        ({"size": (300, 0)}, "size must be"),
        ({"size": (300,)}, "size must have 2 items"),
        ({"size": (300, 300), "scale_jitter": (0.5, 2.0)}, "scale_jitter=.* no effect on an exact size"),
        ({"size": (300, 300), "pad_multiple": 512}, "pad_multiple=512 has no effect on an exact size"),
    ],
)
def test_arguments_out_of_range_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Transforms(**arguments)  # type: ignore[arg-type]  # wrong on purpose


def test_batches_are_padded_to_a_multiple() -> None:
    transform = Transforms(short_side=96, long_side=96, pad_multiple=96)
    assert transform.divisor(32) == 96
    sample = transform.evaluate(torch.ones(3, 20, 48, dtype=torch.uint8))
    batch = collate([sample], size_divisor=transform.divisor(32))
    assert (batch.images.shape[2:], batch.image_sizes.tolist()) == ((96, 96), [[40, 96]])
    with pytest.raises(ValueError, match="pad_multiple=96: must be a multiple of 64, the coarsest stride"):
        transform.divisor(64)


def test_buckets() -> None:
    assert [target_bucket(n) for n in (0, 1, 8, 9, 16, 17, 93)] == [8, 8, 8, 16, 16, 32, 128]


def test_collate_pads_at_the_bottom_and_the_right() -> None:
    transform = Transforms(short_side=60, long_side=None)
    image, objects = scene()
    wide = transform.evaluate(image, objects, image_id=7)._replace(scale=(0.25, 0.75))
    tall = transform.evaluate(torch.full((3, 150, 120), 5, dtype=torch.uint8), image_id=9)
    batch = collate([wide, tall], size_divisor=32)
    assert (batch.images.shape, batch.images.dtype) == ((2, 3, 96, 96), torch.uint8)
    assert torch.equal(batch.images[0, :, :60, :90], image)
    assert batch.images[0, :, 60:].sum() == 0
    assert batch.images[0, :, :, 90:].sum() == 0
    assert batch.image_sizes.tolist() == [[60, 90], [75, 60]]
    assert batch.original_sizes.tolist() == [[60, 90], [150, 120]]
    assert batch.scales.tolist() == [[0.25, 0.75], [0.5, 0.5]]
    assert batch.image_ids.tolist() == [7, 9]
    assert batch.targets.boxes[0, :2].tolist() == objects.boxes.tolist()
    assert batch.targets.boxes[0, 2:].sum() == 0
    assert batch.targets.labels[0].tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    assert batch.targets.valid.nonzero().tolist() == [[0, 0]]
    assert batch.targets.ignore.nonzero().tolist() == [[0, 1]]
    assert batch.targets.labels.dtype == torch.int64


def test_collate_refuses_what_does_not_fit() -> None:
    image, objects = scene()
    sample = Transforms(short_side=60).evaluate(image, objects)
    assert collate([sample], size_divisor=8, num_targets=2).targets.boxes.shape == (1, 2, 4)
    with pytest.raises(ValueError, match="holds 2 objects, but the batch has room for 1"):
        collate([sample], size_divisor=8, num_targets=1)
    with pytest.raises(ValueError, match="at least one sample"):
        collate([], size_divisor=8)
