"""effdet's published EfficientDets as tables: its names, and those of the detectors that our recipes build.

effdet: https://github.com/rwightman/efficientdet-pytorch. Each table belongs to ``conf/experiment/<model>.yaml``. Those
whose names begin with ``tf_`` were ported from TensorFlow: they expect its padding, and their convolutions have biases
before a norm, which takes them away. Ours have none: they go into the norm's mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from detfuse.necks.topologies import bifpn
from detfuse.structures import Categories
from detfuse.weights.published import Published, coco_categories
from detfuse.weights.tables import Conversion, NameRow, NameTable

_RELEASE = "https://github.com/rwightman/efficientdet-pytorch/releases/download/v0.1"
_LEVELS = (3, 4, 5)  # of the backbone
_EXTRA = 2


class _Normed(NamedTuple):
    """A convolution before norms, under both names, and what ours calls the norms."""

    theirs: str
    ours: str
    norms: tuple[str, ...]


def _boxes_of_tf(value: Tensor) -> Tensor:
    """Rows of dy, dx, dh, dw of each anchor as dx, dy, dw, dh, and back; others are left for the loading to refuse."""
    if value.ndim == 0 or len(value) % 4:
        return value
    return torch.unflatten(value, 0, (-1, 4))[:, [1, 0, 3, 2]].flatten(0, 1)


_YX = Conversion(_boxes_of_tf, _boxes_of_tf)


def _neck(repeats: int, normed: list[_Normed]) -> Iterator[NameRow]:
    """Rows of the BiFPN; its convolutions before norms are added to ``normed``."""

    def projection(theirs: str, edge: str) -> NameRow:
        ours = f"neck.edges.{edge}.project"
        normed.append(_Normed(f"{theirs}.conv.conv", f"{ours}.0", (f"{ours}.1",)))
        return NameRow(f"{theirs}.conv.bn.", f"{ours}.1.")

    top = _LEVELS[-1]
    yield projection(f"fpn.resample.{len(_LEVELS)}", f"c{top}->x{top + 1}")
    nodes = [node for node in bifpn(_LEVELS, extra_levels=_EXTRA, repeats=repeats).nodes if len(node.inputs) > 1]
    per_cell = len(nodes) // repeats
    for place, node in enumerate(nodes):
        theirs = f"fpn.cell.{place // per_cell}.fnode.{place % per_cell}"
        after, block = f"{theirs}.after_combine.conv", f"neck.blocks.{node.name}"
        yield NameRow(f"{theirs}.combine.edge_weights", f"neck.operators.{node.name}.weight")
        yield NameRow(f"{after}.conv_dw.", f"{block}.1.")
        yield NameRow(f"{after}.bn.", f"{block}.3.")
        normed.append(_Normed(f"{after}.conv_pw", f"{block}.2", (f"{block}.3",)))
        for level in _LEVELS:
            if f"c{level}" in node.inputs:
                offset = level - _LEVELS[0]
                yield projection(f"{theirs}.combine.resample.{offset}", f"c{level}->{node.name}")


def _head(convs: int, normed: list[_Normed]) -> Iterator[NameRow]:
    """Rows of both towers and predictors, likewise."""
    levels = range(len(_LEVELS) + _EXTRA)
    branches = (("class_net", "cls_tower", "cls_logits", None), ("box_net", "box_tower", "box_deltas", _YX))
    for net, tower, predictor, conversion in branches:
        for i in range(convs):
            ours = f"head.{tower}.{i}"
            yield NameRow(f"{net}.conv_rep.{i}.conv_dw.", f"{ours}.conv.depthwise.")
            norms = tuple(f"{ours}.norms.{level}" for level in levels)
            normed.append(_Normed(f"{net}.conv_rep.{i}.conv_pw", f"{ours}.conv.pointwise", norms))
            yield from (NameRow(f"{net}.bn_rep.{i}.{level}.bn.", f"{norm}.") for level, norm in enumerate(norms))
        yield NameRow(f"{net}.predict.conv_dw.", f"head.{predictor}.depthwise.")
        yield NameRow(f"{net}.predict.conv_pw.", f"head.{predictor}.pointwise.", conversion)


@dataclass(frozen=True)
class EffdetModel(Published):
    """One of effdet's detectors.

    Attributes:
        file: of the published weights; None if there are none.
        biases: our name of a bias that our convolution does not have -> the norms that follow it.
    """

    library = "effdet"

    file: str | None = None
    biases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def url(self) -> str | None:
        """See :class:`Published`."""
        return f"{_RELEASE}/{self.file}" if self.file else None

    @property
    def categories(self) -> Categories:
        """See :class:`Published`: the ids 1 to 90 with their gaps."""
        return coco_categories(1)

    def settled(self, state: Mapping[str, Tensor], *, published: bool) -> tuple[dict[str, Tensor], list[str]]:
        """Put biases before norms into the means of the norms."""
        found = {key: value for key, value in state.items() if key not in self.biases}
        given = [bias for bias in self.biases if bias in state]
        for bias in given:
            for norm in self.biases[bias]:
                mean = f"{norm}.running_mean"
                if mean in found:
                    found[mean] = found[mean] - state[bias]
        told = f"{len(given)} biases of convolutions before a norm went into the norms' means, which take them away"
        return found, [told] if given else []


def _efficientdet(model: str, repeats: int, convs: int, file: str | None) -> EffdetModel:
    normed: list[_Normed] = []
    rows = [NameRow("backbone.", "backbone.model."), *_neck(repeats, normed), *_head(convs, normed)]
    kinds = ("weight", "bias") if model.startswith("tf_") else ("weight",)
    rows += [NameRow(f"{each.theirs}.{kind}", f"{each.ours}.{kind}") for each in normed for kind in kinds]
    biases = {f"{each.ours}.bias": each.norms for each in normed}
    return EffdetModel(NameTable(model, rows, {}), background=False, file=file, biases=biases)


_MODELS = (
    _efficientdet("efficientdet_d0", 3, 3, "efficientdet_d0-f3276ba8.pth"),
    _efficientdet("efficientdet_d1", 4, 3, "efficientdet_d1-bb7e98fe.pth"),
    _efficientdet("efficientdet_d2", 5, 3, None),
    _efficientdet("efficientdet_d3", 6, 4, None),
    _efficientdet("tf_efficientdet_d0", 3, 3, "tf_efficientdet_d0_34-f153e0cf.pth"),
    _efficientdet("tf_efficientdet_d1", 4, 3, "tf_efficientdet_d1_40-a30f94af.pth"),
    _efficientdet("tf_efficientdet_d2", 5, 3, "tf_efficientdet_d2_43-8107aa99.pth"),
    _efficientdet("tf_efficientdet_d3", 6, 4, "tf_efficientdet_d3_47-0b525f35.pth"),
)
EFFDET = {each.model: each for each in _MODELS}
"""By name."""
