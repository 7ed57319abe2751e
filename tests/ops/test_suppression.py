"""The suppression of fixed size against the one that training and evaluation use."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detfuse.ops.postprocess import Nms, SoftNms
from detfuse.ops.suppression import Suppression
from detfuse.structures import Detections

COMBINES = [  # the values of each setting, mixed: to trace one of these takes seconds
    Nms(max_detections=200),
    Nms(iou_threshold=0.3, max_detections=30),
    Nms(iou_threshold=0.0, max_detections=200, class_agnostic=True),
    SoftNms(max_detections=30, score_threshold=0.3),
    SoftNms(max_detections=200, score_threshold=0.0, class_agnostic=True),
    SoftNms(method="linear", max_detections=200),
]

Candidates = tuple[Tensor, Tensor, Tensor, Tensor]


def clustered(seed: int, steps: int | None) -> Candidates:
    """150 boxes of four classes in a few heaps, 30 rows of padding among them; ``steps`` makes scores equal."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(4, (150, 2), generator=generator) * 40 + 9 * torch.rand(150, 2, generator=generator)
    boxes = torch.cat([corners, corners + 20 + 30 * torch.rand(150, 2, generator=generator)], dim=1)
    scores = 0.01 + 0.98 * torch.rand(150, generator=generator)
    if steps is not None:
        scores = (scores * steps).ceil() / steps
    scores[torch.randperm(150, generator=generator)[:30]] = 0
    return boxes, scores, torch.randint(4, (150,), generator=generator), torch.randint(5, (150,), generator=generator)


def alike(scores: Tensor, boxes: Tensor | None = None) -> Candidates:
    count = len(scores)
    one = torch.tensor([[10.0, 20.0, 60.0, 50.0]]).expand(count, 4) if boxes is None else boxes
    return one, scores, torch.zeros(count, dtype=torch.int64), torch.arange(count)


CASES: dict[str, Candidates] = {
    "random": clustered(0, None),
    "more random": clustered(1, None),
    "ties": clustered(2, 5),
    "no candidates": alike(torch.zeros(7), torch.zeros(7, 4)),
    "one": alike(torch.tensor([0.0, 0.7, 0.0])),
    "all the same box": alike(torch.linspace(0.9, 0.1, 12)),
    "all the same box and score": alike(torch.full((12,), 0.5)),
    "touching": alike(torch.full((3,), 0.5), torch.tensor([[0.0, 0, 9, 9], [9, 0, 18, 9], [0, 9, 9, 18]])),
}


def padded(case: Candidates, count: int = 150) -> Candidates:
    """As many rows as a graph of fixed shape takes."""
    boxes, scores, labels, levels = (
        torch.cat([column, column.new_zeros(count - len(column), *column.shape[1:])]) for column in case
    )
    return boxes, scores, labels, levels


@pytest.mark.parametrize("combine", COMBINES, ids=lambda combine: type(combine).__name__)
def test_the_exported_loop_is_the_suppression(combine: Nms | SoftNms) -> None:
    suppression = Suppression(combine)
    boxes, scores, labels, levels = map(torch.stack, zip(*map(padded, CASES.values()), strict=True))
    images = ({0: torch.export.Dim("images", min=1)},) * 3
    program = torch.export.export(suppression, (boxes, scores, labels), dynamic_shapes=images).module()
    together = program(boxes, scores, labels)
    assert together[0].shape == together[1].shape == (len(CASES), suppression.max_detections)
    for i, (name, case) in enumerate(CASES.items()):
        rows, taken, count = (column[i] for column in together)
        found = Detections(boxes[i, rows], taken, labels[i, rows], levels[i, rows])
        for ours, theirs in zip(found, combine(*case), strict=True):
            assert torch.equal(ours[: int(count)], theirs), name
        assert not rows[int(count) :].any()
        assert not taken[int(count) :].any()
        alone = program(boxes[i : i + 1], scores[i : i + 1], labels[i : i + 1])
        assert all(torch.equal(one[0], of_all[i]) for one, of_all in zip(alone, together, strict=True)), name
