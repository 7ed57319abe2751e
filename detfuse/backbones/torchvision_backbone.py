"""torchvision's classifiers as backbones, cut by torch.fx. torchvision: https://github.com/pytorch/vision."""

from __future__ import annotations

import copy
import difflib
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torchvision
from timm.models import is_model, is_model_in_modules
from torch import Tensor, nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from detfuse.attention.inserts import Site, Sites, only_sites
from detfuse.backbones.extractor import Extractor, accepts_size, dummy_size, last_per_stride, stage_parameters
from detfuse.backbones.inserts import Stage, attend_stages
from detfuse.backbones.pretrained import everything, is_file, load_file, no_network, require_reachable
from detfuse.errors import InputError
from detfuse.ranges import Level, Levels, PositiveFloat, checked
from detfuse.structures import FeatureSpec, Normalization, Pretrained


class _Tap(NamedTuple):
    """The output of one module, as seen on the dummy image."""

    module: str
    stride: int
    channels: int
    nhwc: bool
    output: Tensor


@checked
class TorchvisionBackbone(Extractor):
    """A torchvision classification model, cut after the coarsest requested level.

    Level l is the last module output (of the model's children and grandchildren) with stride ``2**l``: ``layer2`` of a
    ResNet, the block before the next down-sampling of a MobileNet, the last activation before the pooling of a VGG.

    Args:
        attention: what stands at the site ``stage``, where the stages end in a layer of their own (VGG); timm's models
            have the other sites, and this one in all families.
        name: a name of ``torchvision.models.list_models(module=torchvision.models)``.
        levels: log2 of the strides to return, ascending.
        layers: modules whose results are returned in place of the levels' own, such as ``features.13.block.0``, one per
            level; where two maps have one size, the finer level's nominal stride is half of its map's (torchvision's
            detectors on MobileNetV3). None: the last of each level.
        reduced_tail: MobileNetV3 with half the channels in its last stage (SSDLite).
        pretrained: False: random weights; True: torchvision's default weights; a weights name such as
            ``IMAGENET1K_V2``; or a file (``.pth``, ``.pt``, ``.safetensors``) in torchvision's naming, with or without
            its head. A file that does not say how its images are normalised is taken to be the published one of its
            name, or else torchvision's default.
        ema: where a file of weights holds averaged and raw ones, take the averaged.
        frozen_stages: number of stages that do not learn and stay in evaluation mode: 1 is the stem (all before C2),
            n > 1 everything up to Cn. Attention in them learns.
        norm: ``train``, ``frozen`` (all BatchNorms) or ``sync`` (statistics over all GPUs).
        norm_eps: what all BatchNorms add to the variance; None: the model's own (MobileNetV3 .001, where torchvision's
            Faster R-CNN on it has 1e-5).
        ceil_mode: poolings of 2 x 2 round odd sizes up, as Caffe's did (SSD: 300 pixels give maps of 38 and 19, not 37
            and 18). Nothing changes for images of a multiple of the coarsest stride.

    Raises:
        ValueError: if the model, the level, the weights' name or the file does not exist or does not fit, or the model
            has no such site.
        NoNetworkError: if weights must be fetched and there is no network (within seconds).
    """

    def __init__(
        self,
        attention: Sites | None = None,
        *,
        name: str,
        levels: Sequence[Level] = (3, 4, 5),
        layers: Sequence[str] | None = None,
        reduced_tail: bool = False,
        pretrained: bool | str = False,
        ema: bool = True,
        frozen_stages: Levels = 0,
        norm: Literal["train", "frozen", "sync"] = "train",
        norm_eps: PositiveFloat | None = None,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        _require_model(name)
        classifier = _create(name, None, reduced_tail)
        with torch.device("meta"):
            dummy = copy.deepcopy(classifier).to("meta").eval()  # RegNet cannot be built there
            taps = _taps(dummy, name, layers or ())
            if layers is None:
                chosen = [taps[i] for i in last_per_stride([tap.stride for tap in taps], levels, name)]
            else:
                chosen = _named(taps, layers, levels, name)
            last = {tap.stride: tap for tap in taps}
            stages = {tap.module: (tap.stride, tap.output) for tap in sorted(last.values(), key=lambda t: t.stride)}
            frozen = stage_parameters(dummy, stages, frozen_stages, name)
        self.out_spec = FeatureSpec(tuple(tap.channels for tap in chosen), tuple(2**level for level in levels))
        self.map_strides = tuple(tap.stride for tap in chosen)
        self._outputs = tuple(str(tap.stride) if layers is None else tap.module for tap in chosen)
        self._nhwc = tuple(tap.nhwc for tap in chosen)

        read: Pretrained | None = None
        if pretrained and not is_file(pretrained):
            weights = _weights(name, pretrained)
            classifier = _create(name, weights, reduced_tail)
            read = everything(classifier, f"torchvision's {name} {weights.name}", _normalization(weights))
        if ceil_mode:
            _round_up(classifier, name)
        if norm_eps is not None:
            _set_eps(classifier, norm_eps, name)
        known = list(classifier.state_dict())
        upto = {s: tap for s, tap in sorted(last.items()) if s <= chosen[-1].stride and (s >= 4 or tap in chosen)}
        returned = {tap.module: str(stride) for stride, tap in upto.items()}
        if layers is not None:
            returned = {layer: layer for layer in layers}
        # The train and the eval graph differ in dropout only, which torchvision would announce in a warning.
        self.model = create_feature_extractor(classifier, returned, suppress_diff_warning=True)
        if is_file(pretrained):
            read = load_file(
                self.model, str(pretrained), name, known, _normalization(_published(name, pretrained)), ema=ema
            )
        self._finish(name, frozen, norm, read)
        if attention and layers is not None:
            raise InputError(f"backbone {name}: attention in it has its place by levels: leave layers out")
        if attention:
            ends = _last_layers(self.model)
            offered: tuple[Site, ...] = ("stage",) if ends.keys() >= set(self.out_spec.strides) else ()
            only_sites(attention, offered, f"torchvision's {name}", _in_timm(name, attention))
            places = {
                stride.bit_length() - 1: Stage(ends[stride], tap.channels, tap.nhwc, tap in chosen)
                for stride, tap in upto.items()
                if stride in ends
            }
            self.attention = attend_stages(self.model, places, attention, name)
            self.register_load_state_dict_pre_hook(_by_new_names)  # type: ignore[no-untyped-call]  # torch's
            self._check_attention(name, attention)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised float images (B, 3, H, W) to one map (B, C_l, H / 2**l, W / 2**l) per level, finest first."""
        features = self.model(images)
        maps = [features[output] for output in self._outputs]
        return [x.permute(0, 3, 1, 2) if nhwc else x for x, nhwc in zip(maps, self._nhwc, strict=True)]


def _last_layers(model: Any) -> dict[int, str]:
    """Stride -> the layer whose result is that stage's map, for the stages that end in a layer of their own.

    Others end in a function, such as a sum, or in a layer that is called more than once.
    """
    calls = Counter(node.target for node in model.graph.nodes if node.op == "call_module")
    (maps,) = next(node.args for node in model.graph.nodes if node.op == "output")
    return {int(stride): str(node.target) for stride, node in maps.items() if calls[node.target] == 1}


def _in_timm(name: str, attention: Sites) -> str:
    """Where what is asked for can stand, for people: in timm's form of this model, if that has the place."""
    short = name.replace("_v", "v")
    found = next((known for known in (name, short, f"{short}_100") if is_model(known)), "resnet50")
    everywhere = is_model_in_modules(found, ("resnet", "res2net"))
    has = found if everywhere or attention.keys() <= {"stage"} else "resnet50"
    return f"only timm's models have a place for it (backbone=timm backbone.name={has})"


def _by_new_names(_module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Attention of checkpoints from when it stood within the traced model."""
    old = f"{prefix}model.attention."
    for key in [key for key in state if key.startswith(old)]:
        state[f"{prefix}attention.{key.removeprefix(old)}"] = state.pop(key)


def _require_model(name: str) -> None:
    names = models.list_models(module=models)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=4)
        hint = f"; did you mean {', '.join(near)}?" if near else f"; it has {', '.join(names)}"
        raise InputError(f"backbone: torchvision {torchvision.__version__} has no model {name!r}{hint}")


def _create(name: str, weights: models.WeightsEnum | None, reduced_tail: bool = False) -> nn.Module:
    if reduced_tail and not name.startswith("mobilenet_v3"):
        raise InputError(f"backbone {name}: only mobilenet_v3_large and _small have a reduced tail: leave it out")
    with warnings.catch_warnings():
        # GoogLeNet and Inception announce a change of their default initialisation.
        warnings.simplefilter("ignore", FutureWarning)
        model: nn.Module = models.get_model(name, weights=weights, **({"reduced_tail": True} if reduced_tail else {}))
    return model


def _round_up(model: nn.Module, name: str) -> None:
    """Let the poolings without overlap keep the last row and column of odd sizes."""
    poolings = [m for m in model.modules() if isinstance(m, nn.MaxPool2d) and m.kernel_size == m.stride]
    if not poolings:
        raise InputError(
            f"backbone {name}: it has no pooling of 2 x 2, so ceil_mode=true changes nothing: leave it out"
        )
    for pooling in poolings:
        pooling.ceil_mode = True


def _set_eps(model: nn.Module, eps: float, name: str) -> None:
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        raise InputError(f"backbone {name}: it has no BatchNorm, so norm_eps={eps} changes nothing: leave it out")
    for norm in norms:
        norm.eps = eps


def _weights(name: str, pretrained: bool | str) -> models.WeightsEnum:
    """The weights by name, with the certainty that they are in the cache or can be fetched."""
    choices = models.get_model_weights(name)
    known = {weights.name: weights for weights in choices}
    wanted = "DEFAULT" if pretrained is True else str(pretrained)
    if wanted != "DEFAULT" and wanted not in known:
        raise InputError(
            f"backbone {name}: torchvision has no pretrained weights {wanted!r} for it and no such file exists; "
            f"it has {', '.join(known)}"
        )
    weights = choices[wanted]
    if not (Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name).is_file():
        require_reachable(weights.url, name)
        try:
            weights.get_state_dict(progress=True, check_hash=True)
        except OSError as error:
            raise no_network(name, weights.url, error) from error
    return weights


def _published(name: str, file: bool | str) -> models.WeightsEnum:
    """The weights that a file is taken to be: those published under its name, or the default."""
    choices = models.get_model_weights(name)
    return next((w for w in choices if Path(w.url).name == Path(str(file)).name), choices.DEFAULT)


def _normalization(weights: models.WeightsEnum) -> Normalization:
    """Of the images that these weights expect."""
    transforms = weights.transforms()
    return Normalization.of(transforms.mean, transforms.std)


def _named(taps: Sequence[_Tap], layers: Sequence[str], levels: Sequence[int], name: str) -> list[_Tap]:
    """The outputs of some layers, one per level.

    Raises:
        InputError: if a layer gives no map, or maps that do not fit the levels.
    """
    by_name = {tap.module: tap for tap in taps}
    if lacking := [layer for layer in layers if layer not in by_name]:
        near = difflib.get_close_matches(lacking[0], by_name, n=4)
        hint = f"; near it are {', '.join(near)}" if near else ""
        raise InputError(f"backbone {name}: layers: {', '.join(lacking)} is no module of it that gives a map{hint}")
    chosen = [by_name[layer] for layer in layers]
    strides = [tap.stride for tap in chosen]
    nominal = [2**level for level in levels]
    if len(layers) != len(levels) or strides[-1:] != nominal[-1:] or any(map(int.__lt__, strides, nominal)):
        raise InputError(
            f"backbone {name}: layers {', '.join(layers)} give maps of strides {strides}, levels {list(levels)} name "
            f"{nominal}; there is one level per layer, and the coarsest names its map's stride"
        )
    return chosen


def _taps(model: nn.Module, name: str, layers: Sequence[str] = ()) -> list[_Tap]:
    """Outputs of the model's children, grandchildren and some layers that are feature maps, as they are ready."""
    height, width = size = dummy_size(128)  # large, so that pooled 1 x 1 and 7 x 7 maps are no stride
    taps: list[_Tap] = []

    def record(path: str, output: object) -> None:
        if not isinstance(output, Tensor) or output.ndim != 4:
            return
        for nhwc, (h, w, channels) in ((False, (2, 3, 1)), (True, (1, 2, 3))):
            stride = height // output.shape[h]
            exact = output.shape[h] * stride == height and output.shape[w] * stride == width
            if exact and stride & (stride - 1) == 0:
                taps.append(_Tap(path, stride, output.shape[channels], nhwc, output))
                return

    handles = [
        module.register_forward_hook(lambda _module, _inputs, output, path=path: record(path, output))
        for path, module in model.named_modules()
        if path and (path.count(".") < 2 or path in layers)
    ]
    with torch.enable_grad(), accepts_size(name, size, 32):
        model(torch.zeros(1, 3, height, width))
    for handle in handles:
        handle.remove()
    return taps
