"""Small data sets, written by the tests themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detfuse.data import kept
from detfuse.data.readers import Records
from detfuse.data.readers.checked import Reading

Write = Callable[..., Path]


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def write_split() -> Write:
    """Write one split: sizes are (width, height) per image; boxes[i] lists [x, y, w, h, category, iscrowd]."""

    def write(
        annotations: Path,
        images: Path,
        sizes: list[tuple[int, int]],
        boxes: list[list[list[float]]] | None = None,
        categories: dict[int, str] | None = None,
        first_id: int = 1,
        **changes: Any,
    ) -> Path:
        annotations.parent.mkdir(parents=True, exist_ok=True)
        images.mkdir(parents=True, exist_ok=True)
        records: list[dict[str, Any]] = []
        listed = []
        for i, (width, height) in enumerate(sizes):
            name = f"{first_id + i:04d}.png"
            picture(width, height, first_id + i).save(images / name)
            listed.append({"id": first_id + i, "file_name": name, "width": width, "height": height})
            for x, y, w, h, category, crowd in boxes[i] if boxes else [[2, 2, width / 2, height / 2, 3, 0]]:
                record = {"id": len(records) + 1, "image_id": first_id + i, "category_id": int(category)}
                records.append(record | {"bbox": [x, y, w, h], "area": w * h * 0.5, "iscrowd": int(crowd)})
        kinds = [{"id": id_, "name": name} for id_, name in (categories or {3: "cat", 7: "dog"}).items()]
        content = {"images": listed, "annotations": records, "categories": kinds} | changes
        annotations.write_text(json.dumps(content))
        return annotations

    return write


@pytest.fixture
def coco_root(tmp_path: Path, write_split: Write) -> Path:
    """11 training and 7 validation images of mixed aspects, with an empty image and a crowd, in COCO's own layout."""
    sizes = [
        (64, 48),
        (48, 64),
        (50, 50),
        (64, 40),
        (30, 64),
        (64, 48),
        (48, 64),
        (24, 64),
        (64, 48),
        (60, 45),
        (33, 31),
    ]
    boxes: list[list[list[float]]] = [[[1, 1, 20.5, 16, 3, 0], [5, 5, 10, 10, 7, 0]] for _ in sizes]
    boxes[2] = []
    boxes[3] = [[0, 0, 30, 30, 7, 1], [30, 5, 12, 12, 3, 0]]
    write_split(tmp_path / "annotations/instances_train2017.json", tmp_path / "train2017", sizes, boxes)
    write_split(
        tmp_path / "annotations/instances_val2017.json", tmp_path / "val2017", sizes[:7], boxes[:7], first_id=100
    )
    return tmp_path


@pytest.fixture
def readings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Sources that were read, and not taken from what is kept; everything is kept, however small and new."""
    read: list[Path] = []
    original = kept.read_records

    def noted(records: Records, *given: Any, **settings: Any) -> Reading:
        read.append(records.source)
        return original(records, *given, **settings)

    monkeypatch.setattr(kept, "read_records", noted)
    monkeypatch.setattr(kept, "WORTH", 0.0)
    monkeypatch.setattr(kept, "SETTLED", -1e6)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return read
