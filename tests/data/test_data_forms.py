"""The same data set in every form: read alike, recognised from its folder alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detfuse.cli.conversion_run import run as convert
from detfuse.data import AnnotationIndex, CocoDataModule, DataError, DataWarning, Loader, Transforms
from detfuse.runs.invocation import Invocation

SIZES = {"a.png": (40, 30), "b.png": (20, 50), "c.png": (64, 64), "d.png": (30, 30)}  # width, height
BOXES = {  # corners and class
    "a.png": [(4, 6, 20, 24, "dog"), (0, 0, 40, 30, "cat")],
    "b.png": [(5, 10, 15, 45, "cat")],
    "c.png": [(8, 8, 24, 40, "dog")],
    "d.png": [],
}
SPLITS = {"train": ("a.png", "b.png"), "val": ("c.png", "d.png")}
NAMES = ["cat", "dog"]


def module(root: Path, **options: Any) -> CocoDataModule:
    return CocoDataModule(32, 0, root=str(root), transform=Transforms(short_side=32), loader=Loader(), **options)


def both(root: Path, **options: Any) -> CocoDataModule:
    data = module(root, **options)
    data.setup("fit")
    return data


def contents(index: AnnotationIndex) -> dict[str, list[tuple[Any, ...]]]:
    """Of each image its objects: corners and class."""
    found = {}
    for position, name in enumerate(index.file_names):
        rows = index.rows(position)
        corners = index.boxes[rows].copy()
        corners[:, 2:] += corners[:, :2]
        names = (index.categories.names[label] for label in index.labels[rows])
        found[name] = [(*np.round(box, 6).tolist(), label) for box, label in zip(corners, names, strict=True)]
    return found


def pictures(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", SIZES[name]).save(folder / name)


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def xml(name: str, extra: str = "", **changes: str) -> str:
    width, height = SIZES[name]
    objects = "".join(
        f"<object><name>{label}</name><difficult>{changes.get('difficult', '0')}</difficult><bndbox><xmin>{x1}</xmin>"
        f"<ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for x1, y1, x2, y2, label in BOXES[name]
    )
    size = changes.get("size", f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>")
    return f"{extra}<annotation><filename>{changes.get('filename', name)}</filename>{size}{objects}</annotation>"


def lines(name: str) -> str:
    width, height = SIZES[name]
    return "".join(
        f"{NAMES.index(label)} {(x1 + x2) / 2 / width:.8f} {(y1 + y2) / 2 / height:.8f} {(x2 - x1) / width:.8f} "
        f"{(y2 - y1) / height:.8f}\n"
        for x1, y1, x2, y2, label in BOXES[name]
    )


def rows(names: tuple[str, ...], header: str = "image,xmin,ymin,xmax,ymax,label") -> str:
    objects = [f"{name},{x1},{y1},{x2},{y2},{label}" for name in names for x1, y1, x2, y2, label in BOXES[name]]
    return "\n".join([header, *objects, *(f"{name},,,,," for name in names if not BOXES[name])]).strip() + "\n"


def voc(root: Path) -> None:
    pictures(root / "JPEGImages", *SIZES)
    for name in SIZES:
        put(root / f"Annotations/{Path(name).stem}.xml", xml(name))
    for split, names in SPLITS.items():
        put(root / f"ImageSets/Main/{split}.txt", "".join(f"{Path(name).stem}\n" for name in names))
        put(root / f"ImageSets/Main/dog_{split}.txt", "a -1\n")


def voc_in_folders(root: Path) -> None:
    for split, names in (("train", SPLITS["train"]), ("valid", SPLITS["val"])):
        pictures(root / split, *names)
        for name in names:
            put(root / split / f"{Path(name).stem}.xml", xml(name))


def yolo(root: Path) -> None:
    yolo_without_yaml(root)
    (root / "classes.txt").unlink()
    put(
        root / "data.yaml", "path: ../datasets/mine\ntrain: ../images/train\nval: images/val\nnames: {0: cat, 1: dog}\n"
    )


def yolo_without_yaml(root: Path) -> None:
    put(root / "classes.txt", "cat\ndog\n")
    for split, names in SPLITS.items():
        pictures(root / "images" / split, *names)
        for name in names:
            put(root / f"labels/{split}/{Path(name).stem}.txt", lines(name))


def yolo_lists(root: Path) -> None:
    put(root / "obj.names", "cat\ndog\n")
    pictures(root / "obj_train_data", *SIZES)
    for split, names in SPLITS.items():
        put(root / f"{split}.txt", "".join(f"data/obj_train_data/{name}\n" for name in names))
        for name in names:
            put(root / f"obj_train_data/{Path(name).stem}.txt", lines(name))


def table(root: Path) -> None:
    pictures(root / "images", *SIZES)
    for split, names in SPLITS.items():
        put(root / f"{split}.csv", rows(names))


def table_of_tools(root: Path) -> None:
    """Other names of the columns, other separators, no header."""
    for split, names, header in (
        ("train", SPLITS["train"], "Image_Path;x1;y1;x2;y2;Class Name"),
        ("valid", SPLITS["val"], ""),
    ):
        pictures(root / split, *names)
        text = rows(names, header)
        put(root / split / "_annotations.csv", text.replace(",", ";") if header else text)


def shapes(name: str) -> str:
    return "".join(
        f'<box label="{label}" xtl="{x1}.00" ytl="{y1}.00" xbr="{x2}.00" ybr="{y2}.00" z_order="0"></box>'
        for x1, y1, x2, y2, label in BOXES[name]
    )


def cvat_text() -> str:
    labels = "".join(f"<label><name>{name}</name></label>" for name in NAMES)
    images = ""
    for number, name in enumerate(SIZES, start=7):
        subset = "Train" if name in SPLITS["train"] else "Validation"
        width, height = SIZES[name]
        known = f'id="{number}" name="{name}" subset="{subset}" width="{width}" height="{height}"'
        images += f"<image {known}>{shapes(name)}</image>"
    return f"<annotations><meta><task><labels>{labels}</labels></task></meta>{images}</annotations>"


def cvat(root: Path) -> None:
    pictures(root / "images", *SIZES)
    put(root / "annotations.xml", cvat_text())


FORMS: dict[str, tuple[Callable[[Path], None], str]] = {
    "voc": (voc, "Pascal VOC xml"),
    "voc in folders": (voc_in_folders, "Pascal VOC xml"),
    "yolo": (yolo, "YOLO txt"),
    "yolo without yaml": (yolo_without_yaml, "YOLO txt"),
    "yolo lists": (yolo_lists, "YOLO txt"),
    "table": (table, "CSV rows"),
    "cvat": (cvat, "CVAT xml"),
    "table of tools": (table_of_tools, "CSV rows"),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_recognised_and_read_alike(tmp_path: Path, name: str) -> None:
    write, form = FORMS[name]
    write(tmp_path)
    data = both(tmp_path)
    for split, names in SPLITS.items():
        index = data.indexes[split]  # type: ignore[index]
        assert {Path(image).name: objects for image, objects in contents(index).items()} == {n: BOXES[n] for n in names}
        assert index.categories.names == ("cat", "dog")
        assert [tuple(size) for size in index.sizes.tolist()] == [SIZES[Path(n).name][::-1] for n in index.file_names]
        assert index.areas.tolist() == pytest.approx((index.boxes[:, 2] * index.boxes[:, 3]).tolist())
    assert form in data.description


def test_every_form_is_kept_and_read_anew_once_its_annotations_change(tmp_path: Path, readings: list[Path]) -> None:
    tables = ("train.csv", "_annotations.csv")
    for name, (write, _) in FORMS.items():
        root = tmp_path / name
        write(root)
        before = both(root)
        assert len(readings) == 2, name
        after = both(root)
        assert len(readings) == 2, name
        assert after.description == before.description
        for split, index in before.indexes.items():
            assert after.indexes[split].fingerprint == index.fingerprint
            assert contents(after.indexes[split]) == contents(index)
        files = sorted(root.rglob("*"))
        changed = next(file for file in files if file.name in ("a.xml", "a.txt", "annotations.xml", *tables))
        changed.write_text(changed.read_text() + "\n")
        both(root)
        assert len(readings) > 2, name
        readings.clear()


def test_all_files_and_rows_that_are_no_annotations_are_told_together(tmp_path: Path) -> None:
    for name, files, right, message in (
        ("voc", ("Annotations/a.xml", "Annotations/b.xml"), "<xmin>", "<xmin> must be a number of pixels"),
        ("yolo", ("labels/train/a.txt", "labels/train/b.txt"), " ", "expected numbers 'class"),
        ("table", ("train.csv",), ".png,", "xmin must be a number"),
        ("cvat", ("annotations.xml",), 'xtl="', "expected numbers xtl"),
    ):
        root = tmp_path / name
        FORMS[name][0](root)
        for file in files:
            (root / file).write_text((root / file).read_text().replace(right, right + "x"))
        with pytest.raises(DataError, match=r"more record.* that cannot be used:") as told:
            module(root).read("train")
        assert str(told.value).count(message) > 1, name


@pytest.mark.parametrize("name", ["voc", "yolo", "table"])
def test_what_is_converted_is_read_as_before(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    FORMS[name][0](tmp_path / "given")
    folder = {
        "_target_": "detfuse.data.datamodule.FolderDataModule",
        "root": str(tmp_path / "given"),
        "transform": {"_target_": "detfuse.data.transforms.Transforms"},
        "loader": {"_target_": "detfuse.data.loader.Loader"},
    }
    config = {"data": folder, "output": str(tmp_path / "out"), "image_ids": "kept"}
    convert(Invocation(config=config, typed=[], choices={}, multirun=False, directories=[]))
    assert FORMS[name][1] in capsys.readouterr().out
    before = both(tmp_path / "given").indexes
    options = {f"{split}_annotations": str(tmp_path / f"out/instances_{split}.json") for split in SPLITS}
    options |= {f"{split}_images": str(index.root) for split, index in before.items()}
    after = both(tmp_path / "given", **options).indexes
    assert {split: index.fingerprint for split, index in before.items()} == {
        split: index.fingerprint for split, index in after.items()
    }
    convert(Invocation(config=config | {"image_ids": "numbers"}, typed=[], choices={}, multirun=False, directories=[]))
    written = json.loads((tmp_path / "out/instances_train.json").read_text())
    assert [image["id"] for image in written["images"]] == [1, 2]
    assert {record["image_id"] for record in written["annotations"]} == {1, 2}


def test_a_folder_that_nothing_divides_is_divided_by_names(tmp_path: Path) -> None:
    voc(tmp_path)
    for file in (tmp_path / "ImageSets/Main").iterdir():
        file.unlink()
    data = both(tmp_path, val_share=0.5)
    ids = {split: set(index.ids) for split, index in data.indexes.items()}
    assert [len(each) for each in ids.values()] == [2, 2]
    assert set.union(*ids.values()) == {"a", "b", "c", "d"}
    assert "nothing divides the folder: data.val_share=0.5" in data.description
    pictures(tmp_path / "JPEGImages", "a.png")  # touched, not renamed
    assert {split: set(index.ids) for split, index in both(tmp_path, val_share=0.5).indexes.items()} == ids
    assert len(both(tmp_path, val_share=0.01).indexes["val"]) == 1


@pytest.mark.parametrize("name", ["voc", "voc in folders", "yolo without yaml", "yolo lists", "table"])
def test_a_missing_validation_split_is_told_with_the_remedy(tmp_path: Path, name: str) -> None:
    FORMS[name][0](tmp_path)
    for path in sorted(tmp_path.rglob("*val*"), reverse=True):
        path.rename(path.with_name("held" + path.suffix))
    with pytest.raises(DataError, match=r"There is a train split \(.*no val split: .*data\.val_annotations=") as told:
        both(tmp_path)
    assert FORMS[name][1] in str(told.value)
    assert module(tmp_path).read("train").ids  # it can still be converted


def test_a_split_may_be_named(tmp_path: Path) -> None:
    voc(tmp_path / "voc")
    (tmp_path / "voc/ImageSets/Main/val.txt").rename(tmp_path / "voc/ImageSets/Main/test.txt")
    assert both(tmp_path / "voc", val_annotations="ImageSets/Main/test.txt").indexes["val"].ids == ("c", "d")
    yolo_without_yaml(tmp_path / "yolo")
    (tmp_path / "yolo/labels/val").rename(tmp_path / "yolo/labels/test")
    (tmp_path / "yolo/images/val").rename(tmp_path / "yolo/images/test")
    assert both(tmp_path / "yolo", val_annotations="labels/test").indexes["val"].ids == ("c", "d")


def test_classes_of_either_split_are_classes_of_both(tmp_path: Path) -> None:
    voc(tmp_path)
    put(tmp_path / "Annotations/c.xml", xml("c.png").replace("dog", "ant"))
    data = both(tmp_path)
    assert data.categories.names == ("ant", "cat", "dog")
    assert data.indexes["val"].categories == data.categories


def test_difficult_objects_are_to_be_ignored(tmp_path: Path) -> None:
    voc(tmp_path)
    put(tmp_path / "Annotations/a.xml", xml("a.png", difficult="1"))
    index = both(tmp_path).indexes["train"]
    assert index.ignore.tolist() == [True, True, False]
    assert index.crowd_of(0).tolist() == [True, True]  # they teach nothing
    assert "1 boxes, 0 crowds, 2 to ignore" in index.summary()


def test_sizes_and_names_that_tools_leave_wrong_are_found(tmp_path: Path) -> None:
    voc(tmp_path)
    put(tmp_path / "Annotations/a.xml", xml("a.png", size="<size><width>0</width><height>0</height></size>"))
    put(tmp_path / "Annotations/b.xml", xml("b.png", filename="C:\\mine\\b.jpg", size=""))
    with pytest.warns(DataWarning, match=r"1 x image found by another name .*\(C:\\mine\\b\.jpg is b\.png\)"):
        index = both(tmp_path).indexes["train"]
    assert index.file_names == ("a.png", "b.png")
    assert index.sizes.tolist() == [[30, 40], [50, 20]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><annotation>&e;</annotation>', "declares a document"),
        ('<!DOCTYPE annotation SYSTEM "x.dtd"><annotation/>', "declares a document type"),
        ("<annotation>&e;</annotation>", "undefined entity"),
        ("<annotation>", "not valid XML at line 1"),
        ("", "not valid XML"),
        ("<annotations/>", "CVAT's own form, of which one file is expected"),
        ("<annotation><object><name>x</name></object></annotation>", "object 1: <bndbox> is missing"),
        ("<annotation><object><bndbox/></object></annotation>", "object 1: <name> is missing"),
        (xml("a.png").replace("<xmin>4<", "<xmin>x<"), "object 1: <xmin> must be a number"),
        (xml("a.png").replace("<xmin>4<", "<xmin>24<"), "object 1: the corners 24, 6, 20, 24 are swapped"),
        (xml("a.png", difficult="2"), "object 1: <difficult> must be 0 or 1"),
        (xml("a.png").replace(">40</width>", ">4.5</width>"), "width must be a positive integer, got '4.5'"),
    ],
)
def test_xml_that_is_refused(tmp_path: Path, text: str, message: str) -> None:
    voc(tmp_path)
    put(tmp_path / "Annotations/a.xml", text)
    with pytest.raises(DataError, match=f"a.xml: .*{message}"):
        both(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 .5 .5 .2", "expected the 5 numbers .* got 4"),
        ("0 .5 .5 .2 .2 .9", "6 numbers: predictions with a score"),
        ("cat .5 .5 .2 .2", "line 1: expected numbers"),
        ("0 .5 .5 nan .2", "line 1: expected numbers"),
        ("0.5 .5 .5 .2 .2", "the class must be a number from 0, got '0.5'"),
        ("\n2 .5 .5 .2 .2", "line 2: class 2 is not among the 2 that are named"),
        ("0 12 12 8 8", "are no fractions of the image"),
    ],
)
def test_lines_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    yolo(tmp_path)
    put(tmp_path / "labels/train/a.txt", text)
    with pytest.raises(DataError, match=f"a.txt: .*{message}"):
        both(tmp_path)


def test_polygons_become_their_extent_and_files_without_image_are_told(tmp_path: Path) -> None:
    yolo(tmp_path)
    put(tmp_path / "labels/train/a.txt", "1 .1 .2 .5 .2 .5 .8 .1 .8\n")
    (tmp_path / "labels/train/b.txt").unlink()  # no objects
    data = both(tmp_path)
    assert contents(data.indexes["train"]) == {"a.png": [(4, 6, 20, 24, "dog")], "b.png": []}
    yolo_without_yaml(tmp_path / "other")
    put(tmp_path / "other/labels/train/z.txt", lines("a.png"))
    with pytest.warns(DataWarning, match=r"1 txt files have no image and are not used \(z\.txt\)"):
        both(tmp_path / "other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("a.png,4,", "a.png,x,"), "line 2: xmin must be a number, got 'x'"),
        (("a.png,4,", "a.png,24,"), "line 2: the corners 24, 6, 20, 24 are swapped"),
        (("24,dog", "24,"), "line 2: the box has no label"),
        (("a.png,4,6,", "a.png,4,"), "line 2: 5 fields, expected at least 6"),
        (("xmin", "left_of"), "names no column for xmin"),
    ],
)
def test_rows_that_are_refused(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    table(tmp_path)
    put(tmp_path / "train.csv", rows(SPLITS["train"]).replace(*change, 1))
    with pytest.raises(DataError, match=message):
        both(tmp_path, train_annotations="train.csv")


def test_cvats_file_keeps_its_ids_and_reads_outlines_as_their_extent(tmp_path: Path) -> None:
    cvat(tmp_path)
    outline = '<polygon label="dog" points="4.0,6.0;20.0,6.0;20.0,24.0"/><mask label="dog" rle="1"/><tag label="cat"/>'
    put(tmp_path / "annotations.xml", cvat_text().replace(shapes("c.png"), outline).replace(' subset="Train"', ""))
    with pytest.warns(DataWarning) as told:
        index = module(tmp_path).read("val")
    assert contents(index) == {"c.png": [(4, 6, 20, 24, "dog")], "d.png": []}
    assert (index.ids, index.categories.ids) == ((9, 10), (1, 2))
    assert ["polygon taken" in str(told[0].message), "mask left out" in str(told[1].message)] == [True, True]
    put(tmp_path / "annotations.xml", cvat_text().replace("subset=", "subject="))
    assert both(tmp_path).undivided is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('label="dog"', 'label="cow"'), "label 'cow' is not among the labels"),
        (('xtl="4.00"', 'xtl="x"'), "annotation 1 of image 7: expected numbers xtl <= xbr"),
        (('xtl="4.00"', 'xtl="24.00"'), "annotation 1 of image 7: expected numbers xtl <= xbr"),
        (('id="7"', 'id="seven"'), "image 'a.png': id must be an integer, got 'seven'"),
        (('width="40"', 'width="-40"'), "image 7: width must be a positive integer"),
        (("<image ", '<track label="dog"/><image '), "has <track>s of a video"),
        (("labels>", "labelled>"), "<meta> names no labels"),
    ],
)
def test_cvat_files_that_are_refused(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    cvat(tmp_path)
    text = cvat_text()
    put(tmp_path / "annotations.xml", text.replace(*change) if change[0] == "labels>" else text.replace(*change, 1))
    with pytest.raises(DataError, match=rf"annotations\.xml: .*{message}"):
        both(tmp_path)


def test_annotations_stay_inside_the_folder(tmp_path: Path) -> None:
    voc(tmp_path / "in")
    (tmp_path / "in/Annotations/a.xml").rename(tmp_path / "a.xml")
    (tmp_path / "in/Annotations/a.xml").symlink_to(tmp_path / "a.xml")
    with pytest.raises(DataError, match=r"a\.xml is a symbolic link out of data\.root"):
        both(tmp_path / "in")
    assert both(tmp_path / "in", follow_symlinks=True).indexes["train"].ids == ("a", "b")
    yolo(tmp_path / "yolo")
    put(tmp_path / "yolo/data.yaml", "train: ../../in/JPEGImages\nval: images/val\nnames: [cat, dog]\n")
    with pytest.raises(DataError, match=r"data\.yaml: train: \.\./\.\./in/JPEGImages is not below"):
        both(tmp_path / "yolo")


def test_files_of_other_things_are_no_annotations(tmp_path: Path) -> None:
    voc(tmp_path)
    put(tmp_path / "package.json", '{"images": 3}')
    put(tmp_path / "notes.yaml", "- names\n- train\n")
    put(tmp_path / "broken.yml", "{")
    put(tmp_path / "results.csv", "epoch,mAP\n1,0.5\n")
    assert both(tmp_path).indexes["train"].form == "Pascal VOC xml"


def test_what_is_given_elsewhere_is_taken(tmp_path: Path) -> None:
    voc(tmp_path / "far")
    (tmp_path / "root").mkdir()
    far = {f"{split}_annotations": str(tmp_path / "far/Annotations") for split in SPLITS}
    with pytest.warns(DataWarning, match="4 images are in train and in val"):
        data = both(tmp_path / "root", **far, **{f"{s}_images": str(tmp_path / "far/JPEGImages") for s in SPLITS})
    assert len(data.indexes["val"]) == 4
    for file in (tmp_path / "far/ImageSets/Main").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"data\.train_annotations is given .*: give data\.val_annotations, too"):
        both(tmp_path / "far", train_annotations="Annotations")


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "../../etc/passwd", "/etc/passwd"])
@pytest.mark.parametrize("form", ["voc", "yolo lists", "table"])
def test_names_that_no_file_can_have_are_refused(tmp_path: Path, form: str, name: str) -> None:
    FORMS[form][0](tmp_path)
    text = f"{name},4,6,20,24,dog" if form == "table" else name
    listed = {"voc": "ImageSets/Main/train.txt", "yolo lists": "train.txt", "table": "train.csv"}[form]
    header = "image,xmin,ymin,xmax,ymax,label\n" if form == "table" else ""
    put(tmp_path / listed, f"{header}{text}\n")
    with pytest.raises(DataError) as told:
        both(tmp_path, train_annotations=listed)
    assert len(str(told.value)) < 1000


def test_several_tables_are_not_guessed_at(tmp_path: Path) -> None:
    table(tmp_path)
    (tmp_path / "train.csv").rename(tmp_path / "one.csv")
    (tmp_path / "val.csv").rename(tmp_path / "two.csv")
    with pytest.raises(DataError, match=r"several tables of objects \(one\.csv, two\.csv\)"):
        both(tmp_path)
    assert both(tmp_path, train_annotations="one.csv", val_annotations="two.csv").indexes["val"].ids
