"""Pascal VOC's xml form: a file per image (Everingham et al., The PASCAL Visual Object Classes Challenge, IJCV 2010).

An image's id is its file's name without suffix, as in VOC's own lists and results; classes have the ids 1, 2, ... in
alphabetical order. Corners are taken as they are written, as annotation tools write them; VOC's own years count pixels
from 1 and include the last one, so that their boxes come out smaller by a pixel at the left and the top.
``difficult`` objects are to be ignored.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PureWindowsPath
from typing import NamedTuple
from xml.etree.ElementTree import Element

from detfuse.data.index import DataError
from detfuse.data.readers.records import BoxRecord, CategoryRecord, ImageRecord, Records, Repairs, number_in, picture
from detfuse.data.readers.refusals import Refusals
from detfuse.errors import InputError
from detfuse.files.xml import read_xml

VOC = "Pascal VOC xml"


class _Object(NamedTuple):
    name: str
    corners: tuple[float, float, float, float]
    difficult: bool


class _File(NamedTuple):
    path: Path
    file_name: str | None
    size: tuple[int | None, int | None]  # height, width
    objects: list[_Object]


def voc_records(
    source: Path, files: Sequence[Path], others: Sequence[Path], picture_of: Callable[[str | None, str], str]
) -> Records:
    """The records of xml files.

    Args:
        source: the folder or list that they are of, for messages.
        files: of the split; each is of an image.
        others: of the data set's other splits, which have the same classes.
        picture_of: finds an image, by the name that the file has for it and by the file's own name without suffix.

    Raises:
        DataError: naming the file, if it is no annotation of an image.
    """
    refusals = Refusals(source)
    read = refusals.each(_read, sorted(files))
    refusals.settle()
    names = {each.name for file in read for each in file.objects}
    for path in set(others) - set(files):
        names |= {each.name for each in _read(path).objects}
    if not names:
        raise DataError(f"{source}: none of the files has an object: there is nothing to learn")
    ids = {name: number for number, name in enumerate(sorted(names), start=1)}
    repairs: Repairs = defaultdict(list)
    return Records(
        source,
        form=VOC,
        has_areas=False,
        categories=[CategoryRecord(number, name) for name, number in ids.items()],
        images=(
            ImageRecord(file.path.stem, picture(picture_of, file.file_name, file.path.stem, repairs), *file.size)
            for file in read
        ),
        boxes=_boxes(read, ids),
        repairs=repairs,
    )


def _boxes(files: Sequence[_File], ids: dict[str, int]) -> Iterator[BoxRecord]:
    number = 0
    for file in files:
        for position, each in enumerate(file.objects, start=1):
            number += 1
            x1, y1, x2, y2 = each.corners
            yield BoxRecord(
                name=f"{position} in {file.path.name}",
                id=number,
                image_id=file.path.stem,
                category_id=ids[each.name],
                box=(x1, y1, x2 - x1, y2 - y1),
                area=None,
                crowd=False,
                ignore=each.difficult,
            )


def _read(path: Path) -> _File:
    try:
        root = read_xml(path)
    except InputError as error:
        raise DataError(str(error)) from error
    if root.tag != "annotation":
        hint = "; CVAT's own form, of which one file is expected" if root.tag == "annotations" else ""
        raise DataError(f"{path}: expected VOC's <annotation>, got <{root.tag:.40}>{hint}")
    given = (root.findtext("filename") or root.findtext("path") or "").strip()
    return _File(
        path,
        PureWindowsPath(given).name if root.findtext("filename") is None else given or None,
        (_side(path, root, "height"), _side(path, root, "width")),
        [_object(path, position, each) for position, each in enumerate(root.iterfind("object"), start=1)],
    )


def _side(path: Path, root: Element, name: str) -> int | None:
    """None where the file lacks it, or has 0 in its place as some tools do."""
    text = (root.findtext(f"size/{name}") or "").strip()
    value = number_in(text) if text else 0.0
    if value is None or value < 0 or value != int(value):
        raise DataError(f"{path}: <size>: {name} must be a positive integer, got {text!r:.40}")
    return int(value) or None


def _object(path: Path, position: int, element: Element) -> _Object:
    def fail(problem: str) -> DataError:
        return DataError(f"{path}: object {position}: {problem}")

    name = (element.findtext("name") or "").strip()
    if not name:
        raise fail("<name> is missing or empty; write its class")
    box = element.find("bndbox")
    if box is None:
        raise fail("<bndbox> is missing; write <xmin>, <ymin>, <xmax>, <ymax> in pixels")
    corners = []
    for side in ("xmin", "ymin", "xmax", "ymax"):
        value = number_in(box.findtext(side) or "")
        if value is None:
            raise fail(f"<{side}> must be a number of pixels, got {box.findtext(side)!r:.40}")
        corners.append(value)
    difficult = (element.findtext("difficult") or "0").strip().lower()
    if difficult not in ("0", "1", "false", "true"):
        raise fail(f"<difficult> must be 0 or 1, got {difficult!r:.40}")
    x1, y1, x2, y2 = corners
    if x2 < x1 or y2 < y1:
        raise fail(f"the corners {x1:g}, {y1:g}, {x2:g}, {y2:g} are swapped; expected xmin <= xmax and ymin <= ymax")
    return _Object(name, (x1, y1, x2, y2), difficult in ("1", "true"))
