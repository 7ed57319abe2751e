"""The reference modules' numbers: CBAM's and GCNet's authors, mmcv, and the Non-local of AlexHex7."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from detfuse.attention import CBAM, GC, NonLocal

Numbers = dict[str, Tensor]
Reference = Callable[[str], Numbers]
NON_LOCAL_MODES = ("embedded_gaussian", "gaussian", "dot_product", "concatenation")


def check(insert: nn.Module, names: dict[str, str], numbers: Numbers, absent: set[str]) -> None:
    """Load the reference's weights by ``names`` (ours -> theirs), compare outputs and gradients.

    ``absent`` are weights of the reference that this code leaves out because they cannot change the function.
    """
    theirs = {key.removeprefix("sd.") for key in numbers if key.startswith("sd.")}
    assert theirs - set(names.values()) - absent == {k for k in theirs if k.endswith("num_batches_tracked")}
    own = insert.state_dict()
    own.update({key: numbers[f"sd.{name}"].reshape(own[key].shape) for key, name in names.items()})
    insert.load_state_dict(own)
    insert.eval()
    x = numbers["in.x"].clone().requires_grad_()
    out = insert(x)
    torch.testing.assert_close(out, numbers["out"], rtol=1e-5, atol=1e-5)
    if "gin.x" not in numbers:
        return
    (out * (0.37 * torch.arange(out.numel())).cos().view_as(out)).sum().backward()
    torch.testing.assert_close(x.grad, numbers["gin.x"], rtol=1e-4, atol=1e-4)
    for key, parameter in insert.named_parameters():
        expected = numbers[f"gsd.{names[key]}"].reshape(parameter.shape)
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-4, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.parametrize(
    ("fixture", "pools", "spatial"),
    [
        ("cbam_avgmax", ("average", "max"), True),
        ("cbam_no_spatial", ("average", "max"), False),
        ("cbam_avg_only", ("average",), True),
        ("cbam_lse", ("average", "max", "lp", "lse"), True),
    ],
)
def test_cbam_equals_the_authors(reference: Reference, fixture: str, pools: tuple[str, ...], spatial: bool) -> None:
    names = {
        f"channel.{own}.{kind}": f"ChannelGate.mlp.{index}.{kind}"
        for own, index in (("reduce", 1), ("expand", 3))
        for kind in ("weight", "bias")
    }
    if spatial:
        names["spatial.conv.weight"] = "SpatialGate.spatial.conv.weight"
        for kind in ("weight", "bias", "running_mean", "running_var"):
            names[f"spatial.norm.{kind}"] = f"SpatialGate.spatial.bn.{kind}"
    check(CBAM(16, ratio=4, pools=pools, spatial=spatial), names, reference(fixture), set())


@pytest.mark.parametrize(
    "fixture",
    ["gcnet_context_att_add", *(f"mmcv_context_{p}_{f}" for p in ("att", "avg") for f in ("add", "mul", "add_mul"))],
)
def test_gc_equals_mmcv_and_the_authors(reference: Reference, fixture: str) -> None:
    _, _, pooling, fusion = fixture.split("_", 3)
    names = {
        f"{kind}.{layer}.{part}": f"channel_{kind}_conv.{layer}.{part}"
        for kind in fusion.split("_")
        for layer in (0, 1, 3)
        for part in ("weight", "bias")
    }
    if pooling == "att":
        names["mask.weight"] = "conv_mask.weight"
    insert = GC(
        8,
        ratio=4,
        pooling="attention" if pooling == "att" else "average",
        fusion="mul_add" if fusion == "add_mul" else fusion,
    )
    # The softmax over positions cancels a bias of the one-channel 1x1.
    check(insert, names, reference(fixture), {"conv_mask.bias"})


def non_local_names(mode: str, suffix: str, projection: str, norm: str, out: str) -> dict[str, str]:
    """Our names to theirs; ``suffix`` stands where sub-sampling wraps phi and g in a sequence."""
    names = {"g.weight": f"g{suffix}.weight", "g.bias": f"g{suffix}.bias", "out.weight": out}
    names |= {f"norm.{k}": f"{norm}.{k}" for k in ("weight", "bias", "running_mean", "running_var")}
    if mode != "gaussian":
        names |= {"theta.weight": f"theta{projection}.weight", "theta.bias": f"theta{projection}.bias"}
        names["phi.weight"] = f"phi{suffix}.weight"
        if mode != "embedded_gaussian":
            names["phi.bias"] = f"phi{suffix}.bias"
    return names


def split_score(numbers: Numbers, key: str) -> Numbers:
    """The reference's one vector over [theta, phi] as two."""
    halves = {}
    for prefix in ("sd", "gsd"):
        if f"{prefix}.{key}" in numbers:
            theta, phi = numbers.pop(f"{prefix}.{key}").chunk(2, dim=1)
            halves |= {f"{prefix}.theta_half": theta, f"{prefix}.phi_half": phi}
    return numbers | halves


@pytest.mark.parametrize("mode", NON_LOCAL_MODES)
@pytest.mark.parametrize("sub_sample", [False, True])
def test_non_local_equals_mmcv(reference: Reference, mode: str, sub_sample: bool) -> None:
    numbers = reference(f"mmcv_nonlocal_{mode}{'_sub' if sub_sample else ''}")
    suffix = ".0.conv" if sub_sample else ".conv"
    names = non_local_names(mode, suffix, ".conv", "conv_out.bn", "conv_out.conv.weight")
    if mode == "concatenation":
        numbers = split_score(numbers, "concat_project.conv.weight")
        names |= {"score_theta.weight": "theta_half", "score_phi.weight": "phi_half"}
    insert = NonLocal(
        8,
        ratio=1 if mode == "gaussian" else 2,
        mode=mode,
        sub_sample=sub_sample,
        pool="projection",
        scale=mode == "embedded_gaussian",
    )
    check(insert, names, numbers, {f"phi{suffix}.bias"})


@pytest.mark.parametrize("mode", NON_LOCAL_MODES)
@pytest.mark.parametrize("sub_sample", [False, True])
def test_non_local_equals_alexhex7(reference: Reference, mode: str, sub_sample: bool) -> None:
    numbers = reference(f"alexhex7_nonlocal_{mode}{'_sub' if sub_sample else ''}")
    # A bias before the batch norm only shifts the mean that the norm subtracts.
    numbers["sd.W.1.running_mean"] = numbers["sd.W.1.running_mean"] - numbers["sd.W.0.bias"]
    suffix = ".0" if sub_sample else ""
    names = non_local_names(mode, suffix, "", "W.1", "W.0.weight")
    if mode == "concatenation":
        numbers = split_score(numbers, "concat_project.0.weight")
        names |= {"score_theta.weight": "theta_half", "score_phi.weight": "phi_half"}
    insert = NonLocal(8, mode=mode, sub_sample=sub_sample, pool="projection")
    check(insert, names, numbers, {"W.0.bias", f"phi{suffix}.bias"})


def test_pooling_the_input_differs_from_pooling_the_projection(reference: Reference) -> None:
    numbers = reference("mmcv_nonlocal_embedded_gaussian_sub")
    names = non_local_names("embedded_gaussian", ".0.conv", ".conv", "conv_out.bn", "conv_out.conv.weight")
    with pytest.raises(AssertionError, match="not close"):
        check(NonLocal(8, scale=True, pool="input"), names, numbers, {"phi.0.conv.bias"})
