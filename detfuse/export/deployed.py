"""The module that is exported: images in, a fixed number of rows out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detfuse.data.collate import padded_size
from detfuse.detector import Detector
from detfuse.export.description import ExportError
from detfuse.ops.calibration import calibrated, require_lines
from detfuse.ops.postprocess import Nms, SoftNms
from detfuse.ops.suppression import Suppression
from detfuse.protocols import Combine

INPUTS = ("images", "image_sizes")
DETECTIONS = ("boxes", "scores", "labels", "levels", "count")
CANDIDATES = ("candidate_boxes", "candidate_scores", "candidate_labels", "candidate_levels")
OUTPUTS = (*DETECTIONS, *CANDIDATES)
"""Names of what :class:`Deployed` returns, in order."""


class Deployed(nn.Module):
    """Normalisation, detector and suppression, for any number of images of one padded size.

    Args:
        detector: in evaluation mode, on the CPU, in float32.
        combine: hard or soft NMS.

    Raises:
        ExportError: if the head or ``combine`` cannot be exported.
    """

    def __init__(self, detector: Detector, combine: Combine) -> None:
        super().__init__()
        if not detector.head.compilable:
            raise ExportError(f"head: {type(detector.head).__name__} cannot be exported, its shapes depend on the data")
        if not isinstance(combine, Nms | SoftNms):
            raise ExportError(
                f"combine: {type(combine).__name__} cannot be exported, its clusters have no fixed size; "
                "combine=nms and combine=soft_nms can"
            )
        if combine.lines is not None:
            require_lines(combine.lines, len(detector.neck.out_spec))
        self.detector = detector
        self.lines = combine.lines
        self.suppression = Suppression(combine)

    def forward(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, ...]:
        """See :data:`OUTPUTS`.

        Args:
            images: (B, 3, H, W) uint8 RGB, padded at the bottom and the right.
            image_sizes: (B, 2) int64, (height, width) of the images within the padding.

        Returns:
            Boxes (B, M, 4) xyxy in pixels of the resized image, scores, labels, levels (B, M), best first and 0 beyond
            the count (B,); then the k candidates, not calibrated, (B, k, 4) and (B, k).
        """
        candidates = self.detector.candidates(images, image_sizes)
        boxes, scores, labels, levels = candidates
        told = scores if self.lines is None else calibrated(scores, levels, self.lines)
        rows, taken, count = self.suppression(boxes, told, labels)
        found = torch.arange(rows.shape[1], device=rows.device) < count[:, None]
        detections = (
            torch.where(found[..., None], boxes.gather(1, rows[..., None].expand(-1, -1, 4)), 0.0),
            taken,
            torch.where(found, labels.gather(1, rows), 0),
            torch.where(found, levels.gather(1, rows), 0),
            count,
        )
        return (*detections, *candidates)


def place(image: Tensor, divisor: int) -> tuple[Tensor, Tensor]:
    """One resized image as an exported file takes it: padded as evaluation pads it, and no more.

    Args:
        image: (3, h, w) uint8.
        divisor: height and width become multiples of it.

    Returns:
        Images (1, 3, H, W) uint8 and image sizes (1, 2).
    """
    height, width = image.shape[-2:]
    images = torch.zeros(1, 3, *padded_size(height, width, divisor), dtype=torch.uint8)
    images[0, :, :height, :width] = image
    return images, torch.tensor([[height, width]], dtype=torch.int64)
