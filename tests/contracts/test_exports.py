"""Necks and heads as exported programs of any size, and in ONNX whatever operator of torch a part computes with."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from importlib.metadata import version
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from composing import compose_train, options, small_batch
from test_detectors import COMPILABLE, NECKS, detector_of
from torch.utils._python_dispatch import TorchDispatchMode

from detfuse.attention.inserts import BACKBONE_SITES, inserts_of
from detfuse.detector import Detector
from detfuse.export import (
    Deployed,
    Description,
    Exported,
    NamedImage,
    Resizing,
    agreement_of,
    format_of,
    program_of,
    read_exported,
    written,
)
from detfuse.fusion.resample import DOWN, UP
from detfuse.ops.postprocess import Nms, SoftNms
from detfuse.protocols import Combine
from detfuse.structures import Categories, Size

SIZE = (96, 128)
CATEGORIES = Categories((1, 2, 3), ("a", "b", "c"))


def detector(neck: str, head: str, *more: str) -> Detector:
    """Of few levels, and no stage twice: to trace free sizes takes a second for each."""
    topology = compose_train(f"neck={neck}")["neck"].get("topology") or {}
    least = {"extra_levels": 0, "repeats": 1}
    few = [f"neck.topology.{name}={number}" for name, number in least.items() if name in topology]
    levels = [] if neck in NECKS else ["backbone.levels=[3,4]"]
    return sure_of_nothing(detector_of(neck, head, *levels, *few, *more))


def sure_of_nothing(built: Detector) -> Detector:
    """An untrained detector that detects all the same."""
    built.head.score_threshold = 0.0
    return built.eval()


def pictures(exact: Size | None) -> list[NamedImage]:
    """A landscape, a portrait, and one of a single cell of the coarsest map; or two of the one size."""
    first, second = small_batch().images
    if exact is not None:
        return [NamedImage("one", first), NamedImage("another", second)]
    parts = (first[:, :90], first[:, :, :60], second[:, :20, :30])
    return [NamedImage(f"picture {i}", part) for i, part in enumerate(parts)]


def description(exact: Size | None = None) -> Description:
    return Description(version("detfuse"), "small", CATEGORIES, Resizing(exact, 96, 128), 1 if exact else 32, {})


HEADS = [head for head in COMPILABLE if head != "fcos"]  # which the command exports (end_to_end/test_export.py)
CASES = list(zip(options("neck"), cycle(HEADS), strict=False))


@pytest.mark.parametrize(("neck", "head"), CASES)
def test_what_is_exported_is_the_detector(neck: str, head: str) -> None:
    """As a program of any size; every second one is soft."""
    combine = (SoftNms if CASES.index((neck, head)) % 2 else Nms)(max_detections=20)
    check_program(detector(neck, head), combine)


def check_program(built: Detector, combine: Combine) -> None:
    program = program_of(Deployed(built, combine), description()).module()
    agreement = agreement_of(Exported(Path("memory"), description(), program), built, combine, pictures(None))
    assert agreement.candidates > agreement.detections > 40
    assert agreement.box_difference < 1e-3  # kernels round by the layout of their maps
    assert agreement.score_difference < 1e-6


def check_file(path: Path, built: Detector, combine: Combine, told: Description) -> None:
    kind = format_of(path)
    assert kind is not None
    with written(path, kind, program_of(Deployed(built, combine), told), told) as draft:
        assert not path.exists()
        agreement = agreement_of(read_exported(draft), built, combine, pictures(told.resize.size))
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert agreement.detections > 0
    assert agreement.score_difference < 1e-5
    assert read_exported(path).description == told


# each kind at one of the sites; what stands before a stage's last block needs a backbone of several
SITES = ("stage", "branch", "lateral", "fused", "output", "head")
KINDS = [kind for kind in options("attention") if kind != "none"]
PLACED = [dict(zip(SITES, KINDS[first:], strict=False)) for first in range(0, len(KINDS), len(SITES))]
NODES = (
    "{name:t3,level:3,inputs:[c3,c4],up:dysample,operator:fast_normalized}",
    "{name:s3,level:3,inputs:[t3,c4],up:sapa,operator:softmax}",
    "{name:p3,level:3,inputs:[s3],block:conv3}",
)


def attentive(placed: dict[str, str]) -> Detector:
    """Attention at some sites, learnt resamplers that may look at other maps, factors on nodes."""
    sites = [f"attention@attention.{site}={kind}" for site, kind in placed.items()]
    few = [f"attention.levels.{site}=[4]" for site in placed if site in BACKBONE_SITES]
    graph = (
        "neck.topology=null",
        f"neck.nodes=[{','.join(NODES)}]",
        "neck.outputs=[p3]",
        "neck.scales={t3:0.5,s3:3.0}",
    )
    built = detector_of("fpn", "fcos", "backbone.levels=[3,4]", *graph, *sites, *few)
    assert {insert.site for insert in inserts_of(built).values()} == set(placed)
    assert built.neck.scales == {"t3": 0.5, "s3": 3.0}
    return sure_of_nothing(built)


FILES: dict[str, Callable[[], Detector]] = {
    "faster_rcnn": partial(detector, "hypernet", "faster_rcnn", "operator=max"),
    "mscnn": partial(detector, "early", "mscnn", "operator=complex"),
    "efficientdet": partial(detector, "bifpn", "efficientdet", "operator=gated"),
    **{f"fcos, {', '.join(placed.values())}": partial(attentive, placed) for placed in PLACED},
}
"""What is translated to ONNX, which takes long: between them all operators that any shipped part computes with."""


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_the_detector(name: str, tmp_path: Path) -> None:
    combine = (SoftNms if list(FILES).index(name) % 2 else Nms)(max_detections=20)
    check_file(tmp_path / "small.onnx", FILES[name](), combine, description(SIZE))


class Computed(TorchDispatchMode):
    """Notes the operators of torch."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types there
        self.operators: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operators.add(str(func))
        return func(*args, **(kwargs or {}))


def operators(built: Detector) -> set[str]:
    """What a detector's candidates are computed with; that a kernel lays out its result anew is no matter of graphs."""
    batch = small_batch()
    with torch.no_grad(), Computed() as computed:
        built.candidates(batch.images, batch.image_sizes)
    return computed.operators - {"aten.as_strided_.default"}


@cache
def in_files() -> frozenset[str]:
    return frozenset[str]().union(*(operators(make()) for make in FILES.values()))


PARTS = {
    "head": [("fpn", head) for head in COMPILABLE],
    "neck": [(neck, "fcos") for neck in options("neck")],
    "operator": [("bifpn", "fcos", f"operator={name}") for name in options("operator")],
    "resampler": [
        ("pafpn", "fcos", f"resample@resample.{way}={name}")
        for way, known in (("up", UP), ("down", DOWN))
        for name in options("resample")
        if name in known
    ],
}


@pytest.mark.parametrize("kind", PARTS)
def test_no_part_has_an_operator_that_no_file_has(kind: str) -> None:
    """One that has needs an entry in ``FILES``: whether ONNX has a translation is seen nowhere else.

    By name alone: an argument of an operator that ONNX cannot express is not seen here.
    """
    for chosen in PARTS[kind]:
        assert operators(detector(*chosen)) - in_files() == set(), chosen
