"""What runs without a trainer computes on the device and in the number format that a trainer takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import pytorch_lightning as pl
import torch
from contracts.composing import compose_train
from lightning_fabric.accelerators.mps import MPSAccelerator

from detfuse.build import build_parts, build_trainer
from detfuse.evaluation import coco_results, rows_of
from detfuse.training.datamodule import LightningData
from detfuse.training.device import bytes_of, compute_device, precision_of
from detfuse.training.inference import Inference
from detfuse.training.trainer import Precision, make_trainer

PRECISIONS = get_args(Precision)
CPU = torch.device("cpu")

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*AMP with fp16 is not supported on CPU"),
    pytest.mark.filterwarnings("ignore:.*Precision bf16-mixed is not supported"),
]


def trainer_of(tmp_path: Path, **settings: Any) -> pl.Trainer:
    return make_trainer(tmp_path, [], [], max_epochs=1, **settings)


@pytest.mark.parametrize("name", PRECISIONS)
def test_a_precision_is_what_the_trainer_makes_of_it(name: Any, tmp_path: Path) -> None:
    ours, theirs = precision_of(name, CPU), trainer_of(tmp_path, precision=name, accelerator="cpu").precision_plugin
    assert (type(ours), ours.precision) == (type(theirs), theirs.precision)
    size = 4 if name == "32-true" else 2
    assert bytes_of(ours) == bytes_of(theirs) == size
    with ours.forward_context():
        maps = torch.nn.functional.conv2d(*ours.convert_input([torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 1, 1)]))
    assert maps.element_size() == size


@pytest.mark.parametrize("precision", PRECISIONS)
def test_inference_gives_what_validation_gives(precision: str, tmp_path: Path) -> None:
    small = ("data.num_train=1", "data.num_val=2", "data.image_size=64", "data.max_size=40", f"data.root={tmp_path}")
    config = compose_train(
        *small, f"trainer.precision={precision}", "trainer.accelerator=cpu", "neck.out_channels=16", "head.num_convs=1"
    )
    parts = build_parts(config, stage="validate")
    inference = Inference(parts.detector, parts.module.combine, config)
    rows = []
    for batch in parts.data.val_dataloader():
        for i, found in enumerate(inference(inference.placed(batch.images), batch.image_sizes)):
            image_id = int(batch.image_ids[i])
            in_file = found.to_original(batch.scales[i], batch.original_sizes[i])
            rows += rows_of(coco_results({image_id: in_file}, parts.data.categories))
    parts.module.evaluator = None
    trainer = build_trainer(config, tmp_path, bare=True)
    trainer.validate(parts.module, datamodule=LightningData(parts.data), verbose=False)
    assert len(rows) > 10
    assert parts.module.predictions is not None
    assert rows == list(rows_of(parts.module.predictions))


@pytest.mark.filterwarnings("ignore:GPU available but not used")
@pytest.mark.parametrize("has", ["nothing", "cuda", "mps"])
def test_a_device_is_what_the_trainer_takes(has: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2 if has == "cuda" else 0)
    monkeypatch.setattr(MPSAccelerator, "is_available", staticmethod(lambda: has == "mps"))
    refused = {"nothing": {"gpu", "cuda", "mps"}, "cuda": {"mps"}, "mps": {"cuda"}}[has]
    for accelerator in ("auto", "gpu", "cuda", "mps", "cpu"):
        if accelerator in refused:
            with pytest.raises(ValueError, match=f"trainer.accelerator={accelerator}: torch sees no such device"):
                compute_device(accelerator)
            continue
        for devices in (1, [1]) if has == "cuda" and accelerator != "cpu" else (1,):
            trainer = trainer_of(tmp_path, accelerator=accelerator, devices=devices)
            assert compute_device(accelerator, devices) == trainer.strategy.root_device
    assert compute_device().type == ("cpu" if has == "nothing" else has)


def test_what_is_neither_is_named() -> None:
    with pytest.raises(ValueError, match=r"trainer.accelerator=tpu: choose one of auto, gpu, mps, cuda, cpu"):
        compute_device("tpu")
    with pytest.raises(ValueError, match=r"trainer.precision=8: choose one of 32-true"):
        precision_of(8, CPU)
