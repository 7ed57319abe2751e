"""The module that is exported: images in, a fixed number of rows out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detfuse.detector import Detector
from detfuse.export.description import ExportError
from detfuse.ops.calibration import calibrated, require_lines
from detfuse.ops.postprocess import Nms, SoftNms
from detfuse.ops.suppression import Suppression
from detfuse.protocols import Combine
from detfuse.structures import Size

INPUTS = ("images", "image_sizes")
DETECTIONS = ("boxes", "scores", "labels", "levels", "count")
CANDIDATES = ("candidate_boxes", "candidate_scores", "candidate_labels", "candidate_levels")
OUTPUTS = (*DETECTIONS, *CANDIDATES)
"""Names of what :class:`Deployed` returns, in order."""


class Deployed(nn.Module):
    """Normalisation, detector and suppression for one image of a fixed padded size.

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
            images: (1, 3, H, W) uint8 RGB, padded at the bottom and the right.
            image_sizes: (1, 2) int64, (height, width) of the image within the padding.

        Returns:
            Boxes (1, M, 4) xyxy in pixels of the resized image, scores, labels, levels (1, M), best first and 0 beyond
            the count (1,); then the k candidates, not calibrated, (1, k, 4) and (1, k).
        """
        candidates = self.detector.candidates(images, image_sizes)
        boxes, scores, labels, levels = (column[0] for column in candidates)
        told = scores if self.lines is None else calibrated(scores, levels, self.lines)
        rows, taken, count = self.suppression(boxes, told, labels)
        found = torch.arange(len(rows), device=rows.device) < count
        detections = (
            torch.where(found[:, None], boxes.index_select(0, rows), 0.0),
            taken,
            torch.where(found, labels.index_select(0, rows), 0),
            torch.where(found, levels.index_select(0, rows), 0),
            count,
        )
        return (*(column[None] for column in detections), *candidates)


def place(image: Tensor, size: Size, what: str = "the image") -> tuple[Tensor, Tensor]:
    """One resized image as the exported file takes it.

    Args:
        image: (3, h, w) uint8.
        size: (H, W) to pad it to.
        what: name of the image for the message.

    Returns:
        Images (1, 3, H, W) uint8 and image sizes (1, 2).

    Raises:
        ExportError: if it is larger.
    """
    height, width = image.shape[-2:]
    if height > size[0] or width > size[1]:
        raise ExportError(
            f"{what} is {height} x {width} pixels (height x width) after resizing, which does not fit into the "
            f"exported size of {size[0]} x {size[1]}; export again with size=[H,W] of at least that"
        )
    images = torch.zeros(1, 3, *size, dtype=torch.uint8)
    images[0, :, :height, :width] = image.round()  # float32 where torchvision's rule resized it
    return images, torch.tensor([[height, width]], dtype=torch.int64)
