"""effdet's EfficientDets behind the interface of torchvision's detectors: pictures in, detections or losses out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # effdet scripts functions at import, which torch deprecates
    from effdet import DetBenchPredict, DetBenchTrain, get_efficientdet_config
    from effdet.data.transforms import ResizePad, resolve_fill_color
    from effdet.efficientdet import EfficientDet

from detfuse.structures import IMAGENET

_WHOLE_GREY = 0.5 / 255 / min(IMAGENET.std) * 1.01
"""By how much the mean as a whole grey value, with which effdet pads, may differ from the mean."""


class Letterboxed(NamedTuple):
    """What the networks read.

    Attributes:
        tensors: (B, 3, S, S), normalised; 0 in the padding.
        sizes: (B, 2) of the pictures within the squares, as (height, width).
        scales: (B,) original / resized.
    """

    tensors: Tensor
    sizes: Tensor
    scales: Tensor


class Letterbox(nn.Module):
    """effdet's own resizing and padding of evaluation.

    Args:
        side: of the squares, in pixels.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.resize = ResizePad(side, fill_color=resolve_fill_color("mean", IMAGENET.mean))

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]]
    ) -> tuple[Any, list[dict[str, Tensor]]]:
        """Pictures (3, H, W) of 0..1 and their objects, whose boxes become yxyx and whose classes begin at 1."""
        tensors, sizes, scales, moved = [], [], [], []
        for image, target in zip(images, targets, strict=True):
            given = {"bbox": target["boxes"][:, [1, 0, 3, 2]].numpy().copy(), "cls": target["labels"].numpy() + 1}
            square, told = self.resize(functional.to_pil_image((image * 255).round().to(torch.uint8)), given)
            scale = 1 / told["img_scale"]
            height, width = (int(side * scale) for side in image.shape[1:])
            pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1).float()
            mean, std = (torch.tensor(numbers).view(3, 1, 1) * 255 for numbers in IMAGENET)
            pixels = (pixels - mean) / std
            padding = torch.ones_like(pixels, dtype=torch.bool)
            padding[:, :height, :width] = False
            if padding.any() and pixels[padding].abs().max() > _WHOLE_GREY:
                raise AssertionError("effdet does not pad with the mean")
            tensors.append(pixels.masked_fill(padding, 0.0))
            sizes.append((height, width))
            scales.append(told["img_scale"])
            moved.append({"bbox": torch.from_numpy(told["bbox"]), "cls": torch.from_numpy(told["cls"])})
        return _Images(Letterboxed(torch.stack(tensors), torch.tensor(sizes), torch.tensor(scales))), moved


class _Images:
    """A batch whose pixels can be replaced, as torchvision's."""

    def __init__(self, batch: Letterboxed) -> None:
        self.tensors, self.sizes, self.scales = batch


class EffdetDetector(nn.Module):
    """One of effdet's detectors, with the names of its weights.

    Args:
        model: its name.
        num_classes: without background.
        image_size: side of the squares in pixels; None: as published.
    """

    def __init__(self, model: str, num_classes: int, image_size: int | None = None) -> None:
        super().__init__()
        config = get_efficientdet_config(model)
        config.num_classes = num_classes
        config.backbone_args = {}  # no drop path, which draws lots
        if image_size:
            config.image_size = (image_size, image_size)
        net = EfficientDet(config, pretrained_backbone=False)
        self.backbone, self.fpn, self.class_net, self.box_net = net.backbone, net.fpn, net.class_net, net.box_net
        self.transform = Letterbox(config.image_size[0])
        self._learning, self._detecting = [DetBenchTrain(net)], [DetBenchPredict(net)]  # lists: no modules of this one

    def forward(self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None = None) -> Any:
        """As torchvision's detectors: losses where it learns, else a dictionary of detections for each picture."""
        nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
        batch, moved = self.transform(images, targets or [nothing] * len(images))
        if self.training and targets is not None:
            found = self._learning[0](batch.tensors, {key: [each[key] for each in moved] for key in ("bbox", "cls")})
            weight = self._learning[0].config.box_loss_weight
            return {"classification": found["class_loss"], "bbox_regression": weight * found["box_loss"]}
        # boxes are cut where the last whole pixel of the resized picture ends, as ours are, not up to a pixel beyond
        limits = batch.sizes.flip(-1) * batch.scales[:, None]
        found = self._detecting[0](batch.tensors, {"img_scale": batch.scales, "img_size": limits})
        kept = [rows[rows[:, 4] > 0] for rows in found]
        return [{"boxes": rows[:, :4], "scores": rows[:, 4], "labels": rows[:, 5].long() - 1} for rows in kept]
