from __future__ import annotations

import copy
import math

import pytest
import torch
from quadrants import make_detector  # type: ignore[import-not-found]  # pytest puts this folder on the path
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from detfuse.attention.inserts import Insert
from detfuse.detector import Detector
from detfuse.structures import IMAGENET, Pretrained
from detfuse.training.optim import adamw, cosine, describe_rates, parameter_groups, parameter_kinds, sgd, steps


def with_pretrained(detector: Detector, *names: str) -> Detector:
    detector.backbone.pretrained = Pretrained("a file", IMAGENET, frozenset(names))  # type: ignore[attr-defined]
    return detector


def test_norms_and_biases_do_not_decay_and_a_backbone_that_does_not_say_counts_as_pretrained() -> None:
    detector = make_detector()
    optimizer = sgd(detector, 16, lr=0.1, weight_decay=0.01, backbone_multiplier=0.25)
    names = {id(p): name for name, p in detector.named_parameters()}
    found = {
        names[id(p)]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]
    }
    assert found == {
        "backbone.conv.weight": (0.025, 0.01),
        "backbone.norm.weight": (0.025, 0.0),
        "backbone.norm.bias": (0.025, 0.0),
        "neck.fuse.weight": (0.1, 0.01),
        "neck.fuse.bias": (0.1, 0.0),
        "head.predict_logits.weight": (0.1, 0.01),
        "head.predict_logits.bias": (0.1, 0.0),
    }
    assert describe_rates(optimizer) == "0.1, pretrained 0.025"


def test_inserts_learn_at_one_rate_wherever_they_stand_and_of_the_backbone_only_what_was_read_is_slower() -> None:
    detector = with_pretrained(make_detector(), "conv.weight", "norm.bias")
    for part, site in ((detector.backbone, "stage"), (detector.neck, "lateral"), (detector.head, "head")):
        assert isinstance(part, nn.Module)
        part.add_module("attention", Insert(nn.Conv2d(8, 8, 1), site, "c4", 4))  # type: ignore[arg-type]  # a site
    optimizer = adamw(detector, 8, lr=0.1, weight_decay=0.01, backbone_multiplier=0.25)
    names = {id(p): name for name, p in detector.named_parameters()}
    groups = {group["name"]: group for group in optimizer.param_groups}
    found = {name: [names[id(p)] for p in group["params"]] for name, group in groups.items()}
    inserts = [f"{part}.attention.attention" for part in ("backbone", "neck", "head")]
    assert found == {
        "pretrained": ["backbone.conv.weight"],
        "pretrained, no decay": ["backbone.norm.bias"],
        "new": ["neck.fuse.weight", "head.predict_logits.weight"],
        "new, no decay": ["backbone.norm.weight", "neck.fuse.bias", "head.predict_logits.bias"],
        "insert": [f"{name}.weight" for name in inserts],
        "insert, no decay": [f"{name}.bias" for name in inserts],
    }
    slow = pytest.approx(0.025)
    assert {name: group["lr"] for name, group in groups.items()} == {
        name: slow if name.startswith("pretrained") else 0.1 for name in groups
    }
    assert {name: group["weight_decay"] for name, group in groups.items()} == {
        name: 0.0 if name.endswith("no decay") else 0.01 for name in groups
    }


def test_what_was_read_is_known_in_copies_and_under_wrappers() -> None:
    detector = with_pretrained(make_detector(), "conv.weight").to(memory_format=torch.channels_last)
    wrapped = copy.deepcopy(detector)
    wrapped.backbone = torch.compile(wrapped.backbone, backend="eager")  # type: ignore[call-overload]  # a module
    for module in (detector, AveragedModel(detector), nn.Sequential(copy.deepcopy(detector)), wrapped):
        kinds = {name.rpartition("backbone.")[2]: kind for name, kind in parameter_kinds(module).items()}
        assert {name.removeprefix("_orig_mod."): kind for name, kind in kinds.items() if kind == "pretrained"} == {
            "conv.weight": "pretrained"
        }


def test_a_multiplier_without_pretrained_weights_is_said_to_have_no_effect() -> None:
    detector = make_detector()
    detector.backbone.pretrained = None  # type: ignore[attr-defined]  # as a backbone from scratch says
    told = describe_rates(sgd(detector, 16, lr=0.1, backbone_multiplier=0.25))
    assert told == "0.1 (backbone_multiplier=0.25 has no effect: nothing that learns is pretrained)"
    assert describe_rates(sgd(detector, 16, lr=0.1)) == "0.1"


def test_frozen_parameters_are_left_out_and_an_all_frozen_detector_is_refused() -> None:
    detector = make_detector()
    detector.backbone.requires_grad_(False)
    groups = parameter_groups(detector, lr=1.0, weight_decay=0.1, backbone_multiplier=1.0)
    assert [group["name"] for group in groups] == ["new", "new, no decay"]
    with pytest.raises(ValueError, match="every parameter of the detector is frozen"):
        adamw(detector.requires_grad_(False), 8)


@pytest.mark.parametrize(("reference", "expected"), [(None, 0.02), (16, 0.005), (2, 0.04)])
def test_the_rate_scales_with_the_batch(reference: int | None, expected: float) -> None:
    optimizer = adamw(make_detector(), 4, lr=0.02, reference_batch=reference)
    assert optimizer.defaults["lr"] == pytest.approx(expected)
    assert describe_rates(optimizer) == f"{expected:g}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "lr must be positive, got"),
        ({"lr": math.nan}, "lr must be positive, got"),
        ({"backbone_multiplier": -1.0}, "backbone_multiplier must be at least 0"),
        ({"reference_batch": 0}, "reference_batch must be at least 1"),
    ],
)
def test_impossible_rates_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sgd(make_detector(), 8, **options)  # type: ignore[arg-type]  # wrong on purpose


def rates(schedule: LRScheduler, count: int) -> list[float]:
    taken = []
    for _ in range(count):
        taken.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    return taken


def one_weight() -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)


def test_cosine_warms_up_linearly_and_ends_at_the_final_factor() -> None:
    taken = rates(cosine(one_weight(), 10, warmup_steps=2, warmup_factor=0.1, final_factor=0.2), 12)
    assert taken[:3] == pytest.approx([0.2, 1.1, 2.0])
    assert taken[6] == pytest.approx(2 * (0.2 + 0.8 * 0.5))
    assert taken[9] == pytest.approx(2 * (0.2 + 0.8 * (1 + math.cos(math.pi * 7 / 8)) / 2))
    assert taken[10:] == pytest.approx([0.4, 0.4])


def test_steps_multiplies_at_each_milestone() -> None:
    taken = rates(steps(one_weight(), 10, milestones=[0.5, 0.8], gamma=0.1, warmup_steps=4, warmup_factor=0.0), 10)
    assert taken == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0, 0.2, 0.2, 0.2, 0.02, 0.02])


def test_a_warmup_longer_than_the_run_stays_defined() -> None:
    assert rates(cosine(one_weight(), 2, warmup_steps=4, warmup_factor=0.0), 2) == pytest.approx([0.0, 0.5])
    assert rates(cosine(one_weight(), 1, warmup_steps=0), 1) == [2.0]


def test_milestones_must_be_fractions_in_order() -> None:
    for milestones in ([0.8, 0.5], [8, 11], [0.0]):
        with pytest.raises(ValueError, match="milestones must"):
            steps(one_weight(), 10, milestones=milestones)
