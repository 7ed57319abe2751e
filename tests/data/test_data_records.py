"""What any annotation file's records are held to: a reader of another format only has to make them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from detfuse.data import AnnotationIndex, DataError, DataWarning
from detfuse.data.readers import BoxRecord, CategoryRecord, ImageRecord, Records, index_of

BOX = BoxRecord("2 in b.xml", 1, "b", 7, (1.0, 2.0, 3.0, 4.0), 12.0, crowd=False)


def index(folder: Path, *boxes: BoxRecord, **changes: Any) -> AnnotationIndex:
    """Two images with texts as ids, the later one first, through generators."""
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 30)).save(folder / name)
    lists: dict[str, Any] = {
        "categories": [CategoryRecord(9, "dog"), CategoryRecord(7, "cat")],
        "images": [ImageRecord("b", "b.png", 30, 40), ImageRecord("a", "a.png", 30, 40)],
        "boxes": boxes,
    }
    records = Records(Path("voc"), **{name: iter(items) for name, items in (lists | changes).items()})
    return index_of(records, folder)


def test_records_become_columns(tmp_path: Path) -> None:
    found = index(tmp_path, BOX._replace(id=3, image_id="a", category_id=9, crowd=True), BOX, BOX._replace(id=2))
    assert found.ids == ("b", "a")  # texts in the order of the file
    assert found.categories.names == ("cat", "dog")
    assert found.counts.tolist() == [2, 1]
    assert found.annotation_ids.tolist() == [1, 2, 3]
    assert found.labels.tolist() == [0, 0, 1]
    assert found.crowd.tolist() == [False, False, True]
    assert found.boxes[2].tolist() == [1, 2, 3, 4]
    assert found.by_id().ids == ("a", "b")
    assert found.by_id().labels.tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": "c"}, "image_id 'c' is not among the images"),
        ({"image_id": 1}, "image_id 1 is not among the images; the images' ids are texts"),
        ({"category_id": "cat"}, "category_id 'cat' is not among the categories"),
        ({"box": (1.0, 2.0, math.inf, 4.0)}, "bbox must be finite"),
        ({"box": (1.0, 2.0, -3.0, 4.0)}, r"bbox \[1.0, 2.0, -3.0, 4.0\] has a negative size"),
        ({"area": math.nan}, r"area must be a number of square pixels, 0 to 1e\+10, got nan"),
        ({"area": 1e308}, r"area must be a number of square pixels, 0 to 1e\+10, got 1e\+308"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_the_readers_name(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=f"^voc: annotation 2 in b.xml: {message}"):
        index(tmp_path, BOX._replace(**change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"box": (35.0, 2.0, 9.0, 4.0)}, "box that leaves its image clipped to it"),
        ({"box": (1.0, 2.0, 0.0, 4.0)}, "degenerate box dropped"),
        ({"crowd": None}, "without iscrowd"),
        ({"area": None}, "without area"),
    ],
)
def test_what_has_one_meaning_is_repaired_with_its_name(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.warns(DataWarning, match=rf"^voc: 1 x .*{message}.*\(2 in b.xml\)$"):
        index(tmp_path, BOX._replace(**change))


def test_all_that_is_refused_is_told_together(tmp_path: Path) -> None:
    wrong = [BOX._replace(id=i, name=str(i), box=(1.0, 2.0, -3.0, 4.0)) for i in range(3, 10)]
    with pytest.raises(DataError) as told:
        index(tmp_path, BOX._replace(image_id="c"), BOX._replace(id=2), *wrong)
    lines = str(told.value).splitlines()
    assert lines[0].startswith("voc: annotation 2 in b.xml: image_id 'c' is not among the images")
    assert lines[1] == "and 7 more records that cannot be used:"
    assert lines[2].startswith("  annotation 3: bbox [1.0, 2.0, -3.0, 4.0] has a negative size")
    assert len(lines) == 7
    assert lines[6] == "  ..."
    assert {what: len(names) for what, names in told.value.refused.items()} == {
        "voc: image_id is not among the images": 1,
        "voc: bbox has a negative size": 7,
    }


def test_lists_without_records_are_named(tmp_path: Path) -> None:
    for name in ("categories", "images"):
        with pytest.raises(DataError, match=f"voc: the list of {name} is empty"):
            index(tmp_path, BOX, **{name: []})
    with pytest.warns(DataWarning, match="list of annotations is empty"):
        index(tmp_path)


def test_areas_that_no_box_can_have_and_files_under_two_names_are_told(tmp_path: Path) -> None:
    images = [ImageRecord("b", "b.png", 30, 40), ImageRecord("a", "./b.png", 30, 40)]
    with pytest.warns(DataWarning) as told:
        found = index(tmp_path, BOX._replace(area=500.0), BOX._replace(id=2, area=20.0), images=images)
    assert found.areas.tolist() == [500, 20]
    assert [("whose area is larger than its box" in str(w.message), "second id" in str(w.message)) for w in told] == [
        (False, True),
        (True, False),
    ]
