"""Gradients of strided convolutions over maps of one column, in bfloat16 on a CPU."""

from __future__ import annotations

import copy

import pytest
import torch
from quadrants import Fit, Quadrants, make_module  # type: ignore[import-not-found]  # pytest's path
from torch import Tensor, nn

from detfuse.training.narrow_maps import widen_narrow_maps


def gradients(conv: nn.Conv2d, x: Tensor, *, bf16: bool) -> tuple[Tensor, Tensor]:
    conv.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        out = conv(x)
    out.float().square().sum().backward()
    assert conv.weight.grad is not None
    return out.float().detach(), conv.weight.grad


@pytest.mark.parametrize("layout", [(3, 2, 1), (5, 3, 2), (7, 2, 3)])
@pytest.mark.parametrize("size", [(1, 1), (4, 1), (2, 2), (4, 5)])
def test_a_map_narrower_than_the_stride_has_its_gradient(layout: tuple[int, int, int], size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 16, layout[0], layout[1], layout[2])
    x = torch.randn(2, 16, *size)
    plain, wanted = gradients(conv, x, bf16=False)
    guarded = copy.deepcopy(conv)
    widen_narrow_maps(guarded, "bf16-mixed")
    assert torch.equal(gradients(copy.deepcopy(guarded), x, bf16=False)[0], plain)
    for _ in range(4):  # what lies in memory differs
        torch.full((100_000,), torch.nan)
        out, found = gradients(guarded, x, bf16=True)
        assert torch.allclose(out, plain, rtol=0.05, atol=0.05)
        assert (found - wanted).norm() < 0.05 * wanted.norm()


def test_a_convolution_that_would_have_more_outputs_is_left_alone() -> None:
    conv = nn.Conv2d(4, 4, 3, 2, 2)
    x = torch.randn(1, 4, 1, 1)
    before = conv(x)
    widen_narrow_maps(conv, "bf16-true")
    assert torch.equal(conv(x), before)


@pytest.mark.parametrize(("precision", "width"), [("bf16-mixed", 2), ("32-true", 1)])
def test_a_run_widens_them_where_that_matters(fit: Fit, precision: str, width: int) -> None:
    module = make_module(Quadrants())
    conv = module.detector.neck.strided = nn.Conv2d(8, 8, 3, 2, 1)
    fit(module=module, precision=precision, max_epochs=1)
    seen = []
    conv.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[-1]))
    conv(torch.zeros(1, 8, 1, 1))
    assert seen == [width]
