"""torchvision's published detectors as tables: its names, and those of the detectors that our recipes build.

torchvision: https://github.com/pytorch/vision. Each table belongs to ``conf/experiment/<model>.yaml``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.models import get_model, get_model_weights

from detfuse.errors import InputError
from detfuse.structures import Categories, Normalization
from detfuse.weights.checkpoint import COUNTER
from detfuse.weights.published import Published, coco_categories
from detfuse.weights.tables import NameRow, NameTable, rows_after
from detfuse.words import some

_WEIGHT_AND_BIAS = ("weight", "bias")
_BODY = [NameRow("backbone.body.", "backbone.model.")]
_MOBILE_BODY = [NameRow("backbone.body.", "backbone.model.features.")]


def _fpn(levels: Sequence[int], extra: Mapping[str, str]) -> list[NameRow]:
    """A pyramid on these levels; ``extra``: name of a further level -> the edge that makes it."""
    rows = [
        row
        for place, level in enumerate(levels)
        for row in (
            NameRow(f"backbone.fpn.inner_blocks.{place}.", f"neck.edges.c{level}->t{level}.project."),
            NameRow(f"backbone.fpn.layer_blocks.{place}.", f"neck.blocks.p{level}."),
        )
    ]
    return rows + [
        NameRow(f"backbone.fpn.extra_blocks.{name}.", f"neck.edges.{edge}.resample.stages.0.")
        for name, edge in extra.items()
    ]


def _former_fpn(levels: Sequence[int]) -> dict[str, str]:
    """Before torchvision 0.13 the convolutions of a pyramid had no number."""
    return {
        f"backbone.fpn.{blocks}.{place}.{kind}": f"backbone.fpn.{blocks}.{place}.0.{kind}"
        for blocks in ("inner_blocks", "layer_blocks")
        for place in range(len(levels))
        for kind in _WEIGHT_AND_BIAS
    }


def _towers(conv: str, norm: str, convs: int = 4) -> list[NameRow]:
    """The two towers of four convolutions; ``{i}`` is the number of the convolution, ``{j}`` of it among the layers."""
    return [
        NameRow(f"head.{theirs}.conv.{pattern.format(i=i, j=3 * i, k=3 * i + 1)}.", f"head.{ours}.{i}.{part}.")
        for theirs, ours in (("classification_head", "cls_tower"), ("regression_head", "box_tower"))
        for i in range(convs)
        for pattern, part in ((conv, "conv"), (norm, "norm"))
        if pattern
    ]


def _retinanet(model: str, p6_from: str, norm: str) -> NameTable:
    head = [
        *_towers("{i}.0", norm),
        NameRow("head.classification_head.cls_logits.", "head.cls_logits."),
        NameRow("head.regression_head.bbox_reg.", "head.box_deltas."),
    ]
    pyramid = _fpn((3, 4, 5), {"p6": f"{p6_from}->p6", "p7": "r6->p7"})
    former = {
        f"head.{part}.conv.{2 * i}.{kind}": f"head.{part}.conv.{i}.0.{kind}"
        for part in ("classification_head", "regression_head")
        for i in range(4)
        for kind in _WEIGHT_AND_BIAS
    }
    return NameTable(model, [*_BODY, *pyramid, *head], {**_former_fpn((3, 4, 5)), **former})


def _fcos() -> NameTable:
    head = [
        *_towers("{j}", "{k}"),
        NameRow("head.classification_head.cls_logits.", "head.cls_logits."),
        NameRow("head.regression_head.bbox_reg.", "head.box_distances."),
        NameRow("head.regression_head.bbox_ctrness.", "head.box_centerness."),
    ]
    pyramid = _fpn((3, 4, 5), {"p6": "p5->p6", "p7": "r6->p7"})
    return NameTable("fcos_resnet50_fpn", [*_BODY, *pyramid, *head], _former_fpn((3, 4, 5)))


def _faster_rcnn(
    model: str, body: Sequence[NameRow], levels: Sequence[int], rpn_convs: int, box_head: Sequence[NameRow]
) -> NameTable:
    head = [
        *(NameRow(f"rpn.head.conv.{i}.0.", f"head.rpn.tower.{i}.conv.") for i in range(rpn_convs)),
        NameRow("rpn.head.cls_logits.", "head.rpn.objectness."),
        NameRow("rpn.head.bbox_pred.", "head.rpn.box_deltas."),
        *box_head,
        NameRow("roi_heads.box_predictor.cls_score.", "head.cls_logits."),
        NameRow("roi_heads.box_predictor.bbox_pred.", "head.box_deltas.", rows_after(4)),  # those of the background
    ]
    former = {f"rpn.head.conv.{kind}": f"rpn.head.conv.0.0.{kind}" for kind in _WEIGHT_AND_BIAS}
    return NameTable(model, [*body, *_fpn(levels, {}), *head], {**_former_fpn(levels), **former})


_TWO_LAYERS = [
    NameRow("roi_heads.box_head.fc6.", "head.box_head.fcs.0."),
    NameRow("roi_heads.box_head.fc7.", "head.box_head.fcs.2."),
]
_FOUR_CONVOLUTIONS = [
    *(NameRow(f"roi_heads.box_head.{i}.0.", f"head.box_head.convs.{i}.conv.") for i in range(4)),
    *(NameRow(f"roi_heads.box_head.{i}.1.", f"head.box_head.convs.{i}.norm.") for i in range(4)),
    NameRow("roi_heads.box_head.5.", "head.box_head.fcs.0."),  # 4 flattens
]


def _ssd300() -> NameTable:
    conv5 = 23  # its index in VGG-16's features, from which they count anew
    body = [
        NameRow("backbone.features.", "backbone.model.features."),
        *(NameRow(f"backbone.extra.0.{i}.", f"backbone.model.features.{i + conv5}.") for i in range(7)),
    ]
    neck = [
        NameRow("backbone.scale_weight", "neck.l2_norm.scale"),
        NameRow("backbone.extra.0.7.", "neck.fc."),
        *(NameRow(f"backbone.extra.{i + 1}.", f"neck.extras.{i}.") for i in range(4)),
    ]
    return NameTable("ssd300_vgg16", [*body, *neck, *_SSD_HEAD], {})


def _ssdlite() -> NameTable:
    cut = 13  # the block whose first layer is C4
    body = [
        NameRow("backbone.features.0.", "backbone.model.features."),
        NameRow(f"backbone.features.0.{cut}.", f"backbone.model.features.{cut}.block.0."),
        NameRow("backbone.features.1.0.", f"backbone.model.features.{cut}.block."),
        *(NameRow(f"backbone.features.1.{i}.", f"backbone.model.features.{cut + i}.") for i in (1, 2, 3)),
        *(NameRow(f"backbone.extra.{i}.", f"neck.extras.{i}.") for i in range(4)),
    ]
    return NameTable("ssdlite320_mobilenet_v3_large", [*body, *_SSD_HEAD], {})


_SSD_HEAD = [
    NameRow("head.classification_head.module_list.", "head.cls_logits."),
    NameRow("head.regression_head.module_list.", "head.box_deltas."),
]


@dataclass(frozen=True)
class TorchvisionModel(Published):
    """One of torchvision's detectors.

    Attributes:
        frozen_eps: what its published weights expect of its frozen norms in place of torch's 1e-5; None: as usual.
    """

    library = "torchvision"

    frozen_eps: float | None = None

    @property
    def weights(self) -> Any:
        """Torchvision's description of the published file."""
        return get_model_weights(self.model).DEFAULT

    @property
    def url(self) -> str | None:
        """See :class:`Published`."""
        return str(self.weights.url)

    @property
    def categories(self) -> Categories:
        """See :class:`Published`: RetinaNet and FCOS have a class 0 too, which they never learn."""
        return coco_categories(1 if self.background else 0)

    def settled(self, state: Mapping[str, Tensor], *, published: bool) -> tuple[dict[str, Tensor], list[str]]:
        """Let scales make up for another eps of published norms that are frozen."""
        if not published or self.frozen_eps is None:
            return dict(state), []
        told = f"the scales of its frozen norms make up for eps={self.frozen_eps:g}, which they expect"
        return without_eps(state, self.frozen_eps), [told]


_MOBILE = "fasterrcnn_mobilenet_v3_large"
_PUBLISHED = (
    TorchvisionModel(_retinanet("retinanet_resnet50_fpn", "p5", ""), background=False, frozen_eps=0.0),
    TorchvisionModel(_retinanet("retinanet_resnet50_fpn_v2", "c5", "{i}.1"), background=False),
    TorchvisionModel(_fcos(), background=False),
    TorchvisionModel(
        _faster_rcnn("fasterrcnn_resnet50_fpn", _BODY, (2, 3, 4, 5), 1, _TWO_LAYERS), background=True, frozen_eps=0.0
    ),
    TorchvisionModel(
        _faster_rcnn("fasterrcnn_resnet50_fpn_v2", _BODY, (2, 3, 4, 5), 2, _FOUR_CONVOLUTIONS), background=True
    ),
    TorchvisionModel(_faster_rcnn(f"{_MOBILE}_fpn", _MOBILE_BODY, (4, 5), 1, _TWO_LAYERS), background=True),
    TorchvisionModel(_faster_rcnn(f"{_MOBILE}_320_fpn", _MOBILE_BODY, (4, 5), 1, _TWO_LAYERS), background=True),
    TorchvisionModel(
        _ssd300(),
        background=True,
        normalization=Normalization((0.48235, 0.45882, 0.40784), (1 / 255,) * 3),
    ),
    TorchvisionModel(_ssdlite(), background=True, normalization=Normalization((0.5,) * 3, (0.5,) * 3)),
)
PUBLISHED = {each.model: each for each in _PUBLISHED}
"""By name."""


def without_eps(state: Mapping[str, Tensor], eps: float) -> dict[str, Tensor]:
    """A state dict whose frozen norms expect ``eps``, as one whose norms add torch's 1e-5: their scales make up for it.

    torchvision's first checkpoints were learnt with 0, and torchvision sets that once it has read them.
    """
    used = 1e-5
    found = dict(state)
    for key, variance in state.items():
        if key.endswith(".running_var"):
            name = f"{key.removesuffix('running_var')}weight"
            wide = variance.double()
            found[name] = (state[name].double() * ((wide + used) / (wide + eps)).sqrt()).to(state[name].dtype)
    return found


def as_torchvision(state: Mapping[str, Tensor], num_classes: int) -> tuple[TorchvisionModel, int, dict[str, Tensor]]:
    """A detector's weights as a state dict that a model of torchvision loads as it is.

    Args:
        state: of a detector of ours.
        num_classes: K, without background.

    Returns:
        The model, its number of classes, and the state dict.

    Raises:
        InputError: if torchvision has no such detector, naming what the nearest one lacks.
    """
    faults: dict[str, list[str]] = {}
    for published in PUBLISHED.values():
        found, unknown = published.table.to_theirs(state)
        faults[published.model] = unknown
        if unknown:
            continue
        count = num_classes + published.background
        with torch.device("meta"):
            wanted = get_model(published.model, weights=None, weights_backbone=None, num_classes=count).state_dict()
        given = {key: value for key, value in found.items() if key in wanted or not key.endswith(COUNTER)}
        given |= {key: torch.zeros((), dtype=x.dtype) for key, x in wanted.items() if key.endswith(COUNTER)} | given
        faults[published.model] = [
            *(key for key in given.keys() ^ wanted.keys()),
            *(f"{key} of {tuple(given[key].shape)}" for key in given if _other_shape(given, wanted, key)),
        ]
        if not faults[published.model]:
            return published, count, given
    nearest = min(faults, key=lambda model: len(faults[model]))
    raise InputError(
        f"torchvision has no detector of these parts: {nearest} is nearest, and differs in {some(faults[nearest])}. "
        f"Those that it has are experiment={', '.join(PUBLISHED)}"
    )


def _other_shape(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], key: str) -> bool:
    return key in wanted and given[key].shape != wanted[key].shape
