"""Attention between all pairs of positions: which axis is normalised, and how much memory it takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from detfuse.attention import CBAM, ECA, GC, SAGAN, SE, NonLocal, none

BATCH, CHANNELS, HEIGHT, WIDTH = 2, 16, 13, 11
KEYS = (HEIGHT // 2) * (WIDTH // 2)


def image(scale: float = 1.0) -> Tensor:
    return scale * torch.randn(BATCH, CHANNELS, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))


def sharpen(insert: nn.Module) -> nn.Module:
    """Weights large enough that attention is far from uniform, and an open gate."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in insert.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    return insert


SOFTMAX = {
    "embedded_gaussian": lambda: NonLocal(CHANNELS),
    "scaled": lambda: NonLocal(CHANNELS, scale=True),
    "gaussian": lambda: NonLocal(CHANNELS, mode="gaussian"),
    "sagan": lambda: SAGAN(CHANNELS),
    "sagan_paper": lambda: SAGAN(CHANNELS, variant="paper"),
}


@pytest.mark.parametrize("name", SOFTMAX)
def test_what_a_position_takes_from_all_keys_sums_to_one(name: str) -> None:
    weights = sharpen(SOFTMAX[name]()).weights(image())
    assert weights.shape == (BATCH, HEIGHT * WIDTH, KEYS)
    torch.testing.assert_close(weights.sum(-1), torch.ones(BATCH, HEIGHT * WIDTH))
    assert (weights.sum(-2) - 1).abs().max() > 0.1  # the sums over queries do not: the test can tell the axes apart


@pytest.mark.parametrize("name", SOFTMAX)
def test_equal_values_everywhere_are_passed_on_unchanged(name: str) -> None:
    """A constant map has one value to attend to, so every output position is equal: true only if weights sum to 1."""
    insert = sharpen(SOFTMAX[name]()).eval()
    query = image()
    weights = insert.weights(query)
    value = insert.g if isinstance(insert, NonLocal) else insert.value
    constant = value(torch.ones(BATCH, CHANNELS, HEIGHT // 2, WIDTH // 2)).flatten(2)
    attended = constant @ weights.transpose(1, 2)
    torch.testing.assert_close(attended, constant[..., :1].expand_as(attended), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["embedded_gaussian", "sagan"])
def test_the_sum_runs_over_the_axis_that_was_normalised(name: str) -> None:
    """The whole insert against the formula written out position by position."""
    insert = sharpen(SOFTMAX[name]()).eval().double()
    x = image().double()
    pool = nn.MaxPool2d(2)
    if isinstance(insert, NonLocal):
        query, key, value = insert.theta(x), insert.phi(pool(x)), insert.g(pool(x))
    else:
        query, key, value = insert.query(x), pool(insert.key(x)), pool(insert.value(x))
    attended = torch.empty(BATCH, value.shape[1], HEIGHT, WIDTH, dtype=torch.float64)
    for image_number in range(BATCH):
        for row in range(HEIGHT):
            for column in range(WIDTH):
                logits = (query[image_number, :, row, column, None, None] * key[image_number]).sum(0)
                share = logits.exp() / logits.exp().sum()
                attended[image_number, :, row, column] = (share * value[image_number]).sum((1, 2))
    if isinstance(insert, NonLocal):
        expected = x + insert.norm(insert.out(attended))
    else:
        expected = x + insert.gamma * insert.out(attended)
    torch.testing.assert_close(insert(x), expected)


@pytest.mark.parametrize("mode", ["dot_product", "concatenation"])
def test_modes_without_softmax_divide_by_the_number_of_keys(mode: str) -> None:
    insert = sharpen(NonLocal(CHANNELS, mode=mode))
    pooled = nn.functional.max_pool2d(image(), 2)
    theta, phi = insert.theta(image()).flatten(2), insert.phi(pooled).flatten(2)
    if mode == "dot_product":
        expected = torch.einsum("bdn,bdm->bnm", theta, phi)
    else:
        score = torch.cat([insert.score_theta.weight, insert.score_phi.weight], 1).flatten()
        pairs = torch.cat([theta[..., None].expand(-1, -1, -1, KEYS), phi[:, :, None].expand(-1, -1, 143, -1)], 1)
        expected = torch.einsum("d,bdnm->bnm", score, pairs).relu()
    torch.testing.assert_close(insert.weights(image()), expected / KEYS, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("variant", "width"), [("official", 8), ("paper", 2)])
def test_sagan_s_variants_differ_in_the_width_of_the_values(variant: str, width: int) -> None:
    insert = SAGAN(CHANNELS, variant=variant)
    assert insert.value.out_channels == width
    assert insert.query.out_channels == insert.key.out_channels == 2


def test_spectral_norm_divides_by_the_largest_singular_value() -> None:
    torch.manual_seed(0)
    insert = SAGAN(CHANNELS, spectral_norm=True)
    for _ in range(30):
        insert(image())
    for layer in (insert.query, insert.key, insert.value, insert.out):
        largest = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)
        assert float(largest) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", SOFTMAX)
def test_the_softmax_is_in_float32_under_autocast_and_does_not_overflow(name: str, dtype: torch.dtype) -> None:
    insert = SOFTMAX[name]().eval()
    with torch.autocast("cpu", dtype):
        weights = insert.weights(image())
        assert insert(image(scale=120.0).to(dtype)).isfinite().all()  # logits beyond 65504 in the gaussian mode
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights.sum(-1), torch.ones(BATCH, HEIGHT * WIDTH))


def test_dividing_by_many_positions_does_not_underflow_in_float16() -> None:
    torch.manual_seed(0)
    insert = NonLocal(CHANNELS, mode="dot_product", sub_sample=False).eval()
    x = 0.1 * torch.randn(1, CHANNELS, 48, 48)
    with torch.autocast("cpu", torch.float16):
        half = insert.weights(x)
    expected = insert.weights(x)
    assert float((half - expected).detach().norm() / expected.detach().norm()) < 0.005


class LiveMatrices(TorchDispatchMode):
    """The largest number of bytes that tensors of exactly ``elements`` entries held at one moment."""

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.elements, self.peak = elements, 0
        self.largest = 0
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor) and tensor.numel() == self.elements:
                storage = tensor.untyped_storage()
                self._live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        alive = [size for reference, size in self._live.values() if not reference.expired()]
        self.peak = max(self.peak, sum(alive))
        self.largest = max([self.largest, *alive])
        return out


QUADRATIC = {
    **{mode: {"mode": mode} for mode in ("embedded_gaussian", "gaussian", "dot_product", "concatenation")},
    "full": {"sub_sample": False},
    "sagan": {},
    "sagan_full": {"sub_sample": False},
}


@pytest.mark.parametrize("amp", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", QUADRATIC)
def test_the_predicted_memory_is_what_a_training_step_holds(name: str, amp: bool) -> None:
    factory = SAGAN if name.startswith("sagan") else NonLocal
    insert = sharpen(factory(CHANNELS, **QUADRATIC[name]))
    elements = insert.weights(image()).numel()
    assert elements == BATCH * HEIGHT * WIDTH * (HEIGHT * WIDTH if "full" in name else KEYS)
    x = image().requires_grad_()
    with LiveMatrices(elements) as live:
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            out = insert(x)
        out.float().square().sum().backward()
    assert live.largest == 4 * elements
    assert insert.peak_bytes(HEIGHT, WIDTH, BATCH, 2 if amp else 4) == live.peak


def test_the_predicted_memory_grows_with_the_square_of_the_map_and_with_the_batch() -> None:
    insert = NonLocal(8)
    one = insert.peak_bytes(100, 100, 1)
    assert one == 3 * 4 * 10_000 * 2_500
    assert insert.peak_bytes(200, 200, 1) == 16 * one
    assert insert.peak_bytes(100, 100, 8) == 8 * one
    assert NonLocal(8, sub_sample=False).peak_bytes(100, 100, 1) == 4 * one


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="got height=0, width=7, batch=1, dtype_bytes=4"):
        SAGAN(8).peak_bytes(0, 7, 1)


def test_only_quadratic_inserts_predict_memory() -> None:
    assert [hasattr(factory(16), "peak_bytes") for factory in (SE, ECA, CBAM, GC, none)] == [False] * 5


def test_a_context_is_a_weighted_mean_over_positions() -> None:
    insert = sharpen(GC(CHANNELS))
    logits = insert.mask(image()).flatten(2)
    expected = (image().flatten(2) * logits.softmax(-1)).sum(-1)
    torch.testing.assert_close(insert.context(image())[..., 0, 0], expected)
    constant = torch.full((1, CHANNELS, 3, 5), 2.5)
    torch.testing.assert_close(insert.context(constant), constant[..., :1, :1])


@pytest.mark.parametrize(
    ("squeeze", "expected"), [("average", [2.0]), ("max", [5.0]), ("half_sum", [3.5]), ("concat", [2.0, 5.0])]
)
def test_se_squeezes_a_map_as_it_is_told(squeeze: str, expected: list[float]) -> None:
    """One channel, weights 1 and biases 0: the logit is the sum of what the squeeze yields."""
    insert = SE(1, ratio=1, squeeze=squeeze)
    with torch.no_grad():
        insert.reduce.weight.fill_(1)
        insert.expand.weight.fill_(1)
    x = torch.tensor([0.0, 1.0, 2.0, 5.0]).view(1, 1, 2, 2)
    torch.testing.assert_close(insert(x), x * torch.tensor(sum(expected)).sigmoid())
