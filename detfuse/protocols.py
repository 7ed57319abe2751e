"""The contracts between the rooms.

Each names ``forward`` and ``__call__``: with ``__call__`` alone a type checker would accept any module.

Shapes: B images, C channels, H and W in pixels of the map, A priors (anchors or points) over all levels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar, runtime_checkable

from torch import Tensor, nn

from detfuse.fusion.graph import FusionGraph
from detfuse.structures import Batch, Detections, FeatureSpec, Size

Outputs = TypeVar("Outputs")
"""A head's raw per-level maps: a NamedTuple of its own, the same in training and in evaluation."""

HANDED_ON = "maps"
"""Field of the outputs in which a head hands on the maps that its second stage reads: nothing that it predicts."""

AttentionFactory = Callable[[int], nn.Module]
"""channels -> module from (B, C, H, W) to (B, C, H, W); ``nn.Identity`` means none."""


@runtime_checkable
class Backbone(Protocol):
    """Normalised float images (B, 3, H, W) to a list of maps, finest first, as ``out_spec`` says.

    It may say in an attribute ``pretrained`` what of it was read rather than drawn: a
    :class:`~detfuse.structures.Pretrained`, or None if nothing was. These parameters learn at a rate of their own, and
    images are normalised as they expect. Of one without the attribute all parameters are taken for pretrained, on
    ImageNet's mean and deviation.
    """

    out_spec: FeatureSpec

    def forward(self, images: Tensor) -> list[Tensor]: ...
    def __call__(self, images: Tensor) -> list[Tensor]: ...


@runtime_checkable
class Neck(Protocol):
    """Fuses backbone maps. Constructor: ``Neck(in_spec, *, ...)``.

    Before the ``*`` it also takes, by these names, what its YAML brings: ``operator``, ``resample_up`` and
    ``resample_down`` (all three if it begins with ``_graph``); and ``attention``, if it has a site for some.
    """

    in_spec: FeatureSpec
    out_spec: FeatureSpec

    @property
    def graph(self) -> FusionGraph | None:
        """What it runs, to be drawn and described; None for a neck that is no fusion graph."""
        ...

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]: ...
    def __call__(self, features: Sequence[Tensor]) -> list[Tensor]: ...

    def describe(self) -> str:
        """How it fuses, in a few words for people: ``pyramid fusion, Add``; empty if it fuses nothing."""
        ...


Watch = Callable[[str, Tensor], Tensor]
"""(node, the map that it fused) -> the map that goes on from there."""


@runtime_checkable
class Scalable(Protocol):
    """A neck that multiplies what the nodes of its graph fuse by fixed factors, and lets it be watched."""

    @property
    def graph(self) -> FusionGraph: ...

    @property
    def scales(self) -> Mapping[str, float]:
        """Node -> factor; most have none."""
        ...

    def watched(self, watch: Watch) -> AbstractContextManager[None]:
        """Within the context, ``watch`` sees what every node fused, behind its factor, and may change it."""
        ...


class Operator(Protocol):
    """Two or more maps of one size become one. Constructor: ``Operator(in_channels, out_channels, *, ...)``."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor: ...
    def __call__(self, maps: Sequence[Tensor]) -> Tensor: ...


class Resampler(Protocol):
    """Brings a map to another grid, of exactly ``size``. Constructor: see :class:`ResampleFactory`.

    One with weights may say ``averages = True``: what it makes are means of what it reads, so no norm follows it.
    """

    def forward(self, x: Tensor, size: Size) -> Tensor: ...
    def __call__(self, x: Tensor, size: Size) -> Tensor: ...


class GuidedOperator(Protocol):
    """An operator that also sees the *guide*: the map of the node's own level, as it arrives at the node.

    It is the first of the node's inputs that need not be resampled, behind its projection and attention: (B,
    out_channels, H, W). A node that has no such input, or gets it in another width, refuses a guided part when the neck
    is built. Constructed like any operator.
    """

    guided: bool
    """True; parts without this attribute are given no guide."""

    def forward(self, maps: Sequence[Tensor], guide: Tensor) -> Tensor: ...
    def __call__(self, maps: Sequence[Tensor], guide: Tensor) -> Tensor: ...


class GuidedResampler(Protocol):
    """A resampler that also sees the guide of :class:`GuidedOperator`, the map with which its result will be fused."""

    guided: bool
    """True."""

    def forward(self, x: Tensor, size: Size, guide: Tensor) -> Tensor: ...
    def __call__(self, x: Tensor, size: Size, guide: Tensor) -> Tensor: ...


class OperatorFactory(Protocol):
    """Builds the operator of one node, guided or not; raises ValueError if it cannot fuse these widths.

    The neck starts the convolutions of what is built (:mod:`detfuse.fill`), but for modules that say
    ``own_start = True``.
    """

    def __call__(self, in_channels: tuple[int, ...], out_channels: int) -> nn.Module: ...


class ResampleFactory(Protocol):
    """Builds the resampler of one edge, guided or not, which crosses ``steps`` levels (a factor of ``2**steps``).

    It changes the width from ``in_channels`` to ``out_channels``, or raises ValueError at construction if it cannot.
    """

    def __call__(self, in_channels: int, out_channels: int, steps: int) -> nn.Module: ...


@runtime_checkable
class Learnt(Protocol):
    """Has learnt scalars that say how much of something is fused, and tells them.

    Only weights that are the same for every image: a gate that is computed from its input has no one value.
    """

    def learnt(self) -> dict[str, float]:
        """Name -> value as it is applied (normalised); an operator names its inputs by position: ``0 1 ...``."""
        ...


@runtime_checkable
class Fitting(Protocol):
    """A head that can say which objects its priors fit, before it has learnt anything."""

    def fitting(self, maps: Sequence[Size], image_size: Size, boxes: Tensor) -> Tensor:
        """How many priors of each level fit each of some boxes, by the rule that matches them, were each box alone.

        That a prior is an object's best is no fit by itself, though it may have to learn it.

        Args:
            maps: (H, W) of each level.
            image_size: (height, width) of the image without its padding.
            boxes: (N, 4) xyxy pixels.

        Returns:
            (N, L) int64.
        """
        ...


class Combine(Protocol):
    """How the candidates of one image become its detections: NMS, soft-NMS, weighted box fusion.

    Takes boxes (k, 4) xyxy already clipped to the image, scores (k,), labels (k,), levels (k,); returns at most
    ``max_detections``, best first, ties in the order given.
    """

    def __call__(self, boxes: Tensor, scores: Tensor, labels: Tensor, levels: Tensor) -> Detections: ...


@runtime_checkable
class Head(Protocol[Outputs]):
    """Predicts from the neck's maps. Constructor: ``Head(in_spec, num_classes, *, ...)``."""

    compilable: bool
    """Whether ``loss`` and ``candidates`` compile with ``fullgraph=True`` and export."""

    def forward(self, features: Sequence[Tensor]) -> Outputs: ...
    def __call__(self, features: Sequence[Tensor]) -> Outputs: ...

    def describe(self) -> str:
        """One line for people: levels, and what each of them learns."""
        ...

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Named, weighted terms (scalars), in float32 whatever the autocast.

        In training by several processes they all call it together, as it may ask what the others have.
        """
        ...

    def candidates(self, outputs: Outputs, image_sizes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Boxes (B, k, 4), scores (B, k), labels (B, k), levels (B, k); k is fixed for one padded shape.

        Rows that are no candidate (below the score threshold) have score 0; a score of NaN says that the outputs there
        are not finite.
        """
        ...
