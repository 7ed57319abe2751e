from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from detfuse.necks.ssd_extras import SSDExtras
from detfuse.norms import L2Norm
from detfuse.protocols import Neck
from detfuse.structures import FeatureSpec

Reference = Callable[[str], dict[str, Tensor]]

SPEC = FeatureSpec((8, 12), (8, 16))
ANY_SIZE = {"fc_channels": 16, "extra_channels": (12, 10, 6, 6), "extra_strides": (2, 2, 2, 2)}


def maps(height: int, width: int, spec: FeatureSpec = SPEC) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, c, -(-height // s), -(-width // s)) for c, s in zip(spec.channels, spec.strides, strict=True)]
    return [torch.randn(shape, generator=generator) for shape in shapes]


def test_300_pixels_give_the_published_maps() -> None:
    neck = SSDExtras(SPEC)
    assert isinstance(neck, Neck)
    assert [x.shape[2:] for x in neck(maps(300, 300))] == [(s, s) for s in (38, 19, 10, 5, 3, 1)]
    assert neck.out_spec == FeatureSpec((8, 1024, 512, 256, 256, 256), (8, 16, 32, 64, 128, 256))


@pytest.mark.parametrize("size", [(96, 128), (33, 290)])
def test_keeps_its_promise_at_any_size_when_every_level_halves(size: tuple[int, int]) -> None:
    neck = SSDExtras(SPEC, **ANY_SIZE)  # type: ignore[arg-type]  # options of several types
    results = neck(maps(*size))
    wanted = [(c, *(-(-side // s) for side in size)) for c, s in zip(neck.out_spec.channels, neck.out_spec.strides)]  # noqa: B905
    assert [tuple(x.shape[1:]) for x in results] == wanted


def test_levels_between_the_finest_and_the_coarsest_pass_unchanged() -> None:
    spec = FeatureSpec((8, 6, 12), (4, 8, 16))
    given = maps(64, 64, spec)
    neck = SSDExtras(spec, extra_channels=(4,), extra_strides=(2,))
    results = neck(given)
    assert neck.out_spec.channels == (8, 6, 1024, 4)
    assert torch.equal(results[1], given[1])


def test_no_extra_level_is_a_choice_too() -> None:
    neck = SSDExtras(SPEC, fc_channels=16, extra_channels=(), extra_strides=())
    assert [x.shape[1] for x in neck(maps(64, 64))] == [8, 16]


def test_length_of_every_vector_is_the_learnt_scale_whatever_goes_in() -> None:
    norm = L2Norm(8, 20.0)
    x = torch.randn(2, 8, 3, 3) * 1000
    x[0, :, 0, 0] = 0
    lengths = norm(x).norm(dim=1)
    assert lengths[0, 0, 0] == 0
    lengths[0, 0, 0] = 20
    torch.testing.assert_close(lengths, torch.full_like(lengths, 20.0))
    half = norm.half()((x * 60).clamp(-60000, 60000).half())  # whose squares half precision does not hold
    assert half.dtype == torch.float16
    half_lengths = half.float().norm(dim=1)
    half_lengths[0, 0, 0] = 20
    torch.testing.assert_close(half_lengths, torch.full_like(half_lengths, 20.0), rtol=1e-2, atol=0)


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        (FeatureSpec((8,), (16,)), {}, r"two levels .* backbone.levels=\[3,4\]"),
        (SPEC, {"extra_strides": (2, 2)}, r"one width .* extra_strides \[2, 2\]"),
        (SPEC, {"extra_strides": (2, 2, 1, 3)}, "extra_strides must be 1 or 2"),
        (SPEC, {"fc_dilation": 0}, "fc_dilation must be at least 1"),
        (SPEC, {"fc_channels": 0}, "fc_channels must be at least 1 or None, got 0"),
        (SPEC, {"fc_channels": -4}, "fc_channels must be at least 1 or None, got -4"),
        (SPEC, {"extra_channels": (8, 8, 8, 0)}, "extra_channels must be at least 2"),
    ],
)
def test_mistakes_are_told(spec: FeatureSpec, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SSDExtras(spec, **options)  # type: ignore[arg-type]  # wrong on purpose


def test_an_image_too_small_for_the_published_layout_is_told_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"level 4 .* map of 2 x 2.*size=\[300,300\].*extra_strides=\[2, 2, 2, 2\]"):
        SSDExtras(SPEC)(maps(128, 128))


def test_equals_mmdetections_neck(reference: Reference) -> None:
    numbers = reference("mm_ssd_neck")
    neck = SSDExtras(SPEC, fc_channels=None, extra_channels=(8, 6, 6), extra_strides=(2, 2, 1))
    features = [numbers[f"in.x.{i}"].requires_grad_() for i in range(2)]
    state = {"l2_norm.scale": numbers["sd.l2_norm.weight"]}
    for level in range(3):
        for theirs, ours in ((0, 0), (1, 2)):
            for kind in ("weight", "bias"):
                state[f"extras.{level}.{ours}.{kind}"] = numbers[f"sd.extra_layers.{level}.{theirs}.conv.{kind}"]
    neck.load_state_dict(state)
    results = neck(features)
    for i, result in enumerate(results):
        torch.testing.assert_close(result, numbers[f"out.{i}"], rtol=1e-5, atol=1e-5)
    weights = [torch.arange(x.numel()).mul(0.37).cos().reshape(x.shape) for x in results]
    torch.stack([(x * w).sum() for x, w in zip(results, weights, strict=True)]).sum().backward()
    for i, x in enumerate(features):
        torch.testing.assert_close(x.grad, numbers[f"gin.x.{i}"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(neck.l2_norm.scale.grad, numbers["gsd.l2_norm.weight"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("source", ["mm_l2norm", "ssdpytorch_l2norm"])
def test_l2_norm_equals_its_references(source: str, reference: Reference) -> None:
    numbers = reference(source)
    norm = L2Norm(8, 20.0)
    norm.load_state_dict({"scale": numbers["sd.weight"]})
    x = numbers["in.x"].requires_grad_()
    result = norm(x)
    torch.testing.assert_close(result, numbers["out"], rtol=1e-5, atol=1e-5)
    (result * torch.arange(result.numel()).mul(0.37).cos().reshape(result.shape)).sum().backward()
    torch.testing.assert_close(x.grad, numbers["gin.x"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(norm.scale.grad, numbers["gsd.weight"], rtol=1e-4, atol=1e-4)
