from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detfuse.data import CocoDataModule, DataError, DataWarning, Loader, Transforms
from detfuse.evaluation import read_annotations

LAYOUTS = [
    ("annotations/instances_train2017.json", "train2017", "annotations/instances_val2017.json", "val2017"),
    (
        "annotations/instances_train2017.json",
        "images/train2017",
        "annotations/instances_val2017.json",
        "images/val2017",
    ),
    ("annotations/instances_train.json", "images", "annotations/instances_val.json", "images"),
    ("annotations/instances_train.json", "images/train", "annotations/instances_val.json", "images/val"),
    ("annotations/instances_train.json", "train", "annotations/instances_val.json", "val"),
    ("train/_annotations.coco.json", "train", "valid/_annotations.coco.json", "valid"),
    ("train/labels.json", "train/data", "val/labels.json", "val/data"),
    ("train.json", ".", "val.json", "."),
]
VAL_BOXES = [[], [[1, 1, 9, 9, 7, 1]]]


def module(root: Path, **options: Any) -> CocoDataModule:
    return CocoDataModule(32, 0, root=str(root), transform=Transforms(short_side=32), loader=Loader(), **options)


@pytest.mark.parametrize("paths", LAYOUTS, ids=[f"{a}+{b}" for a, b, _, _ in LAYOUTS])
def test_layout_is_recognised(tmp_path: Path, write_split: Any, paths: tuple[str, str, str, str]) -> None:
    write_split(tmp_path / paths[0], tmp_path / paths[1], [(20, 30)] * 3)
    write_split(tmp_path / paths[2], tmp_path / paths[3], [(20, 30)] * 2, boxes=VAL_BOXES, first_id=10)
    data = module(tmp_path)
    data.setup("fit")
    data.setup("validate")
    assert data.ground_truth("train").ids == (1, 2, 3)
    assert data.ground_truth("val").ids == (10, 11)
    for expected in (
        "train: 3 images (0 without objects), 3 boxes, 0 crowds",
        "val:   2 images (1 without objects), 0 boxes, 1 crowds",
        str(tmp_path / paths[0]),
        "2 categories: cat, dog",
    ):
        assert expected in data.description


def test_images_folder_is_the_one_that_holds_the_images(tmp_path: Path, write_split: Any) -> None:
    for split in ("train", "val"):
        write_split(
            tmp_path / f"annotations/instances_{split}.json", tmp_path / "images", [(9, 9)], first_id=len(split)
        )
        (tmp_path / "images" / split).mkdir()
    data = module(tmp_path)
    data.setup("fit")
    assert data.indexes["val"].root == tmp_path / "images"


def test_a_layout_with_both_splits_wins(tmp_path: Path, write_split: Any) -> None:
    write_split(tmp_path / "annotations/instances_train2017.json", tmp_path / "train2017", [(9, 9)])
    for split, first in (("train", 20), ("val", 30)):
        write_split(tmp_path / f"{split}/_annotations.coco.json", tmp_path / split, [(9, 9)], first_id=first)
    data = module(tmp_path)
    data.setup("fit")
    assert data.indexes["train"].ids == (20,)


def test_overrides_win(coco_root: Path, write_split: Any) -> None:
    write_split(coco_root / "mine/val.json", coco_root / "pictures", [(20, 20)], first_id=500)
    data = module(coco_root, val_annotations="mine/val.json", val_images="pictures")
    data.setup("fit")
    assert len(data.indexes["train"]) == 11
    assert data.indexes["val"].ids == (500,)
    for wrong in ({"val_annotations": "no.json"}, {"train_images": "no"}):
        with pytest.raises(DataError, match=r"data\.\w+=no(\.json)?: no such"):
            module(coco_root, **wrong).setup("fit")


def test_one_file_of_all_images_is_divided(tmp_path: Path, write_split: Any) -> None:
    """As CVAT exports a task that nobody divided, with a file per kind of annotation."""
    for kind in ("instances", "person_keypoints"):
        write_split(tmp_path / f"annotations/{kind}_default.json", tmp_path / "images/default", [(20, 30)] * 5)
    data = module(tmp_path, val_share=0.4)
    data.setup("fit")
    assert [len(data.indexes["train"]), len(data.indexes["val"])] == [3, 2]
    assert "instances_default.json" in data.description
    (tmp_path / "annotations/instances_default.json").rename(tmp_path / "annotations/instances_train.json")
    with pytest.raises(DataError, match=r"There is a train split .* no val split"):
        module(tmp_path).read("val")


def test_nothing_recognised_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    with pytest.raises(DataError) as error:
        module(tmp_path).setup("fit")
    for expected in (
        "annotations/instances_train2017.json",
        "train/_annotations.coco.json",
        "odd/",
        "train_annotations=",
    ):
        assert expected in str(error.value)
    with pytest.raises(DataError, match="no such folder"):
        module(tmp_path / "gone").setup("fit")


def test_linked_folder_needs_consent(coco_root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    far = tmp_path_factory.mktemp("far") / "pictures"
    (coco_root / "train2017").rename(far)
    (coco_root / "train2017").symlink_to(far, target_is_directory=True)
    with pytest.raises(DataError, match=r"data\.follow_symlinks=true"):
        module(coco_root).setup("fit")
    module(coco_root, follow_symlinks=True).setup("fit")


def test_evaluation_needs_no_training_split(coco_root: Path) -> None:
    (coco_root / "annotations/instances_train2017.json").unlink()
    data = module(coco_root)
    data.setup("validate")
    assert data.categories.names == ("cat", "dog")
    with pytest.raises(DataError, match="the train split was not read"):
        data.ground_truth("train")


def test_limit_images_takes_both_splits(coco_root: Path) -> None:
    data = module(coco_root, limit_images=3)
    data.setup("fit")
    assert data.ground_truth("train").ids == (1, 2, 3)
    assert data.ground_truth("val").ids == (100, 101, 102)


def test_ground_truth_is_the_file(coco_root: Path) -> None:
    """The same whether training reads it, or whoever compares results of other programs."""
    data = module(coco_root)
    data.setup("fit")
    ours, theirs = data.ground_truth("val"), read_annotations(coco_root / "annotations/instances_val2017.json")
    assert (ours.ids, ours.categories) == (theirs.ids, theirs.categories)
    assert theirs.crowd.sum() == 1
    for name in ("offsets", "boxes", "labels", "crowd", "areas"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name))


@pytest.mark.parametrize(
    ("val", "messages"),
    [
        ({3: "cat", 8: "cow"}, ["only in train: 'dog' (id 7)", "only in val: 'cow' (id 8)"]),
        ({3: "lion", 7: "dog"}, ["id 3 is 'cat' in train and 'lion' in val"]),
        ({3: "cat", 9: "dog"}, ["'dog' has id 7 in train and 9 in val"]),
    ],
)
def test_differing_categories_are_refused_by_name(
    tmp_path: Path, write_split: Any, val: dict[int, str], messages: list[str]
) -> None:
    write_split(tmp_path / "train.json", tmp_path / "train", [(20, 30)])
    write_split(tmp_path / "val.json", tmp_path / "val", [(20, 30)], boxes=[[]], categories=val)
    with pytest.raises(DataError) as error, pytest.warns(DataWarning, match="list of annotations is empty"):
        module(tmp_path).setup("fit")
    for message in messages:
        assert message in str(error.value)


def test_images_in_both_splits_are_told(tmp_path: Path, write_split: Any) -> None:
    for split in ("train", "val"):
        write_split(tmp_path / f"{split}.json", tmp_path / "images", [(20, 30)])
    with pytest.warns(DataWarning, match="1 images are in train and in val"):
        module(tmp_path).setup("fit")


def test_images_so_thin_that_their_longer_side_is_capped_are_told(tmp_path: Path, write_split: Any) -> None:
    boxes = [[[2, 2, 9, 9, 3, 0]], [[0, 2, 1, 20, 3, 0]]]
    write_split(tmp_path / "train.json", tmp_path / "train", [(20, 30)])
    write_split(tmp_path / "val.json", tmp_path / "val", [(20, 30), (1, 40)], boxes=boxes, first_id=10)
    data = CocoDataModule(
        32, 0, root=str(tmp_path), transform=Transforms(short_side=32, long_side=None), loader=Loader()
    )
    with pytest.warns(DataWarning, match=r"1 images are so thin.*0011\.png: 40 x 1 pixels .* become 512 x 13"):
        data.setup("validate")
    assert data.largest_inference_size() == (512, 32)
