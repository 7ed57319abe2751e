"""Graphs for images of any size, of one size, and detectors of which there is no such graph."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detfuse.detector import Detector
from detfuse.export import Deployed, Description, Exported, ExportError, Resizing, program_of, read_exported, written
from detfuse.ops.postprocess import Nms
from detfuse.structures import Categories

Outputs = tuple[Tensor, Tensor, Tensor, Tensor]


class Brightest(Detector):
    """The three brightest cells of a map of stride 32."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.head: Any = SimpleNamespace(compilable=True)

    def candidates(self, images: Tensor, image_sizes: Tensor) -> Outputs:
        cells = nn.functional.avg_pool2d(images.float() / 256, 32).mean(1)
        columns = cells.shape[2]
        scores, place = cells.flatten(1).topk(3)
        corner = 32.0 * torch.stack([place % columns, place // columns], dim=-1)
        return torch.cat([corner, corner + 32], dim=-1), scores, torch.zeros_like(place), torch.zeros_like(place)


class OfOneSize(Brightest):
    """As a part of somebody's own that has written a size down."""

    def candidates(self, images: Tensor, image_sizes: Tensor) -> Outputs:
        rows = torch.arange(int(images.shape[2]))
        return super().candidates(images[:, :, rows], image_sizes)


def description(exact: tuple[int, int] | None) -> Description:
    return Description("1", "m", Categories((1,), ("a",)), Resizing(exact, 64, 128), 32 if exact is None else 1, {})


def exported(exact: tuple[int, int] | None, path: Path) -> Exported:
    told = description(exact)
    with written(path, "pt2", program_of(Deployed(Brightest(), Nms()), told), told):
        pass
    return read_exported(path)


def compared(file: Exported, images: int, height: int, width: int) -> None:
    drawn = torch.randint(0, 256, (images, 3, height, width), dtype=torch.uint8)
    sizes = torch.tensor([[height, width]] * images)
    outputs = file.run(drawn, sizes)
    for ours, theirs in zip(list(outputs.values())[5:], Brightest().candidates(drawn, sizes), strict=True):
        assert torch.equal(ours, theirs)
    assert outputs["count"].shape == (images,)


def test_a_file_takes_any_number_of_images_of_any_size(tmp_path: Path) -> None:
    file = exported(None, tmp_path / "x.pt2")
    for images, height, width in ((1, 96, 32), (1, 32, 96), (3, 64, 320)):
        compared(file, images, height, width)
    with pytest.raises(ExportError, match=r"x\.pt2: cannot compute images of 50 x 64 pixels.*with the checkpoint"):
        compared(file, 1, 50, 64)


def test_where_images_have_one_size_the_file_has_too(tmp_path: Path) -> None:
    file = exported((60, 100), tmp_path / "x.pt2")
    compared(file, 1, 60, 100)
    compared(file, 3, 60, 100)
    with pytest.raises(ExportError, match="cannot compute images of 96 x 96 pixels"):
        compared(file, 1, 96, 96)


def test_a_detector_that_has_written_a_size_down_is_refused_with_the_remedy() -> None:
    with pytest.raises(ExportError, match=r"images of one size only.*take sizes from the maps.*data\.transform\.size="):
        program_of(Deployed(OfOneSize(), Nms()), description(None))
