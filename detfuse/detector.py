"""A detector is a backbone, a neck and a head: the place to start reading."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detfuse.errors import InputError
from detfuse.protocols import Backbone, Combine, Head, Neck
from detfuse.ranges import FiniteFloat, PositiveFloat, checked
from detfuse.structures import IMAGENET, Batch, Detections, Normalization, Pretrained

_ROUNDING = 1e-3  # relative: numbers that were written with three digits are the same


@checked
class Detector(nn.Module):
    """Images in, detections out; the normalisation is part of the model, so images travel as uint8.

    Args:
        backbone: normalised images to feature maps.
        neck: fuses them.
        head: predicts from the fused maps.
        mean: per channel, of RGB in 0..1; None: what the backbone's weights expect, ImageNet's if nothing was read.
        std: likewise.

    Attributes:
        normalization: the mean and deviation in use.

    Raises:
        ValueError: if mean or std are not what the backbone's pretrained weights expect, or no normalisation at all.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        neck: Neck,
        head: Head[Any],
        *,
        mean: Sequence[FiniteFloat] | None = None,
        std: Sequence[PositiveFloat] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self.normalization = normalization_of(backbone, mean, std)
        self.register_buffer("mean", torch.tensor(self.normalization.mean).reshape(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(self.normalization.std).reshape(3, 1, 1), persistent=False)

    def forward(self, images: Tensor, image_sizes: Tensor) -> Any:
        """Raw predictions of the head, of its own type, the same in training and in evaluation.

        Args:
            images: (B, 3, H, W) uint8 RGB, padded at the bottom and the right.
            image_sizes: (B, 2) int64, (height, width) of the images within the padding.
        """
        return self.head(self.neck(self.backbone(self.normalize(images, image_sizes))))

    def normalize(self, images: Tensor, image_sizes: Tensor) -> Tensor:
        """Float images, standardised per channel; the padding is zero *after* that (torchvision's convention)."""
        height, width = images.shape[-2:]
        rows = torch.arange(height, device=images.device) < image_sizes[:, :1]
        columns = torch.arange(width, device=images.device) < image_sizes[:, 1:]
        inside = rows[:, None, :, None] & columns[:, None, None, :]
        return (images.to(self.mean.dtype) / 255 - self.mean) / self.std * inside

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The head's named and weighted loss terms, float32 scalars."""
        return self.head.loss(self(batch.images, batch.image_sizes), batch)

    def candidates(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What is left to combine: boxes (B, k, 4), scores, labels, levels (B, k); compilable and exportable."""
        return self.head.candidates(self(images, image_sizes), image_sizes)

    def predict(self, images: Tensor, image_sizes: Tensor, combine: Combine) -> list[Detections]:
        """Detections of each image, in pixels of the (resized) image and never in its padding."""
        return [combine(*image) for image in zip(*self.candidates(images, image_sizes), strict=True)]


def normalization_of(backbone: Backbone, mean: Sequence[float] | None, std: Sequence[float] | None) -> Normalization:
    """How images are normalised for a backbone: as was asked, else as its weights expect.

    Args:
        backbone: from scratch it takes any normalisation, ImageNet's where none is asked for.
        mean: as asked; None leaves it to the weights.
        std: likewise.

    Raises:
        ValueError: naming both values, if pretrained weights expect another one; or if it is none.
    """
    pretrained = Pretrained.of(backbone)
    expected = pretrained.normalization if pretrained else IMAGENET
    used = Normalization.of(expected.mean if mean is None else mean, expected.std if std is None else std)
    if not all(len(values) == 3 and all(map(math.isfinite, values)) for values in used) or min(used.std) <= 0:
        raise InputError(
            f"detector.mean={list(used.mean)}, detector.std={list(used.std)}: give three numbers each, of red, green "
            "and blue in 0..1, the deviations positive; or null for what the backbone's weights expect"
        )
    wrong = [
        f"detector.{name}={list(asked)}, but they expect {list(own)}"
        for name, asked, own in zip(used._fields, used, expected, strict=True)
        if not all(math.isclose(a, b, rel_tol=_ROUNDING) for a, b in zip(asked, own, strict=True))
    ]
    if pretrained and wrong:
        raise InputError(
            f"images would not be normalised as the backbone's pretrained weights ({pretrained.source}) were trained: "
            f"{'; '.join(wrong)}. Write null to take what they expect, or backbone.pretrained=false to train from "
            "scratch; a weights file of your own may say what it expects: mean and std, three numbers each, beside its "
            "state_dict"
        )
    return used
