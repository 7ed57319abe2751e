"""Resampling reaches exactly the size that is asked for."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from detfuse.fusion.guide import with_guide
from detfuse.fusion.resample import DOWN, UP, Bilinear, Deconv


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("name", UP)
@pytest.mark.parametrize("rounding", ["up", "down"])
def test_up_reaches_the_size(name: str, steps: int, rounding: str) -> None:
    size, factor = (37, 50), 2**steps
    coarse = [-(-s // factor) if rounding == "up" else s // factor for s in size]
    part = UP[name](6, 6, steps)
    made = with_guide(part, torch.randn(1, 6, *size), torch.randn(1, 6, *coarse), size)
    assert made.shape == (1, 6, *size)


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("name", DOWN)
@pytest.mark.parametrize("rounding", ["up", "down"])
def test_down_reaches_the_size(name: str, steps: int, rounding: str) -> None:
    factor = 2**steps
    size = tuple(-(-s // factor) if rounding == "up" else s // factor for s in (37, 50))
    assert DOWN[name](6, 6, steps)(torch.randn(1, 6, 37, 50), size).shape == (1, 6, *size)


def test_deconv_starts_as_bilinear_interpolation() -> None:
    x = torch.randn(1, 3, 8, 8)
    learnt, fixed = Deconv(3, 3, 1)(x, (16, 16)), Bilinear(3, 3, 1)(x, (16, 16))
    torch.testing.assert_close(learnt[..., 2:-2, 2:-2], fixed[..., 2:-2, 2:-2])  # borders see the zero padding


def test_area_is_the_mean_of_what_is_there() -> None:
    x = torch.randn(1, 2, 5, 5)
    down = DOWN["area"](2, 2, 1)(x, (3, 3))
    torch.testing.assert_close(down[..., 0, 0], x[..., :2, :2].mean((-1, -2)))
    torch.testing.assert_close(down[..., 2, 2], x[..., 4, 4])


def test_max_pool_is_three_by_three() -> None:
    x = torch.randn(1, 2, 8, 8)
    assert torch.equal(DOWN["max_pool"](2, 2, 1)(x, (4, 4)), F.max_pool2d(x, 3, 2, 1))


@pytest.mark.parametrize(
    "part", [part for name, part in {**UP, **DOWN}.items() if name not in ("deconv", "strided_conv")]
)
def test_what_moves_pixels_only_cannot_change_the_width(part: type) -> None:
    with pytest.raises(ValueError, match=r"cannot change the width from 4 to 8.*project: true"):
        part(4, 8, 1)


@pytest.mark.parametrize("part", [UP["deconv"], DOWN["strided_conv"]])
def test_what_has_weights_can(part: type) -> None:
    up = part is UP["deconv"]
    assert part(4, 8, 2)(torch.randn(1, 4, 8, 8), (32, 32) if up else (2, 2)).shape[1] == 8
