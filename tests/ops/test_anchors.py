from __future__ import annotations

import pytest
import torch

from detfuse.ops.anchors import anchors_at_origin, grid_anchors, grid_points, octave_sizes

CPU = torch.device("cpu")


def test_points_run_row_by_row() -> None:
    assert grid_points((2, 3), 4, 0.5, CPU).tolist() == [[2, 2], [6, 2], [10, 2], [2, 6], [6, 6], [10, 6]]


def test_anchors_of_torchvision_test() -> None:
    # pytorch/vision test/test_models_detection_anchor_utils.py: size 10 on a 3x3 map of a 15x15 image
    anchors = grid_anchors(anchors_at_origin([10.0], [1.0]), grid_points((3, 3), 5, 0.0, CPU))
    assert anchors[:4].tolist() == [[-5, -5, 5, 5], [0, -5, 10, 5], [5, -5, 15, 5], [-5, 0, 5, 10]]


def test_anchors_of_detectron2_test_in_torchvision_order() -> None:
    # facebookresearch/detectron2 tests/modeling/test_anchor_generator.py; torchvision's order is ratio, then size
    expected = [[-32, -8, 32, 8], [-64, -16, 64, 16], [-16, -16, 16, 16], [-32, -32, 32, 32], [-8, -32, 8, 32]]
    anchors = grid_anchors(anchors_at_origin([32.0, 64.0], [0.25, 1.0, 4.0]), grid_points((1, 2), 4, 0.0, CPU))
    assert len(anchors) == 12
    assert anchors[:5].tolist() == expected
    assert anchors[6].tolist() == [-28, -8, 36, 8]


def test_octaves_divide_the_double() -> None:
    sizes = octave_sizes(32.0, 3)
    assert sizes == pytest.approx([32.0, 40.3175, 50.7968], abs=1e-3)
