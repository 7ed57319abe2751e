"""What limits the score, at the start of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from contracts.composing import compose_train
from PIL import Image

from detfuse.build import ConfigError, build_evaluator, build_parts, build_trainer
from detfuse.runs.header import header

SMALL = ("neck.out_channels=16", "head.num_convs=1", "backbone=resnet10t", "data.transform.short_side=32")
MACHINE = ("trainer.accelerator=cpu", "data.loader.num_workers=0")


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    """Two images of 120 objects each."""
    for image in (1, 2):
        Image.new("RGB", (64, 64)).save(tmp_path / f"{image}.png")
    boxes = [
        {"id": 120 * i + k + 1, "image_id": i + 1, "category_id": 1, "bbox": [k % 12 * 5, k // 12 * 5, 4, 4]}
        for i in range(2)
        for k in range(120)
    ]
    annotations = [box | {"area": 16, "iscrowd": 0} for box in boxes]
    images = [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 64} for i in (1, 2)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "tree"}]}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return tmp_path


def test_the_header_tells_the_ceiling_and_the_way_out(dense: Path) -> None:
    config = compose_train("data=folder", f"data.root={dense}", *SMALL, *MACHINE)
    parts = build_parts(config, stage="fit")
    text = header(parts, build_trainer(config, dense / "run", bare=True), dense / "run", config)
    assert "1 image has more objects of a class than the 100 detections that COCO's numbers count" in text
    assert "(120 of tree in 1)" in text or "(120 of tree in 2)" in text
    assert "perfect detections score 83.2 mAP" in text
    assert "combine.max_detections=120" in text
    config = compose_train("data=folder", f"data.root={dense}", "combine.max_detections=120", *SMALL, *MACHINE)
    evaluator = build_evaluator(config, parts.data.ground_truth("val"))
    assert evaluator.evaluate([]).stats["mAP@120"] == 0
    text = header(parts, build_trainer(config, dense / "run", bare=True), dense / "run", config)
    assert "combine.max_detections=120 detections" not in text


def test_more_than_there_can_be_is_refused(dense: Path) -> None:
    config = compose_train("data=folder", f"data.root={dense}", "evaluation.max_detections=300")
    with pytest.raises(ConfigError, match=r"no more detections than combine\.max_detections=100"):
        build_evaluator(config, None)  # type: ignore[arg-type]  # it is not looked at
