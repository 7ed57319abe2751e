"""A data set that is ill in every way that the doctor knows, and one that is well."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from PIL import Image

from detfuse.cli.check_run import run
from detfuse.cli.settings import CheckSettings
from detfuse.config import resolve
from detfuse.data import AnnotationIndex, FolderDataModule, Loader, Transforms
from detfuse.data.doctor import CHECKS, Case, Finding, Fit, examined, look_at, read_splits, told
from detfuse.data.doctor.boxes import twins_of
from detfuse.runs.invocation import Invocation

Box = tuple[float, float, float, float, int]  # x, y, width, height, category
SIDE = 64


def scene(seed: int, side: int = SIDE) -> Image.Image:
    """A smooth picture of its own, with something to compare everywhere."""
    coarse = np.random.default_rng(seed).integers(0, 255, (9, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def write(root: Path, split: str, pictures: dict[str, Image.Image], boxes: dict[str, list[Box]], **save: Any) -> None:
    """COCO's json with the images in one folder."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / split).mkdir(exist_ok=True)
    images, annotations = [], []
    for number, (name, picture) in enumerate(pictures.items(), 1):
        picture.save(root / split / name)
        images.append({"id": number, "file_name": name, "width": picture.width, "height": picture.height})
        for *box, category in boxes.get(name, [(8, 8, 24, 24, 1)]):
            record = {"id": len(annotations) + 1, "image_id": number, "category_id": category, "bbox": box}
            annotations.append(record | {"area": box[2] * box[3], "iscrowd": 0})
    categories = [{"id": i, "name": name} for i, name in enumerate(("cat", "dog", "Cat", "bird"), 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))


def module(root: Path) -> FolderDataModule:
    data = FolderDataModule(32, 0, root=str(root), transform=Transforms(short_side=32), loader=Loader())
    data.check_images = "nothing"
    return data


def case_of(root: Path, **changes: Any) -> tuple[Case, list[Finding]]:
    indexes, findings = read_splits(module(root))
    looks = {split: look_at(index, decode=True, workers=2) for split, index in indexes.items()}
    case = Case(
        indexes=indexes,
        looks=looks,
        decoded=True,
        transform=Transforms(short_side=32),
        max_detections=10,
        scored_detections=9,
        fit=lambda _: None,
    )
    return replace(case, **changes), findings


@pytest.fixture(scope="module")
def ill(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ill")
    turned = Image.Exif()
    turned[0x112] = 6
    pictures = {f"{i}.png": scene(i) for i in range(8)}
    pictures |= {"copy.png": scene(3), "grey.png": scene(20).convert("L"), "flat.png": Image.new("RGB", (64, 64))}
    pictures |= {"near.png": scene(5, 96), "a.png": scene(21), "A.png": scene(22), "broken.png": scene(23)}
    boxes: dict[str, list[Box]] = {name: [] for name in ("1.png", "2.png", "4.png", "5.png", "6.png", "a.png", "A.png")}
    boxes["0.png"] = [(8, 8, 40, 40, 1), (8, 8, 40, 40, 2), (8.2, 8, 40, 40, 1), (0, 0, 64, 64, 2)]
    boxes["3.png"] = [(8, 8, 40, 1, 1), (10, 30, 5, 5, 1), (50, 50, 40, 10, 2)]
    boxes["7.png"] = [(4.0 * i, 20, 16, 16, 1) for i in range(11)]
    write(root, "train", pictures, boxes)
    (root / "train/broken.png").write_bytes((root / "train/broken.png").read_bytes()[:200])
    (root / "train/forgotten.png").write_bytes((root / "train/0.png").read_bytes())
    write(
        root, "val", {"v.png": scene(40), "leak.png": scene(6), "alike.png": scene(2)}, {"v.png": [(1, 1, 30, 30, 4)]}
    )
    bright = scene(2).point(lambda value: int(10 + 0.9 * value))
    bright.save(root / "val/alike.png", exif=turned)
    return root


def test_every_illness_is_found_and_counted(ill: Path) -> None:
    case, findings = case_of(ill)
    findings += examined(case)
    found = {(each.check, each.split): (each.count, each.first) for each in findings}
    assert found == {
        ("records", "train"): (1, ("7",)),
        ("images", "train"): (1, found["images", "train"][1]),
        ("leaks", "train, val"): (1, ("leak.png = 6.png",)),
        ("near-leaks", "train, val"): (1, ("alike.png = 2.png",)),
        ("only-in-one-split", "val only"): (1, ("bird (1)",)),
        ("only-in-one-split", "train only"): (1, ("dog (3)",)),
        ("too-many", "train"): (1, ("7.png (11)",)),
        ("tiny", "train"): (2, ("3.png annotation 5", "3.png annotation 6")),
        ("turned", "val"): (1, ("alike.png",)),
        ("twins", "train"): (1, ("0.png annotation 3",)),
        ("whole-images", "train"): (1, ("0.png annotation 4",)),
        ("slivers", "train"): (1, ("3.png annotation 5",)),
        ("few", "train"): (3, ("Cat (0)", "bird (0)", "dog (3)")),
        ("alike-classes", "train"): (1, ("'cat' = 'Cat'",)),
        ("empty", "train"): (7, ("1.png", "2.png", "4.png")),
        ("duplicates", "train"): (1, ("copy.png = 3.png",)),
        ("near-duplicates", "train"): (1, ("near.png = 5.png",)),
        ("flat", "train"): (1, ("flat.png",)),
        ("modes", "train"): (1, ("grey.png",)),
        ("alike-files", "train"): (1, ("A.png = a.png",)),
        ("without-record", "train's folder"): (1, ("forgotten.png",)),
    }
    assert "broken.png" in found["images", "train"][1][0]
    assert [each.check for each in findings if each.severity == "error"] == ["images"]
    assert {check.name for check in CHECKS} - {each.check for each in findings} == {"reach", "idle-levels", "unequal"}


def test_what_a_fast_look_cannot_see_is_left_out(ill: Path) -> None:
    case, _ = case_of(ill)
    fast = {split: look_at(index, decode=False) for split, index in case.indexes.items()}
    names = {each.check for each in examined(replace(case, looks=fast, decoded=False))}
    assert names.isdisjoint(check.name for check in CHECKS if check.pixels)
    assert {"turned", "modes", "twins"} <= names


def test_sizes_that_differ_and_files_that_are_missing_or_elsewhere_are_told(tmp_path: Path) -> None:
    write(tmp_path, "train", {f"{i}.png": scene(i) for i in range(4)}, {})
    scene(0, 60).save(tmp_path / "train/0.png")
    (tmp_path / "train/1.png").unlink()
    (tmp_path / "train/2.png").rename(tmp_path / "2.png")
    (tmp_path / "train/2.png").symlink_to(tmp_path / "2.png")
    index = module(tmp_path).read("train")
    for decode in (True, False):
        problems = [look.problem for look in look_at(index, decode=decode).each]
        assert [problem is None for problem in problems] == [False, False, False, True]
        for part, problem in zip(("60 x 60", "png: no such file", "symbolic link"), problems, strict=False):
            assert part in str(problem)
    assert look_at(index, decode=True, follow_symlinks=True).each[2].problem is None


def test_a_check_that_fails_is_an_error_and_the_others_still_run(ill: Path) -> None:
    def broken(index: AnnotationIndex) -> Fit | None:
        raise ZeroDivisionError("no detector")

    findings = examined(case_of(ill, fit=broken)[0], only=["reach", "twins"])
    assert [(each.severity, each.check) for each in findings] == [("error", "reach"), ("note", "twins")]
    assert "failed: ZeroDivisionError: no detector" in findings[0].what


def test_reading_that_fails_is_an_error_of_its_split(ill: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = module(ill)
    read = data.read
    monkeypatch.setattr(data, "read", lambda split: read(split) if split == "val" else {}[split])
    indexes, (finding,) = read_splits(data)
    assert list(indexes) == ["val"]
    assert (finding.severity, finding.split) == ("error", "train")
    assert "failed: KeyError: 'train'" in finding.what


def test_refused_records_are_counted_by_what_is_wrong(tmp_path: Path) -> None:
    boxes: dict[str, list[Box]] = {"a.png": [(1, 1, -2, 2, 1)] * 5 + [(1, 1, 2, 2, 9), (1, 1, 9, 9, 1)]}
    write(tmp_path, "train", {"a.png": scene(0)}, boxes)
    indexes, findings = read_splits(module(tmp_path))
    assert not indexes
    assert [(finding.severity, finding.count, tuple(finding.first)) for finding in findings[:2]] == [
        ("error", 1, ("annotation 6",)),
        ("error", 5, ("annotation 1", "annotation 2", "annotation 3")),
    ]
    assert "negative size" in findings[1].what


def test_objects_and_levels_without_a_match_are_told_level_by_level(ill: Path) -> None:
    fit = Fit(("P3", "P4"), np.array([0, 1, 5, 6]), np.array([[2, 0], [1, 0], [0, 0], [0, 0]]))
    reach, idle = examined(case_of(ill, fit=lambda _: fit)[0], only=["reach", "idle-levels"])
    assert (reach.count, reach.total, reach.first[0]) == (2, 4, "3.png annotation 6")
    assert "50 %; the levels fit: P3 50 %, P4 0 %; the median of those that fit none is" in reach.what
    assert (idle.count, idle.total, idle.first) == (1, 2, ("P4",))


def test_twins_are_found_as_by_comparing_all_with_all(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    boxes = [tuple(map(float, box)) for box in generator.uniform([0, 0, 20, 20], [3, 3, 23, 23], (300, 4))]
    write(tmp_path, "train", {"a.png": scene(0)}, {"a.png": [(*box, 1 + i % 2) for i, box in enumerate(boxes)]})
    index = module(tmp_path).read("train")
    x, y, w, h = index.boxes.T
    across = np.minimum.outer(x + w, x + w) - np.maximum.outer(x, x)
    along = np.minimum.outer(y + h, y + h) - np.maximum.outer(y, y)
    shared = across.clip(0) * along.clip(0)
    same = (shared > 0.95 * (np.add.outer(w * h, w * h) - shared)) & np.equal.outer(index.labels, index.labels)
    expected = np.flatnonzero(np.tril(same, -1).any(axis=1))
    assert 3 < len(expected) < 297
    assert twins_of(index).tolist() == expected.tolist()


def test_an_imbalance_is_told_with_both_ends(tmp_path: Path) -> None:
    many: list[Box] = [(i % 8 * 7.0, i // 8 * 7.0, 6, 6, 1) for i in range(60)]
    write(tmp_path, "train", {"a.png": scene(0)}, {"a.png": [*many, (1, 1, 50, 50, 2)]})
    (finding,) = examined(case_of(tmp_path)[0], only=["unequal"])
    assert (finding.count, finding.first) == (1, ("dog",))
    assert "cat has 60 objects, dog 1" in finding.what


def test_the_exit_code_says_how_grave_it_is(tmp_path: Path, ill: Path, capsys: pytest.CaptureFixture[str]) -> None:
    composed = resolve([f"data.root={ill}", "data.transform.short_side=64"], CheckSettings).config

    def check(**changes: Any) -> tuple[int, str]:
        try:
            run(Invocation(config=composed | changes, typed=[], choices={}, multirun=False, directories=[]))
        except SystemExit as left:
            return int(str(left.code)), capsys.readouterr().out
        return 0, capsys.readouterr().out

    code, text = check(output=str(tmp_path / "x/check.json"))
    assert code == 2
    assert text.index("Errors") < text.index("broken.png") < text.index("Repairs") < text.index("Notes")
    content = json.loads((tmp_path / "x/check.json").read_text())
    assert content["splits"]["train"]["images"] == 15
    assert content["findings"][0]["check"] == "images"
    assert {each["check"] for each in content["findings"]} <= set(content["checks"])
    assert check(only=["twins"])[0] == 1
    code, text = check(only=["unequal"], fast=True)
    assert (code, text.splitlines()[-1]) == (0, "nothing was found")
    code, text = check(data=composed["data"] | {"root": str(tmp_path / "nowhere")})
    assert (code, text.count("no such folder")) == (2, 1)


def test_names_of_others_stay_within_their_line() -> None:
    text = told([Finding("note", "twins", "train", 1, 2, "objects", "are twice", ("a\n\x1b[2J.png",), "look")])
    assert "a\\n\\x1b[2J.png" in text


def test_the_command_names_every_check() -> None:
    (names,) = (
        get_args(get_args(kind)[0]) for kind in get_args(get_type_hints(CheckSettings)["only"]) if get_args(kind)
    )
    assert names == ("records", *(check.name for check in CHECKS))
