"""A detector that another library publishes: what it is called there and here, and what its weights expect."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor
from torchvision.models import get_model_weights

from detfuse.structures import IMAGENET, Categories, Normalization
from detfuse.weights.tables import NameTable


@dataclass(frozen=True)
class Published(ABC):
    """One detector of a library, learnt on COCO.

    Attributes:
        table: its names and ours.
        background: whether its class 0 is the background of a softmax, which is no class of ours.
        normalization: of its images.
    """

    library: ClassVar[str]

    table: NameTable
    background: bool
    normalization: Normalization = IMAGENET

    @property
    def model(self) -> str:
        """Its name, which is that of its recipe in ``conf/experiment``."""
        return self.table.model

    @property
    @abstractmethod
    def url(self) -> str | None:
        """Of its weights; None if there are none."""

    @property
    def file_name(self) -> str | None:
        """Of its weights; None if there are none."""
        return Path(self.url).name if self.url else None

    @property
    @abstractmethod
    def categories(self) -> Categories:
        """The classes of the published weights: names as COCO has them, the gaps by their ids."""

    def settled(self, state: Mapping[str, Tensor], *, published: bool) -> tuple[dict[str, Tensor], list[str]]:
        """Numbers as our parts take them, and what was done to them, for people.

        Args:
            state: under our names.
            published: whether it is the library's own file.
        """
        return dict(state), []


def coco_categories(first: int) -> Categories:
    """COCO's classes with its ids from ``first``: 0 is no class but a place that detectors have, as are the gaps."""
    names = list(get_model_weights("retinanet_resnet50_fpn").DEFAULT.meta["categories"])
    told = [f"{name} {i}" if names.count(name) > 1 else name for i, name in enumerate(names)]
    return Categories(tuple(range(first, len(names))), tuple(told[first:]))
