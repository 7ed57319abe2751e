from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, repeat
from typing import Any

import numpy as np
import pytest
import torch
from contracts.composing import compose_train
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils._python_dispatch import TorchDispatchMode

from detfuse.build import build_backbone, build_detector, instantiate
from detfuse.errors import UserError
from detfuse.initialisation import initialised

SMALL = ("neck.out_channels=16", "head.num_convs=1")


def tensors(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_parameters()) | dict(module.named_buffers())


def toy(**parts: Callable[[], nn.Module]) -> Callable[[], nn.ModuleDict]:
    return lambda: nn.ModuleDict({name: make() for name, make in parts.items()})


def test_a_module_starts_alike_whatever_stands_before_it() -> None:
    alone = initialised(toy(conv=lambda: nn.Conv2d(3, 8, 3)), 0, "neck")
    after = initialised(toy(first=lambda: nn.Linear(9, 9), conv=lambda: nn.Conv2d(3, 8, 3)), 0, "neck")
    assert torch.equal(alone["conv"].weight, after["conv"].weight)
    assert torch.equal(alone["conv"].bias, after["conv"].bias)


def test_parts_names_and_seeds_have_starts_of_their_own() -> None:
    def two() -> nn.ModuleDict:
        return nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})

    neck, head, other = initialised(two, 0, "neck"), initialised(two, 0, "head"), initialised(two, 1, "neck")
    starts = [neck["a"].weight, neck["b"].weight, head["a"].weight, other["a"].weight]
    assert not any(torch.equal(x, y) for i, x in enumerate(starts) for y in starts[:i])


def test_only_the_last_initialiser_counts() -> None:
    def conv(times: int) -> nn.Module:
        made = nn.Conv2d(3, 8, 3)
        for _ in range(times):
            nn.init.xavier_uniform_(made.weight)
        return made

    once, twice = (initialised(toy(conv=lambda n=n: conv(n)), 0, "neck") for n in (1, 2))
    assert torch.equal(once["conv"].weight, twice["conv"].weight)


class Drawn(TorchDispatchMode):
    """Counts the numbers that are drawn."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.count += result.numel()
        return result


def test_to_build_twice_draws_hardly_more_than_to_build_once() -> None:
    """Neither all of what is only watched, nor what is written over: the start is the same as ever."""

    def made() -> nn.Linear:
        layer = nn.Linear(1024, 1024, bias=False)
        nn.init.normal_(layer.weight)
        return layer

    with Drawn() as drawn:  # type: ignore[no-untyped-call]  # torch has no types there
        weight = initialised(made, 0, "neck").weight
    assert drawn.count == weight.numel() + 2 * 2**16
    assert weight.unique().numel() > 0.9 * weight.numel()  # nothing is repeated
    start = [-0.41964, -0.50370, 0.31998, 2.02324, 1.14366, 0.64248, -2.07716, -0.14426, 1.83970, 0.22902, -0.92900]
    assert weight.flatten()[::100_000].tolist() == pytest.approx(start, abs=1e-4)


class Inverted(nn.Module):
    """A large matrix that is inverted as soon as it is drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(512, 512))
        nn.init.normal_(self.weight)
        self.inverse = nn.Parameter(torch.linalg.inv(self.weight.detach()))


def test_a_large_matrix_can_be_inverted_in_a_constructor() -> None:
    made = initialised(Inverted, 0, "neck")
    assert (made.weight @ made.inverse - torch.eye(512)).abs().max() < 1e-2


class Copied(nn.Module):
    """A parameter whose first draw is read before the second overwrites it."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Parameter(torch.empty(300, 300))
        nn.init.normal_(self.last, std=3.0)
        self.first = nn.Parameter(self.last.detach()[:2].clone())
        nn.init.normal_(self.last)


def test_what_was_read_before_it_was_written_over_was_drawn() -> None:
    alone, after = (initialised(toy(**parts, x=Copied), 0, "neck") for parts in ({}, {"first": Fused}))
    assert alone["x"].first.std().item() == pytest.approx(3, rel=0.1)
    assert torch.equal(alone["x"].first, after["x"].first)
    assert torch.equal(alone["x"].last, after["x"].last)


class Fused(nn.Module):
    """One parameter in two draws, and one that is computed from a draw."""

    def __init__(self) -> None:
        super().__init__()
        self.halves = nn.Parameter(torch.empty(8, 4))
        for half in self.halves.detach().chunk(2):
            nn.init.normal_(half)
        self.scaled = nn.Parameter(torch.randn(4, 4) * 0.02)


def test_draws_that_end_in_one_parameter_differ() -> None:
    made = initialised(Fused, 0, "head")
    assert not torch.equal(made.halves[:4], made.halves[4:])


def test_what_is_computed_from_a_draw_is_known_by_its_name() -> None:
    alone = initialised(toy(x=Fused), 0, "head")
    after = initialised(toy(first=Fused, x=Fused), 0, "head")
    assert torch.equal(alone["x"].scaled, after["x"].scaled)
    assert torch.equal(alone["x"].halves, after["x"].halves)


def test_spectral_norm_keeps_its_vectors() -> None:
    def normed() -> nn.Module:
        return spectral_norm(nn.Conv2d(4, 6, 3))

    alone = initialised(toy(conv=normed), 0, "neck")
    after = initialised(toy(first=normed, conv=normed), 0, "neck")
    kept = tensors(alone)
    assert {"conv.parametrizations.weight.0._u", "conv.parametrizations.weight.0._v"} <= kept.keys()
    assert all(torch.equal(value, tensors(after)[name]) for name, value in kept.items())
    assert torch.linalg.matrix_norm(alone["conv"].weight.flatten(1), 2).item() == pytest.approx(1, abs=0.1)


def test_constants_and_weights_that_are_read_stay() -> None:
    read = torch.arange(16.0).reshape(4, 4)

    def pretrained() -> nn.Module:
        made = nn.Linear(4, 4)
        made.load_state_dict({"weight": read, "bias": torch.zeros(4)})
        return made

    made = initialised(pretrained, 0, "backbone")
    assert torch.equal(made.weight, read)
    assert not made.bias.any()


def test_torchs_generator_is_left_in_a_state_of_seed_and_part() -> None:
    drawn = []
    for make in (toy(a=lambda: nn.Linear(2, 2)), toy(a=lambda: nn.Linear(2, 2), b=lambda: nn.Linear(3, 3))):
        torch.rand(3)
        initialised(make, 0, "neck")
        drawn.append(torch.rand(1).item())
    assert drawn[0] == drawn[1]


class Unsteady(nn.Module):
    """A neck of one's own whose constructor depends on something that changes from call to call."""

    changes: Iterator[int]

    def __init__(self, how: str) -> None:
        super().__init__()
        now = next(self.changes)
        self.first = nn.Conv2d(3, 4, 1)
        if how == "layers":
            self.layers = nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(now))
        elif how == "cache" and now == 1:
            self.register_buffer("noise", torch.rand(3))
        elif how == "cache":
            self.register_buffer("noise", torch.zeros(3))
        elif how == "width":
            self.second = nn.Conv2d(4, now, 1)
        elif how == "name":
            setattr(self, f"conv{now}", nn.Conv2d(4, 4, 1))
        elif how == "clock":
            self.scale = nn.Parameter(torch.tensor(float(now)))
        elif how == "numpy":
            self.first.weight.data.copy_(torch.from_numpy(np.full((4, 3, 1, 1), now)))
        elif how == "lazy":
            self.second = nn.Sequential(nn.LazyConv2d(4, 1))


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("layers", "draws different random numbers (4 and 6 draws, at or after layers.0.bias)"),
        ("cache", "draws different random numbers (3 and 2 draws, at or after noise)"),
        ("width", "has second.weight of shape (1, 4, 1, 1) and (2, 4, 1, 1)"),
        ("name", "has conv1.weight of shape (4, 4, 1, 1) and none"),
        ("clock", "has different numbers in scale, which torch did not draw"),
        ("numpy", "has different numbers in first.weight, which torch did not draw"),
        ("lazy", "second.0.weight, second.0.bias of Unsteady would be drawn in forward"),
    ],
)
def test_a_constructor_that_is_not_repeatable_is_refused_by_name(how: str, told: str) -> None:
    Unsteady.changes = count(1)
    with pytest.raises(UserError) as caught:
        initialised(partial(Unsteady, how), 0, "neck")
    assert str(caught.value).startswith("neck: ")
    assert told in str(caught.value)
    assert "Unsteady" in str(caught.value)
    Unsteady.changes = repeat(2)
    if how != "lazy":
        initialised(partial(Unsteady, how), 0, "neck")


def test_what_is_drawn_for_nothing_or_over_constants_is_no_reason_to_refuse() -> None:
    def tried() -> nn.Module:
        made = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout())
        made(torch.randn(1, 3, 8, 8))
        nn.init.zeros_(made[0].weight)
        nn.init.normal_(made[0].weight)
        return made

    initialised(tried, 0, "neck")


def shared(a: nn.Module, b: nn.Module) -> set[str]:
    """Names of equal shape in both, of tensors that are no constants."""
    first, second = tensors(a), tensors(b)
    common = {name for name in first.keys() & second.keys() if first[name].shape == second[name].shape}
    return {name for name in common if first[name].numel() > 1 and first[name].unique().numel() > 1}


@pytest.fixture(scope="module")
def backbone() -> Any:
    return build_backbone(compose_train(*SMALL))


@pytest.mark.parametrize("neck", ["pafpn", "bifpn", "unfused", "early_pyramid", "unet"])
def test_detectors_start_equal_where_they_share_names(neck: str, backbone: Any) -> None:
    fpn, other = (build_detector(compose_train(*SMALL, f"neck={name}"), 3, backbone) for name in ("fpn", neck))
    common = shared(fpn.neck, other.neck)
    assert all(torch.equal(tensors(fpn.neck)[name], tensors(other.neck)[name]) for name in common)
    assert {"pafpn": 6, "unfused": 5}.get(neck, 0) <= len(common)
    assert all(torch.equal(x, y) for x, y in zip(fpn.head.parameters(), other.head.parameters(), strict=True))


@pytest.mark.parametrize("name", ["resnet10t", "swin_tiny", "mobilenetv3_large", "densenet121"])
def test_backbones_start_alike_and_as_their_authors_have_it(name: str) -> None:
    config = compose_train(f"backbone={name}")
    first = build_backbone(config)
    torch.rand(5)
    second, other = build_backbone(config), build_backbone({**config, "seed": 1})
    plain = instantiate(config["backbone"])()
    assert isinstance(first, nn.Module)
    assert isinstance(second, nn.Module)
    assert isinstance(other, nn.Module)
    again, another, theirs = (model.state_dict() for model in (second, other, plain))
    for key, value in first.state_dict().items():
        assert torch.equal(value, again[key]), key
        if value.ndim > 1 and value.flatten()[:4000].unique().numel() > 1000:
            assert not torch.equal(value, another[key]), key
            assert value.std().item() == pytest.approx(theirs[key].std().item(), rel=0.25), key
