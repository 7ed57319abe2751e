"""Readings that are kept: the same as new ones, never older than the data, and nobody else's."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detfuse.data import AnnotationIndex, DataError, DataWarning, FolderDataModule, Loader, Transforms, kept
from detfuse.files.columns import ColumnsError, read_columns, write_columns


def read(root: Path, **options: Any) -> tuple[AnnotationIndex, list[tuple[str, str, tuple[str, ...]]]]:
    """The training split, and what was told of it."""
    data = FolderDataModule(32, 0, root=str(root), transform=Transforms(), loader=Loader(), **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        index = data.read("train")
    told = [each.message for each in caught if isinstance(each.message, DataWarning)]
    return index, [(str(warning), warning.what, warning.records) for warning in told]


def change(file: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


@pytest.fixture
def root(coco_root: Path) -> Path:
    """With text ids, a name of another system, and boxes that are repaired."""

    def edit(content: dict[str, Any]) -> None:
        for record in (*content["images"], *content["annotations"]):
            key = "image_id" if "image_id" in record else "id"
            record[key] = f"\u00fc {record[key]}"
        content["images"][0]["file_name"] = "old\\0001.png"
        content["annotations"][0]["bbox"] = [-5, 1, 20, 16]
        del content["annotations"][1]["area"]

    change(coco_root / "annotations/instances_train2017.json", edit)
    Image.new("RGB", (48, 64)).save(coco_root / "train2017/0002.png")
    return coco_root


def entries(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache/detfuse/annotations").iterdir())


def test_what_is_kept_is_what_was_read_and_tells_the_same(root: Path, readings: list[Path], tmp_path: Path) -> None:
    (first, told), (second, again) = read(root), read(root)
    assert len(readings) == 1
    assert told == again
    assert len(told) == 3  # the name, the clipped box, the area
    assert (first.ids, first.categories, first.root, first.source, first.form, first.groups) == (
        (second.ids, second.categories, second.root, second.source, second.form, second.groups)
    )
    assert first.file_names == second.file_names
    for name, value in vars(first).items():
        if isinstance(value, np.ndarray):
            assert value.dtype == getattr(second, name).dtype
            assert np.array_equal(value, getattr(second, name))
    assert second.only(np.arange(len(second)) < 3).labels_of(1).tolist() == first.labels_of(1).tolist()
    (entry,) = entries(tmp_path)
    assert entry.stat().st_mode & 0o077 == 0  # nobody else's


def replaced(file: Path) -> None:
    """Another file of the same content and times."""
    before = file.stat()
    other = file.with_name("other")
    other.write_bytes(file.read_bytes())
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.rename(file)


CHANGES: dict[str, Callable[[Path], Any]] = {
    "a box": lambda root: change(
        root / "annotations/instances_train2017.json", lambda c: c["annotations"][5].update(bbox=[2, 1, 20.5, 16])
    ),
    "a class": lambda root: change(
        root / "annotations/instances_train2017.json", lambda c: c["categories"][0].update(name="cow")
    ),
    "an image touched": lambda root: (root / "train2017/0003.png").touch(),
    "an image replaced": lambda root: replaced(root / "train2017/0003.png"),
    "an image turned": lambda root: Image.new("RGB", (50, 50)).save(root / "train2017/0003.png"),
    "the name that the annotations have": lambda root: (root / "train2017/old\\0001.png").write_bytes(
        (root / "train2017/0001.png").read_bytes()
    ),
    "an image behind a link": lambda root: (
        (root / "train2017/0004.png").rename(root / "hidden.png"),
        (root / "train2017/0004.png").symlink_to(root / "hidden.png"),
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_changes_is_read_anew(root: Path, readings: list[Path], what: str) -> None:
    read(root)
    CHANGES[what](root)
    with suppress(DataError):  # such as a link that leads out of the folder of the images
        read(root)
    assert len(readings) == 2


def test_an_image_that_is_gone_or_cut_is_told_as_ever(root: Path, readings: list[Path]) -> None:
    read(root)
    (root / "train2017/0003.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"0003\.png is empty"):
        read(root)
    (root / "train2017/0003.png").unlink()
    with pytest.raises(DataError, match=r"0003\.png cannot be opened"):
        read(root)


def test_other_settings_and_other_code_read_anew(
    root: Path, readings: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read(root)
    for number, options in enumerate(
        ({"check_images": "exists"}, {"limit_images": 2}, {"grouping_categories": "drop"}, {"follow_symlinks": True}), 2
    ):
        read(root, **options)
        assert len(readings) == number, options
    assert len(read(root, limit_images=2)[0]) == 2
    assert len(readings) == 5
    (root / "train2017/0009.png").touch()  # beyond the limit, but its name was looked for
    read(root, limit_images=2)
    assert len(readings) == 6
    monkeypatch.setattr(kept, "_reader", lambda: ["another version"])
    read(root, limit_images=2)
    assert len(readings) == 7


def test_a_damaged_entry_is_read_anew_with_a_line(root: Path, readings: list[Path], tmp_path: Path) -> None:
    _, told = read(root)
    (entry,) = entries(tmp_path)
    whole = entry.read_bytes()
    for damaged in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:100], b""):
        entry.write_bytes(damaged)
        index, (line, *rest) = read(root)
        assert "damaged" in line[0]
        assert rest == told
        assert len(index) == 11
    assert read(root)[1] == told  # it was written anew
    assert len(readings) == 4


def test_what_others_could_have_written_is_not_used(root: Path, readings: list[Path], tmp_path: Path) -> None:
    read(root)
    (entry,) = entries(tmp_path)
    entry.chmod(0o666)
    read(root)
    assert len(readings) == 2
    entry.rename(tmp_path / "elsewhere")
    entry.symlink_to(tmp_path / "elsewhere")
    read(root)
    assert len(readings) == 3
    entry.parent.chmod(0o777)
    read(root)
    assert len(readings) == 4


def test_only_what_takes_long_and_rests_is_kept(
    root: Path, readings: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "SETTLED", 1e6)
    read(root)
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(kept, "SETTLED", -1e6)
    monkeypatch.setattr(kept, "WORTH", 1e6)
    read(root)
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(kept, "WORTH", 0.0)
    read(root)
    os.utime(entries(tmp_path)[0], (0, 0))  # not used for long
    read(root, limit_images=3)
    (entry,) = entries(tmp_path)
    monkeypatch.setattr(kept, "MOST_BYTES", 1.5 * entry.stat().st_size)
    read(root, limit_images=4)
    assert len(entries(tmp_path)) == 1
    assert entries(tmp_path) != [entry]


def test_a_place_that_cannot_be_written_to_is_no_fault(root: Path, readings: list[Path], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    assert len(read(root)[0]) == 11


def test_columns_come_back_as_they_were(tmp_path: Path) -> None:
    columns = {
        "a": np.arange(3.0),
        "none": np.zeros((0, 4)),
        "b": np.array([True, False]),
        "last": np.zeros(0, np.int64),
    }
    write_columns(tmp_path / "x", columns, {"name": "\ud800"})
    found, notes = read_columns(tmp_path / "x")
    assert notes == {"name": "\ud800"}
    for name, column in columns.items():
        assert found[name].dtype == column.dtype
        assert found[name].shape == column.shape
        assert (found[name] == column).all()
        assert not found[name].flags.writeable
    (tmp_path / "x").write_bytes(b"\0" * 200)
    with pytest.raises(ColumnsError, match="damaged"):
        read_columns(tmp_path / "x")
