from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detfuse.data import AnnotationIndex, DataError, DataWarning, load_image, read_coco

GOOD = {
    "images": [
        {"id": 5, "file_name": "b.png", "width": 40, "height": 30},
        {"id": 2, "file_name": "a.png", "width": 40, "height": 30},
    ],
    "annotations": [
        {"id": 11, "image_id": 5, "category_id": 9, "bbox": [1.25, 2, 10, 8], "area": 60.5, "iscrowd": 0},
        {"id": 10, "image_id": 2, "category_id": 4, "bbox": [0, 0, 40, 30], "area": 900, "iscrowd": 1},
        {"id": 12, "image_id": 5, "category_id": 4, "bbox": [3, 4, 5, 6], "area": 30, "iscrowd": 0},
    ],
    "categories": [{"id": 9, "name": "dog"}, {"id": 4, "name": "cat"}],
}


def write(folder: Path, content: dict[str, Any], text: str | None = None) -> Path:
    (folder / "images").mkdir(exist_ok=True)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 30)).save(folder / "images" / name)
    path = folder / "instances.json"
    path.write_text(json.dumps(content) if text is None else text)
    return path


def changed(kind: str, position: int, **fields: Any) -> dict[str, Any]:
    content = json.loads(json.dumps(GOOD))
    content[kind][position] |= fields
    for key in [key for key, value in fields.items() if value == "remove"]:
        del content[kind][position][key]
    return content


def read(folder: Path, content: dict[str, Any], **options: Any) -> AnnotationIndex:
    return read_coco(write(folder, content), folder / "images", **options)


def test_index_holds_the_file_as_it_is(tmp_path: Path) -> None:
    index = pickle.loads(pickle.dumps(read(tmp_path, GOOD)))
    assert index.ids == (2, 5)
    assert index.file_names == ("a.png", "b.png")
    assert index.sizes.tolist() == [[30, 40], [30, 40]]
    assert index.counts.tolist() == [1, 2]
    assert index.categories.ids == (4, 9)
    assert index.categories.names == ("cat", "dog")
    assert index.labels_of(1).tolist() == [1, 0]
    assert index.crowd_of(0).tolist() == [True]
    assert index.boxes_xyxy(1).tolist() == [[1.25, 2, 11.25, 10], [3, 4, 8, 10]]
    assert index.boxes_xyxy(1).dtype == np.float32


def contents(index: AnnotationIndex) -> list[dict[str, Any]]:
    """What was read, as the file's annotations in the order of their ids."""
    columns = (index.annotation_ids, index.images, index.labels, index.boxes, index.areas, index.crowd)
    rows = [
        {"id": i, "image_id": index.ids[image], "category_id": index.categories.ids[label]}
        | {"bbox": box, "area": area, "iscrowd": int(crowd)}
        for i, image, label, box, area, crowd in zip(*(column.tolist() for column in columns), strict=True)
    ]
    return sorted(rows, key=lambda row: int(row["id"]))


def in_order(content: dict[str, Any]) -> list[dict[str, Any]]:
    return sorted(content["annotations"], key=lambda row: int(row["id"]))


def test_everything_is_taken_as_it_is(tmp_path: Path) -> None:
    assert contents(read(tmp_path, GOOD)) == in_order(GOOD)


def test_limit_takes_the_first_by_id(tmp_path: Path) -> None:
    index = read(tmp_path, GOOD, limit_images=1)
    assert index.ids == (2,)
    assert [row["id"] for row in contents(index)] == [10]
    assert index.path(0).name == "a.png"
    with pytest.raises(DataError, match="limit_images must be at least 1"):
        index.limit(0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed("annotations", 0, bbox=[1, 2, 3]), "annotation 11: bbox must be four numbers"),
        (changed("annotations", 0, bbox=[1, 2, float("nan"), 3]), "annotation 11: bbox must be finite"),
        (changed("annotations", 0, bbox=[1, 2, 10**400, 3]), "annotation 11: bbox must be four numbers"),
        (changed("annotations", 0, bbox=[9, 9, -3, -3]), "annotation 11: bbox .* negative size"),
        (changed("annotations", 0, category_id=5), "annotation 11: category_id 5 is not among"),
        (changed("annotations", 0, image_id=5.0), r"annotation 11: image_id 5\.0 is not among"),
        (changed("annotations", 0, iscrowd=2), "annotation 11: iscrowd must be 0 or 1"),
        (changed("annotations", 0, area="x"), "annotation 11: area must be a number"),
        (changed("annotations", 0, id=12), "annotation 12: this id is given twice"),
        (changed("annotations", 0, id="x"), "annotation x: id must be an integer"),
        (changed("images", 0, id=2), "image 2: this id is given to two images"),
        (changed("images", 0, id=True), "image at position 0: id must be an integer"),
        (changed("images", 0, id="2"), "image at position 0: id must be an integer, or in all images a text.*got '2'"),
        (changed("annotations", 0, image_id="5"), "annotation 11: image_id '5' .* ids are integers"),
        (
            GOOD | {"images": [GOOD["images"][0] | {"id": "\ud800"}]},
            "image at position 0: id must be .* UTF-8 can write",
        ),
        (changed("categories", 0, id="9"), "category at position 0: id must be an integer, got '9'"),
        (changed("images", 0, width=0), "image 5: width must be a positive integer"),
        (changed("images", 0, width=41), r"image 5: .*b.png: the file has height x width 30 x 40, .* says 30 x 41"),
        (
            changed("images", 0, file_name="c.png"),
            r"1 of 2 images cannot be used:\n  image 5: .*c.png cannot be opened",
        ),
        (changed("images", 0, file_name="../b.png"), r"image 5: file_name '\.\./b.png' leads out of the image folder"),
        (changed("images", 0, file_name="a\\..\\..\\b.png"), "image 5: file_name .* leads out of the image folder"),
        (changed("images", 0, file_name="/etc/passwd"), "image 5: file_name '/etc/passwd' is an absolute path"),
        (changed("images", 0, file_name="C:\\b.png"), "image 5: file_name .* is an absolute path"),
        (changed("categories", 0, id=4), "category 4: this id is given twice, to 'dog' and 'cat'"),
        (changed("categories", 0, name="remove"), "category 9: name must be a text"),
        (GOOD | {"categories": []}, "list of categories is empty"),
        (GOOD | {"images": []}, "list of images is empty"),
        (GOOD | {"annotations": {}}, "expected a list of records under 'annotations', got dict"),
        (GOOD | {"annotations": [3]}, "annotation at position 0: expected an object, got 3"),
    ],
)
def test_refused_by_name(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=r"(?s)instances\.json: .*" + message):
        read(tmp_path, content)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1, column 1"),
        ('{"images": [', "not valid JSON"),
        ("[]", r"got a list \(a results file\?\)"),
        ('{"images": [], "images": []}', "the key 'images' stands twice"),
        ("[" * 100_000, "nested too deeply"),
        ("{}", "under 'images', got no such key"),
    ],
)
def test_text_that_is_no_annotation_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=r"instances\.json: .*" + message):
        read_coco(write(tmp_path, {}, text), tmp_path / "images")


@pytest.mark.parametrize(
    ("content", "message", "annotation_ids", "boxes"),
    [
        (changed("annotations", 0, bbox=[1, 1, 0, 5]), r"1 x degenerate box dropped.*11", [10, 12], None),
        (changed("annotations", 0, bbox=[99, 1, 5, 5]), r"1 x box outside its image dropped.*11", [10, 12], None),
        (changed("annotations", 0, bbox=[-5, 1, 15, 99]), r"1 x box that leaves .*11", [10, 11, 12], [0, 1, 10, 29]),
        (changed("annotations", 0, id=0), r"1 x annotation id missing or below 1.*\(0\)", [2, 1, 3], None),
        (changed("annotations", 0, id="remove"), r"numbered anew from 1 \(none\)", [2, 1, 3], None),
        (changed("annotations", 0, iscrowd="remove"), r"without iscrowd, taken as 0 \(11\)", [10, 11, 12], None),
    ],
)
def test_repaired_with_a_warning(
    tmp_path: Path, content: dict[str, Any], message: str, annotation_ids: list[int], boxes: list[float] | None
) -> None:
    with pytest.warns(DataWarning, match=r"instances\.json: " + ".*" + message):
        index = read(tmp_path, content)
    assert index.annotation_ids.tolist() == annotation_ids
    if boxes:
        assert index.boxes[1].tolist() == boxes


@pytest.mark.parametrize("area", [0, "remove"])
def test_area_is_computed(tmp_path: Path, area: object) -> None:
    with pytest.warns(DataWarning, match="computed as width x height"):
        assert read(tmp_path, changed("annotations", 0, area=area)).areas.tolist() == [900, 80, 30]


def test_rounding_beyond_the_border_is_no_repair(tmp_path: Path) -> None:
    index = read(tmp_path, changed("annotations", 0, bbox=[30, 20, 10.4, 10.3]))
    assert index.boxes[1].tolist() == [30, 20, 10.4, 10.3]
    assert index.boxes_xyxy(1)[0].tolist() == [30, 20, 40, 30]


def with_text_ids(content: dict[str, Any] = GOOD) -> dict[str, Any]:
    """Image 5 becomes "0001", image 2 becomes "0002": texts that look like numbers, and like their own places."""
    texts = {5: "0001", 2: "0002"}
    images = [record | {"id": texts[record["id"]]} for record in content["images"]]
    annotations = [record | {"image_id": texts[record["image_id"]]} for record in content["annotations"]]
    return content | {"images": images, "annotations": annotations}


def test_text_image_ids_stay_as_they_are(tmp_path: Path) -> None:
    content = with_text_ids()
    index = read(tmp_path, content)
    assert index.ids == ("0001", "0002")
    assert [index.number_of(position) for position in range(2)] == [1, 2]
    assert [index.id_of(number) for number in (1, 2)] == ["0001", "0002"]
    assert contents(index) == in_order(content)
    assert read(tmp_path, content, limit_images=1).ids == ("0001",)


def test_integer_image_ids_stay_as_they_are(tmp_path: Path) -> None:
    index = read(tmp_path, GOOD)
    assert index.ids == (2, 5)
    assert index.id_of(index.number_of(1)) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 1}, r"annotation 11: image_id 1 is not among the images; the images' ids are texts"),
        ({"image_id": "1"}, r"annotation 11: image_id '1' is not among the images; add"),
        ({"image_id": True}, r"annotation 11: image_id True is not among"),
        ({"image_id": ["0001"]}, r"annotation 11: image_id \['0001'\] is not among"),
    ],
)
def test_an_annotation_of_a_text_id_names_it_exactly(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    content = with_text_ids()
    content["annotations"][0] |= change
    with pytest.raises(DataError, match=r"instances\.json: " + message):
        read(tmp_path, content)


def test_a_damaged_image_is_named_by_its_text_id(tmp_path: Path) -> None:
    content = with_text_ids()
    content["images"][0]["file_name"] = "c.png"
    with pytest.raises(DataError, match=r"image 0001: .*c\.png cannot be opened"):
        read(tmp_path, content)


def test_links_out_of_the_folder_need_consent(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    (tmp_path / "images/b.png").rename(tmp_path / "elsewhere.png")
    (tmp_path / "images/b.png").symlink_to("../elsewhere.png")
    with pytest.raises(DataError, match=r"image 5: b\.png leads out of the image folder by a symbolic link"):
        read_coco(path, tmp_path / "images")
    assert len(read_coco(path, tmp_path / "images", follow_symlinks=True)) == 2


def test_linked_subfolder_needs_consent(tmp_path: Path) -> None:
    path = write(tmp_path, changed("images", 0, file_name="sub/b.png"))
    (tmp_path / "far").mkdir()
    (tmp_path / "images/b.png").rename(tmp_path / "far/b.png")
    (tmp_path / "images/sub").symlink_to(tmp_path / "far", target_is_directory=True)
    with pytest.raises(DataError, match=r"sub/b\.png leads out of the image folder"):
        read_coco(path, tmp_path / "images")
    assert len(read_coco(path, tmp_path / "images", follow_symlinks=True)) == 2


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA", "1", "CMYK"])
def test_every_mode_decodes_to_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    Image.new("L", (7, 5), 255).convert(mode).save(path)
    image = load_image(path)
    assert image.shape == (3, 5, 7)
    assert image.min() >= 250


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((5, 7), 128 * 256 + 3, np.uint16)).save(tmp_path / "x.png")
    assert load_image(tmp_path / "x.png").unique().tolist() == [128]


def test_damaged_images_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    with pytest.raises(DataError, match=r"x\.jpg: no such image file"):
        load_image(path)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 60, 3), dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], b"<html>404</html>", b""):
        path.write_bytes(broken)
        with pytest.raises(DataError, match=r"x\.jpg: cannot be decoded"):
            load_image(path)


def test_exif_orientation(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    exif = Image.Exif()
    exif[0x112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "images/b.png", exif=exif)
    with pytest.warns(DataWarning, match=r"1 images have an EXIF orientation \(b.png\)"):
        index = read_coco(path, tmp_path / "images")
    assert load_image(index.path(1)).shape == (3, 30, 40)
    turned = write(tmp_path, changed("images", 0, width=30, height=40))
    Image.new("RGB", (40, 30)).save(tmp_path / "images/b.png", exif=exif)
    with pytest.raises(DataError, match="EXIF orientation 6 turns it"):
        read_coco(turned, tmp_path / "images")
