from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detfuse.data import Loader, SyntheticDataModule, Transforms
from detfuse.data.synthetic import Canvas, SyntheticParameters, draw, generate

SMALL = SyntheticParameters(num_train=12, num_val=8, image_size=96, min_size=8, max_size=60, max_objects=5, data_seed=0)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_it_has_what_real_data_has(tmp_path: Path) -> None:
    data = SyntheticDataModule(
        32, 0, root=str(tmp_path), num_train=40, num_val=8, transform=Transforms(short_side=128), loader=Loader()
    )
    data.prepare_data()
    data.setup("fit")
    truth = data.ground_truth("train")
    crowds = [a for a in truth["annotations"] if a["iscrowd"]]
    sides = np.sqrt([a["bbox"][2] * a["bbox"][3] for a in truth["annotations"] if not a["iscrowd"]])
    assert data.categories.ids == (2, 5, 9)
    assert {a["category_id"] for a in truth["annotations"]} == {2, 5, 9}
    assert len(truth["images"]) == 40
    assert len({a["image_id"] for a in truth["annotations"]}) == 38
    assert len(crowds) == 2
    assert sides.max() / sides.min() > 5
    assert all(0 < a["area"] <= a["bbox"][2] * a["bbox"][3] for a in truth["annotations"])
    assert "40 images (2 without objects)" in data.description


def test_it_is_a_function_of_its_parameters(tmp_path: Path) -> None:
    first, second = generate(tmp_path / "a", SMALL), generate(tmp_path / "b", SMALL)
    assert files(first) == files(second)
    other = generate(tmp_path / "a", replace(SMALL, data_seed=1))
    assert other != first
    assert files(other)["images/train/000001.jpg"] != files(first)["images/train/000001.jpg"]


def test_it_is_written_once(tmp_path: Path) -> None:
    folder = generate(tmp_path, SMALL)
    marked = folder / "images/train/000001.jpg"
    marked.write_bytes(b"mine")
    assert generate(tmp_path, SMALL) == folder
    assert marked.read_bytes() == b"mine"
    assert json.loads((folder / "parameters.json").read_text())["num_train"] == 12


def test_several_writers_leave_one_whole_set(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: generate(tmp_path / "shared", SMALL), range(4)))
    assert len(folders) == 1
    assert [p.name for p in (tmp_path / "shared").iterdir()] == [SMALL.folder]
    assert files(folders.pop()) == files(generate(tmp_path / "alone", SMALL))


def test_an_interrupted_writer_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(parameters: SyntheticParameters, split: Any, number: int) -> None:
        if number == 5:
            raise KeyboardInterrupt
        return draw(parameters, split, number)

    monkeypatch.setattr("detfuse.data.synthetic.draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path, SMALL)
    assert list(tmp_path.iterdir()) == []


def test_boxes_are_tight() -> None:
    """The pixels that painting an object changes are exactly those that its box touches."""
    generator = np.random.default_rng(0)
    for shape in ("circle", "rectangle", "triangle"):
        for _ in range(20):
            w, h = (generator.integers(32, 160, 2) / 4).tolist()
            x, y = (generator.integers(0, 80, 2) / 4).tolist()
            canvas = Canvas(np.zeros((64, 64, 3)))
            area = canvas.paint(shape, (x, y, w, h), np.full(3, 255.0))
            rows, columns = np.nonzero(canvas.pixels.max(axis=2) > 0)
            assert [columns.min(), rows.min()] == pytest.approx([int(x), int(y)], abs=1)
            assert [columns.max() + 1, rows.max() + 1] == pytest.approx([np.ceil(x + w), np.ceil(y + h)], abs=1)
            share = {"circle": np.pi / 4, "rectangle": 1.0, "triangle": 0.5}[shape]
            assert area == pytest.approx(share * w * h, rel=0.03)
            assert canvas.pixels.sum() / 255 / 3 == pytest.approx(area)


@pytest.mark.parametrize(
    "wrong", [{"num_val": 0}, {"min_size": 50, "max_size": 20}, {"max_size": 96}, {"data_seed": -1}]
)
def test_parameters_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"at least|expected"):
        replace(SMALL, **wrong)
