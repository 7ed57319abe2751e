"""A detector as its run validates with it, for what runs without a trainer: prediction, and timing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from detfuse.detector import Detector
from detfuse.protocols import Combine
from detfuse.structures import Detections
from detfuse.training.device import compute_device, memory_format_of, precision_of


class Inference:
    """Images to detections on the device, in the number format and the memory format of a run; not compiled.

    Args:
        detector: is moved and converted, and put into evaluation mode.
        combine: how candidates become detections.
        config: the run's, plain and resolved.

    Raises:
        ValueError: if the device or the number format is not to be had here.
    """

    def __init__(self, detector: Detector, combine: Combine, config: Mapping[str, Any]) -> None:
        trainer = config["trainer"]
        self.combine = combine
        self.device = compute_device(trainer.get("accelerator", "auto"), trainer.get("devices", 1))
        self.precision = precision_of(trainer.get("precision", "32-true"), self.device)
        self.memory_format = memory_format_of(config)
        self.detector = detector.eval().to(self.device).to(memory_format=self.memory_format)
        self.precision.convert_module(self.detector)

    def placed(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) uint8 where they are computed on."""
        return images.to(self.device).contiguous(memory_format=self.memory_format)

    @torch.inference_mode()
    def __call__(self, images: Tensor, image_sizes: Tensor) -> list[Detections]:
        """Detections of each image.

        Args:
            images: (B, 3, H, W) uint8, :meth:`placed`.
            image_sizes: (B, 2) as (height, width) within the padding, on the same device.
        """
        with self.precision.forward_context():
            found: list[Detections] = self.detector.predict(images, image_sizes, self.combine)
        return found
