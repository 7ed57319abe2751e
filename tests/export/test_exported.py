"""Files that cannot be used, and files that do not compute what they should."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detfuse.detector import Detector
from detfuse.export import (
    Deployed,
    Description,
    Exported,
    ExportError,
    NamedImage,
    Resizing,
    agreement_of,
    place,
    read_exported,
    written,
)
from detfuse.ops.postprocess import Nms, WeightedBoxFusion
from detfuse.structures import Categories

SIZE = (32, 64)
DESCRIPTION = Description(
    version("detfuse"), "m", Categories((1, 5), ("a", "b")), Resizing(None, 32, 64, "torchvision"), 32, {"x": 1}
)


def test_what_has_no_fixed_size_is_refused() -> None:
    detector: Any = SimpleNamespace(head=SimpleNamespace(compilable=True))
    with pytest.raises(ExportError, match=r"WeightedBoxFusion cannot be exported.*combine=nms.*combine=soft_nms"):
        Deployed(detector, WeightedBoxFusion())
    detector.head.compilable = False
    with pytest.raises(ExportError, match=r"head: SimpleNamespace cannot be exported"):
        Deployed(detector, Nms())


def test_a_description_survives_its_file() -> None:
    again = Description.from_json(DESCRIPTION.to_json(), Path("x.onnx"))
    assert again == DESCRIPTION
    assert again.transform().resized(100, 200) == (32, 64)
    assert again.transform().resized(100, 155) == (32, 49)  # 49.6, cut


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("divisor", 0),
        ("divisor", "32"),
        ("categories", {"ids": [1], "names": []}),
        ("resize", {"size": None, "short_side": 0, "long_side": None}),
        ("resize", {"size": None, "short_side": 32, "long_side": None, "resize": "bigger"}),
        ("resize", {}),
        ("combine", "nms"),
        ("version", None),
    ],
)
def test_a_malformed_description_is_refused(key: str, value: Any) -> None:
    content = json.loads(DESCRIPTION.to_json()) | {key: value}
    for text in (json.dumps(content), json.dumps({k: v for k, v in content.items() if k != key}), "[", "[]"):
        with pytest.raises(ExportError, match=r"x\.onnx: its description .* is malformed"):
            Description.from_json(text, Path("x.onnx"))


def test_a_file_of_one_size_is_refused_with_the_remedy() -> None:
    older = json.loads(DESCRIPTION.to_json()) | {"size": [128, 128], "version": "0.9"}
    del older["divisor"]
    with pytest.raises(ExportError, match=r"x\.onnx: was exported by detfuse '0\.9'.*128, 128.*export the checkpoint"):
        Description.from_json(json.dumps(older), Path("x.onnx"))


def test_an_image_is_padded_as_evaluation_pads_it_and_no_more() -> None:
    images, sizes = place(torch.full((3, 33, 64), 7, dtype=torch.uint8), 32)
    assert images.shape == (1, 3, 64, 64)
    assert sizes.tolist() == [[33, 64]]
    assert images.sum() == 7 * 3 * 33 * 64


def write_foreign(path: Path) -> None:
    """A file of the right kind that another program wrote."""
    if path.suffix == ".pt2":
        torch.export.save(torch.export.export(nn.Identity(), (torch.zeros(1),)), path)
        return
    onnx = pytest.importorskip("onnx", reason="needs pip install 'detfuse[export]'")
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", value[:1], value[1:])
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, ir_version=10, opset_imports=opset), path)


@pytest.mark.parametrize("name", ["foreign.onnx", "foreign.pt2"])
def test_foreign_damaged_and_missing_files_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with pytest.raises(ExportError, match=f"{name}: no such file"):
        read_exported(path)
    write_foreign(path)
    with pytest.raises(ExportError, match=f"{name}: was not exported by detfuse"):
        read_exported(path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ExportError, match=f"{name}: .*(cannot read it|truncated or damaged)"):
        read_exported(path)
    with pytest.raises(ExportError, match=r"exported files end in \.onnx or \.pt2"):
        read_exported(tmp_path / "x.ckpt")


def test_only_an_accepted_file_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.pt2"
    program = torch.export.export(nn.Identity(), (torch.zeros(1),))
    with written(path, "pt2", program, DESCRIPTION) as draft:
        assert read_exported(draft).description == DESCRIPTION
        assert not path.exists()
    before = path.read_bytes()
    with pytest.raises(ExportError, match="not good"), written(path, "pt2", program, DESCRIPTION):
        raise ExportError("not good")
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


class Fixed(Detector):
    """Ten candidates whatever the image, on two levels, of which the suppression keeps some."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        corners = torch.arange(10.0)[:, None].expand(10, 2) * torch.tensor([3.0, 1.0])
        self.boxes = torch.cat([corners, corners + 8], dim=1)[None]
        self.scores = torch.linspace(0.9, 0.2, 10)[None]
        self.labels = torch.arange(10)[None] % 2
        self.levels = torch.arange(10)[None] // 5

    def candidates(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.boxes, self.scores, self.labels, self.levels


def compared(nms: Nms | None = None, **changes: Tensor) -> Any:
    """Compare the fixed detector with a file whose candidates differ so, and which suppresses as told."""
    detector, combine = Fixed(), Nms(max_detections=4)

    def call(images: Tensor, image_sizes: Tensor) -> tuple[Tensor, ...]:
        given = {name: changes.get(name, getattr(detector, name)) for name in ("boxes", "scores", "labels", "levels")}
        found = (nms or combine)(*(column[0] for column in given.values()))
        return (*(column[None] for column in found), torch.tensor([len(found.scores)]), *given.values())

    picture = NamedImage("a.jpg", torch.zeros(3, *SIZE, dtype=torch.uint8))
    return agreement_of(Exported(Path("x.onnx"), DESCRIPTION, call), detector, combine, [picture, picture])


def test_rounding_and_another_order_are_no_difference() -> None:
    agreement = compared()
    assert (agreement.pictures, agreement.candidates, agreement.detections) == (2, 20, 8)
    assert agreement.box_difference == agreement.score_difference == 0
    detector = Fixed()
    assert compared(boxes=detector.boxes + 4e-4).box_difference == pytest.approx(4e-4, rel=0.01)
    assert compared(scores=detector.scores + 2e-5).score_difference == pytest.approx(2e-5, rel=0.01)
    order = [1, 0, 2, 3, 4, 5, 6, 7, 9, 8]
    moved = {name: getattr(detector, name)[:, order] for name in ("boxes", "scores", "labels", "levels")}
    assert compared(**moved).box_difference == 0


def change(name: str, row: int, value: float) -> dict[str, Tensor]:
    column = getattr(Fixed(), name).clone()
    column[0, row] = value
    return {name: column}


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("candidates", change("boxes", 3, 7.0)),
        ("candidates", change("scores", 2, 0.7)),
        ("candidates", change("scores", 2, 0.0)),  # lost
        ("candidates", change("labels", 1, 0)),
        ("candidates", change("levels", 1, 1)),
        ("candidates", {"scores": torch.zeros(1, 10)}),
        ("detections", {"nms": Nms(max_detections=3)}),
        ("detections", {"nms": Nms(max_detections=4, iou_threshold=0.0)}),
        ("detections", {"nms": Nms(max_detections=4, class_agnostic=True, iou_threshold=0.1)}),
    ],
)
def test_any_other_difference_is_told(what: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ExportError, match=rf"the exported file's {what} in a\.jpg differ from the detector's"):
        compared(**changes)


def test_outputs_that_are_no_numbers_are_not_compared() -> None:
    detector = Fixed()
    detector.scores[0, 3] = torch.nan
    picture = NamedImage("a.jpg", torch.zeros(3, *SIZE, dtype=torch.uint8))
    with pytest.raises(ExportError, match=r"the detector's outputs in a\.jpg are not finite"):
        agreement_of(Exported(Path("x.onnx"), DESCRIPTION, lambda *_: ()), detector, Nms(), [picture])


def test_a_missing_package_is_named_with_what_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.onnx").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExportError, match=r"onnxruntime is not installed; pip install 'detfuse\[export\]' brings it"):
        read_exported(tmp_path / "x.onnx")
    program = torch.export.export(nn.Identity(), (torch.zeros(1),))
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with (
        pytest.raises(ExportError, match=r"onnxscript is not installed; pip install 'detfuse\[export\]' brings it"),
        written(tmp_path / "y.onnx", "onnx", program, DESCRIPTION),
    ):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["x.onnx"]
