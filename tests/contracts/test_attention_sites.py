"""Every attention under every head at all sites, each pair of them by some check and each alone by all."""

from __future__ import annotations

import math
from functools import cache
from itertools import chain, cycle
from pathlib import Path

import pytest
import timm
import torch
from composing import compose_train, options, pairwise, sites_of, small_batch, small_head
from torch import Tensor

from detfuse.attention.inserts import BACKBONE_SITES, inserts_of
from detfuse.build import ConfigError, build_detector
from detfuse.detector import Detector
from detfuse.structures import Batch
from detfuse.training.optim import sgd

KINDS = [kind for kind in options("attention") if kind != "none"]
HEADS = options("head")
CHECKS = ("learn", "warm start", "mixed precision")
DESIGN = pairwise({"kind": KINDS, "head": HEADS, "check": CHECKS})
SMALL = ("backbone=resnet18", "neck.out_channels=16", "neck.topology.extra_levels=0")
FEW = "backbone.levels=[3,4]"  # the last stage has three quarters of the weights, and no place that the others lack


def design(check: str) -> list[tuple[str, str]]:
    """The kinds and heads that a check goes over."""
    return [(kind, head) for kind, head, of in DESIGN if of == check]


def detector(head: str, *overrides: str) -> Detector:
    small = (*SMALL, f"head={head}", *small_head(head))
    return build_detector(compose_train(*small, *overrides), num_classes=3)


def everywhere(kind: str, head: str, *settings: str, backbone: str = "backbone.pretrained=false") -> Detector:
    """One kind at all sites at once, so that none hides behind another."""
    sites = sites_of(head)
    chosen = [f"attention@attention.{site}={kind}" for site in sites]
    settings = tuple(f"attention.{site}.{setting}" for site in sites for setting in settings)
    return detector(head, FEW, backbone, *chosen, *settings)


@cache
def baseline(head: str) -> Detector:
    return detector(head, FEW)


@pytest.fixture
def batch() -> Batch:
    return small_batch()


def open_gates(model: Detector) -> None:
    """Whatever starts at zero hides what lies behind it."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


@pytest.mark.parametrize(("kind", "head"), design("learn"))
def test_every_insert_learns_and_keeps_the_shapes(kind: str, head: str, batch: Batch) -> None:
    model = everywhere(kind, head)
    expected = baseline(head)(batch.images, batch.image_sizes)
    for mine, theirs in zip(model(batch.images, batch.image_sizes), expected, strict=True):
        assert [x.shape for x in mine] == [x.shape for x in theirs]
    open_gates(model)
    torch.stack(list(model.loss(batch).values())).sum().backward()
    inserts = inserts_of(model)
    assert {insert.site for insert in inserts.values()} == set(sites_of(head))
    learning, able = set(), set()
    for name, insert in inserts.items():
        for parameter in insert.parameters():
            able.add(insert.site)
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            if parameter.grad.any():
                learning.add(insert.site)
    # all that has parameters; one per site is enough, since a gate of two hidden channels may be dead
    assert learning == able


@pytest.mark.parametrize(("kind", "head"), design("warm start"))
def test_a_baselines_checkpoint_warm_starts_the_variant(kind: str, head: str, batch: Batch) -> None:
    """Identity initialisation then gives exactly the baseline's outputs, in training and in evaluation."""
    model = everywhere(kind, head, "init=identity")
    reference = baseline(head)
    loaded = model.load_state_dict(reference.state_dict(), strict=False)
    assert not loaded.unexpected_keys
    added = tuple(inserts_of(model))
    assert loaded.missing_keys
    assert all(key.startswith(added) for key in loaded.missing_keys)
    for training in (False, True):
        state = {name: value.clone() for name, value in reference.state_dict().items()}
        expected = reference.train(training)(batch.images, batch.image_sizes)
        found = model.train(training)(batch.images, batch.image_sizes)
        for mine, theirs in zip(found, expected, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
        reference.load_state_dict(state)


@pytest.mark.parametrize(("kind", "head"), design("mixed precision"))
def test_every_insert_trains_in_mixed_precision(kind: str, head: str, batch: Batch) -> None:
    model = everywhere(kind, head)
    open_gates(model)
    with torch.autocast("cpu", torch.bfloat16):
        terms = model.loss(batch)
    assert all(term.dtype == torch.float32 and term.isfinite() for term in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("turn", [0, len(KINDS) // 2])
def test_inserts_compile_whole(turn: int, batch: Batch) -> None:
    """In the backbone, the neck and a head's tower, of which all heads have the same; each kind at two sites."""
    kinds = cycle([*KINDS[turn:], *KINDS[:turn]])
    chosen = [f"attention@attention.{site}={kind}" for site, kind in zip(sites_of("fcos"), kinds, strict=False)]
    model = detector("fcos", FEW, *chosen).eval()
    assert len({type(insert.attention) for insert in inserts_of(model).values()}) == len(KINDS)

    def outputs(images: Tensor) -> list[Tensor]:
        return list(chain.from_iterable(model.head(model.neck(model.backbone(images)))))

    images = batch.images.float() / 255
    with torch.no_grad():
        torch._dynamo.reset()
        compiled = torch.compile(outputs, fullgraph=True, backend="eager")
        for a, b in zip(compiled(images), outputs(images), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_every_site_learns_at_one_rate_on_pretrained_weights(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "w.pth")
    model = everywhere("cbam", "fcos", backbone=f"backbone.pretrained={tmp_path / 'w.pth'}")
    rates = {
        id(parameter): (group["lr"], group["name"].partition(",")[0])
        for group in sgd(model, 16, lr=1.0, backbone_multiplier=0.125).param_groups
        for parameter in group["params"]
    }
    inserts = inserts_of(model)
    assert {insert.site for insert in inserts.values()} == set(sites_of("fcos"))
    inserted = {name: rates[id(p)] for name, p in model.named_parameters() if name.startswith(tuple(inserts))}
    assert set(inserted.values()) == {(1.0, "insert")}
    rest = {name: rates[id(p)] for name, p in model.named_parameters() if name not in inserted}
    for name, found in rest.items():
        assert found == ((0.125, "pretrained") if name.startswith("backbone.") else (1.0, "new")), name


PLACES = {
    "stage": ["c3", "c4", "c5"],
    "branch": [f"c{level} block {block}" for level in (3, 4, 5) for block in (1, 2)],
    "before_last_block": ["c3", "c4", "c5"],
    "lateral": ["c3->t3", "c4->t4", "c5->t5"],
    "fused": ["t3", "t4"],
    "output": ["p3", "p4", "p5"],
    "head": ["box_tower.0", "cls_tower.0"],
}


@pytest.mark.parametrize("site", PLACES)
def test_a_site_is_where_it_says(site: str) -> None:
    chosen = f"attention@attention.{site}=se"
    model = detector("fcos", chosen)
    assert sorted(insert.at for insert in inserts_of(model).values()) == PLACES[site]
    levels = {insert.level for insert in inserts_of(model).values()} - {None}
    if levels:
        level = max(levels)
        one = detector("fcos", chosen, f"attention.levels.{site}=[{level}]")
        assert {insert.level for insert in inserts_of(one).values()} == {level}


@pytest.mark.parametrize("site", BACKBONE_SITES)
def test_what_stands_in_the_backbone_reaches_its_map_and_the_next_stages(site: str, batch: Batch) -> None:
    """A constant insert on C4 changes C4 and C5, in training and in evaluation, and leaves C3 alone."""
    chosen = (f"attention@attention.{site}=se", f"attention.levels.{site}=[4]")
    model = detector("fcos", *chosen).backbone
    images = batch.images.float() / 255
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.fill_(1.0)  # a residual branch that starts at zero would hide what stands on it
        for training in (True, False):
            model.train(training)  # type: ignore[attr-defined]  # a module, as every backbone
            before = model(images)
            inserts = inserts_of(model)  # type: ignore[arg-type]  # likewise
            kept = {name: insert.attention for name, insert in inserts.items()}
            for insert in inserts.values():
                insert.attention = torch.nn.Threshold(math.inf, 0.0)  # always zero
            after = model(images)
            for name, insert in inserts.items():
                insert.attention = kept[name]
            changed = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
            assert changed == [False, True, True], f"training={training}"


@pytest.mark.parametrize("kind", ["se", "non_local"])
def test_variants_of_one_seed_differ_in_nothing_but_the_inserts(kind: str) -> None:
    model, reference = everywhere(kind, "fcos"), baseline("fcos")
    mine = model.state_dict()
    fresh = detector("fcos", FEW).state_dict()
    assert all(torch.equal(mine[name], value) for name, value in fresh.items())
    assert set(mine) > set(reference.state_dict())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("head=ssd", "attention@attention.head=se"), "head=SSDHead has no such site"),
        (("neck=early", "attention@attention.output=se", "attention.levels.output=[9]"), r"levels.output=\[9\]"),
        (("backbone=mobilenetv3_large", "attention@attention.branch=se"), "no residual branch"),
        (("backbone=timm", "backbone.name=vgg11", "attention@attention.before_last_block=se"), "no blocks"),
        (("backbone=resnet50_torchvision", "attention@attention.branch=se"), "only timm's .*backbone.name=resnet50"),
        (
            ("backbone=torchvision", "backbone.name=mobilenet_v2", "attention@attention.stage=se"),
            "torchvision's mobilenet_v2 has no such site, since only timm's .*backbone.name=mobilenetv2_100",
        ),
        (("backbone=resnet10t", "attention@attention.before_last_block=se"), "one block only"),
        (("backbone=densenet121", "attention@attention.before_last_block=se"), "cannot take attention there"),
        (("neck=unfused", "attention@attention.fused=se"), "no such place"),
        (("attention@attention.head=se", "head.num_convs=0"), "num_convs=0"),
    ],
)
def test_a_site_that_is_not_there_is_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises((ValueError, ConfigError), match=message):
        build_detector(compose_train("neck.out_channels=16", *overrides), num_classes=3)
