"""The images on which the arms disagree most, with what each of them found there."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from detfuse.ablation.report.blocks import Block, Picture, PictureRow, Text
from detfuse.ablation.report.evidence import ArmEvidence, read_json
from detfuse.ablation.report.objects import Rows, best, boxes, by_image, num_found, wanted
from detfuse.data.images import load_image
from detfuse.data.index import DataError
from detfuse.structures import Categories, Detections, Targets
from detfuse.visualize.boxes import draw_detections

_MAX_IMAGES, _MAX_PICTURES = 8, 20  # together with the width, about 1 MB
_WIDTH, _QUALITY = 420, 80

ImageOf = Callable[[Any], Path]
"""Image id of the ground truth -> its file."""

RULE = (
    "Chosen by the largest difference between two arms in the number of objects found, averaged over the seeds. Of an "
    "image with k objects only the k highest-scored detections of an arm count and are drawn; an object is found if "
    "one of them has its class and an IoU of at least 0.5. Ground truth is white."
)


def disagreements(
    evidence: Mapping[str, ArmEvidence], ground_truth: Mapping[str, Any], image_of: ImageOf
) -> list[Block]:
    """A row per image with a picture per arm, by the rule that stands above them.

    Args:
        evidence: of each arm.
        ground_truth: in COCO's json form.
        image_of: finds the files; an image that cannot be read is named in place of its pictures.
    """
    arms = {name: one for name, one in evidence.items() if one.found}
    if len(arms) < 2:
        return [Text("There are fewer than two arms with predictions.")]
    objects = by_image(ground_truth["annotations"])
    found = {image: {arm: _mean_found(one, image) for arm, one in arms.items()} for image in objects}
    spread = {image: max(counts.values()) - min(counts.values()) for image, counts in found.items()}
    order = sorted((image for image in objects if spread[image] > 0), key=lambda image: (-spread[image], str(image)))
    if not order:
        return [Text("All arms find the same number of objects on every image.")]
    chosen = order[: max(1, min(_MAX_IMAGES, _MAX_PICTURES // len(arms)))]
    shared = set.intersection(*(set(one.found) for one in arms.values()))
    seed = {arm: min(shared or one.found) for arm, one in arms.items()}
    drawn = {arm: _rows_of(one.predictions[seed[arm]], set(chosen)) for arm, one in arms.items()}
    names = _categories(ground_truth)
    rows = [
        _row(image, objects[image], {arm: drawn[arm][image] for arm in arms}, found[image], seed, names, image_of)
        for image in chosen
    ]
    return [Text(RULE, note=True), *rows]


def _mean_found(arm: ArmEvidence, image: Any) -> float:
    return sum(counts[image] for counts in arm.found.values()) / len(arm.found)


def _rows_of(path: Path, images: set[Any]) -> dict[Any, list[Mapping[str, Any]]]:
    """Predictions on some images: those of all images and arms together may not fit into memory."""
    return by_image([row for row in read_json(path) if row["image_id"] in images])


def _row(
    image: Any,
    objects: Rows,
    drawn: Mapping[str, Rows],
    found: Mapping[str, float],
    seed: Mapping[str, int],
    categories: Categories,
    image_of: ImageOf,
) -> Block:
    try:
        pixels = load_image(image_of(image))
    except DataError as error:
        return Text(f"Image {image} is not shown: {error}", note=True)
    number = len(wanted(objects))
    pictures = []
    for arm, rows in drawn.items():
        here = num_found(objects, rows)
        caption = f"{arm}: {here} of {number} found (seed {seed[arm]}; mean over the seeds {found[arm]:.1f})"
        pictures.append(Picture(_drawn(pixels, objects, best(rows, number), categories), caption))
    return PictureRow(f"Image {image}", tuple(pictures))


def _categories(ground_truth: Mapping[str, Any]) -> Categories:
    rows = sorted(ground_truth["categories"], key=lambda row: row["id"])
    return Categories(tuple(row["id"] for row in rows), tuple(row["name"] for row in rows))


def _drawn(pixels: Tensor, objects: Rows, rows: Rows, categories: Categories) -> bytes:
    label = {id_: position for position, id_ in enumerate(categories.ids)}
    labels = torch.tensor([label[row["category_id"]] for row in rows], dtype=torch.int64)
    scores = torch.tensor([row["score"] for row in rows], dtype=torch.float32)
    detections = Detections(boxes(rows), scores, labels, torch.zeros_like(labels))
    crowd = torch.tensor([bool(record.get("iscrowd", 0)) for record in objects])
    known = torch.tensor([label[record["category_id"]] for record in objects], dtype=torch.int64)
    targets = Targets(boxes(objects), known, ~crowd, crowd)
    picture = to_pil_image(draw_detections(pixels, detections, categories, threshold=0, targets=targets))
    if picture.width > _WIDTH:
        picture = picture.resize((_WIDTH, round(picture.height * _WIDTH / picture.width)), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
