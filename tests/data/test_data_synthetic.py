from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from detfuse.data import DataError, Loader, SyntheticDataModule, Transforms
from detfuse.data.datamodule import GeneratedDataModule
from detfuse.data.generators import Canvas, GeneratedData, Shapes, generate

SMALL = Shapes(num_train=12, num_val=8, image_size=96, min_size=8, max_size=60, max_objects=5, data_seed=0)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_it_has_what_real_data_has(tmp_path: Path) -> None:
    data = SyntheticDataModule(
        32, 0, root=str(tmp_path), num_train=40, num_val=8, transform=Transforms(short_side=128), loader=Loader()
    )
    data.prepare_data()
    data.setup("fit")
    truth = data.ground_truth("train")
    sides = np.sqrt(truth.boxes[~truth.crowd, 2:].prod(axis=1))
    assert data.categories.ids == (2, 5, 9)
    assert set(truth.labels.tolist()) == {0, 1, 2}
    assert len(truth) == 40
    assert (truth.counts > 0).sum() == 38
    assert truth.crowd.sum() == 2
    assert sides.max() / sides.min() > 5
    assert (truth.areas > 0).all()
    assert (truth.areas <= truth.boxes[:, 2:].prod(axis=1)).all()
    assert "40 images (2 without objects)" in data.description


def test_it_is_a_function_of_its_parameters(tmp_path: Path) -> None:
    first, second = generate(tmp_path / "a", SMALL), generate(tmp_path / "b", SMALL)
    assert files(first) == files(second)
    other = generate(tmp_path / "a", replace(SMALL, data_seed=1))
    assert other != first
    assert files(other)["images/train/000001.jpg"] != files(first)["images/train/000001.jpg"]


@pytest.mark.parametrize(
    "file", ["annotations/instances_val2017.json", "train.json", "annotations/x.json", "labels/a.txt"]
)
def test_a_folder_of_annotations_is_no_place_to_generate_in(tmp_path: Path, file: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    data = SyntheticDataModule(32, 0, root=str(tmp_path), transform=Transforms(), loader=Loader())
    with pytest.raises(DataError, match=rf"data\.root={tmp_path} holds annotations \({file}\).*add data=folder"):
        data.prepare_data()
    assert len(list(tmp_path.iterdir())) == 1


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
    draw = Shapes.draw

    def interrupted(shapes: Shapes, split: Any, number: int) -> Canvas:
        if number == 5:
            raise KeyboardInterrupt
        return draw(shapes, split, number)

    monkeypatch.setattr(Shapes, "draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path, SMALL)
    assert list(tmp_path.iterdir()) == []


@dataclass(frozen=True, kw_only=True)
class Stripes(GeneratedData):
    """A second generated data set: one bar in each image, as high as the image."""

    kind: ClassVar[str] = "stripes"
    version: ClassVar[int] = 1
    categories: ClassVar[dict[int, str]] = {4: "bar"}

    width: int

    def draw(self, split: Any, number: int) -> Canvas:
        canvas = Canvas(np.zeros((24, 32, 3)))
        box = (2.0 * number, 0.0, float(self.width), 24.0)
        canvas.record(4, box, canvas.paint("rectangle", box, np.full(3, 200.0)))
        return canvas


def test_another_generated_data_set_only_says_how_it_is_drawn(tmp_path: Path) -> None:
    stripes = Stripes(num_train=3, num_val=2, width=5)
    parts = {"transform": Transforms(short_side=24, flip=0), "loader": Loader(batch_size=3, num_workers=0)}
    data = GeneratedDataModule(32, 0, root=str(tmp_path), generated=stripes, **parts)
    data.setup("fit")
    assert [path.name for path in tmp_path.iterdir()] == [stripes.folder]
    assert stripes.folder.startswith("stripes-")
    assert replace(stripes, width=6).folder != stripes.folder
    assert data.categories.names == ("bar",)
    (batch,) = data.train_dataloader()
    assert batch.image_sizes.tolist() == [[24, 32]] * 3
    found = dict(zip(batch.image_ids.tolist(), batch.targets.boxes[:, 0].tolist(), strict=True))
    assert found == {1: [0, 0, 5, 24], 3: [2, 0, 7, 24], 5: [4, 0, 9, 24]}
    assert batch.images[0, 0, 0].max() > 190


def test_the_shapes_stay_as_they_were_drawn(tmp_path: Path) -> None:
    """Runs are compared over months: what is drawn must not change under the same name."""
    folder = generate(tmp_path, SMALL)
    assert folder.name == "shapes-41720d2f24"
    annotations = (folder / "annotations/instances_train.json").read_bytes()
    assert sha256(annotations).hexdigest()[:16] == "f9de3626a5e811c1"
    pixels = SMALL.draw("val", 5).pixels.round().astype(np.uint8)
    assert sha256(pixels.tobytes()).hexdigest()[:16] == "2c52db23613f0484"


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
