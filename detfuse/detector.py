"""A detector is a backbone, a neck and a head: the place to start reading."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detfuse.protocols import Backbone, Combine, Head, Neck, Outputs
from detfuse.ranges import FiniteFloat, PositiveFloat, checked
from detfuse.structures import Batch, Detections


@checked
class Detector(nn.Module):
    """Images in, detections out; the normalisation is part of the model, so images travel as uint8.

    Args:
        backbone: normalised images to feature maps.
        neck: fuses them.
        head: predicts from the fused maps.
        mean: per channel, of images in 0..1 (ImageNet's, as every pretrained backbone expects).
        std: likewise.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        neck: Neck,
        head: Head,
        *,
        mean: Sequence[FiniteFloat] = (0.485, 0.456, 0.406),
        std: Sequence[PositiveFloat] = (0.229, 0.224, 0.225),
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self.register_buffer("mean", torch.tensor(mean).reshape(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(3, 1, 1), persistent=False)

    def forward(self, images: Tensor, image_sizes: Tensor) -> Outputs:
        """Raw predictions of the head, the same in training and in evaluation.

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
        return self.head.predict(self(images, image_sizes), image_sizes, combine)
