"""Detectors on backbones of every family learn: after two steps of SGD, no weight is where it was."""

from __future__ import annotations

import pytest
import torch
from composing import compose_train, small_batch

from detfuse.build import build_detector
from detfuse.structures import Batch


def tiny_batch() -> Batch:
    """Images of 64 x 96."""
    batch = small_batch()
    sizes = torch.tensor([[60, 96], [64, 90]])
    images = batch.images[:, :, :64, :96]
    limit = sizes.flip(1).repeat(1, 2)[:, None]
    boxes = torch.minimum(batch.targets.boxes, limit)
    return batch._replace(
        images=images, image_sizes=sizes, original_sizes=sizes, targets=batch.targets._replace(boxes=boxes)
    )


@pytest.mark.parametrize("backbone", ["densenet121", "resnet18", "vgg16", "mobilenetv3_large", "swin_tiny"])
def test_two_steps_move_every_weight(backbone: str) -> None:
    config = compose_train(
        f"backbone={backbone}", "backbone.pretrained=false", "neck=fpn", "neck.out_channels=16", "head.num_convs=1"
    )
    detector = build_detector(config, num_classes=3).train()
    before = {name: p.detach().clone() for name, p in detector.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(detector.parameters(), lr=1.0)  # large: float32 swallows tiny steps
    for _ in range(2):  # some residual branches end in a zero at the start, and learn from the second step on
        optimizer.zero_grad()
        terms = detector.loss(tiny_batch())
        assert all(term.isfinite() for term in terms.values())
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
    after = dict(detector.named_parameters())
    assert [name for name in before if not after[name].isfinite().all()] == []
    assert [name for name in before if torch.equal(after[name], before[name])] == []
