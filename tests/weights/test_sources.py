"""Weights of whole detectors from files, and detectors that start from them by the names of modules and classes."""

from __future__ import annotations

import urllib.error
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import get_model

from detfuse.attention.inserts import AttentionChoice
from detfuse.attention.se import SE
from detfuse.errors import InputError, UserError
from detfuse.files.endings import common_prefix
from detfuse.fusion.operators import Add
from detfuse.fusion.resample import Nearest, StridedConv
from detfuse.heads.efficientdet import EfficientDetHead
from detfuse.heads.faster_rcnn import FasterRCNNHead
from detfuse.heads.fcos import FCOSHead
from detfuse.heads.retinanet import RetinaNetHead
from detfuse.heads.ssd import SSDHead
from detfuse.initialisation import initialised
from detfuse.necks.graph_neck import GraphNeck
from detfuse.necks.topologies import fpn, pafpn
from detfuse.ops.postprocess import Nms
from detfuse.ops.translation import Translated
from detfuse.runs.published import open_published
from detfuse.runs.starting import without
from detfuse.structures import Categories, FeatureSpec
from detfuse.weights.effdet import EFFDET
from detfuse.weights.sources import Source, read_source
from detfuse.weights.torchvision import PUBLISHED, as_torchvision
from detfuse.weights.transfer import SourceStart, new_inserts, transfer

SPEC = FeatureSpec((4, 6), (8, 16))
CATS = Categories((1, 2, 3), ("cat", "dog", "eel"))
OTHERS = Categories((5, 6), ("Eel", "cow"))


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, 8, 1), nn.Conv2d(4, 6, 3, 2, 1)
        self.pretrained: Any = None

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.first(x)
        return [x, self.second(x)]


class Small(nn.Module):
    """What transfer needs of a detector."""

    def __init__(self, head: Any, classes: int, topology: Any = fpn, attention: Any = None, seed: int = 0) -> None:
        super().__init__()
        self.backbone = initialised(Backbone, seed, "backbone")

        def neck() -> GraphNeck:
            return GraphNeck(SPEC, Add, Nearest, StridedConv, attention, topology=topology, out_channels=8)

        self.neck = initialised(neck, seed, "neck")
        self.head = initialised(lambda: head(self.neck.out_spec, classes), seed, "head")

    def forward(self, x: Tensor) -> Any:
        return self.head(self.neck(self.backbone(x)))


def source_of(detector: nn.Module, categories: Categories | None, count: int = 3) -> Source:
    return Source("it", Path("it.ckpt"), detector.state_dict(), categories, count, None, None)


@pytest.mark.parametrize("head", [RetinaNetHead, FCOSHead, SSDHead, FasterRCNNHead, EfficientDetHead])
def test_classes_of_one_name_keep_their_weights_in_any_order(head: Any) -> None:
    given, own = Small(head, 3, seed=1), Small(head, 4)
    start = {key: value.clone() for key, value in own.state_dict().items()}
    names = Categories((1, 2, 3, 4), ("eel", "ant", "CAT", "dog"))
    kept = transfer(own, source_of(given, CATS), names)
    assert (kept.classes, kept.new_classes, kept.left_classes) == (["eel", "CAT", "dog"], ["ant"], [])
    assert not kept.new
    assert not kept.left
    for begins, rows in own.head.class_rows().items():
        for kind in ("weight", "bias"):
            name = f"head.{begins}{kind}"
            mine, theirs, before = (
                state[name].unflatten(0, (rows.groups, -1, rows.each))
                for state in (own.state_dict(), given.state_dict(), start)
            )
            b = rows.background
            assert torch.equal(mine[:, :b], theirs[:, :b])
            assert torch.equal(mine[:, b:][:, [2, 3, 0]], theirs[:, b:])
            assert torch.equal(mine[:, b + 1], before[:, b + 1]), "a new class starts as it would anyway"
    for name, value in own.backbone.state_dict().items():
        assert torch.equal(value, given.state_dict()[f"backbone.{name}"])
    assert "4 classes by name" in str(kept)
    assert "new:  classes ant" in str(kept)


def test_another_neck_and_inserts_start_anew_and_are_told() -> None:
    given = Small(FCOSHead, 3, seed=1)
    se = {"lateral": AttentionChoice(SE, None)}
    own = Small(FCOSHead, 3, topology=pafpn, attention=se)
    source = source_of(given, CATS)
    start = SourceStart(source)
    start.announce(own.backbone)  # type: ignore[arg-type]  # small
    start.give(own, CATS)
    kept = start.kept
    assert own.backbone.pretrained.parameters == set(own.backbone.state_dict())
    assert torch.equal(own.neck.state_dict()["blocks.p3.0.weight"], given.neck.state_dict()["blocks.p3.0.weight"])
    assert all(key.startswith("neck.") for key in kept.new)
    told = new_inserts(own, source.state)
    assert {insert.site for insert in told} == {"lateral"}
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        changed = own(x).logits[0]
        with without(told):
            bare = own(x).logits[0]
        assert not torch.equal(changed, bare)
        assert torch.equal(own(x).logits[0], changed)


def test_without_new_parts_it_detects_as_its_source() -> None:
    given, own = Small(RetinaNetHead, 3, seed=1), Small(RetinaNetHead, 3)
    kept = transfer(own, source_of(given, None), CATS)  # it does not name its classes, but has as many
    assert not kept.new
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(own(x).logits, given(x).logits, strict=True))
    strange = Source("it", Path("x"), {"backbone.other.weight": torch.ones(1)}, CATS, 3, None, None)
    with pytest.raises(InputError, match="nothing of it fits this backbone"):
        SourceStart(strange).announce(own.backbone)  # type: ignore[arg-type]  # small


def test_detections_of_more_classes_become_the_datas() -> None:
    boxes = torch.tensor([[0.0, 0, 9, 9], [20, 20, 29, 29], [40, 40, 49, 49]])
    candidates = boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([1, 2, 0]), torch.zeros(3, dtype=torch.int64)
    found = Translated(Nms(max_detections=2), CATS, Categories((7,), ("EEL",)))(*candidates)
    assert (found.labels.tolist(), found.boxes.tolist()) == ([0], [boxes[1].tolist()])
    with pytest.raises(InputError, match="do not know 1 of the data's 2 classes: cow"):
        Translated(Nms(), CATS, OTHERS)


def test_prefixes_are_found_by_endings() -> None:
    wanted = {"layer1.0.weight", "layer1.0.bias", "head.x"}
    for prefix in ("", "module.", "_orig_mod.module.", "student.net."):
        names = [f"{prefix}{name}" for name in ("layer1.0.weight", "head.x")] + ["other.y"]
        assert common_prefix(names, wanted.__contains__) == prefix
    assert common_prefix(["nothing.at.all"], wanted.__contains__) == ""
    both = [f"{who}.{name}" for who in ("student", "teacher") for name in wanted]
    with pytest.raises(InputError, match=r"two models, one behind '(student|teacher)\.' and one behind"):
        common_prefix(both, wanted.__contains__)


def _state(classes: int) -> dict[str, Tensor]:
    """A little of each part of a Faster R-CNN of torchvision."""
    return {
        "backbone.body.conv1.weight": torch.ones(2, 3, 1, 1),
        "backbone.fpn.inner_blocks.0.weight": torch.ones(2, 2, 1, 1),  # an older name
        "roi_heads.box_head.fc6.weight": torch.ones(4, 4),
        "roi_heads.box_predictor.cls_score.bias": torch.arange(float(classes)),
        "roi_heads.box_predictor.bbox_pred.bias": torch.arange(4.0 * classes),
    }


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_files_are_recognised_by_their_names(tmp_path: Path, suffix: str) -> None:
    path, state = tmp_path / f"mine.{suffix}", {f"_orig_mod.module.{k}": v for k, v in _state(91).items()}
    if suffix == "pth":
        torch.save({"model": state, "epoch": 3}, path)
    else:
        save_file(state, path)
    source = read_source(str(path), None)
    assert source.model == "fasterrcnn_resnet50_fpn"
    assert source.categories == PUBLISHED["fasterrcnn_resnet50_fpn"].categories
    assert torch.equal(source.state["head.box_deltas.bias"], torch.arange(4.0, 4.0 * 91))
    assert "neck.edges.c2->t2.project.0.weight" in source.state
    assert source.notes == ("the prefix '_orig_mod.module.' of its names was stripped",)


def test_what_is_no_detector_is_refused_with_what_was_expected(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({**_state(4), "extra.weight": torch.ones(1)}, path)
    with pytest.raises(InputError, match=r"nearest is fasterrcnn_resnet50_fpn, which has no extra.weight"):
        read_source(str(path), None)
    torch.save({**_state(4), "backbone.body.bn1.weight": torch.tensor([float("nan")])}, path)
    with pytest.raises(InputError, match=r"1 of its weights are NaN or infinite: backbone.body.bn1.weight"):
        read_source(str(path), None)
    torch.save(_state(4), path)
    source = read_source(str(path), None)
    assert (source.num_classes, source.categories) == (3, None)
    with pytest.raises(InputError, match=r"no such file; beside it are x.pth"):
        read_source(str(tmp_path / "y.pth"), None)
    with pytest.raises(InputError, match=r"experiment=mine is no recipe of its detectors.*torchvision:NAME"):
        read_source("torchvision", "mine")


def test_without_a_network_the_file_and_its_place_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError) as caught:
        read_source("torchvision", "retinanet_resnet50_fpn")
    file = "retinanet_resnet50_fpn_coco-eeacb38b.pth"
    assert f"https://download.pytorch.org/models/{file}" in str(caught.value)
    assert str(tmp_path / "hub" / "checkpoints" / file) in str(caught.value)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(_state(91), tmp_path / "hub" / "checkpoints" / file)
    with pytest.raises(InputError, match="SHA-256 does not begin with eeacb38b"):
        read_source("torchvision:retinanet_resnet50_fpn", None)


def _effdet(model: str) -> dict[str, Tensor]:
    """A state dict of effdet's, all ones, of three classes."""
    rows = EFFDET[model].table.rows
    named = {row.theirs + "weight" * row.theirs.endswith("."): torch.ones(1) for row in rows}
    counts = {"class_net.predict.conv_pw.": 9 * 3, "box_net.predict.conv_pw.": 9 * 4}
    return named | {f"{name}bias": torch.ones(count) for name, count in counts.items()}


def test_effdets_files_are_recognised_and_their_padding_is_the_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.pth"
    norm = "class_net.bn_rep.0.1.bn.running_mean"
    torch.save(
        {f"model.{key}": value for key, value in {**_effdet("tf_efficientdet_d1"), norm: torch.ones(1)}.items()}, path
    )
    source = read_source(str(path), None)
    assert (source.model, source.num_classes, source.categories) == ("tf_efficientdet_d1", 3, None)
    assert source.state["head.cls_tower.0.norms.1.running_mean"].item() == 0, "the bias before it is taken away"
    assert "44 biases of convolutions before a norm" in source.notes[1]
    torch.save(_effdet("efficientdet_d1"), path)
    assert read_source(str(path), None).model == "efficientdet_d1"
    assert read_source(str(path), "tf_efficientdet_d1").model == "tf_efficientdet_d1", "learnt without those biases"
    torch.save(_effdet("tf_efficientdet_d1"), path)
    invocation = SimpleNamespace(choices={"experiment": "efficientdet_d1"}, config={"weights": str(path)})
    with pytest.raises(UserError, match=r"effdet's tf_efficientdet_d1 .*, no efficientdet_d1: choose experiment=tf_"):
        open_published(invocation)  # type: ignore[arg-type]  # as far as it is read
    with pytest.raises(
        InputError, match=r"effdet publishes no weights of efficientdet_d3; it does of efficientdet_d0,"
    ):
        read_source("effdet", "efficientdet_d3")
    with pytest.raises(InputError, match=r"experiment=fcos_resnet50_fpn is no recipe of its detectors.*effdet:NAME"):
        read_source("effdet", "fcos_resnet50_fpn")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / "efficientdet_d0-f3276ba8.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"not whole")
    with pytest.raises(InputError, match="SHA-256 does not begin with f3276ba8"):
        read_source("effdet", "efficientdet_d0")


def test_a_detector_of_known_parts_is_loaded_by_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frozen norms do not count batches, but torchvision's do: it is given zeros."""
    theirs = get_model("ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=4)
    monkeypatch.setattr("detfuse.weights.torchvision.get_model", lambda *_, **__: theirs)
    table = PUBLISHED["ssdlite320_mobilenet_v3_large"].table
    ours, _ = table.to_ours(theirs.state_dict())
    ours = {key: value + 1 for key, value in ours.items() if not key.endswith("num_batches_tracked")}
    published, count, state = as_torchvision(ours, 3)
    assert (published.model, count) == ("ssdlite320_mobilenet_v3_large", 4)
    before = theirs.backbone.features[0][0][0].weight.clone()
    theirs.load_state_dict(state)
    assert torch.equal(theirs.backbone.features[0][0][0].weight, before + 1)
    with pytest.raises(InputError, match=r"is nearest, and differs in neck.gate"):
        as_torchvision({**ours, "neck.gate": torch.ones(1)}, 3)
