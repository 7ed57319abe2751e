"""Annotation files as nobody means them are read into what can be trained on, or refused in a sentence."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import json_files
from hypothesis import example, given
from PIL import Image

from detfuse.data.index import DataError
from detfuse.data.readers import read_coco
from detfuse.data.readers.records import OVERSHOOT
from detfuse.words import printable, shortened

SIZES = {"a.png": (40, 30), "b.png": (7, 50), "sub/c.png": (1, 1)}
GOOD: dict[str, Any] = {
    "images": [
        {"id": number, "file_name": name, "width": width, "height": height}
        for number, (name, (width, height)) in enumerate(SIZES.items(), start=1)
    ],
    "annotations": [
        {"id": 5, "image_id": 1, "category_id": 3, "bbox": [2, 3.5, 10, 8], "area": 60.5, "iscrowd": 0},
        {"id": 6, "image_id": 2, "category_id": 7, "bbox": [-4, 0, 9, 12], "area": 80, "iscrowd": 1},
        {"id": 9, "image_id": 3, "category_id": 3, "bbox": [0, 0, 1, 1], "area": 1, "iscrowd": 0},
    ],
    "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("annotations")
    for name, size in SIZES.items():
        (made / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", size).save(made / name)
    return made


@given(content=json_files(GOOD))
@example(content=json.dumps(GOOD).replace("3.5", "NaN").encode())
def test_whatever_an_annotation_file_holds(folder: Path, content: bytes) -> None:
    (folder / "instances.json").write_bytes(content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            index = read_coco(folder / "instances.json", folder)
        except DataError as error:
            assert_told(str(error), "instances.json", *SIZES)
            return
    for warning in caught:
        assert_told(str(warning.message), "instances.json")
    left_top, sides = index.boxes[:, :2], index.boxes[:, 2:]
    assert np.isfinite(index.boxes).all()
    assert (sides > 0).all()
    assert (left_top >= -OVERSHOOT).all()
    assert (left_top + sides <= index.sizes[index.images][:, ::-1] + OVERSHOOT).all()
    assert ((index.areas > 0) & np.isfinite(index.areas)).all()
    assert ((index.labels >= 0) & (index.labels < len(index.categories))).all()
    assert len(set(index.ids)) == len(index.ids)
    assert len({type(number) for number in index.ids}) == 1
    assert len(set(index.annotation_ids.tolist())) == len(index.annotation_ids)
    assert all((folder / name).resolve().is_relative_to(folder) for name in index.file_names)


def assert_told(message: str, *files: str) -> None:
    """It names a file, and can be printed."""
    assert any(file in message for file in files), message[:500]
    assert max(map(len, shortened(message).split("\n"))) < 1100
    printable(message).encode()
