"""Resident memory of training on very many images: ``python scripts/benchmark.py memory``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from numpy.typing import NDArray
from PIL import Image

from detfuse.build import build_parts, build_trainer
from detfuse.config import TrainSettings
from detfuse.config.resolve import resolve
from detfuse.training.datamodule import LightningData

SIZES = {"train2017": (118_000, 860_000), "ten times that": (1_180_000, 8_600_000)}
"""Images and boxes."""

WORKERS, EPOCHS, STEPS, BATCH = (0, 2), 6, 50, 4
FILES, SIDE, NUM_CLASSES = 16, 64, 80
GIVEN = (
    *("data=coco", "data.check_images=exists", f"data.transform.short_side={SIDE}", f"data.loader.batch_size={BATCH}"),
    *("neck.out_channels=16", "head.num_convs=1", "backbone=resnet10t", "callbacks.pictures=null", "logger=none"),
    *(f"trainer.max_epochs={EPOCHS}", f"trainer.limit_train_batches={STEPS}", "trainer.accelerator=cpu"),
)


def memory() -> None:
    """MiB of a run and its data workers at the end of each epoch."""
    print(
        "| images | boxes | workers | peak while reading | of the run | of each worker | anonymous memory, together |"
    )
    print("|--:|--:|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        for name, (images, boxes) in SIZES.items():
            root = Path(folder) / name.replace(" ", "-")
            write_data(root, images, boxes)
            for workers in WORKERS:
                peak, epochs = _measured(root, workers)
                run, together = (", ".join(str(epoch[what]) for epoch in epochs) for what in ("run", "together"))
                largest = ", ".join(str(max(epoch["workers"])) for epoch in epochs) if workers else ""
                print(f"| {images:,} | {boxes:,} | {workers} | {peak:,} | {run} | {largest} | {together} |", flush=True)


def write_data(root: Path, images: int, boxes: int) -> None:
    """A data set in COCO's form whose many images are few files: many records name the same one."""
    rng = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True)
    for split, count, objects in (("train", images, boxes), ("val", FILES, FILES)):
        folder = root / f"{split}2017"
        folder.mkdir()
        for number in range(FILES):
            noise = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / f"{number:012d}.jpg")
        with (root / "annotations" / f"instances_{split}2017.json").open("w") as file:
            file.writelines(_json(rng, count, objects))


def _json(rng: np.random.Generator, images: int, boxes: int) -> Iterator[str]:
    yield '{"images": ['
    for i in range(images):
        name = f'"id": {7 * i + 1}, "file_name": "{i % FILES:012d}.jpg", "height": {SIDE}, "width": {SIDE}'
        yield f"{', ' if i else ''}{{{name}}}"
    yield '], "annotations": ['
    image: NDArray[np.int64] = rng.integers(images, size=boxes)
    corners, sides = rng.integers(0, SIDE - 20, (boxes, 2)), rng.integers(4, 20, (boxes, 2))
    for i, (at, (x, y), (w, h)) in enumerate(zip(image.tolist(), corners.tolist(), sides.tolist(), strict=True)):
        what = f'"id": {i + 1}, "image_id": {7 * at + 1}, "category_id": {i % NUM_CLASSES + 1}, "iscrowd": 0'
        yield f'{", " if i else ""}{{{what}, "bbox": [{x}, {y}, {w}, {h}], "area": {w * h}}}'
    yield f'], "categories": {json.dumps([{"id": k, "name": f"class {k}"} for k in range(1, NUM_CLASSES + 1)])}}}'


def _measured(root: Path, workers: int) -> tuple[int, list[dict[str, Any]]]:
    """The largest resident size until training began, and what was resident after each epoch, in MiB."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        "from benchmarks.memory import train; train()",
        str(root),
        str(workers),
    ]
    here = str(Path(__file__).parents[1])
    paths = os.pathsep.join([here, *sys.path])
    run = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False)
    if run.returncode:
        raise SystemExit(run.stderr[-2000:])
    peak, *epochs = (json.loads(line) for line in run.stdout.splitlines() if line.startswith(("{", "[")))
    return peak[0], epochs


def train() -> None:
    """A run on a folder; a line of JSON for the peak before it and after each epoch. Arguments: folder, workers."""
    root, workers = sys.argv[1:]
    config = resolve([*GIVEN, f"data.root={root}", f"data.loader.num_workers={workers}"], TrainSettings).config
    config["callbacks"] = {}
    parts = build_parts(config, stage="fit")
    print(json.dumps([_peak()]), flush=True)
    trainer = build_trainer(config, Path(root))
    trainer.callbacks.append(Resident())  # type: ignore[attr-defined]  # Lightning sets it dynamically
    trainer.fit(parts.module, datamodule=LightningData(parts.data))


class Resident(pl.Callback):
    """Prints what is resident after each epoch."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        own, workers = os.getpid(), _children(os.getpid())
        found = {
            "run": _mebibytes(own, "Rss"),
            "workers": [_mebibytes(pid, "Rss") for pid in workers],
            # Pages that n processes share are 1/n each; those of programs and libraries, shared with others, left out.
            "together": sum(_mebibytes(pid, "Pss_Anon") for pid in (own, *workers)),
        }
        print(json.dumps(found), flush=True)


def _children(pid: int) -> list[int]:
    return [
        int(child)
        for thread in Path(f"/proc/{pid}/task").iterdir()
        for child in (thread / "children").read_text().split()
    ]


def _mebibytes(pid: int, what: str) -> int:
    return _found(Path(f"/proc/{pid}/smaps_rollup"), what)


def _peak() -> int:
    """Of this program alone: ``getrusage`` begins with the peak of the one that started it."""
    return _found(Path("/proc/self/status"), "VmHWM")


def _found(told: Path, what: str) -> int:
    return next(int(line.split()[1]) for line in told.read_text().splitlines() if line.startswith(f"{what}:")) // 1024
