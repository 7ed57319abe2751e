"""COCO's json form to an :class:`AnnotationIndex`, validated record by record.

Refused: what cannot be understood or would train or score something else than what was meant. Repaired, with one
warning per kind: what has one sensible meaning.
"""

from __future__ import annotations

import json
import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detfuse.data.images import CheckImages, check_images, relative_path_problem
from detfuse.data.index import AnnotationIndex, DataError, DataWarning
from detfuse.structures import Categories

MIN_SIDE = 1e-3
"""Boxes thinner than this, in pixels, are degenerate: the logarithm of their size would explode."""

OVERSHOOT = 1.0
"""Pixels by which a box may leave its image without a word: COCO's own boxes do, by rounding."""

_Record = dict[str, Any]


def read_coco(
    annotations: str | Path,
    images: str | Path | Sequence[Path],
    *,
    follow_symlinks: bool = False,
    check: CheckImages = "header",
    limit_images: int | None = None,
) -> AnnotationIndex:
    """Read and validate a COCO annotation file.

    Args:
        annotations: the json file.
        images: folder of the images; of several, the first that holds the first image is taken.
        follow_symlinks: allow links that lead out of the image folder.
        check: how far the image files are looked at: see :func:`detfuse.data.images.check_images`.
        limit_images: keep the first images by id; the others' files are not looked at.

    Raises:
        DataError: naming the file, the record's id, what was expected and what to do.
    """
    source = Path(annotations)
    content = _parse(source)
    reader = _Reader(source)
    categories = reader.categories(content["categories"])
    images_by_id = reader.images(content["images"])
    rows = reader.annotations(content["annotations"], images_by_id, categories)
    names = {image["file_name"] for image in images_by_id.values()}
    index = _build(source, _image_root(source, images, min(names)), categories, images_by_id, rows).limit(limit_images)
    check_images(index, depth=check, follow_symlinks=follow_symlinks)
    reader.warn()
    return index


def _parse(source: Path) -> _Record:
    def pairs(items: list[tuple[str, Any]]) -> _Record:
        record = dict(items)
        if len(record) != len(items):
            twice = [key for key, count in Counter(key for key, _ in items).items() if count > 1]
            raise DataError(f"{source}: the key {twice[0]!r} stands twice in one object; keep one of them")
        record.pop("segmentation", None)  # most of COCO's bytes, and boxes do not need it
        return record

    try:
        content = json.loads(source.read_bytes().decode("utf-8-sig"), object_pairs_hook=pairs)
    except OSError as error:
        raise DataError(f"{source}: the annotation file cannot be opened ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{source}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error
    except RecursionError as error:
        raise DataError(f"{source}: nested too deeply to be a COCO annotation file") from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{source}: not valid JSON at line {error.lineno}, column {error.colno} ({error.msg}); "
            "the file may be empty or cut off: write or download it again"
        ) from error
    if not isinstance(content, dict):
        hint = " (a results file?)" if isinstance(content, list) else ""
        raise DataError(
            f"{source}: expected an object with images, annotations and categories, got a "
            f"{type(content).__name__}{hint}"
        )
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            found = type(content[key]).__name__ if key in content else "no such key"
            raise DataError(f"{source}: expected a list of records under {key!r}, got {found}")
    return content


class _Reader:
    """Validates the three lists and collects what was repaired."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.repairs: dict[str, list[str]] = defaultdict(list)
        self.text_ids: dict[str, int] = {}

    def warn(self) -> None:
        for what, records in self.repairs.items():
            shown = ", ".join(records[:5]) + (", ..." if len(records) > 5 else "")
            message = f"{self.source}: {len(records)} x {what}" + (f" ({shown})" if shown else "")
            warnings.warn(message, DataWarning, stacklevel=3)

    def fail(self, kind: str, record_id: object, problem: str) -> DataError:
        return DataError(f"{self.source}: {kind} {record_id}: {problem}")

    def categories(self, records: list[Any]) -> Categories:
        if not records:
            raise DataError(f"{self.source}: the list of categories is empty: there is nothing to learn")
        names: dict[int, str] = {}
        for position, record in enumerate(records):
            self._expect_object("category", position, record)
            category_id, name = record.get("id"), record.get("name")
            if not _is_int(category_id):
                raise self.fail("category at position", position, f"id must be an integer, got {category_id!r}")
            if not isinstance(name, str) or not name:
                raise self.fail("category", category_id, f"name must be a text, got {name!r}")
            if category_id in names:
                both = f"{names[category_id]!r} and {name!r}"
                raise self.fail("category", category_id, f"this id is given twice, to {both}; give each its own id")
            names[category_id] = name
        counts = Counter(names.values())
        for category_id, name in names.items():
            if counts[name] > 1:
                names[category_id] = f"{name} (id {category_id})"
                self.repairs["category with a name that another id has too; the id was added to the name"].append(
                    f"{name!r} id {category_id}"
                )
        ids = tuple(sorted(names))
        return Categories(ids, tuple(names[i] for i in ids))

    def images(self, records: list[Any]) -> dict[int, _Record]:
        if not records:
            raise DataError(f"{self.source}: the list of images is empty: nothing to train on or to evaluate")
        texts = all(isinstance(r, dict) and isinstance(r.get("id"), str) for r in records)
        found: dict[int, _Record] = {}
        seen_files: dict[str, Any] = {}
        for position, record in enumerate(records):
            self._expect_object("image", position, record)
            given = record.get("id")
            if texts and _is_encodable(given):
                image_id = self.text_ids.setdefault(given, len(self.text_ids) + 1)
            elif _is_int(given) and not texts:
                image_id = given
            else:
                expected = "id must be an integer, or in all images a text that UTF-8 can write"
                raise self.fail("image at position", position, f"{expected}; got {given!r}")
            if image_id in found:
                raise self.fail("image", given, "this id is given to two images; give each its own id")
            name = record.get("file_name")
            problem = relative_path_problem(name)
            if problem is not None:
                shown = repr(name) if len(repr(name)) < 100 else repr(name)[:100] + "..."
                raise self.fail("image", given, f"file_name {shown} {problem}; expected a path inside the image folder")
            for key in ("width", "height"):
                if not _is_int(record.get(key)) or record[key] < 1:
                    raise self.fail("image", given, f"{key} must be a positive integer, got {record.get(key)!r}")
            if name in seen_files:
                self.repairs["image file listed under a second id, both were kept; it counts twice"].append(
                    f"{name}: ids {seen_files[name]} and {given}"
                )
            seen_files[name] = given
            found[image_id] = record
        return found

    def annotations(self, records: list[Any], images: dict[int, _Record], categories: Categories) -> list[_Record]:
        label_of = {category_id: label for label, category_id in enumerate(categories.ids)}
        rows: list[_Record] = []
        for position, record in enumerate(records):
            self._expect_object("annotation", position, record)
            row = self._annotation(record, record.get("id", f"at position {position}"), images, label_of)
            if row is not None:
                rows.append(row)
        if not records:
            self.repairs["list of annotations is empty: every image counts as one without objects, AP is undefined"] = [
                "no box at all"
            ]
        self._number(rows)
        return rows

    def _annotation(
        self, record: _Record, name: Any, images: dict[int, _Record], label_of: dict[int, int]
    ) -> _Record | None:
        image_id = self._image_id(record.get("image_id"), images, name)
        category = record.get("category_id")
        if not _is_int(category) or category not in label_of:
            raise self.fail("annotation", name, f"category_id {category!r} is not among the categories; declare it")
        box = self._box(record.get("bbox"), name)
        crowd = record.get("iscrowd")
        if crowd is None:
            self.repairs["annotation without iscrowd, taken as 0"].append(str(name))
        elif crowd not in (0, 1):
            raise self.fail("annotation", name, f"iscrowd must be 0 or 1, got {crowd!r}")
        clipped = self._clip(box, images[image_id], name)
        if clipped is None:
            return None
        area = self._area(record, clipped, name)
        return {
            "id": record.get("id"),
            "image_id": image_id,
            "label": label_of[category],
            "box": clipped,
            "area": area,
            "crowd": bool(crowd),
        }

    def _image_id(self, given: Any, images: dict[int, _Record], name: Any) -> int:
        """The number of the image; the id must be of the images' kind: ``"3"`` and ``3`` are not the same id."""
        texts = bool(self.text_ids)
        of_kind = isinstance(given, str) if texts else _is_int(given)
        number = self.text_ids.get(given) if texts and of_kind else given
        if of_kind and number in images:
            return int(number)
        remedy = "add the image or remove the annotation"
        if isinstance(given, int | str) and not of_kind:
            remedy = f"the images' ids are {'texts' if texts else 'integers'}: write it as the image's record does"
        raise self.fail("annotation", name, f"image_id {given!r} is not among the images; {remedy}")

    def _box(self, box: Any, name: Any) -> list[float]:
        if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
            raise self.fail("annotation", name, f"bbox must be four numbers [x, y, width, height], got {box!r}")
        if not all(math.isfinite(value) for value in box):
            raise self.fail("annotation", name, f"bbox must be finite, got {box!r}; correct or remove the record")
        if box[2] < 0 or box[3] < 0:
            raise self.fail(
                "annotation", name, f"bbox {box} has a negative size; COCO boxes are [x, y, width, height], not corners"
            )
        return [float(value) for value in box]

    def _clip(self, box: list[float], image: _Record, name: Any) -> list[float] | None:
        """The box as in the file, or what of it lies in the image if it leaves it by more than rounding, or None."""
        x, y, w, h = box
        left, top = max(x, 0.0), max(y, 0.0)
        right, bottom = min(x + w, float(image["width"])), min(y + h, float(image["height"]))
        if min(w, h) < MIN_SIDE:
            self.repairs["degenerate box dropped, width or height is 0: annotation"].append(str(name))
            return None
        if right - left < MIN_SIDE or bottom - top < MIN_SIDE:
            self.repairs["box outside its image dropped: annotation"].append(str(name))
            return None
        if max(left - x, top - y, x + w - right, y + h - bottom) <= OVERSHOOT:
            return box
        self.repairs["box that leaves its image clipped to it: annotation"].append(str(name))
        return [left, top, right - left, bottom - top]

    def _area(self, record: _Record, box: list[float], name: Any) -> float:
        area = record.get("area")
        full = box[2] * box[3]
        if area is None:
            self.repairs["annotation without area, computed as width x height"].append(str(name))
            return full
        if not _is_number(area) or not math.isfinite(area) or area < 0:
            raise self.fail("annotation", name, f"area must be a number of square pixels, got {area!r}")
        if area == 0:
            self.repairs["annotation with area 0, computed as width x height"].append(str(name))
            return full
        return min(float(area), full) if box != record["bbox"] else float(area)

    def _number(self, rows: list[_Record]) -> None:
        """Check the annotations' ids; count them anew where one is missing or not positive: evaluators need that."""
        ids = [row["id"] for row in rows]
        for annotation_id in ids:
            if annotation_id is not None and not _is_int(annotation_id):
                raise self.fail("annotation", annotation_id, f"id must be an integer, got {annotation_id!r}")
        for annotation_id, count in Counter(i for i in ids if i is not None).items():
            if count > 1:
                raise self.fail("annotation", annotation_id, "this id is given twice; remove the copy or renumber")
        bad = ["none" if i is None else str(i) for i in ids if i is None or i < 1]
        if bad:
            self.repairs["annotation id missing or below 1; all were numbered anew from 1"] = bad
            for number, row in enumerate(rows, 1):
                row["id"] = number

    def _expect_object(self, kind: str, position: int, record: Any) -> None:
        if not isinstance(record, dict):
            raise self.fail(f"{kind} at position", position, f"expected an object, got {record!r:.60}")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_encodable(text: str) -> bool:
    """Whether results can name it: half of a surrogate pair, which JSON can hold, could not be written."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _image_root(source: Path, images: str | Path | Sequence[Path], name: str) -> Path:
    candidates = [Path(images)] if isinstance(images, str | Path) else list(images)
    existing = [folder for folder in candidates if folder.is_dir()]
    if not existing:
        raise DataError(f"{source}: found no image folder; looked for {', '.join(map(str, candidates))}")
    return next((folder for folder in existing if (folder / name).exists()), existing[0])


def _build(
    source: Path, root: Path, categories: Categories, images: dict[int, _Record], rows: list[_Record]
) -> AnnotationIndex:
    ids = sorted(images)
    position = {image_id: i for i, image_id in enumerate(ids)}
    rows = sorted(rows, key=lambda row: position[row["image_id"]])  # stable: evaluators break ties by file order
    counts = np.bincount([position[row["image_id"]] for row in rows], minlength=len(ids))
    records = [images[i] for i in ids]
    return AnnotationIndex(
        source=source,
        root=root,
        categories=categories,
        file_names=tuple(record["file_name"] for record in records),
        image_ids=np.array(ids, np.int64),
        sizes=np.array([(record["height"], record["width"]) for record in records], np.int64),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=np.array([row["box"] for row in rows], np.float64).reshape(-1, 4),
        labels=np.array([row["label"] for row in rows], np.int64),
        crowd=np.array([row["crowd"] for row in rows], np.bool_),
        areas=np.array([row["area"] for row in rows], np.float64),
        annotation_ids=np.array([row["id"] for row in rows], np.int64),
        text_ids=tuple(record["id"] for record in records) if isinstance(records[0]["id"], str) else None,
    )
