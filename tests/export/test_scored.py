"""Files that would lose AP on photos, which their detector finds when it is evaluated."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from detfuse.data import Loader, Transforms
from detfuse.data.dataset import DetectionDataset
from detfuse.data.index import AnnotationIndex
from detfuse.data.readers import read_coco
from detfuse.detector import Detector
from detfuse.evaluation import CocoEvaluator
from detfuse.export import (
    Description,
    Exported,
    ExportError,
    NamedImage,
    Resizing,
    Scores,
    agreement_of,
    chosen,
    scores_of,
)
from detfuse.ops.postprocess import Nms
from detfuse.structures import Categories

LANDSCAPE, PORTRAIT = (40, 60), (60, 40)
TRANSFORM = Transforms(short_side=64, long_side=128)
DESCRIPTION = Description("1", "m", Categories((1,), ("a",)), Resizing(None, 64, 128), 32, {})
Outputs = tuple[Tensor, ...]


class Padded(Detector):
    """Finds the bright rectangle of an image, and less well the more padding there is, as norms do."""

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def candidates(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        boxes = []
        for image, (height, width) in zip(images, image_sizes.tolist(), strict=True):
            y, x = torch.where(image[0] > 120)
            padding = images.shape[2] * images.shape[3] / (height * width) - 1
            corners = [x.min(), y.min(), x.max() + 1, y.max() + 1]
            box = torch.tensor([float(corner) for corner in corners]) + 4 * padding
            boxes.append(torch.stack([box, box + 30]))
        scores = torch.tensor([[0.9, 0.2]]).expand(len(boxes), 2)
        return torch.stack(boxes), scores, torch.zeros_like(scores).long(), torch.zeros_like(scores).long()


DETECTOR, COMBINE = Padded(), Nms()


def computed(images: Tensor, image_sizes: Tensor) -> Outputs:
    """What a right file computes of one image."""
    candidates = DETECTOR.candidates(images, image_sizes)
    found = COMBINE(*(column[0] for column in candidates))
    return (*(column[None] for column in found), torch.tensor([len(found.scores)]), *candidates)


def on_one_canvas(images: Tensor, image_sizes: Tensor) -> Outputs:
    """What a file computes that has every image padded to the size which all of them fit."""
    canvas = torch.zeros(1, 3, 96, 96, dtype=torch.uint8)
    canvas[:, :, : images.shape[2], : images.shape[3]] = images
    return computed(canvas, image_sizes)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> AnnotationIndex:
    """Four landscapes and two portraits, with a bright rectangle each."""
    root = tmp_path_factory.mktemp("photos")
    sizes = [LANDSCAPE] * 4 + [PORTRAIT] * 2
    annotations = []
    for i, size in enumerate(sizes, start=1):
        pixels = np.full((*size, 3), 10, np.uint8)
        x, y = 4 + 2 * i, 3 + i
        pixels[y : y + 20, x : x + 18] = 240
        Image.fromarray(pixels).save(root / f"{i}.png")
        box = {"bbox": [x, y, 18, 20], "area": 360, "iscrowd": 0, "category_id": 1}
        annotations += [{"id": 10 * i + n, "image_id": i} | box for n in range(2 if i == 3 else 1)]
    images = [
        {"id": i, "file_name": f"{i}.png", "height": height, "width": width}
        for i, (height, width) in enumerate(sizes, start=1)
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
    (root / "val.json").write_text(json.dumps(content))
    return read_coco(root / "val.json", root)


def scores(
    index: AnnotationIndex, call: Callable[[Tensor, Tensor], Outputs], description: Description = DESCRIPTION
) -> Scores:
    dataset = DetectionDataset(index, TRANSFORM, train=False, seed=0)
    batches = Loader(batch_size=4, num_workers=0).evaluate(dataset, size_divisor=32)
    file = Exported(Path("x.onnx"), description, call)
    return scores_of(file, DETECTOR, COMBINE, index, batches, CocoEvaluator(index, engine="pycocotools"))


def test_a_right_file_scores_what_its_detector_scores(index: AnnotationIndex) -> None:
    found = scores(index, computed)
    assert found.file == found.detector > 0.5


def test_a_file_of_one_canvas_is_refused_with_both_numbers(index: AnnotationIndex) -> None:
    with pytest.raises(ExportError, match=r"has mAP \d.* on 6 validation images, where the detector as evaluated has"):
        scores(index, on_one_canvas)
    pictures = [NamedImage("wide.jpg", torch.full((3, 64, 96), 200, dtype=torch.uint8))]
    assert agreement_of(Exported(Path("x.onnx"), DESCRIPTION, computed), DETECTOR, COMBINE, pictures).detections == 2
    with pytest.raises(ExportError, match=r"candidates in wide\.jpg differ from the detector's"):
        agreement_of(Exported(Path("x.onnx"), DESCRIPTION, on_one_canvas), DETECTOR, COMBINE, pictures)


def test_a_file_that_resizes_otherwise_is_refused_though_its_graph_is_right(index: AnnotationIndex) -> None:
    with pytest.raises(ExportError, match="has mAP"):
        scores(index, computed, replace(DESCRIPTION, resize=Resizing((64, 32), 64, 128)))


def test_images_of_all_shapes_are_chosen_and_of_each_the_fullest(index: AnnotationIndex) -> None:
    pick = partial(chosen, index, TRANSFORM, 32)
    assert pick(2).ids == (3, 5)  # the fullest landscape, and a portrait
    assert pick(4).ids == (1, 3, 5, 6)
    assert pick(24).ids == index.ids
