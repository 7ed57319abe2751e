"""The images on which the arms disagree most, with what each of them found there."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from detfuse.ablation.report.blocks import Block, Picture, PictureRow, Text
from detfuse.ablation.report.evidence import ArmEvidence
from detfuse.ablation.report.objects import Positions, best, corners, num_found, wanted
from detfuse.annotations import Annotations, Results
from detfuse.data.images import load_image
from detfuse.data.index import DataError
from detfuse.structures import Detections, ImageId, Targets
from detfuse.visualize.boxes import draw_detections

_MAX_IMAGES, _MAX_PICTURES = 8, 20  # together with the width, about 1 MB
_WIDTH, _QUALITY = 420, 80

ImageOf = Callable[[ImageId], Path]
"""Image id of the ground truth -> its file."""

RULE = (
    "Chosen by the largest difference between two arms in the number of objects found, averaged over the seeds. Of an "
    "image with k objects only the k highest-scored detections of an arm count and are drawn; an object is found if "
    "one of them has its class and an IoU of at least 0.5. Ground truth is white."
)


class _Shown(NamedTuple):
    """One run of an arm, whose detections are drawn.

    Attributes:
        seed: of the run.
        results: all of them.
        of_images: their rows, per image.
        found: (I,) objects found on each image, mean over all seeds.
    """

    seed: int
    results: Results
    of_images: list[Positions]
    found: NDArray[np.float64]


def disagreements(evidence: Mapping[str, ArmEvidence], truth: Annotations, image_of: ImageOf) -> list[Block]:
    """A row per image with a picture per arm, by the rule that stands above them.

    Args:
        evidence: of each arm.
        truth: of the validation set.
        image_of: finds the files; an image that cannot be read is named in place of its pictures.
    """
    arms = {name: one for name, one in evidence.items() if one.found}
    if len(arms) < 2:
        return [Text("There are fewer than two arms with predictions.")]
    found = {arm: np.stack(list(one.found.values())).sum(0) / len(one.found) for arm, one in arms.items()}
    spread = np.ptp(np.stack(list(found.values())), axis=0)
    order = sorted(np.flatnonzero(spread).tolist(), key=lambda image: (-spread[image], str(truth.ids[image])))
    if not order:
        return [Text("All arms find the same number of objects on every image.")]
    chosen = order[: max(1, min(_MAX_IMAGES, _MAX_PICTURES // len(arms)))]
    shared = set.intersection(*(set(one.found) for one in arms.values()))
    shown = {}
    for arm, one in arms.items():
        seed = min(shared or one.found)
        results = one.predictions[seed]
        shown[arm] = _Shown(seed, results, results.by_image(), found[arm])
    return [Text(RULE, note=True), *(_row(image, truth, shown, image_of) for image in chosen)]


def _row(image: int, truth: Annotations, shown: Mapping[str, _Shown], image_of: ImageOf) -> Block:
    name = truth.ids[image]
    try:
        pixels = load_image(image_of(name))
    except DataError as error:
        return Text(f"Image {name} is not shown: {error}", note=True)
    objects = wanted(truth, image)
    pictures = []
    for arm, one in shown.items():
        here = num_found(truth, objects, one.results, one.of_images[image])
        caption = f"{arm}: {here} of {len(objects)} found (seed {one.seed}; mean over the seeds {one.found[image]:.1f})"
        rows = best(one.results, one.of_images[image], len(objects))
        pictures.append(Picture(_drawn(pixels, truth, image, one.results, rows), caption))
    return PictureRow(f"Image {name}", tuple(pictures))


def _drawn(pixels: Tensor, truth: Annotations, image: int, results: Results, rows: Positions) -> bytes:
    labels = torch.from_numpy(results.labels[rows])
    scores = torch.from_numpy(results.scores[rows]).float()
    detections = Detections(corners(results.boxes[rows]), scores, labels, torch.zeros_like(labels))
    of_image = truth.rows(image)
    counted = torch.from_numpy(truth.counted[of_image])
    targets = Targets(corners(truth.boxes[of_image]), torch.from_numpy(truth.labels[of_image]), counted, ~counted)
    picture = to_pil_image(draw_detections(pixels, detections, truth.categories, threshold=0, targets=targets))
    if picture.width > _WIDTH:
        picture = picture.resize((_WIDTH, round(picture.height * _WIDTH / picture.width)), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
