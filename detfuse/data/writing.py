"""An index as COCO's json."""

from __future__ import annotations

from typing import Any

from detfuse.data.index import AnnotationIndex
from detfuse.structures import ImageId


def coco_of(index: AnnotationIndex, *, numbered: bool = False) -> dict[str, Any]:
    """The content of an annotation file that is read as the index is.

    Args:
        index: what to write.
        numbered: count the images 1, 2, ... where their ids are texts.
    """
    ids: list[ImageId] = [index.number_of(position) if numbered else id_ for position, id_ in enumerate(index.ids)]
    images = [
        {"id": id_, "file_name": name, "width": width, "height": height}
        for id_, name, (height, width) in zip(ids, index.file_names, index.sizes.tolist(), strict=True)
    ]
    names = zip(index.categories.ids, index.categories.names, strict=True)
    columns = (index.annotation_ids, index.images, index.labels, index.boxes, index.areas, index.crowd, index.ignore)
    annotations = [
        {
            "id": number,
            "image_id": ids[image],
            "category_id": index.categories.ids[label],
            "bbox": box,
            "area": area,
            "iscrowd": int(crowd),
            **({"ignore": 1} if ignore else {}),
        }
        for number, image, label, box, area, crowd, ignore in zip(*(c.tolist() for c in columns), strict=True)
    ]
    categories = [{"id": number, "name": name} for number, name in names]
    return {"images": images, "annotations": annotations, "categories": categories}
