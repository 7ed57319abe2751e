"""Every neck and every head, as an exported program of any size and as ONNX."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest
from composing import SMALLEST, compose_train, options, small_batch
from test_detectors import COMPILABLE, NECKS, detector_of, small

from detfuse.attention.inserts import BACKBONE_SITES, inserts_of
from detfuse.build import build_detector
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
from detfuse.ops.postprocess import Nms, SoftNms
from detfuse.protocols import Combine
from detfuse.structures import Categories, Size

SIZE = (96, 128)
CATEGORIES = Categories((1, 2, 3), ("a", "b", "c"))


def detector(neck: str, head: str) -> Detector:
    """Of few levels, and no stage twice: to trace free sizes takes a second for each."""
    topology = compose_train(f"neck={neck}")["neck"].get("topology") or {}
    least = {"extra_levels": 0, "repeats": 1}
    few = [f"neck.topology.{name}={number}" for name, number in least.items() if name in topology]
    levels = [] if neck in NECKS else ["backbone.levels=[3,4]"]
    built = detector_of(neck, head, *levels, *few).eval()
    built.head.score_threshold = 0.0  # an untrained detector is sure of nothing
    return built


def pictures(exact: Size | None) -> list[NamedImage]:
    """A landscape, a portrait, and one of a single cell of the coarsest map; or two of the one size."""
    first, second = small_batch().images
    if exact is not None:
        return [NamedImage("one", first), NamedImage("another", second)]
    parts = (first[:, :90], first[:, :, :60], second[:, :20, :30])
    return [NamedImage(f"picture {i}", part) for i, part in enumerate(parts)]


def description(exact: Size | None = None) -> Description:
    return Description(version("detfuse"), "small", CATEGORIES, Resizing(exact, 96, 128), 1 if exact else 32, {})


ALL_NECKS = options("neck")
# in turn: every head first in ONNX, whose translation takes long, and then as a program; every second case is soft.
# FCOS is exported in both forms, of all sizes, by the command (end_to_end/test_export.py), and with attention below.
EXPORTED = [head for head in COMPILABLE if head != "fcos"]
CASES = [
    (ALL_NECKS[i % len(ALL_NECKS)], EXPORTED[i % len(EXPORTED)]) for i in range(max(len(ALL_NECKS), 2 * len(EXPORTED)))
]


@pytest.mark.parametrize(("neck", "head"), CASES)
def test_what_is_exported_is_the_detector(neck: str, head: str, tmp_path: Path) -> None:
    """As a program for any size; as ONNX for one, which is translated in a third of the time."""
    place = CASES.index((neck, head))
    built, combine = detector(neck, head), (SoftNms if place % 2 else Nms)(max_detections=20)
    if place < len(EXPORTED):
        check_file(tmp_path / "small.onnx", built, combine, description(SIZE))
    else:
        check_program(built, combine)


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


# each kind once; before a stage's last block stands what stands at its end, and a small backbone has one block only
ATTENTION = {
    "stage": "se",
    "branch": "eca",
    "lateral": "cbam",
    "fused": "sagan",
    "output": "gc",
    "head": "non_local",
}


NODES = (
    "{name:t3,level:3,inputs:[c3,c4],up:dysample}",
    "{name:s3,level:3,inputs:[t3,c4],up:sapa}",
    "{name:p3,level:3,inputs:[s3],block:conv3}",
)


def test_attention_factors_and_learnt_resamplers_are_exported_too(tmp_path: Path) -> None:
    sites = [f"attention@attention.{site}={kind}" for site, kind in ATTENTION.items()]
    graph = ("neck.topology=null", f"neck.nodes=[{','.join(NODES)}]", "neck.outputs=[p3]")
    few = [f"attention.levels.{site}=[4]" for site in ATTENTION if site in BACKBONE_SITES]
    of_two = (*SMALLEST, "backbone.levels=[3,4]", "neck.scales={t3:0.5,s3:3.0}", *few)
    built = build_detector(small("fpn", "fcos", *of_two, *sites, *graph), num_classes=3).eval()
    built.head.score_threshold = 0.0
    assert {insert.site for insert in inserts_of(built).values()} == set(ATTENTION)
    assert built.neck.scales == {"t3": 0.5, "s3": 3.0}
    combine = Nms(max_detections=20)
    check_file(tmp_path / "small.onnx", built, combine, description(SIZE))
