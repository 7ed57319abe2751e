"""torchvision's ``ssd300_vgg16`` as weights of the detector that ``experiment=ssd300_vgg16`` builds.

torchvision: https://github.com/pytorch/vision (COCO_V1 has 25.1 mAP on val2017). Both expect images in 0..255, reduced
by the mean (.48235, .45882, .40784) * 255.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from detfuse.errors import InputError

_CLASSIFIER = re.compile(r"head\.classification_head\.module_list\.(\d+)\.(weight|bias)")
_CONV5_BEGINS = 23  # its index in VGG-16's features: torchvision's SSD counts from there anew
_FIXED = {
    "backbone.scale_weight": "neck.l2_norm.scale",
    **{f"backbone.extra.0.7.{i}.{kind}": f"neck.fc.{i}.{kind}" for i in (1, 3) for kind in ("weight", "bias")},
}
_PATTERNS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"backbone\.features\.(\d+)\.(.+)"), lambda m: f"backbone.model.features.{m[1]}.{m[2]}"),
    (
        re.compile(r"backbone\.extra\.0\.(\d+)\.(weight|bias)"),
        lambda m: f"backbone.model.features.{int(m[1]) + _CONV5_BEGINS}.{m[2]}",
    ),
    (re.compile(r"backbone\.extra\.([1-4])\.(\d+)\.(.+)"), lambda m: f"neck.extras.{int(m[1]) - 1}.{m[2]}.{m[3]}"),
    (_CLASSIFIER, lambda m: f"head.cls_logits.{m[1]}.{m[2]}"),
    (re.compile(r"head\.regression_head\.module_list\.(\d+)\.(.+)"), lambda m: f"head.box_deltas.{m[1]}.{m[2]}"),
)


def from_torchvision_ssd(
    state: Mapping[str, Tensor], num_boxes: Sequence[int], label_ids: Sequence[int] | None = None
) -> dict[str, Tensor]:
    """State dict of torchvision's ``ssd300_vgg16`` to that of a :class:`~detfuse.detector.Detector`.

    Args:
        state: theirs.
        num_boxes: default boxes per cell and level, as the head's ``num_boxes``.
        label_ids: their labels that become 0..K-1, such as the category ids of COCO, which have gaps that torchvision
            also predicts; None: all but their 0, the background.

    Raises:
        ValueError: naming weights that belong to another model, or labels that it does not have.
    """
    renamed: dict[str, Tensor] = {}
    unknown = []
    for key, value in state.items():
        new = _renamed(key)
        if new is None:
            unknown.append(key)
            continue
        match = _CLASSIFIER.fullmatch(key)
        if match is not None and label_ids is not None:
            value = _of_labels(value, num_boxes[int(match[1])], label_ids)
        renamed[new] = value
    if unknown or not renamed:
        shown = f"{', '.join(unknown[:4])}{', ...' if len(unknown) > 4 else ''}" if unknown else "nothing"
        raise InputError(f"these are no weights of torchvision's ssd300_vgg16: it has no {shown}")
    return renamed


def _renamed(key: str) -> str | None:
    if key in _FIXED:
        return _FIXED[key]
    for pattern, name in _PATTERNS:
        match = pattern.fullmatch(key)
        if match is not None:
            return name(match)
    return None


def _of_labels(value: Tensor, num_boxes: int, label_ids: Sequence[int]) -> Tensor:
    """The rows of a classifier (n * (K + 1), ...) that belong to the background and the labels."""
    rows = torch.unflatten(value, 0, (num_boxes, -1))
    if not label_ids or min(label_ids) < 1 or max(label_ids) >= rows.shape[1]:
        raise InputError(f"the weights have labels 1 to {rows.shape[1] - 1}, so these cannot be taken: {label_ids}")
    return rows[:, [0, *label_ids]].flatten(0, 1)
