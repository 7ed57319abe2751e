"""What test_distributed.py does in each process: trains and validates, and writes what the process saw."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from ddp_learning import learn_in_two_processes  # type: ignore[import-not-found]  # likewise
from quadrants import SIZE, Quadrants, make_module  # type: ignore[import-not-found]  # lies beside this file
from torch.utils.data import DataLoader

from detfuse.data.loader import EvaluationBatches, rank_and_world_size
from detfuse.evaluation import rows_of
from detfuse.losses import normalizer_of
from detfuse.structures import Batch
from detfuse.training.checkpoint import Checkpoints
from detfuse.training.ema import ExponentialMovingAverage
from detfuse.training.progress import ProgressReport
from detfuse.training.trainer import make_trainer


class Dealt(Quadrants):
    """Batches as the real data modules deal them: whole ones, different numbers of them or none per process."""

    def train_batches_per_epoch(self, world_size: int) -> int:
        return max(1, self.num_images // (self.batch_size * world_size))

    def train_dataloader(self) -> DataLoader[Batch]:
        rank, world_size = rank_and_world_size()
        size = self.batch_size
        count = self.train_batches_per_epoch(world_size)
        first = [(step * world_size + rank) * size for step in range(count)]
        return self.loader_of([[(start + i) % self.num_images for i in range(size)] for start in first])

    def val_dataloader(self) -> DataLoader[Batch]:
        batches = EvaluationBatches([(SIZE, SIZE)] * self.num_images, self.batch_size)
        return self.loader_of([[key.position for key in batch] for batch in batches])


def seen(module: Any) -> dict[str, Any]:
    return {"metrics": module.metrics.as_dict(), "predictions": list(rows_of(module.predictions))}


def validate(folder: Path, checkpoint: Path, num_images: int, **options: Any) -> dict[str, Any]:
    data = Dealt(num_images=num_images)
    module = make_module(data)
    module.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"])
    trainer = make_trainer(folder, [], [], accelerator="cpu", **options)
    trainer.validate(module, datamodule=data, verbose=False)
    return seen(module)


def normalizers(rank: int) -> list[list[float]]:
    """Of a count that the first process has and one that both have; as they are, compiled whole, and one more."""
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    counts = [torch.tensor(count * (1 - rank) + more * rank) for count, more in ((0, 0), (1, 0), (6, 3))]
    compiled = torch.compile(normalizer_of, fullgraph=True, backend="eager")
    functions = (normalizer_of, compiled, partial(normalizer_of, added=1))
    return [[float(function(count, "all")) for count in counts] for function in functions]


def train_and_validate(folder: Path, rank: int) -> None:
    options: dict[str, Any] = {"devices": 2, "strategy": "ddp"}
    found: dict[str, Any] = {}
    for num_images in (5, 1):
        data = Dealt(num_images=num_images)
        module = make_module(data)
        run = folder / f"run_{num_images}"
        trainer = make_trainer(run, [Checkpoints(), ProgressReport()], [], accelerator="cpu", max_epochs=2, **options)
        trainer.fit(module, datamodule=data)
        found[f"trained {num_images}"] = seen(module)
        found[f"rows {num_images}"] = sorted(row["image_id"] for row in rows_of(module.predictions))
        found[f"evaluated {num_images}"] = validate(run, run / "checkpoints" / "last.ckpt", num_images, **options)
    data = Dealt(num_images=1)
    module = make_module(data)
    ema = ExponentialMovingAverage(decay=0.9)
    make_trainer(folder, [ema], [], accelerator="cpu", max_epochs=1, **options).fit(module, datamodule=data)
    found["averaged"] = ema.updates
    found["normalizers"] = normalizers(rank)
    (folder / f"rank_{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    learn_in_two_processes(folder, rank)
