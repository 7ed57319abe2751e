"""CVAT's own xml form (*CVAT for images 1.1*): one file of all images, with their shapes.

Images and classes have the ids of the file: an image's own number, a class's place among the labels from 1, as in
CVAT's export to COCO. A polygon or a line is read as its extent; other shapes are left out with a warning.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

from detfuse.data.index import DataError
from detfuse.data.readers.records import (
    BoxRecord,
    CategoryRecord,
    ImageRecord,
    Records,
    Repairs,
    number_in,
    picture,
)
from detfuse.data.readers.refusals import Refusals
from detfuse.data.readers.shapes import extent_of
from detfuse.errors import InputError
from detfuse.files.xml import read_xml

CVAT = "CVAT xml"

_LARGEST = 2 * 2**30  # bytes of a file, which is of all images
_CORNERS = ("xtl", "ytl", "xbr", "ybr")
_OUTLINES = ("polygon", "polyline")
_OTHERS = ("mask", "points", "ellipse", "cuboid", "skeleton")


def cvat_records(source: Path, subset: Sequence[str] | None, picture_of: Callable[[str | None, str], str]) -> Records:
    """The records of a file.

    Args:
        source: the file.
        subset: names of the subset to be read; None reads all images.
        picture_of: finds an image, by the name that the file has for it and by that name without suffix.

    Raises:
        DataError: naming the file and the image, if it is no annotation.
    """
    root = _root(source)
    labels = [(each.findtext("name") or "").strip() for each in root.iterfind("meta//labels/label")]
    if not labels or not all(labels):
        raise DataError(f"{source}: <meta> names no labels; export the task anew, as CVAT for images")
    images = [each for each in root.iterfind("image") if subset is None or subset_of(each) in subset]
    repairs: Repairs = defaultdict(list)
    refusals = Refusals(source)
    read = refusals.each(lambda image: _image(source, image, picture_of, repairs), images)
    refusals.settle()  # before their boxes, of which each would lack its image
    return Records(
        source,
        form=CVAT,
        has_areas=False,
        categories=[CategoryRecord(number, name) for number, name in enumerate(labels, start=1)],
        images=read,
        boxes=_boxes(source, images, {name: number for number, name in enumerate(labels, start=1)}, repairs, refusals),
        repairs=repairs,
        refusals=refusals,
    )


def is_cvat(source: Path) -> bool:
    """Whether an xml file is of this form, by its start."""
    try:
        with source.open("rb") as opened:
            return b"<annotations>" in opened.read(4096)
    except OSError:
        return False


def subsets_in(source: Path) -> set[str]:
    """The names of the subsets that its images are of, in lower case."""
    return {subset_of(each) for each in _root(source).iterfind("image")}


def subset_of(image: Element) -> str:
    """The subset that an image is of, in lower case; no name if it is of none."""
    return image.get("subset", "").strip().lower()


def _root(source: Path) -> Element:
    try:
        root = read_xml(source, largest=_LARGEST)
    except InputError as error:
        raise DataError(str(error)) from error
    if root.tag != "annotations":
        raise DataError(f"{source}: expected CVAT's <annotations>, got <{root.tag:.40}>")
    if root.find("track") is not None:
        raise DataError(f"{source}: has <track>s of a video; export the task as CVAT for images")
    return root


def _image(source: Path, image: Element, picture_of: Callable[[str | None, str], str], repairs: Repairs) -> ImageRecord:
    name = image.get("name", "")
    sides = [_side(source, image, key) for key in ("height", "width")]
    return ImageRecord(_number(source, image), picture(picture_of, name or None, Path(name).stem, repairs), *sides)


def _number(source: Path, image: Element) -> int:
    text = image.get("id", "")
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise DataError(f"{source}: image {image.get('name')!r:.100}: id must be an integer, got {text!r:.40}")
    return int(text)


def _side(source: Path, image: Element, key: str) -> int | None:
    text = image.get(key)
    if text is None:
        return None
    value = number_in(text)
    if value is None or value < 1 or value != int(value):
        raise DataError(f"{source}: image {_number(source, image)}: {key} must be a positive integer, got {text!r:.40}")
    return int(value)


def _boxes(
    source: Path, images: Sequence[Element], ids: dict[str, int], repairs: Repairs, refusals: Refusals
) -> list[BoxRecord]:
    counter = itertools.count(1)

    def shapes() -> Iterator[tuple[str, Element, Element]]:
        for image in images:
            for place, shape in enumerate(image, start=1):
                name = f"{place} of image {image.get('id')}"
                if shape.tag in _OTHERS:
                    repairs[f"{shape.tag} left out, for it is no box"].append(name)
                if shape.tag == "box" or shape.tag in _OUTLINES:
                    yield name, image, shape

    def box(given: tuple[str, Element, Element]) -> BoxRecord:
        name, image, shape = given
        label = shape.get("label", "")
        if label not in ids:
            raise DataError(f"{source}: annotation {name}: label {label!r:.60} is not among the labels; declare it")
        if shape.tag != "box":
            repairs[f"{shape.tag} taken as its extent"].append(name)
        return BoxRecord(
            name=name,
            id=next(counter),
            image_id=_number(source, image),
            category_id=ids[label],
            box=_box(source, name, shape),
            area=None,
            crowd=False,
        )

    return refusals.each(box, shapes())


def _box(source: Path, name: str, shape: Element) -> tuple[float, float, float, float]:
    if shape.tag == "box":
        corners = [number_in(shape.get(key, "")) for key in _CORNERS]
        x1, y1, x2, y2 = (0.0 if corner is None else corner for corner in corners)
        if None in corners or x2 < x1 or y2 < y1:
            given = {key: shape.get(key) for key in _CORNERS}
            raise DataError(f"{source}: annotation {name}: expected numbers xtl <= xbr and ytl <= ybr, got {given}")
        return x1, y1, x2 - x1, y2 - y1
    points = [number_in(x) for pair in shape.get("points", "").split(";") for x in pair.split(",")]
    extent = extent_of(points)
    if extent is None:
        raise DataError(
            f"{source}: annotation {name}: points must be numbers 'x,y;x,y', got {shape.get('points')!r:.60}"
        )
    x, y, width, height = extent
    return x, y, width, height
