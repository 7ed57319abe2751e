from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor
from torchvision import models

from detfuse.attention.inserts import AttentionChoice, Sites, inserts_of
from detfuse.attention.se import SE
from detfuse.backbones.timm_backbone import TimmBackbone
from detfuse.backbones.torchvision_backbone import TorchvisionBackbone
from detfuse.structures import IMAGENET, Normalization

NAME = "convnext_atto"  # timm renames its weights in a feature extractor: stages.0 becomes stages_0


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    torch.manual_seed(5)
    state: dict[str, Tensor] = timm.create_model(NAME).state_dict()
    return state


def first_weight(backbone: TimmBackbone) -> Tensor:
    return backbone.state_dict()["model.stages_0.blocks.0.conv_dw.weight"]


@pytest.mark.parametrize("form", ["bare", "state_dict", "module", "backbone", "checkpoint", "safetensors", "cut"])
def test_a_local_file_in_any_usual_wrapping(tmp_path: Path, weights: dict[str, Tensor], form: str) -> None:
    file = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        safetensors.torch.save_file(weights, file)
    else:
        torch.save(
            {
                "bare": weights,
                "state_dict": {"epoch": 3, "state_dict": weights},
                "module": {"model": {f"module.{key}": value for key, value in weights.items()}},
                "backbone": {f"backbone.{k}": v for k, v in weights.items()} | {"neck.w": torch.ones(1)},
                "checkpoint": {
                    "state_dict": {
                        f"detector.backbone.{k}": v
                        for k, v in TimmBackbone(name=NAME, pretrained=False).state_dict().items()
                    }
                },
                "cut": {key: value for key, value in weights.items() if not key.startswith("head")},
            }[form],
            file,
        )
    backbone = TimmBackbone(name=NAME, pretrained=str(file))  # warnings are errors: nothing missing or left over
    if form == "checkpoint":
        stored = torch.load(file, weights_only=True)["state_dict"]
        assert all(torch.equal(stored[f"detector.backbone.{k}"], v) for k, v in backbone.state_dict().items())
    else:
        assert torch.equal(first_weight(backbone), weights["stages.0.blocks.0.conv_dw.weight"])


def test_missing_and_left_over_weights_are_reported(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    partial = {key: value for key, value in weights.items() if "conv_dw" not in key} | {"strange.weight": torch.ones(1)}
    torch.save(partial, tmp_path / "w.pth")
    with pytest.warns(UserWarning, match=r"stay random \(stages_0.*conv_dw.*1 of the file .*strange.weight"):
        TimmBackbone(name=NAME, pretrained=str(tmp_path / "w.pth"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a.weight": torch.ones(1)}, "none of its 1 weights belongs to this model.*a.weight.*stem_0.weight"),
        (
            {"stem.0.weight": torch.ones(3, 3)},
            r"1 weights of another shape: stem.0.weight is \(3, 3\).*40, 3",
        ),
        ({"epoch": 3}, "holds no weights, only the keys epoch"),
        ([1, 2], "holds a list, not a dict"),
        ({"path": Path("x")}, "refused, it holds pathlib"),
    ],
)
def test_a_file_that_does_not_fit(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=message) as caught:
        TimmBackbone(name=NAME, pretrained=str(tmp_path / "w.pth"))
    assert "w.pth" in str(caught.value)


def test_a_file_that_is_not_there_or_not_readable(tmp_path: Path) -> None:
    (tmp_path / "resnet.pth").write_bytes(b"")
    (tmp_path / "w.safetensors").write_bytes(b"x" * 40)
    with pytest.raises(ValueError, match=r"no such file; beside it are resnet\.pth"):
        TimmBackbone(name=NAME, pretrained=str(tmp_path / "resnot.pth"))
    with pytest.raises(ValueError, match="empty"):
        TimmBackbone(name=NAME, pretrained=str(tmp_path / "resnet.pth"))
    with pytest.raises(ValueError, match="not readable as safetensors"):
        TimmBackbone(name=NAME, pretrained=str(tmp_path / "w.safetensors"))


def test_unknown_tag_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no pretrained weights 'a9_in1k'.*a1_in1k"):
        TimmBackbone(name="resnet18", pretrained="a9_in1k")
    with pytest.raises(ValueError, match=r"no pretrained weights 'a9_in1k'.*a1_in1k"):
        TimmBackbone(name="resnet18.a9_in1k")


@pytest.fixture
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))


def no_network(*_: Any, **__: Any) -> None:
    raise urllib.error.URLError("Name or service not known")


@pytest.mark.usefixtures("empty_caches")
@pytest.mark.parametrize("build", [TimmBackbone, TorchvisionBackbone])
@pytest.mark.parametrize("pretrained", [True, "named"])
def test_without_a_network_the_answer_is_clear_and_quick(
    monkeypatch: pytest.MonkeyPatch, build: Any, pretrained: bool | str
) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    named = "a1_in1k" if build is TimmBackbone else "IMAGENET1K_V1"
    start, variables = time.monotonic(), dict(os.environ)
    with pytest.raises(ConnectionError, match=r"resnet18.*not in the cache.*Name or service.*pretrained=<file.pth"):
        build(name="resnet18", pretrained=named if pretrained == "named" else True)
    assert time.monotonic() - start < 8  # timm alone retries for most of a minute
    assert dict(os.environ) == variables


@pytest.mark.usefixtures("empty_caches")
def test_a_download_that_breaks_off_is_told_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionResetError("connection reset by peer")

    monkeypatch.setattr("detfuse.backbones.timm_backbone.require_reachable", lambda *_: None)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", fail)
    with pytest.raises(ConnectionError, match=r"resnet18: .*connection reset by peer"):
        TimmBackbone(name="resnet18", pretrained=True)


@pytest.mark.usefixtures("empty_caches")
def test_cached_weights_need_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: dict[str, Tensor]
) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: str(tmp_path / "model.safetensors"))
    assert torch.equal(
        first_weight(TimmBackbone(name=NAME, pretrained=True)), weights["stages.0.blocks.0.conv_dw.weight"]
    )


# ---- what a backbone reports


HALF = Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CAFFE = Normalization((0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255))
TINY = "test_resnet"  # its default tag expects .5, as 430 of timm's tags do


@pytest.fixture
def tiny_file(tmp_path: Path) -> Path:
    torch.save(timm.create_model(TINY).state_dict(), tmp_path / "tiny.pth")
    return tmp_path / "tiny.pth"


def names(backbone: torch.nn.Module) -> set[str]:
    return {name for name, _ in backbone.named_parameters()}


def test_from_scratch_nothing_is_reported() -> None:
    assert TimmBackbone(name=TINY).pretrained is None
    assert TorchvisionBackbone(name="resnet18").pretrained is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (TINY, HALF),
        ("mobilenetv4_conv_small_050", HALF),
        ("lcnet_050", IMAGENET),
    ],
)
def test_a_file_of_timm_is_of_the_tag_in_the_name_or_the_default_one(
    tmp_path: Path, name: str, expected: Normalization
) -> None:
    torch.save(timm.create_model(name).state_dict(), tmp_path / "w.pth")
    read = TimmBackbone(name=name, pretrained=str(tmp_path / "w.pth")).pretrained
    assert read is not None
    assert read.normalization == expected
    assert "w.pth" in read.source


def test_the_tag_decides_and_not_the_model(tmp_path: Path) -> None:
    name = "mobilenetv3_large_100"
    torch.save(timm.create_model(name).state_dict(), tmp_path / "w.pth")
    found = [
        TimmBackbone(name=tagged, pretrained=str(tmp_path / "w.pth")).pretrained
        for tagged in (name, f"{name}.ra4_e3600_r224_in1k")
    ]
    assert [read and read.normalization for read in found] == [IMAGENET, HALF]


@pytest.mark.usefixtures("empty_caches")
@pytest.mark.parametrize("pretrained", [True, "r160_in1k"])
def test_the_librarys_weights_report_their_tags_normalization(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pretrained: bool | str
) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    safetensors.torch.save_file(timm.create_model(TINY).state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: str(tmp_path / "model.safetensors"))
    backbone = TimmBackbone(name=TINY, pretrained=pretrained)
    assert backbone.pretrained is not None
    assert backbone.pretrained.normalization == HALF
    assert backbone.pretrained.parameters == names(backbone)


@pytest.mark.parametrize(
    ("model", "weights", "expected"),
    [
        ("vgg16", "IMAGENET1K_FEATURES", CAFFE),
        ("vgg16", "IMAGENET1K_V1", IMAGENET),
        ("vgg16", True, IMAGENET),
    ],
)
def test_torchvisions_weights_report_what_their_transforms_say(
    monkeypatch: pytest.MonkeyPatch, model: str, weights: bool | str, expected: Normalization
) -> None:
    monkeypatch.setattr("detfuse.backbones.torchvision_backbone.require_reachable", lambda *_: None)
    with torch.device("meta"):  # 500 MB otherwise
        state = models.get_model(model).state_dict()
        monkeypatch.setattr(models.WeightsEnum, "get_state_dict", lambda *_, **__: state)
        backbone = TorchvisionBackbone(name=model, levels=(3, 4), pretrained=weights)
    assert backbone.pretrained is not None
    assert backbone.pretrained.normalization.mean == pytest.approx(expected.mean)
    assert backbone.pretrained.normalization.std == pytest.approx(expected.std)
    assert backbone.pretrained.parameters == names(backbone)
    assert model in backbone.pretrained.source


@pytest.mark.parametrize(
    ("file", "expected"), [("vgg16_features-amdegroot-88682ab5.pth", CAFFE), ("mine.pth", IMAGENET)]
)
def test_a_file_of_torchvision_is_known_by_the_name_it_was_published_under(
    tmp_path: Path, file: str, expected: Normalization
) -> None:
    weight = torch.zeros(64, 3, 3, 3)
    torch.save({"features.0.weight": weight}, tmp_path / file)
    with torch.device("meta"), pytest.warns(UserWarning, match="no-op|stay random"):
        backbone = TorchvisionBackbone(name="vgg16", levels=(3, 4), pretrained=str(tmp_path / file))
    assert backbone.pretrained is not None
    assert backbone.pretrained.normalization.std == pytest.approx(expected.std)
    assert backbone.pretrained.parameters == {"model.features.0.weight"}


def test_only_what_was_read_is_reported(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    partial = {key: value for key, value in weights.items() if "conv_dw" not in key}
    torch.save(partial, tmp_path / "w.pth")
    with pytest.warns(UserWarning, match="stay random"):
        backbone = TimmBackbone(name=NAME, pretrained=str(tmp_path / "w.pth"))
    assert backbone.pretrained is not None
    assert names(backbone) - backbone.pretrained.parameters == {name for name in names(backbone) if "conv_dw" in name}


@pytest.mark.parametrize("form", ["own", "checkpoint"])
def test_a_file_may_say_itself_what_its_images_are(tmp_path: Path, form: str, tiny_file: Path) -> None:
    told = {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}
    state = torch.load(tiny_file, weights_only=True)
    own = {"state_dict": state, **told}
    checkpoint = {
        "state_dict": {
            f"detector.backbone.{key}": value for key, value in TimmBackbone(name=TINY).state_dict().items()
        },
        "detfuse": {"config": {"detector": told}},
    }
    torch.save({"own": own, "checkpoint": checkpoint}[form], tmp_path / "w.pth")
    read = TimmBackbone(name=TINY, pretrained=str(tmp_path / "w.pth")).pretrained
    assert read is not None
    assert read.normalization == Normalization((0.1, 0.2, 0.3), (1.0, 1.0, 1.0))


@pytest.mark.parametrize("norm", ["train", "frozen", "sync"])
def test_what_was_read_is_named_as_the_backbone_names_it(tiny_file: Path, norm: Any) -> None:
    attention: Sites = {"branch": AttentionChoice(SE), "stage": AttentionChoice(SE)}
    backbone = TimmBackbone(attention, name=TINY, pretrained=str(tiny_file), norm=norm)
    inserts = tuple(inserts_of(backbone))
    assert backbone.pretrained is not None
    assert backbone.pretrained.parameters == {name for name in names(backbone) if not name.startswith(inserts)}


@pytest.mark.parametrize("prefix", ["_orig_mod.module.", "module.encoder.net.", "ema_model.module."])
def test_any_common_prefix_is_stripped_and_told(tmp_path: Path, tiny_file: Path, prefix: str) -> None:
    state = torch.load(tiny_file, weights_only=True)
    torch.save({f"{prefix}{key}": value for key, value in state.items()}, tmp_path / "w.pth")
    backbone = TimmBackbone(name=TINY, pretrained=str(tmp_path / "w.pth"))
    assert backbone.pretrained is not None
    assert backbone.pretrained.source.endswith(f"w.pth (without the prefix '{prefix}' of its names)")
    assert backbone.pretrained.parameters == names(backbone)


@pytest.mark.parametrize("averaged", ["model_ema", "state_dict_ema", "own"])
def test_averaged_weights_are_taken_and_told(tmp_path: Path, tiny_file: Path, averaged: str) -> None:
    raw = torch.load(tiny_file, weights_only=True)
    mean = {key: value + 1 for key, value in raw.items()}
    beside = {"detfuse": {"ema": {f"backbone.model.{k}": v for k, v in mean.items()}}} if averaged == "own" else {}
    torch.save({"state_dict": raw, **(beside or {averaged: mean})}, tmp_path / "w.pth")
    built = {ema: TimmBackbone(name=TINY, pretrained=str(tmp_path / "w.pth"), ema=ema) for ema in (True, False)}
    weights = [next(built[ema].parameters()) for ema in (True, False)]
    assert torch.allclose(weights[0], weights[1] + 1)
    assert "averaged weights, not its raw" in str(built[True].pretrained)
    assert "raw weights, not its averaged" in str(built[False].pretrained)


@pytest.mark.parametrize("form", ["lukemelas", "lite"])
def test_efficientnets_of_other_names_are_timms(tmp_path: Path, form: str) -> None:
    """Blocks that are counted in a row, or by stage; the first does not expand."""
    with torch.device("meta"):
        model = timm.create_model("tf_efficientnet_lite0")
    generator = torch.Generator().manual_seed(0)
    state = {k: torch.rand(v.shape, generator=generator) for k, v in model.state_dict().items() if "num_" not in k}
    places = list(dict.fromkeys(key.rsplit(".", 2)[0] for key in state if key.startswith("blocks.")))
    around = {"conv_stem": ("_conv_stem", "stem.0"), "bn1": ("_bn0", "stem.1"), "conv_head": ("_conv_head", "head.0")}
    around |= {"bn2": ("_bn1", "head.1"), "classifier": ("_fc", "fc")}
    first = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    other = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
    other |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}
    theirs = {}
    for key, value in state.items():
        place, *layer = key.rsplit(".", 2)
        if place in places:
            named = (first if place == "blocks.0.0" else other)[layer[0]]
            at = f"_blocks.{places.index(place)}" if form == "lukemelas" else place
            theirs[f"{at}.{named}.{layer[1]}"] = value
        else:
            begins, kind = key.rsplit(".", 1)
            theirs[f"{around[begins][form == 'lite']}.{kind}"] = value
    torch.save(theirs, tmp_path / "w.pth")
    backbone = TimmBackbone(name="tf_efficientnet_lite0", pretrained=str(tmp_path / "w.pth"))  # warnings are errors
    found = backbone.model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in found.items() if key in state)
    assert len([key for key in found if key in state]) > 200
