"""What annotation tools write: repaired with one warning per kind where it has one meaning, else told with a remedy."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from detfuse.data import AnnotationIndex, CocoDataModule, DataError, DataWarning, Loader, Transforms, read_coco

GOOD: dict[str, Any] = {
    "images": [
        {"id": 1, "file_name": "one.png", "width": 40, "height": 30},
        {"id": 2, "file_name": "deep/two.png", "width": 40, "height": 30},
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 3, "bbox": [4.0, 6, 20, 12], "area": 240, "iscrowd": 0},
        {"id": 2, "image_id": 2, "category_id": 5, "bbox": [8, 3, 10, 15], "area": 150, "iscrowd": 0},
    ],
    "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images/deep").mkdir(parents=True)
    for name in ("one.png", "deep/two.png", "deep/My Pic.png"):
        Image.new("RGB", (40, 30)).save(tmp_path / "images" / name)
    return tmp_path / "images"


def read(images: Path, content: dict[str, Any], **options: Any) -> tuple[AnnotationIndex, list[str]]:
    """The index, and what was told on the way."""
    file = images.parent / "instances.json"
    file.write_text(json.dumps(content))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        index = read_coco(file, images, **options)
    return index, [str(w.message) for w in caught]


def each(kind: str, change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """The good file with every record of a kind changed."""
    content = copy.deepcopy(GOOD)
    for record in content[kind]:
        change(record)
    return content


def put(key: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda record: record.update({key: value})


def as_text(*keys: str) -> Callable[[dict[str, Any]], Any]:
    def change(record: dict[str, Any]) -> None:
        for key in keys:
            value = record[key]
            record[key] = [str(x) for x in value] if isinstance(value, list) else str(value)

    return change


def without(*keys: str) -> Callable[[dict[str, Any]], Any]:
    return lambda record: [record.pop(key, None) for key in keys]


def shaped(shape: Any, box: Any = "none") -> dict[str, Any]:
    content = each("annotations", without("bbox"))
    content["annotations"] = content["annotations"][:1]
    content["annotations"][0] |= {"segmentation": shape} | ({} if box == "none" else {"bbox": box})
    return content


# 30 x 40: columns 4 to 23, rows 6 to 17 are filled
RUNS = [4 * 30 + 6, *[12, 18] * 19, 12, 30 - 18 + 16 * 30]


REPAIRED: dict[str, tuple[dict[str, Any], str]] = {
    "polygon": (shaped([[4, 6, 24, 6, 24, 18, 4, 18]]), "without bbox, taken as the extent of its segmentation"),
    "polygons": (shaped([[4, 6, 9, 6, 9, 9], [10, 9, 24, 18, 11, 18]], None), "extent of its segmentation"),
    "points": (shaped([[4, 6], [24, 6], [24, 18]], []), "extent of its segmentation"),
    "runs": (shaped({"counts": RUNS, "size": [30, 40]}, [0, 0, 0, 0]), "extent of its segmentation"),
    "no size": (each("images", without("width", "height")), "image without width and height, which were read"),
    "no height": (each("images", put("height", None)), "image without width and height, which were read"),
    "filename": (each("images", lambda r: r.update(filename=r.pop("file_name"))), "filename in place of file_name"),
    "sizes": (each("images", as_text("width", "height")), "height of an image written as text"),
    "boxes": (each("annotations", as_text("bbox")), "bbox written as text, in all records"),
    "ids": (each("annotations", as_text("id", "image_id", "category_id")), "image_id written as text, in all records"),
    "areas": (each("annotations", as_text("area", "iscrowd")), "area written as text, in all records"),
    "category ids": (each("categories", as_text("id")), "id of a category written as text"),
    "copies": (GOOD | {"annotations": GOOD["annotations"] * 2}, "annotation listed twice, one was dropped"),
    "copied images": (GOOD | {"images": GOOD["images"] * 2}, "image listed twice, one was dropped"),
    "copied classes": (GOOD | {"categories": GOOD["categories"] * 2}, "category listed twice, one was dropped"),
}


@pytest.mark.parametrize("name", REPAIRED)
def test_dialects_are_repaired_with_one_warning_per_kind(images: Path, name: str) -> None:
    content, message = REPAIRED[name]
    index, told = read(images, content)
    assert sum(message in each for each in told) == 1, told
    assert len(told) == len({each.split(" x ", 1)[1].split(" (")[0] for each in told})
    assert index.boxes[0].tolist() == [4, 6, 20, 12]
    assert index.sizes.tolist() == [[30, 40]] * 2
    assert index.categories.ids == (3, 5)
    if len(index.boxes) == 2:
        assert index.boxes[1].tolist() == [8, 3, 10, 15]
        assert index.annotation_ids.tolist() == [1, 2]
        assert index.areas.tolist() == [240, 150]
        assert not index.crowd.any()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (each("annotations", without("bbox")), "annotation 1: bbox must be four numbers.* there is no segmentation"),
        (shaped([[4, 6]], None) | {}, "nothing"),
        (shaped("an outline"), "annotation 1: bbox must be four numbers"),
        (shaped({"counts": [5, 5], "size": [30, 40]}), "annotation 1: bbox must be four numbers"),
        (each("images", as_text("id")), "annotation 1: image_id 1 .* ids are texts"),
        (each("categories", lambda record: record.update(id=record["name"])), "id must be an integer, got 'cat'"),
    ],
)
def test_what_has_no_meaning_is_refused(images: Path, content: dict[str, Any], message: str) -> None:
    if message == "nothing":  # a point has an extent, of no size
        assert "degenerate box dropped" in "".join(read(images, content)[1])
        return
    with pytest.raises(DataError, match=message):
        read(images, content)


@pytest.mark.parametrize(
    ("written", "found", "message"),
    [
        ("deep\\two.png", "deep/two.png", "file_name with backslashes, which were turned"),
        (".\\deep\\two.png", "./deep/two.png", "with backslashes"),
        ("deep/My%20Pic.png", "deep/My Pic.png", "encoded as in a URL, which was decoded"),
        ("images/deep/two.png", "deep/two.png", "with folders that are not there, taken off"),
        ("data\\images\\deep\\two.png", "deep/two.png", "with backslashes"),
        ("Deep/TWO.PNG", "deep/two.png", "in other case than the file's"),
        ("./deep/two.png", "./deep/two.png", ""),
    ],
)
def test_names_of_other_systems_are_found(images: Path, written: str, found: str, message: str) -> None:
    content = copy.deepcopy(GOOD)
    content["images"][1]["file_name"] = written
    index, told = read(images, content)
    assert index.file_names == ("one.png", found)
    assert len(told) == bool(message)
    assert message in "".join(told)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("two.png", r"two\.png cannot be opened .* \(a file of that name lies at deep/two\.png\)"),
        ("deep/two.jpg", r"\(a file of that name but for its suffix lies at deep/two\.png\)"),
        (
            "../deep/two.png",
            r"leads out of the image folder.*; a file of that name lies at deep/two\.png, from .*images",
        ),
        ("C:\\x\\two.png", r"is an absolute path.*; a file of that name lies at deep/two\.png"),
        ("/mnt/x/one.png", r"is an absolute path.*; a file of that name lies at one\.png"),
        ("%2e%2e/two.png", r"two\.png cannot be opened"),
        ("..\\images\\one.png", "leads out of the image folder"),
        ("gone.png", r"gone\.png cannot be opened \(No such file or directory\); add the file or remove the record$"),
    ],
)
def test_where_nothing_fits_it_says_where_a_file_of_that_name_lies(images: Path, written: str, message: str) -> None:
    content = copy.deepcopy(GOOD)
    content["images"][1]["file_name"] = written
    with pytest.raises(DataError, match=message):
        read(images, content)


def test_two_names_never_become_one_file(images: Path) -> None:
    """Taking folders off could give both images the same pixels."""
    content = copy.deepcopy(GOOD)
    content["images"][0]["file_name"], content["images"][1]["file_name"] = "a/one.png", "b/one.png"
    with pytest.raises(DataError, match=r"image 2: .*b/one\.png cannot be opened"):
        read(images, content)


def test_boxes_in_fractions_are_told_and_scaled(images: Path) -> None:
    content = copy.deepcopy(GOOD)
    content["annotations"][0] |= {"bbox": [0.1, 0.2, 0.5, 0.4], "area": 0.2}
    content["annotations"][1] |= {"bbox": [0.2, 0.1, 0.25, 0.5], "area": 0.125}
    index, told = read(images, content)
    assert index.boxes.tolist() == [[4, 6, 20, 12], [8, 3, 10, 15]]
    assert index.areas.tolist() == [240, 150]
    (message,) = (each for each in told if "taken as fractions" in each)
    assert message.endswith("(1, 2)")
    content["annotations"][1]["bbox"] = [8, 3, 10, 15]  # one in pixels: so are all
    assert read(images, content)[0].boxes[0].tolist() == [0.1, 0.2, 0.5, 0.4]
    content["annotations"] = [GOOD["annotations"][0] | {"bbox": [0, 0, 1, 1], "area": 1}]  # a pixel can be meant
    index, told = read(images, content)
    assert (index.boxes.tolist(), told) == ([[0, 0, 1, 1]], [])


def test_files_that_are_hardly_meant_are_told(images: Path) -> None:
    (told,) = read(images, each("annotations", put("iscrowd", 1)))[1]
    assert "every one of 2 annotations is iscrowd 1" in told
    (told,) = read(images, each("annotations", put("ignore", 1)))[1]
    assert "every one of 2 annotations is to be ignored" in told
    corners = copy.deepcopy(GOOD)
    corners["annotations"][0]["bbox"], corners["annotations"][1]["bbox"] = [24, 16, 40, 30], [8, 13, 18, 28]
    told = "".join(read(images, corners)[1])
    assert "all would fit as corners" in told
    assert "corners" not in "".join(read(images, GOOD)[1])


def test_a_class_that_only_groups_is_told_and_may_be_left_out(images: Path) -> None:
    content = copy.deepcopy(GOOD)
    content["categories"] = [{"id": 0, "name": "pets", "supercategory": "none"}] + [
        category | {"supercategory": "pets"} for category in GOOD["categories"]
    ]
    for split in ("train", "val"):
        (images.parent / f"{split}.json").write_text(json.dumps(content))

    def setup(**options: Any) -> CocoDataModule:
        parts = {"transform": Transforms(short_side=32), "loader": Loader()}
        data = CocoDataModule(32, 0, root=str(images.parent), **parts, **options)
        with pytest.warns(DataWarning, match="are in train and in val"):
            data.setup("fit")
        return data

    kept = setup()
    assert kept.categories.names == ("pets", "cat", "dog")
    assert "without a box, only to group others, as some tools write it: pets; data.grouping_categories=drop" in (
        kept.description
    )
    dropped = setup(grouping_categories="drop")
    assert (dropped.categories.ids, dropped.categories.names) == ((3, 5), ("cat", "dog"))
    assert dropped.indexes["train"].labels.tolist() == [0, 1]
    assert "to group others" not in dropped.description
    content["annotations"][0]["category_id"] = 0  # it is a class after all
    assert read(images, content)[0].groups == ()
