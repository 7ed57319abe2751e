"""An exported file combines calibrated scores as its run did."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detfuse.errors import InputError
from detfuse.export.deployed import Deployed
from detfuse.ops.postprocess import Nms, SoftNms
from detfuse.structures import FeatureSpec

LINES = [[1.0, -2.0], [0.5, 1.0]]


class Fixed(nn.Module):
    """A detector of two levels that always predicts the same candidates."""

    def __init__(self) -> None:
        super().__init__()
        self.head: Any = SimpleNamespace(compilable=True)
        self.neck: Any = SimpleNamespace(out_spec=FeatureSpec((8, 8), (8, 16)))
        generator = torch.Generator().manual_seed(0)
        corners = 30 * torch.rand(1, 40, 2, generator=generator)
        self.boxes = torch.cat([corners, corners + 10 + 10 * torch.rand(1, 40, 2, generator=generator)], 2)
        self.scores = torch.rand(1, 40, generator=generator)
        self.scores[:, ::5] = 0
        self.rows = torch.arange(40)[None]

    def candidates(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, ...]:
        return self.boxes, self.scores, self.rows % 2, self.rows // 20


@pytest.mark.parametrize("make", [Nms, SoftNms])
def test_an_exported_file_combines_calibrated_scores(make: Any) -> None:
    detector: Any = Fixed()
    nothing = torch.zeros(1, 3, 64, 64, dtype=torch.uint8), torch.tensor([[64, 64]])
    combine = make(calibration=LINES, max_detections=30)
    model = Deployed(detector, combine)
    exported = torch.export.export(model, nothing, strict=True).module()
    wanted = combine(*(column[0] for column in detector.candidates(*nothing)))
    for found in (model(*nothing), exported(*nothing)):
        count = int(found[4])
        for ours, theirs in zip(found[:4], wanted, strict=True):
            torch.testing.assert_close(ours[0, :count], theirs)
    assert not torch.equal(
        wanted.scores, make(max_detections=30)(*(c[0] for c in detector.candidates(*nothing))).scores
    )


def test_lines_of_another_detector_are_refused() -> None:
    detector: Any = Fixed()
    with pytest.raises(InputError, match="1 lines and the candidates are of 2 levels"):
        Deployed(detector, Nms(calibration=LINES[:1]))
