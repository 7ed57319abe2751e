"""A detector of a few hundred weights by the contracts, on eight images with one bright quadrant each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from detfuse.detector import Detector
from detfuse.evaluation.coco import CocoEvaluator
from detfuse.structures import Batch, Categories, Detections, FeatureSpec, Targets
from detfuse.training.module import DetectionModule
from detfuse.training.optim import cosine, sgd

SIZE = 32
CATEGORIES = Categories((3, 7), ("cat", "dog"))
CORNERS = torch.tensor([[0, 0], [16, 0], [0, 16], [16, 16]], dtype=torch.float32)
QUADRANTS = torch.cat([CORNERS, CORNERS + 16], dim=1)


class TinyBackbone(nn.Module):
    out_spec = FeatureSpec((8,), (16,))

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 16, stride=16, bias=False)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.norm(self.conv(images)).relu()]


class TinyNeck(nn.Module):
    in_spec = out_spec = TinyBackbone.out_spec

    def __init__(self) -> None:
        super().__init__()
        self.fuse = nn.Conv2d(8, 8, 1)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return [self.fuse(feature) for feature in features]


class TinyOutputs(NamedTuple):
    logits: Tensor


class TinyHead(nn.Module):
    """Scores each quadrant of the image for each class."""

    compilable = True

    def __init__(self) -> None:
        super().__init__()
        self.predict_logits = nn.Conv2d(8, len(CATEGORIES), 1)

    def forward(self, features: list[Tensor]) -> TinyOutputs:
        return TinyOutputs(self.predict_logits(features[0]).flatten(2))

    def loss(self, outputs: TinyOutputs, batch: Batch) -> dict[str, Tensor]:
        targets = batch.targets
        hit = (targets.boxes[:, None, :, :2] == CORNERS[None, :, None]).all(-1) & targets.valid[:, None]  # B 4 N
        wanted = torch.stack([(hit & (targets.labels == k)[:, None]).any(-1) for k in range(len(CATEGORIES))], 1)
        loss = nn.functional.binary_cross_entropy_with_logits(outputs.logits, wanted.float())
        return {"loss_cls": loss, "loss_box": 0.1 * outputs.logits.square().mean()}

    def candidates(self, outputs: TinyOutputs, image_sizes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        scores, labels = outputs.logits.sigmoid().max(1)
        boxes = QUADRANTS.expand(len(scores), 4, 4)
        return boxes, scores, labels, torch.zeros_like(labels)


def combine(boxes: Tensor, scores: Tensor, labels: Tensor, levels: Tensor) -> Detections:
    order = scores.argsort(descending=True, stable=True)
    return Detections(boxes[order], scores[order], labels[order], levels[order])


class Quadrants(pl.LightningDataModule):
    """Image ``i`` (id ``10 * i``) has its quadrant ``i % 4`` lit in a colour that tells its class."""

    def __init__(self, *, num_images: int = 8, batch_size: int = 2, annotated: bool = True) -> None:
        super().__init__()
        self.num_images = num_images
        self.annotated = annotated
        self.batch_size = batch_size

    def images_per_batch(self, world_size: int) -> int:
        return self.batch_size * world_size

    def train_batches_per_epoch(self, world_size: int) -> int:
        return self.num_images // (self.batch_size * world_size)

    def batch(self, indices: list[int]) -> Batch:
        count = len(indices)
        images = torch.full((count, 3, SIZE, SIZE), 90, dtype=torch.uint8)
        boxes, labels, valid = torch.zeros(count, 8, 4), torch.zeros(count, 8, dtype=torch.int64), torch.zeros(count, 8)
        for row, i in enumerate(indices):
            left, top, right, bottom = QUADRANTS[i % 4].int().tolist()
            images[row, i // 4 % 2, top:bottom, left:right] = 200 + 5 * i
            boxes[row, 0], labels[row, 0], valid[row, 0] = QUADRANTS[i % 4], i // 4 % 2, 1
        sizes = torch.full((count, 2), SIZE)
        targets = Targets(boxes, labels, valid.bool(), torch.zeros(count, 8).bool())
        return Batch(images, sizes, sizes, torch.ones(count, 2), 10 * torch.tensor(indices), targets)

    def loader_of(self, batches: list[list[int]]) -> DataLoader[Batch]:
        return DataLoader(range(self.num_images), batch_sampler=batches, collate_fn=self.batch)  # type: ignore[arg-type]

    def train_dataloader(self) -> DataLoader[Batch]:
        size = self.batch_size
        return self.loader_of([list(range(i, i + size)) for i in range(0, self.num_images, size)])

    def val_dataloader(self) -> DataLoader[Batch]:
        return self.train_dataloader()

    def ground_truth(self) -> dict[str, Any]:
        annotations = [
            {
                "id": i + 1,
                "image_id": 10 * i,
                "category_id": CATEGORIES.ids[i // 4 % 2],
                "bbox": [*CORNERS[i % 4].tolist(), 16.0, 16.0],
                "area": 256.0,
                "iscrowd": 0,
            }
            for i in range(self.num_images)
        ]
        return {
            "images": [{"id": 10 * i, "width": SIZE, "height": SIZE} for i in range(self.num_images)],
            "annotations": annotations if self.annotated else [],
            "categories": [{"id": i, "name": n} for i, n in zip(CATEGORIES.ids, CATEGORIES.names, strict=True)],
        }


def make_detector(seed: int = 0) -> Detector:
    torch.manual_seed(seed)
    return Detector(TinyBackbone(), TinyNeck(), TinyHead())


def make_module(data: Quadrants, *, lr: float = 0.1, **options: Any) -> DetectionModule:
    return DetectionModule(
        make_detector(),
        combine,
        CocoEvaluator(data.ground_truth()),
        CATEGORIES,
        {"neck": {"_target_": "tiny", "levels": [3, 4]}, "seed": 0},
        partial(sgd, lr=lr, reference_batch=None),
        partial(cosine, warmup_steps=2),
        **options,
    )


Fit = Callable[..., tuple[DetectionModule, pl.Trainer]]
