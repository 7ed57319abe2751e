"""Detectors composed from conf/ as the commands compose them, but small."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cache
from inspect import signature
from itertools import combinations
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import OmegaConf

from detfuse.config import conf_dir
from detfuse.config.schema.groups import group_options
from detfuse.structures import Batch, Targets

SMALLEST = ("backbone=timm", "backbone.name=test_resnet")  # 0.4 million weights
SMALL = {
    "num_convs": 1,
    "box_channels": 16,
    "train_proposals": 30,
    "proposals": 20,
    "rpn_samples": 8000,
    "samples": 160,
    "dropout": 0.0,
}
"""What makes a head small, of those settings that it has; see :func:`small_head`."""


def options(group: str) -> list[str]:
    """The shipped choices of a group."""
    return group_options([conf_dir()])[group]


def compose_train(*overrides: str) -> dict[str, Any]:
    """Overrides -> the resolved configuration of the train command, as plain containers."""
    return deepcopy(_composed(overrides))


@cache
def _composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = OmegaConf.to_container(compose("train", list(overrides)), resolve=True)
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


def pairwise(axes: Mapping[str, Sequence[str]], *apart: tuple[str, str]) -> list[tuple[str, ...]]:
    """Few cases in which every pair of levels of two axes is there at least once: what breaks, breaks by one or two.

    Greedy: each case begins with the first pair that is missing, and takes on each other axis the level that brings
    most of the missing ones; of equals the one that was taken least.

    Args:
        axes: name -> levels.
        apart: pairs of axes whose pairs of levels need not be there, since another test has them all.

    Returns:
        One level per axis, in their order; always the same.
    """
    crossed = [(a, b) for a, b in combinations(axes, 2) if (a, b) not in apart]
    missing = {frozenset({(a, x), (b, y)}): ((a, x), (b, y)) for a, b in crossed for x in axes[a] for y in axes[b]}
    taken: Counter[tuple[str, str]] = Counter()
    cases = []
    while missing:
        case = dict(next(iter(missing.values())))
        for axis in [axis for axis in axes if axis not in case]:
            brought = {x: sum(frozenset({(axis, x), other}) in missing for other in case.items()) for x in axes[axis]}
            case[axis] = max(axes[axis], key=lambda x, axis=axis, brought=brought: (brought[x], -taken[axis, x]))
        taken.update(case.items())
        for pair in combinations(case.items(), 2):
            missing.pop(frozenset(pair), None)
        cases.append(tuple(case[axis] for axis in axes))
    return cases


def sites_of(head: str) -> list[str]:
    """The sites of conf/ that a detector with this head has."""
    sites = [place for place in compose_train()["attention"] if place != "levels"]
    return [site for site in sites if site != "head" or "attention" in signature(head_class(head)).parameters]


def head_class(head: str) -> type[Any]:
    """The class of a shipped head."""
    return get_class(OmegaConf.load(conf_dir() / "head" / f"{head}.yaml")["_target_"])


def settings_of(head: str, **wanted: object) -> tuple[str, ...]:
    """Overrides for those of the settings that a head has: one without towers has no ``num_convs`` to make small."""
    has = compose_train(f"head={head}")["head"]
    return tuple(f"head.{name}={value}" for name, value in wanted.items() if name in has)


def small_head(head: str, **more: object) -> tuple[str, ...]:
    """Overrides that make a head small, and one that learns from a sample take everything, so that it draws no lots."""
    return settings_of(head, **(SMALL | more))


def small_batch() -> Batch:
    """Two padded images of 96 x 128: two objects and a crowd in one, none in the other."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 96, 128), generator=generator, dtype=torch.uint8)
    boxes = torch.zeros(2, 8, 4)
    boxes[0, 0] = torch.tensor([8.0, 10.0, 50.0, 60.0])
    boxes[0, 1] = torch.tensor([40.0, 5.0, 120.0, 88.0])
    boxes[0, 2] = torch.tensor([0.0, 0.0, 30.0, 30.0])
    labels = torch.zeros(2, 8, dtype=torch.int64)
    labels[0, 1] = 2
    valid, ignore = torch.zeros(2, 8, dtype=torch.bool), torch.zeros(2, 8, dtype=torch.bool)
    valid[0, :2] = True
    ignore[0, 2] = True
    sizes = torch.tensor([[90, 128], [96, 101]])
    return Batch(images, sizes, sizes, torch.ones(2, 2), torch.tensor([4, 7]), Targets(boxes, labels, valid, ignore))
