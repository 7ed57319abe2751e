from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, distributed, nn

from detfuse.data import CocoDataModule, Loader, SyntheticDataModule, Transforms
from detfuse.data.dataset import Key
from detfuse.data.loader import EvaluationBatches, TrainBatches, auto_workers
from detfuse.structures import Batch
from detfuse.training.datamodule import LightningData

AUGMENT = {"crop": 0.5, "scale_jitter": (0.8, 1.2), "brightness": 0.2}


def module(root: Path, *, seed: int = 0, augment: bool = True, **options: Any) -> CocoDataModule:
    transform = Transforms(short_side=48, long_side=None, **(AUGMENT if augment else {}))
    loader = Loader(**{"batch_size": 3, "num_workers": 0, **options})
    data = CocoDataModule(32, seed, root=str(root), transform=transform, loader=loader)
    data.setup("fit")
    return data


def epoch(data: CocoDataModule, number: int) -> list[Batch]:
    loader = data.train_dataloader()
    loader.batch_sampler.set_epoch(number)
    return list(loader)


def tensors(batch: Batch) -> list[Tensor]:
    return [*batch[:5], *batch.targets]


def same(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(s, t) for x, y in zip(a, b, strict=True) for s, t in zip(tensors(x), tensors(y), strict=True)
    )


def as_rank(monkeypatch: pytest.MonkeyPatch, rank: int, world_size: int) -> None:
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_rank", lambda: rank)
    monkeypatch.setattr(distributed, "get_world_size", lambda: world_size)


@pytest.mark.filterwarnings("ignore:.*excessive worker creation")  # torch's advice on few cores
def test_batches_do_not_depend_on_the_workers(coco_root: Path) -> None:
    expected = epoch(module(coco_root), 2)
    torch.manual_seed(5)
    for num_workers in (1, 3):
        assert same(expected, epoch(module(coco_root, num_workers=num_workers), 2))


def test_batches_depend_on_seed_and_epoch(coco_root: Path) -> None:
    data = module(coco_root)
    assert same(epoch(data, 0), epoch(data, 0))
    assert not same(epoch(data, 0), epoch(data, 1))
    assert not same(epoch(data, 0), epoch(module(coco_root, seed=1), 0))


def test_loading_leaves_the_global_random_state_alone(coco_root: Path) -> None:
    before = torch.random.get_rng_state()
    epoch(module(coco_root), 0)
    list(module(coco_root).val_dataloader())
    assert torch.equal(before, torch.random.get_rng_state())


def test_an_image_is_augmented_differently_in_every_epoch_only(coco_root: Path) -> None:
    dataset = module(coco_root).dataset("train")
    assert torch.equal(dataset[Key(4, 1)].image, dataset[Key(4, 1)].image)
    first, second = dataset[Key(4, 1)].image, dataset[Key(5, 1)].image
    assert first.shape != second.shape or not torch.equal(first, second)


class Recorder(pl.LightningModule):
    """Trains nothing and notes the image ids of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen: dict[int, list[list[int]]] = {}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.seen.setdefault(self.current_epoch, []).append(batch.image_ids.tolist())
        return self.weight.sum()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.seen.setdefault(-1, []).append(batch.image_ids.tolist())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer(max_epochs: int) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=max_epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )


under_lightning = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",  # so it is meant
    "ignore:.*smaller than the logging interval",
    "ignore:GPU available but not used",
    "ignore:.*LeafSpec.* is deprecated",  # Lightning 2.6 under newer torch
)


@under_lightning
@pytest.mark.parametrize("num_workers", [0, 1])
def test_lightning_tells_the_loader_its_epoch(coco_root: Path, num_workers: int) -> None:
    data = module(coco_root, num_workers=num_workers)
    expected = {n: [batch.image_ids.tolist() for batch in epoch(module(coco_root), n)] for n in range(3)}
    recorder = Recorder()
    trainer(3).fit(recorder, datamodule=LightningData(data))
    validated = recorder.seen.pop(-1)
    assert recorder.seen == expected
    assert len({str(order) for order in expected.values()}) == 3
    assert sorted(i for batch in validated[: len(validated) // 3] for i in batch) == list(range(100, 107))


class Fetched(SyntheticDataModule):
    """Says when it is to be made."""

    fetched = False

    def prepare_data(self) -> None:
        self.fetched = True


@under_lightning
def test_lightning_has_the_data_made_and_reads_what_it_needs(tmp_path: Path) -> None:
    options: dict[str, Any] = {"num_train": 2, "num_val": 2, "image_size": 32, "max_size": 20.0, "max_objects": 2}
    parts = {"transform": Transforms(short_side=32), "loader": Loader(batch_size=2, num_workers=0)}
    for splits, run in (({"val"}, pl.Trainer.validate), ({"train", "val"}, pl.Trainer.fit)):
        data = Fetched(32, 0, root=str(tmp_path), **options, **parts)
        run(trainer(1), Recorder(), datamodule=LightningData(data))
        assert data.fetched
        assert data.indexes.keys() == splits


def test_the_largest_padded_size_is_that_of_the_largest_batch(coco_root: Path) -> None:
    data = module(coco_root, augment=False, batch_size=1)
    fed = [batch.images.shape[2:] for batch in [*epoch(data, 0), *data.val_dataloader()]]
    assert data.largest_padded_size() == tuple(max(fed, key=lambda shape: shape[0] * shape[1]))
    data.transform = Transforms(short_side=48, long_side=None, scale_jitter=(0.5, 2.0))
    twice = [-(-2 * side // 32) * 32 for side in data.transform.resized(*data.indexes["train"].sizes.max(0).tolist())]
    assert data.largest_padded_size()[0] >= min(twice)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_no_augmented_batch_is_larger_than_the_bounds(coco_root: Path, batch_size: int) -> None:
    """Alone an image may be wide or tall; of several, one may be wide and another one tall."""
    data = module(coco_root, batch_size=batch_size)
    fed = {tuple(batch.images.shape[2:]) for number in range(40) for batch in epoch(data, number)}
    height, width = data.largest_batch_shape()
    assert max(h * w for h, w in fed) <= height * width
    if batch_size == 1:
        assert data.largest_padded_size() == (height, width)
        assert max(h * w for h, w in fed) >= height * width - 32 * max(height, width)
    else:
        assert height - 32 <= max(h for h, _ in fed) <= height
        assert width - 32 <= max(w for _, w in fed) <= width
    inferred = {tuple(batch.images.shape[2:]) for batch in data.val_dataloader()}
    assert data.largest_inference_size() == max(inferred, key=lambda shape: shape[0] * shape[1])


def test_padding_and_buckets(coco_root: Path) -> None:
    for batch in epoch(module(coco_root), 0):
        assert batch.images.shape[2] % 32 == 0
        assert batch.images.shape[3] % 32 == 0
        assert batch.targets.boxes.shape[1] == 8
        assert not (batch.targets.valid & batch.targets.ignore).any()


def test_bucket_of_the_dataset_or_of_the_batch(tmp_path: Path, write_split: Any) -> None:
    boxes = [[[1, 1, 9, 9, 3, 0]] * 9, [[1, 1, 9, 9, 3, 0]]]
    for split, first in (("train", 1), ("val", 11)):
        write_split(tmp_path / f"{split}.json", tmp_path / "images", [(32, 32)] * 2, boxes, first_id=first)
    for bucket, expected in (("dataset", {16}), ("batch", {8, 16})):
        data = module(tmp_path, augment=False, batch_size=1, targets_bucket=bucket)
        assert {batch.targets.boxes.shape[1] for batch in epoch(data, 0)} == expected


@pytest.mark.parametrize(("number", "batch_size", "expected"), [(11, 3, 3), (9, 3, 3), (2, 3, 1), (1, 8, 1)])
def test_incomplete_batches_are_dropped_unless_alone(number: int, batch_size: int, expected: int) -> None:
    batches = TrainBatches(np.ones(number), batch_size, seed=0)
    keys = list(batches)
    assert len(keys) == len(batches) == expected
    assert {len(batch) for batch in keys} == {min(batch_size, number)}
    assert len({key.position for batch in keys for key in batch}) == expected * min(batch_size, number)


def test_every_image_gets_its_turn() -> None:
    aspects = np.array([0.5] * 17 + [2.0] * 3)
    batches = TrainBatches(aspects, 8, seed=0)
    seen = np.zeros(20)
    for number in range(300):
        for batch in batches.global_batches(number, 1):
            seen[batch] += 1
    assert seen.max() / seen.min() < 1.3


def test_wide_and_tall_images_are_kept_apart() -> None:
    aspects = np.where(np.arange(64) % 4 == 0, 2.0, 0.5)

    def mixed(group: bool) -> int:
        batches = TrainBatches(aspects, 4, seed=0, group_by_aspect=group).global_batches(0, 1)
        return sum(len({bool(aspects[i] > 1) for i in batch}) == 2 for batch in batches)

    assert mixed(True) <= 1
    assert mixed(False) > 5


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("number", [1, 3, 30])
def test_ranks_share_the_training_batches(monkeypatch: pytest.MonkeyPatch, number: int, world_size: int) -> None:
    batches = TrainBatches(np.linspace(0.5, 2, number), 2, seed=4)
    batches.set_epoch(6)
    expected = batches.global_batches(6, world_size)
    shares = []
    for rank in range(world_size):
        as_rank(monkeypatch, rank, world_size)
        shares.append(list(batches))
        assert len(shares[-1]) == len(batches) == len(expected) == batches.num_batches(world_size)
        assert all(share for share in shares[-1])
    for step, batch in enumerate(expected):
        together = sorted(key.position for share in shares for key in share[step])
        assert together == sorted(batch)
        assert len(set(batch)) == min(len(batch), number)


@pytest.mark.parametrize("world_size", [1, 2, 3, 9])
def test_ranks_partition_the_evaluation_batches(
    monkeypatch: pytest.MonkeyPatch, coco_root: Path, world_size: int
) -> None:
    data = module(coco_root, eval_batch_size=2)
    whole = [batch.image_ids.tolist() for batch in data.val_dataloader()]
    dealt = []
    for rank in range(world_size):
        as_rank(monkeypatch, rank, world_size)
        loader = data.val_dataloader()
        mine = list(loader)
        assert len(mine) == len(loader)
        dealt += [batch.image_ids.tolist() for batch in mine]
        for batch in mine:
            assert len({tuple((size + 31) // 32 for size in sizes.tolist()) for sizes in batch.image_sizes}) == 1
    assert sorted(dealt) == sorted(whole)
    assert sorted(i for batch in dealt for i in batch) == list(range(100, 107))


def test_the_images_of_the_largest_area_are_evaluated_first() -> None:
    batches = EvaluationBatches([(64, 32), (32, 320), (96, 64), (32, 320)], 8)
    assert [[key.position for key in batch] for batch in batches] == [[1, 3], [2], [0]]


def test_fewer_images_than_ranks_leaves_ranks_without_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = EvaluationBatches([(32, 32), (32, 64)], 4)
    as_rank(monkeypatch, 2, 3)
    assert (len(batches), list(batches)) == (0, [])


def test_train_batches_per_epoch(coco_root: Path) -> None:
    data = module(coco_root)
    assert [data.train_batches_per_epoch(world_size) for world_size in (1, 2, 4)] == [3, 1, 1]
    assert len(data.train_dataloader()) == 3
    # of 11 images; with more processes than that, some are repeated
    assert [data.images_per_batch(world_size) for world_size in (1, 2, 4, 12)] == [3, 6, 11, 12]


def test_auto_workers_counts_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)
    for gpu, ranks, expected in ((False, 1, 4), (False, 8, 0), (True, 1, 8), (True, 4, 3), (True, 16, 1)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
        assert auto_workers() == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"num_workers": -1}, "num_workers"),
        ({"targets_bucket": "x"}, "targets_bucket"),
    ],
)
def test_arguments_out_of_range_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Loader(**arguments)


def test_what_is_held_back_is_never_trained_on_and_always_the_same(coco_root: Path) -> None:
    whole, data = module(coco_root), module(coco_root, seed=3, hold_back=0.4)
    every, trained = whole.ground_truth("train").ids, data.ground_truth("train").ids
    assert whole.held_back is None
    assert data.held_back is not None
    assert len(data.held_back) == round(0.4 * len(every))
    assert f"held back of it: {len(data.held_back)} images" in data.description
    assert sorted([*trained, *data.held_back.ids]) == sorted(every)
    assert data.held_back.ids == module(coco_root, hold_back=0.4).held_back.ids  # type: ignore[union-attr]
    seen = {int(i) for number in range(3) for batch in epoch(data, number) for i in batch.image_ids}
    assert seen == set(trained)
    index = data.held_back
    for batch in data.held_back_dataloader():
        for row, number in enumerate(batch.image_ids.tolist()):
            position = index.ids.index(number)
            boxes = torch.from_numpy(index.boxes_xyxy(position)) * batch.scales[row].flip(0).repeat(2)
            found = batch.targets.valid[row] | batch.targets.ignore[row]
            torch.testing.assert_close(batch.targets.boxes[row][found], boxes)
    with pytest.raises(ValueError, match="nothing is held back of the training images"):
        whole.held_back_dataloader()


@pytest.mark.parametrize(("share", "count"), [(0.001, 0), (0.999, "all")])
def test_a_share_that_holds_back_nothing_or_all_is_refused(coco_root: Path, share: float, count: Any) -> None:
    images = len(module(coco_root).ground_truth("train"))
    with pytest.raises(ValueError, match=f"is {images if count == 'all' else count} of them: hold back one at least"):
        module(coco_root, hold_back=share)
