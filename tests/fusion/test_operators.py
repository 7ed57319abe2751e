"""Operators: their definitions. (How they relate: test_operator_algebra.py.)"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from detfuse.fusion.operators import OPERATORS, Add, Complex, Concat, FastNormalized, Gated, Max, Mean, Softmax

WIDTH = 6


def maps(count: int = 2, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, WIDTH, 5, 7, generator=generator) for _ in range(count)]


def test_elementwise_definitions() -> None:
    x, y, z = three = maps(3)
    widths = (WIDTH,) * 3
    torch.testing.assert_close(Add(widths, WIDTH)(three), x + y + z)
    torch.testing.assert_close(Mean(widths, WIDTH)(three), (x + y + z) / 3)
    torch.testing.assert_close(Max(widths, WIDTH)(three), torch.stack(three).amax(0))
    modulus = (x.square() + y.square() + z.square()).sqrt()
    torch.testing.assert_close(Complex(widths, WIDTH)(three), modulus, rtol=1e-4, atol=1e-3)


def test_complex_convolution_is_that_of_complex_numbers() -> None:
    x, y = maps()
    fuse = Complex((WIDTH, WIDTH), WIDTH, readout="complex_conv", eps=0.0)
    a, b = fuse.real[0].weight[:, :, 0, 0], fuse.imaginary[0].weight[:, :, 0, 0]
    expected = torch.einsum("oi,bihw->bohw", torch.complex(a, b), torch.complex(x, y)).abs()
    torch.testing.assert_close(fuse([x, y]), expected, rtol=1e-5, atol=1e-5)


def test_the_modulus_has_a_finite_gradient_at_zero() -> None:
    x = torch.zeros(1, WIDTH, 2, 2, requires_grad=True)
    Complex((WIDTH, WIDTH), WIDTH)([x, x]).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_the_modulus_survives_half_precision() -> None:
    x = torch.full((1, WIDTH, 2, 2), 300.0, dtype=torch.float16)  # its square overflows
    assert Complex((WIDTH, WIDTH), WIDTH)([x, x]).isfinite().all()


def test_learnt_weights_start_equal_and_are_normalised() -> None:
    x, y = maps()
    for operator in (FastNormalized((WIDTH,) * 2, WIDTH), Softmax((WIDTH,) * 2, WIDTH)):
        torch.testing.assert_close(operator([x, y]), (x + y) / 2, rtol=1e-4, atol=1e-4)
    fast = FastNormalized((WIDTH,) * 2, WIDTH)
    with torch.no_grad():
        fast.weight.copy_(torch.tensor([3.0, -1.0]))  # ReLU switches the second off
    torch.testing.assert_close(fast([x, y]), 3 * x / (3 + 1e-4))


def test_the_gate_is_convex() -> None:
    x, y = maps()
    gated = Gated((WIDTH, WIDTH), WIDTH)([x, y])
    low, high = torch.minimum(x, y), torch.maximum(x, y)
    assert ((gated >= low - 1e-6) & (gated <= high + 1e-6)).all()


FACTORIES: dict[str, Callable[..., nn.Module]] = {
    **OPERATORS,
    "complex_conv": partial(Complex, readout="complex_conv"),
}


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("name", FACTORIES)
def test_contract_for_any_number_of_inputs(name: str, count: int) -> None:
    torch.manual_seed(0)
    operator = FACTORIES[name]((WIDTH,) * count, WIDTH)
    inputs = [x.requires_grad_() for x in maps(count)]
    copies = [x.detach().clone() for x in inputs]
    fused = operator(inputs)
    assert fused.shape == inputs[0].shape
    fused.square().sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() and x.grad.abs().sum() > 0 for x in inputs)
    assert all(p.grad is not None for p in operator.parameters())
    assert all(torch.equal(x, y) for x, y in zip(inputs, copies, strict=True)), "inputs were mutated"


@pytest.mark.parametrize("name", [name for name in OPERATORS if name != "concat"])
def test_unequal_widths_are_refused_with_the_remedy(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} needs maps of one width, got \[4, 8\].*concat"):
        OPERATORS[name]((4, 8), 8)


def test_concat_takes_any_widths() -> None:
    assert Concat((4, 8), 5)([torch.zeros(1, 4, 3, 3), torch.zeros(1, 8, 3, 3)]).shape == (1, 5, 3, 3)
