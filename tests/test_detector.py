"""How a detector normalises its images, by what its backbone says of its weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detfuse.detector import Detector
from detfuse.structures import IMAGENET, FeatureSpec, Normalization, Pretrained

HALF = Normalization((0.5, 0.5, 0.5), (0.5, 0.25, 0.5))


class Silent(nn.Module):
    """A backbone of one's own, which says nothing of its weights."""

    out_spec = FeatureSpec((3,), (1,))

    def forward(self, images: Tensor) -> list[Tensor]:
        return [images]


class Said(Silent):
    def __init__(self, normalization: Normalization | None) -> None:
        super().__init__()
        self.pretrained = normalization and Pretrained("weights X", normalization, frozenset())


def detector(backbone: Any, **options: Any) -> Detector:
    part: Any = nn.Identity()
    return Detector(backbone, part, part, **options)


@pytest.mark.parametrize(
    ("backbone", "options", "expected"),
    [
        (Silent(), {}, IMAGENET),
        (Said(None), {}, IMAGENET),
        (Said(HALF), {}, HALF),
        (Said(HALF), {"mean": [0.5, 0.5, 0.5]}, HALF),
        (Said(HALF), {"std": [0.5, 0.25, 0.5]}, HALF),
        (Said(None), {"mean": [0, 0, 0], "std": [1, 1, 1]}, Normalization((0, 0, 0), (1, 1, 1))),
        (Silent(), {"mean": [0.1, 0.2, 0.3]}, Normalization((0.1, 0.2, 0.3), IMAGENET.std)),
    ],
)
def test_what_is_left_open_is_what_the_weights_expect(backbone: Any, options: Any, expected: Normalization) -> None:
    made = detector(backbone, **options)
    assert made.normalization == expected
    images = torch.randint(256, (1, 3, 4, 6), dtype=torch.uint8)
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in expected)
    torch.testing.assert_close(made.normalize(images, torch.tensor([[4, 6]])), (images / 255 - mean) / std)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": IMAGENET.mean}, r"mean=\[0\.485, 0\.456, 0\.406\], but they expect \[0\.5, 0\.5, 0\.5\]"),
        ({"std": IMAGENET.std}, r"std=\[0\.229, 0\.224, 0\.225\], but they expect \[0\.5, 0\.25, 0\.5\]"),
        (IMAGENET._asdict(), r"weights X.*mean=.*; detector\.std=.*null.*pretrained=false"),
    ],
)
def test_numbers_that_the_weights_do_not_expect_are_refused_with_both(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        detector(Said(HALF), **options)


def test_numbers_rounded_to_a_few_digits_are_the_same() -> None:
    caffe = Normalization((0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255))
    written = {"mean": [0.4823, 0.4588, 0.4078], "std": [0.00392, 0.00392, 0.00392]}
    assert detector(Said(caffe), **written).normalization == Normalization.of(*written.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"std": [0.0, 1, 1]}, "std must be positive"),
        ({"std": [-1.0, 1, 1]}, "std must be positive"),
        ({"mean": [0.5]}, "three numbers each"),
        ({"mean": [float("nan"), 0, 0]}, "mean must be finite"),
    ],
)
def test_what_is_no_normalization_is_refused(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        detector(Silent(), **options)
