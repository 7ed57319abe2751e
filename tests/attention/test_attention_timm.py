"""Live parity with timm, where timm's layer is the paper's."""

from __future__ import annotations

import pytest
import torch
from timm.layers import EcaModule, GlobalContext, SEModule
from timm.layers.cbam import CbamModule
from torch import Tensor, nn

from detfuse.attention import CBAM, ECA, GC, SE


def fill(module: nn.Module) -> nn.Module:
    """Weights from a formula, so that no layer is zero and every buffer counts."""
    with torch.no_grad():
        for number, tensor in enumerate([*module.parameters(), *module.buffers()]):
            if tensor.is_floating_point():
                tensor.copy_((0.37 * torch.arange(tensor.numel()) + number).cos().abs().view_as(tensor) * 0.3 + 0.05)
    return module


def image(channels: int) -> Tensor:
    return torch.randn(2, channels, 9, 7, generator=torch.Generator().manual_seed(0))


def assert_same(own: nn.Module, theirs: nn.Module, channels: int, *, training: bool = False) -> None:
    own.train(training)
    theirs.train(training)
    x, y = image(channels).requires_grad_(), image(channels).requires_grad_()
    mine, reference = own(x), theirs(y)
    torch.testing.assert_close(mine, reference, rtol=1e-5, atol=1e-5)
    weights = (0.37 * torch.arange(mine.numel())).cos().view_as(mine)
    (mine * weights).sum().backward()
    (reference * weights).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("squeeze", ["average", "half_sum"])
@pytest.mark.parametrize(("channels", "ratio"), [(64, 16), (48, 4), (8, 16)])
def test_se_equals_timm_s_without_rounding(channels: int, ratio: int, squeeze: str) -> None:
    theirs = fill(SEModule(channels, rd_channels=max(1, channels // ratio), add_maxpool=squeeze == "half_sum"))
    own = SE(channels, ratio=ratio, squeeze=squeeze)
    own.load_state_dict(
        {k.replace("fc1", "reduce").replace("fc2", "expand"): v for k, v in theirs.state_dict().items()}
    )
    assert_same(own, theirs, channels)


def test_se_s_hidden_width_is_the_paper_s_and_not_timm_s() -> None:
    assert SE(64, ratio=16).reduce.out_channels == 4
    assert SEModule(64, rd_ratio=1 / 16).fc1.out_channels == 8
    assert SE(8, ratio=16).reduce.out_channels == 1


@pytest.mark.parametrize("channels", [16, 64, 256])
def test_eca_equals_timm_s(channels: int) -> None:
    theirs = fill(EcaModule(channels))
    own = ECA(channels)
    own.load_state_dict(theirs.state_dict())
    assert_same(own, theirs, channels)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_cbam_equals_timm_s_with_biases(training: bool) -> None:
    theirs = fill(CbamModule(32, rd_ratio=1 / 4, mlp_bias=True))
    state = theirs.state_dict()
    own = CBAM(32, ratio=4)
    own.load_state_dict(
        {
            **{f"channel.reduce.{k}": state[f"channel.fc1.{k}"] for k in ("weight", "bias")},
            **{f"channel.expand.{k}": state[f"channel.fc2.{k}"] for k in ("weight", "bias")},
            # timm stacks [average, max], the paper [max, average]
            "spatial.conv.weight": state["spatial.conv.conv.weight"].flip(1),
            **{k.replace("spatial.conv.bn", "spatial.norm"): v for k, v in state.items() if "conv.bn" in k},
        }
    )
    assert_same(own, theirs, 32, training=training)


@pytest.mark.parametrize("fusion", ["add", "mul", "mul_add"])
@pytest.mark.parametrize("pooling", ["attention", "average"])
def test_gc_equals_timm_s_global_context(fusion: str, pooling: str) -> None:
    theirs = fill(
        GlobalContext(
            64,
            use_attn=pooling == "attention",
            fuse_add="add" in fusion,
            fuse_scale="mul" in fusion,
            rd_ratio=1 / 16,
        )
    )
    own = GC(64, pooling=pooling, fusion=fusion)
    state = {}
    for key, value in theirs.state_dict().items():
        for ours, name in (("add", "mlp_add"), ("mul", "mlp_scale")):
            for index, layer in (("0", "fc1"), ("1", "norm"), ("3", "fc2")):
                if key.startswith(f"{name}.{layer}."):
                    part = key.rpartition(".")[2]
                    state[f"{ours}.{index}.{part}"] = value.view(-1, 1, 1) if layer == "norm" else value
    if pooling == "attention":
        state["mask.weight"] = theirs.state_dict()["conv_attn.weight"]
    own.load_state_dict(state)
    for module in theirs.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5  # timm's LayerNorm2d has 1e-6, the authors' the framework's default
    assert_same(own, theirs, 64)


@pytest.mark.parametrize(("channels", "kernel"), [(1, 1), (2, 1), (64, 3), (128, 5), (256, 5), (512, 5), (2048, 7)])
def test_eca_s_kernel_follows_the_formula(channels: int, kernel: int) -> None:
    assert ECA(channels).conv.kernel_size == (kernel,)


def test_eca_sees_only_neighbouring_channels() -> None:
    own = fill(ECA(64)).eval()
    x = image(64)
    y = x.clone()
    y[:, 10] += 1
    changed = (own(y) - own(x)).abs().sum((0, 2, 3)).nonzero().flatten().tolist()
    assert changed == [9, 10, 11]
