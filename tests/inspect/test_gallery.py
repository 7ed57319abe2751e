"""The page of a data set: what is on it, and that what others wrote stays what it is."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detfuse.cli.browse_run import run
from detfuse.data import FolderDataModule, Loader, Transforms
from detfuse.inspect.gallery import cards_of, gallery
from detfuse.inspect.gallery.cards import chosen
from detfuse.runs.invocation import Invocation

HOSTILE = "</script><img src=x onerror=alert(1)> \"'&"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Ten training images of 60 x 40, the last with a rare class; one of two for validation cannot be decoded."""
    generator = np.random.default_rng(0)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "images").mkdir()
    for split, names in {"train": [f"{i}.png" for i in range(10)], "val": ["a '\"<b>.png", "broken.png"]}.items():
        images, annotations = [], []
        for number, name in enumerate(names, 1):
            Image.fromarray(generator.integers(0, 255, (40, 60, 3), np.uint8)).save(tmp_path / "images" / name)
            images.append({"id": number, "file_name": name, "width": 60, "height": 40})
            category = 2 if name == "9.png" else 1
            boxes = [] if name == "0.png" else [[10, 10, 20, 20], [0, 0, 3, 3]]
            for box in boxes:
                record = {"id": len(annotations) + 1, "image_id": number, "category_id": category, "bbox": box}
                annotations.append(record | {"area": box[2] * box[3], "iscrowd": int(box[0] == 0)})
        categories = [{"id": 1, "name": HOSTILE}, {"id": 2, "name": "rare"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (tmp_path / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    whole = (tmp_path / "images/broken.png").read_bytes()
    (tmp_path / "images/broken.png").write_bytes(whole[: len(whole) // 2])
    return tmp_path


def module(root: Path) -> FolderDataModule:
    transform = Transforms(short_side=80, flip=1.0)
    return FolderDataModule(32, 0, root=str(root), transform=transform, loader=Loader(), check_images="exists")


class Elements(HTMLParser):
    """All elements of a page with their attributes, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str, kind: str = "") -> list[dict[str, str | None]]:
        return [given for name, given in self.found if name == tag and kind in f" {given.get('class')} ".split(" ")]


def elements(text: str) -> Elements:
    parser = Elements()
    parser.feed(text)
    return parser


def test_of_every_class_there_is_an_image(root: Path) -> None:
    index = module(root).read("train")
    assert chosen(index, 4) == [0, 1, 2, 9]
    assert chosen(index, 99) == list(range(10))
    assert len(chosen(index, 1)) == 1


def test_training_is_shown_as_it_is_fed_beside_the_file(root: Path) -> None:
    data = module(root)
    card = next(iter(cards_of("train", data.read("train").only(np.arange(10) == 1), data.transform, number=1, seed=0)))
    lies, fed = card.views
    assert (lies.size, fed.size, lies.scale) == ((40, 60), (80, 120), (2.0, 2.0))
    assert lies.objects.boxes.tolist() == [[10, 10, 30, 30], [0, 0, 3, 3]]
    assert fed.objects.boxes.tolist() == [[60, 20, 100, 60], [114, 0, 120, 6]]  # twice as large, mirrored
    (val, _) = cards_of("val", data.read("val"), data.transform, number=2, seed=0)
    assert val.views[1].objects.boxes[0].tolist() == [20, 20, 60, 60]  # not augmented


def test_the_page_holds_boxes_filters_and_histograms_and_escapes_what_others_wrote(root: Path) -> None:
    data = module(root)
    indexes = data.read_all()
    cards = [c for s, i in indexes.items() for c in cards_of(s, i, data.transform, number=99, seed=0)]
    page = gallery(HOSTILE, indexes, cards, data.transform)
    found = elements(page)
    assert len(found.all("figure", "card")) == 12
    assert len(found.all("div", "view")) == 22  # two of each but the broken one
    marks = found.all("g", "mark")
    assert len(marks) == 2 * 2 * 10
    assert {(mark["data-class"], mark["data-size"]) for mark in marks} == {
        (label, size) for label in "01" for size in ("small", "medium")
    }
    names = [box["name"] for box in found.all("input")]
    assert {name: names.count(name) for name in names} == {
        "split": 2, "view": 2, "names": 1, "empty": 1, "size": 3, "class": 2
    }  # fmt: skip
    assert len(found.all("svg")) == 4 + 20
    assert "broken.png: cannot be decoded" in found.text
    assert not [given for _, given in found.found if any(name.startswith("on") for name in given)]
    assert len(found.all("script")) == 1
    assert not [src for src in (image["src"] for image in found.all("img")) if not str(src).startswith("data:image/")]
    assert "train, 1: 9 (90.0 %)" in found.text  # images with one object: a crowd is none
    assert "train, 32–64: 9 (100.0 %)" in found.text  # 20 px become 40


def test_the_command_writes_the_page_of_the_splits_that_there_are(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "annotations/instances_val.json").unlink()
    node: dict[str, Any] = {
        "_target_": "detfuse.data.datamodule.FolderDataModule",
        "root": str(root),
        "transform": {"_target_": "detfuse.data.transforms.Transforms", "short_side": 32},
        "loader": {"_target_": "detfuse.data.loader.Loader"},
    }
    config = {"data": node, "images": 3, "seed": 0, "output": str(tmp_path / "out/page.html")}
    run(Invocation(config=config, typed=[], choices={}, multirun=False, directories=[]))
    found = elements((tmp_path / "out/page.html").read_text())
    assert {card["data-split"] for card in found.all("figure", "card")} == {"train"}
    assert len(found.all("figure", "card")) == 3
    assert "open it in a browser" in capsys.readouterr().out
