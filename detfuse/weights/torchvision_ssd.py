"""torchvision's ``ssd300_vgg16`` as weights of the detector of ``experiment=ssd300_vgg16``, of chosen classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from detfuse.errors import InputError
from detfuse.weights.torchvision import PUBLISHED
from detfuse.words import some

_CLASSIFIER = "head.cls_logits."


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
    renamed, unknown = PUBLISHED["ssd300_vgg16"].table.to_ours(state)
    if unknown or not renamed:
        raise InputError(f"these are no weights of torchvision's ssd300_vgg16: it has no {some(unknown) or 'nothing'}")
    if label_ids is None:
        return renamed
    return {
        key: _of_labels(value, num_boxes[int(key.split(".")[2])], label_ids) if key.startswith(_CLASSIFIER) else value
        for key, value in renamed.items()
    }


def _of_labels(value: Tensor, num_boxes: int, label_ids: Sequence[int]) -> Tensor:
    """The rows of a classifier (n * (K + 1), ...) that belong to the background and the labels."""
    rows = torch.unflatten(value, 0, (num_boxes, -1))
    if not label_ids or min(label_ids) < 1 or max(label_ids) >= rows.shape[1]:
        raise InputError(f"the weights have labels 1 to {rows.shape[1] - 1}, so these cannot be taken: {label_ids}")
    return rows[:, [0, *label_ids]].flatten(0, 1)
