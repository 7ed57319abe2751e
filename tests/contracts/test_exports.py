"""Every neck and every head, as an exported program of any size and as ONNX."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest
from composing import small_batch
from test_detectors import design, detector_of, small
from torch.export import ExportedProgram

from detfuse.attention.inserts import inserts_of
from detfuse.build import build_detector
from detfuse.detector import Detector
from detfuse.export import (
    FORMATS,
    Deployed,
    Description,
    Exported,
    Format,
    Picture,
    Resize,
    agreement_of,
    format_of,
    program_of,
    read_exported,
    written,
)
from detfuse.ops.postprocess import Nms, SoftNms
from detfuse.protocols import Combine
from detfuse.structures import Categories

FEW = ("backbone.levels=[3,4]", "neck.topology.extra_levels=0")  # tracing free sizes takes its time for every level
CATEGORIES = Categories((1, 2, 3), ("a", "b", "c"))


def detector(neck: str, head: str, *more: str) -> Detector:
    built = detector_of(neck, head, *more).eval()
    built.head.score_threshold = 0.0  # an untrained detector is sure of nothing
    return built


def pictures() -> list[Picture]:
    """A landscape, a portrait, and one of a single cell of the coarsest map."""
    image, *_ = small_batch().images
    parts = (image[:, :90], image[:, :, :60], image[:, :20, :30])
    return [Picture(f"picture {i}", part) for i, part in enumerate(parts)]


def description() -> Description:
    return Description(version("detfuse"), "small", CATEGORIES, Resize(None, 96, 128), 32, {})


CASES = design("export")
IN_ONNX = {head: neck for neck, head in reversed(CASES)}  # its translation takes twice as long: every head once


@pytest.mark.parametrize(("neck", "head"), CASES)
def test_what_is_exported_is_the_detector(neck: str, head: str, tmp_path: Path) -> None:
    built, combine = detector(neck, head), Nms(max_detections=20)
    program = program_of(Deployed(built, combine), description())
    agreement = agreement_of(Exported(Path("memory"), description(), program.module()), built, combine, pictures())
    assert agreement.candidates > agreement.detections == 40
    assert agreement.box_difference == agreement.score_difference == 0
    if IN_ONNX[head] == neck:
        check_file(tmp_path / "small.onnx", program, built, combine)


def check_file(path: Path, program: ExportedProgram, built: Detector, combine: Combine) -> None:
    kind = format_of(path)
    assert kind is not None
    with written(path, kind, program, description()) as draft:
        assert not path.exists()
        agreement = agreement_of(read_exported(draft), built, combine, pictures())
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert agreement.detections > 0
    assert agreement.score_difference < 1e-5
    assert read_exported(path).description == description()


@pytest.mark.parametrize("kind", FORMATS)
def test_soft_nms_is_exported_too(kind: Format, tmp_path: Path) -> None:
    built, combine = detector("unfused", "retinanet"), SoftNms(max_detections=20)
    check_file(tmp_path / f"small.{kind}", program_of(Deployed(built, combine), description()), built, combine)


# each kind once, over all sites
ATTENTION = {
    "stage": "se",
    "branch": "eca",
    "before_last_block": "non_local",
    "lateral": "cbam",
    "fused": "sagan",
    "output": "gc",
    "head": "se",
}


NODES = (
    "{name:t4,level:4,inputs:[c4,c5],up:dysample}",
    "{name:t3,level:3,inputs:[c3,t4],up:sapa}",
    "{name:p3,level:3,inputs:[t3],block:conv3}",
)


def test_attention_factors_and_learnt_resamplers_are_exported_too(tmp_path: Path) -> None:
    sites = [f"attention@attention.{site}={kind}" for site, kind in ATTENTION.items()]
    graph = ("neck.topology=null", f"neck.nodes=[{','.join(NODES)}]", "neck.outputs=[p3]")
    factors = "neck.scales={t4:0.5,t3:3.0}"
    built = build_detector(small("fpn", "fcos", "backbone=resnet18", *sites, *graph, factors), num_classes=3).eval()
    built.head.score_threshold = 0.0
    assert {insert.site for insert in inserts_of(built).values()} == set(ATTENTION)
    assert built.neck.scales == {"t4": 0.5, "t3": 3.0}
    combine = Nms(max_detections=20)
    check_file(tmp_path / "small.onnx", program_of(Deployed(built, combine), description()), built, combine)
