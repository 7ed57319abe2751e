"""What every option of the config group ``attention`` keeps, with every choice that changes its arithmetic."""

from __future__ import annotations

import copy
import importlib
import inspect
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

CONF = Path(__file__).resolve().parents[2] / "conf" / "attention"
OPTIONS = sorted(path.stem for path in CONF.glob("*.yaml"))
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((option, {}) for option in OPTIONS),
    *(("se", {"squeeze": squeeze}) for squeeze in ("max", "half_sum", "concat")),
    ("eca", {"kernel_size": 7}),
    ("cbam", {"pools": ["average", "max", "lp", "lse"]}),
    ("cbam", {"spatial": False}),
    *(("gc", {"fusion": fusion}) for fusion in ("mul", "mul_add")),
    ("gc", {"ratio": 64}),
    ("gc", {"pooling": "average"}),
    *(("non_local", {"mode": mode}) for mode in ("gaussian", "dot_product", "concatenation")),
    ("non_local", {"pool": "projection", "scale": True}),
    ("non_local", {"sub_sample": False}),
    ("sagan", {"variant": "paper", "sub_sample": False}),
    ("sagan", {"spectral_norm": True}),
]
CHANNELS = 32


def name_of(value: Any) -> str:
    return value if isinstance(value, str) else "-".join(f"{k}={v}" for k, v in value.items()) or "default"


def target(option: str) -> tuple[Any, dict[str, Any]]:
    """The callable that a YAML of the group names, and the arguments it lists."""
    # read as the commands read it: to plain YAML 1e-4 is a text
    arguments: Any = OmegaConf.to_container(OmegaConf.load(CONF / f"{option}.yaml"))
    module, _, attribute = arguments.pop("_target_").rpartition(".")
    return getattr(importlib.import_module(module), attribute), arguments


def build(option: str, changes: dict[str, Any], *, channels: int = CHANNELS, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    factory, arguments = target(option)
    insert: nn.Module = factory(channels, **{**arguments, **changes})
    return insert


def image(channels: int = CHANNELS, size: tuple[int, int] = (7, 5), batch: int = 2) -> Tensor:
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(1))


def open_gates(insert: nn.Module) -> nn.Module:
    """Move every zero-initialised scalar, gain and last layer away from zero."""
    with torch.no_grad():
        for number, parameter in enumerate(insert.parameters()):
            if not parameter.any():
                noise = torch.rand(parameter.shape, generator=torch.Generator().manual_seed(number))
                parameter.copy_(0.2 + 0.6 * noise)
    return insert


variants = pytest.mark.parametrize(("option", "changes"), VARIANTS, ids=name_of)


@pytest.mark.parametrize("option", OPTIONS)
def test_the_yaml_lists_every_configured_argument_with_its_default(option: str) -> None:
    factory, arguments = target(option)
    configured = {
        name: list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        for name, parameter in inspect.signature(factory).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    assert arguments == configured
    lines = (CONF / f"{option}.yaml").read_text().splitlines()
    assert all("#" in line for line in lines if not line.startswith("_target_"))


@variants
@pytest.mark.parametrize("size", [(7, 5), (8, 8), (1, 1), (1, 6)], ids=str)
def test_the_output_has_the_input_s_shape_and_the_input_is_not_changed(
    option: str, changes: dict[str, Any], size: tuple[int, int]
) -> None:
    insert = open_gates(build(option, changes))
    x = image(size=size)
    before = x.clone()
    out = insert(x)
    assert out.shape == x.shape
    assert out.dtype == x.dtype
    assert out.isfinite().all()
    assert torch.equal(x, before)


@variants
@pytest.mark.parametrize("init", ["paper", "identity"])
def test_every_parameter_gets_a_gradient_once_the_gates_are_open(
    option: str, changes: dict[str, Any], init: str
) -> None:
    """Three draws of the weights: a ReLU may be dead in one, a parameter that never learns is dead in all."""
    largest: dict[str, float] = {}
    for seed in range(3):
        insert = open_gates(build(option, changes if option == "none" else {**changes, "init": init}, seed=seed))
        x = image(size=(9, 7)).requires_grad_()
        (insert(x) * image(size=(9, 7)).cos()).sum().backward()
        assert x.grad is not None
        for name, parameter in insert.named_parameters():
            assert parameter.grad is not None, name
            largest[name] = max(largest.get(name, 0.0), float(parameter.grad.abs().max()))
    assert [name for name, value in largest.items() if value < 1e-9] == []


@variants
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_identity_initialisation_returns_the_input_bit_for_bit(
    option: str, changes: dict[str, Any], training: bool
) -> None:
    insert = build(option, changes if option == "none" else {**changes, "init": "identity"}).train(training)
    x = image() * torch.logspace(-6, 4, CHANNELS).view(-1, 1, 1)
    assert torch.equal(insert(x), x)
    assert torch.equal(insert(x.bfloat16().float()).bfloat16(), x.bfloat16())
    assert torch.equal(insert.bfloat16()(x.bfloat16()), x.bfloat16())


@variants
def test_identity_initialisation_can_learn_from_the_first_step(option: str, changes: dict[str, Any]) -> None:
    if option == "none":
        pytest.skip("no attention has nothing to learn")
    insert = build(option, {**changes, "init": "identity"})
    insert(image()).square().sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in insert.parameters())


@pytest.mark.parametrize("option", ["se", "eca", "cbam", "gc"])
def test_the_identity_form_at_alpha_one_is_the_paper_s_form(option: str) -> None:
    changes = {"fusion": "mul_add"} if option == "gc" else {}
    paper = open_gates(build(option, {**changes, "init": "paper"}))
    identity = build(option, {**changes, "init": "identity"})
    missing, unexpected = identity.load_state_dict(paper.state_dict(), strict=False)
    assert unexpected == []
    assert all(key.endswith("alpha") for key in missing)
    with torch.no_grad():
        for key, parameter in identity.named_parameters():
            if key.endswith("alpha"):
                parameter.fill_(1.0)
    torch.testing.assert_close(identity(image()), paper(image()))


@variants
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_autocast_keeps_the_input_s_type_and_comes_close_to_float32(
    option: str, changes: dict[str, Any], dtype: torch.dtype
) -> None:
    insert = open_gates(build(option, changes)).eval()
    x = image()
    with torch.no_grad(), torch.autocast("cpu", dtype):
        mixed, half = insert(x), insert(x.to(dtype))
    assert mixed.dtype == torch.float32
    assert half.dtype == dtype
    with torch.no_grad():
        expected = insert(x)
    torch.testing.assert_close(mixed, expected, rtol=0.05, atol=0.1)
    torch.testing.assert_close(half.float(), expected, rtol=0.05, atol=0.1)


@pytest.mark.parametrize("option", OPTIONS)
def test_it_compiles_as_one_graph_for_every_size(option: str) -> None:
    """As shipped; the strict export below traces every variant in the same way."""
    insert = open_gates(build(option, {})).eval()
    torch._dynamo.reset()
    compiled = torch.compile(insert, fullgraph=True, backend="eager", dynamic=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for x in (image(), image(size=(6, 9), batch=3)):
            torch.testing.assert_close(compiled(x), insert(x))


@pytest.mark.parametrize("option", ["cbam", "sagan"])
def test_the_compiled_training_step_gives_the_same_gradients(option: str) -> None:
    insert = open_gates(build(option, {"spectral_norm": True} if option == "sagan" else {"init": "identity"}))
    twin = copy.deepcopy(insert)
    torch._dynamo.reset()
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    x, y = image().requires_grad_(), image().requires_grad_()
    expected, actual = insert(x), compiled(y)
    torch.testing.assert_close(actual, expected)
    expected.square().sum().backward()
    actual.square().sum().backward()
    torch.testing.assert_close(y.grad, x.grad)
    for (name, mine), theirs in zip(insert.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(theirs.grad, mine.grad, msg=lambda m, n=name: f"{n}: {m}")


@variants
def test_it_exports_strictly_for_free_sizes(option: str, changes: dict[str, Any]) -> None:
    insert = open_gates(build(option, changes)).eval()
    free = torch.export.Dim.AUTO
    program = torch.export.export(insert, (image(),), dynamic_shapes=({0: free, 2: free, 3: free},), strict=True)
    x = image(size=(6, 9), batch=3)
    torch.testing.assert_close(program.module()(x), insert(x))


@variants
def test_channels_last_gives_the_same_numbers(option: str, changes: dict[str, Any]) -> None:
    insert = open_gates(build(option, changes)).eval()
    last = image().to(memory_format=torch.channels_last)
    torch.testing.assert_close(insert(last), insert(image()))


@variants
def test_weights_travel_through_a_safe_checkpoint(option: str, changes: dict[str, Any]) -> None:
    insert = open_gates(build(option, changes)).eval()
    file = io.BytesIO()
    torch.save(insert.state_dict(), file)
    file.seek(0)
    other = build(option, changes, seed=5).eval()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(image()), insert(image()))


def test_no_attention_adds_no_state_so_that_baselines_warm_start() -> None:
    assert build("none", {}).state_dict() == {}


# Output / input norm at initialisation, training mode. CBAM is two gates of about one half each.
NORMS = {"none": 1.0, "se": 0.5, "eca": 0.5, "cbam": 0.29, "gc": 1.0, "non_local": 1.0, "sagan": 1.0}


@pytest.mark.parametrize("option", OPTIONS)
def test_the_paper_s_initialisation_scales_features_as_documented(option: str) -> None:
    ratios = []
    for seed in range(4):
        x = torch.randn(2, 64, 16, 16, generator=torch.Generator().manual_seed(seed))
        out = build(option, {}, channels=64, seed=seed)(x).detach()
        ratios.append(float(out.norm() / x.norm()))
    assert sum(ratios) / len(ratios) == pytest.approx(NORMS[option], abs=0.03 if NORMS[option] < 1 else 0.0)


def test_a_multiplying_context_halves_the_features_at_the_start() -> None:
    x = image()
    assert torch.equal(build("gc", {"fusion": "mul"})(x), 0.5 * x)


@pytest.mark.parametrize(
    ("option", "changes", "message"),
    [
        ("se", {"squeeze": "median"}, "SE: squeeze must be average, max, half_sum or concat, got 'median'"),
        ("se", {"ratio": 0}, "SE: ratio must be at least 1, got 0"),
        ("se", {"init": "zero"}, "init must be paper or identity, got 'zero'"),
        ("eca", {"kernel_size": 4}, "ECA: kernel_size must be odd"),
        ("eca", {"gamma": 0.0}, "gamma must be positive"),
        ("cbam", {"pools": []}, "CBAM: pools is empty"),
        ("cbam", {"pools": ["median"]}, "CBAM: pools must be average, max, lp or lse, got "),
        ("cbam", {"kernel_size": 2}, "CBAM: kernel_size must be odd"),
        ("gc", {"fusion": "concat"}, "GC: fusion must be add, mul or mul_add, got 'concat'"),
        ("gc", {"pooling": "max"}, "GC: pooling must be "),
        ("gc", {"init": "zero"}, "init must be paper or identity"),
        ("non_local", {"mode": "softmax"}, "NonLocal: mode must be "),
        ("non_local", {"mode": "dot_product", "scale": True}, "scale=true needs a softmax"),
        ("non_local", {"init": "zero"}, "init must be paper or identity"),
        ("sagan", {"variant": "snippet"}, "SAGAN: variant must be official or paper, got 'snippet'"),
        ("sagan", {"init": "zero"}, "init must be paper or identity"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_by_name(option: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(option, changes)


@pytest.mark.parametrize("option", ["se", "cbam", "gc", "non_local", "sagan"])
def test_a_map_without_channels_is_refused(option: str) -> None:
    with pytest.raises(ValueError, match="channels must be at least 1, got 0"):
        build(option, {}, channels=0)
