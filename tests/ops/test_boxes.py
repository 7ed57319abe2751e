from __future__ import annotations

import torch
from torchvision.ops import box_iou

from detfuse.ops.boxes import clip_to_images, decode_deltas, decode_distances, encode_deltas, pairwise_iou


def some_boxes(*shape: int) -> torch.Tensor:
    corner = torch.rand(*shape, 2, generator=torch.Generator().manual_seed(len(shape))) * 50
    return torch.cat([corner, corner + corner.flip(-1) + 1], dim=-1)


def test_pairwise_iou_known_values() -> None:
    # pytorch/vision test/test_ops.py
    boxes = torch.tensor([[[0.0, 0, 100, 100], [0, 0, 50, 50], [200, 200, 300, 300], [0, 0, 25, 25]]])
    priors = boxes[0, :3]
    expected = [[1, 0.25, 0], [0.25, 1, 0], [0, 0, 1], [0.0625, 0.25, 0]]
    assert torch.equal(pairwise_iou(boxes, priors), torch.tensor([expected]))


def test_pairwise_iou_of_a_batch_equals_torchvision_per_image() -> None:
    boxes, priors = some_boxes(3, 5), some_boxes(7)
    table = pairwise_iou(boxes, priors)
    for i in range(3):
        torch.testing.assert_close(table[i], box_iou(boxes[i], priors))


def test_iou_of_empty_boxes_is_zero() -> None:
    assert torch.equal(pairwise_iou(torch.zeros(1, 2, 4), torch.zeros(3, 4)), torch.zeros(1, 2, 3))


def test_deltas_by_hand_and_back() -> None:
    anchor = torch.tensor([0.0, 0.0, 10.0, 20.0])
    box = torch.tensor([5.0, 5.0, 25.0, 25.0])  # centre (15, 15) against (5, 10); twice as wide, equally high
    torch.testing.assert_close(encode_deltas(box, anchor), torch.tensor([1.0, 0.25, 0.6931472, 0.0]))
    boxes, anchors = some_boxes(3, 6), some_boxes(6)
    torch.testing.assert_close(decode_deltas(encode_deltas(boxes, anchors), anchors), boxes, rtol=1e-4, atol=1e-4)


def test_decoding_stays_finite() -> None:
    assert decode_deltas(torch.full((1, 4), 1e4), torch.tensor([[0.0, 0.0, 512.0, 512.0]])).isfinite().all()


def test_distances_are_left_top_right_bottom() -> None:
    box = decode_distances(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([10.0, 20.0]))
    assert box.tolist() == [9.0, 18.0, 13.0, 24.0]


def test_clipping_uses_the_size_of_each_image() -> None:
    boxes = torch.tensor([-5.0, -5.0, 500.0, 500.0]).expand(2, 1, 4)
    clipped = clip_to_images(boxes, torch.tensor([[30, 40], [50, 20]]))
    assert clipped.tolist() == [[[0, 0, 40, 30]], [[0, 0, 20, 50]]]
