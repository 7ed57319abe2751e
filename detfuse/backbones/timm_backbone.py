"""Any timm model with feature maps as a backbone. timm: https://github.com/huggingface/pytorch-image-models."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import huggingface_hub
import timm
import torch
from timm.models import (
    get_pretrained_cfg,
    is_model,
    list_models,
    list_pretrained,
    model_entrypoint,
    split_model_name_tag,
)
from torch import Tensor

from detfuse.attention.inserts import BACKBONE_SITES, Sites, only_sites
from detfuse.backbones.extractor import Extractor, accepts_size, dummy_size, last_per_stride, stage_parameters
from detfuse.backbones.inserts import Stage, attend_stages
from detfuse.backbones.pretrained import everything, is_file, load_file, no_network, require_reachable
from detfuse.errors import InputError
from detfuse.ranges import FractionBelowOne, Level, Levels, checked
from detfuse.structures import IMAGENET, FeatureSpec, Normalization, Pretrained

_FLEXIBLE: tuple[dict[str, Any], ...] = ({"strict_img_size": False}, {"dynamic_img_size": True})


@checked
class TimmBackbone(Extractor):
    """A timm model, cut after the coarsest requested level.

    Levels are chosen by stride: level l has stride ``2**l``; of several maps of one stride the last is taken. Models
    that compute in NHWC give NCHW here (the memory format channels_last); models built for one image size are built
    such that they take any, where they can.

    Args:
        attention: what stands at the sites ``stage``, ``branch`` and ``before_last_block``.
        name: a name of ``timm.list_models()``, such as ``resnet18``, also with a tag, ``resnet18.a1_in1k``.
        levels: log2 of the strides to return, ascending.
        pretrained: False: random weights; True: timm's default weights, or those of the tag in ``name``; another tag
            (``"a1_in1k"``); or a file (``.pth``, ``.pt``, ``.safetensors``) in timm's naming, with or without its head.
            A file that does not say how its images are normalised is taken to be of the tag in ``name``, or of timm's
            default one.
        ema: where a file of weights holds averaged and raw ones, take the averaged.
        frozen_stages: number of stages that do not learn and stay in evaluation mode: 1 is the stem (all before C2),
            n > 1 everything up to Cn. Attention in them learns.
        norm: ``train``, ``frozen`` (all BatchNorms) or ``sync`` (statistics over all GPUs).
        drop_path: rate of stochastic depth at the last block, for models that have it.

    Raises:
        ValueError: if the model, the level, the tag or the file does not exist or does not fit, or the model has no
            such site.
        NoNetworkError: if weights must be fetched and there is no network (within seconds).
    """

    def __init__(
        self,
        attention: Sites | None = None,
        *,
        name: str,
        levels: Sequence[Level] = (3, 4, 5),
        pretrained: bool | str = False,
        ema: bool = True,
        frozen_stages: Levels = 0,
        norm: Literal["train", "frozen", "sync"] = "train",
        drop_path: FractionBelowOne = 0.0,
    ) -> None:
        super().__init__()
        _require_model(name)
        options = _options(name, drop_path)
        info = _maps_of(model_entrypoint(split_model_name_tag(name)[0]), name, frozenset(options.items()))
        strides = [int(each["reduction"]) for each in info]
        indices = last_per_stride(strides, levels, name)
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            frozen = _frozen_parameters(name, options, strides, frozen_stages)
        channels = tuple(int(info[index]["num_chs"]) for index in indices)
        self.out_spec = FeatureSpec(channels, tuple(2**level for level in levels))

        read: Pretrained | None = None
        if pretrained and not is_file(pretrained):
            named = _weights_name(name, pretrained)
            self.model = _create_pretrained(named, {**options, "out_indices": tuple(indices)})
            read = everything(self.model, f"timm's {named}", _normalization(named))
        else:
            self.model = _create(name, {**options, "out_indices": tuple(indices)})
        self._nhwc = str(getattr(self.model, "output_fmt", "NCHW")).rpartition(".")[2] == "NHWC"
        if is_file(pretrained):
            with torch.random.fork_rng(devices=[]), torch.device("meta"):
                classifier = timm.create_model(name, **{k: v for k, v in options.items() if k != "features_only"})
            read = load_file(self.model, str(pretrained), name, classifier.state_dict(), _normalization(name), ema=ema)
        self._finish(name, frozen, norm, read)
        if attention:
            only_sites(attention, BACKBONE_SITES, f"backbone {name}")
            stages = {
                level: Stage(str(info[index]["module"]), int(info[index]["num_chs"]), self._nhwc, level in levels)
                for level, index in _stage_indices(strides, levels).items()
            }
            self.attention = attend_stages(self.model, stages, attention, name)
            self._check_attention(name, attention)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised float images (B, 3, H, W) to one map (B, C_l, H / 2**l, W / 2**l) per level, finest first."""
        features: list[Tensor] = self.model(images)
        return [feature.permute(0, 3, 1, 2) for feature in features] if self._nhwc else list(features)


def _stage_indices(strides: Sequence[int], levels: Sequence[int]) -> dict[int, int]:
    """Level -> index of its last map, from C2 to the coarsest that is returned."""
    last = {stride.bit_length() - 1: index for index, stride in enumerate(strides)}
    return {level: last[level] for level in sorted(last) if level in levels or 2 <= level <= max(levels)}


def _require_model(name: str) -> None:
    model, tag = split_model_name_tag(name)
    if not is_model(model):
        near = difflib.get_close_matches(model, list_models(), n=4)
        hint = f"; did you mean {', '.join(near)}?" if near else "; see timm.list_models()"
        raise InputError(f"backbone: timm {timm.__version__} has no model {model!r}{hint}")
    if tag:
        _require_tag(model, tag)


def _require_tag(model: str, tag: str) -> None:
    tags = [known.partition(".")[2] for known in list_pretrained(f"{model}.*")]
    if tag not in tags:
        has = f"it has {', '.join(tags)}" if tags else "it has none; use pretrained=false"
        raise InputError(
            f"backbone {model}: timm has no pretrained weights {tag!r} for it and no such file exists; {has}"
        )


def _options(name: str, drop_path: float) -> dict[str, Any]:
    """Arguments for ``timm.create_model`` that make the model take images of any size."""
    options: dict[str, Any] = {"features_only": True}
    if drop_path:
        options["drop_path_rate"] = drop_path
    configuration = get_pretrained_cfg(name)
    if configuration is None or not configuration.fixed_input_size:
        return options
    for flexible in _FLEXIBLE:
        try:
            with torch.random.fork_rng(devices=[]), torch.device("meta"):
                timm.create_model(name, **options, **flexible)
        except TypeError:
            continue  # no such argument in this family
        return options | flexible
    return options


@lru_cache(maxsize=16)  # a detector is built twice (detfuse.initialisation); a name may be registered anew
def _maps_of(entrypoint: Callable[..., Any], name: str, options: frozenset[tuple[str, Any]]) -> list[dict[str, Any]]:
    """What timm says of each map of a model: its stride, channels and module."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        info = _create(name, dict(options)).feature_info
    return [info[index] for index in range(len(info))]


def _create(name: str, options: Mapping[str, Any]) -> Any:
    try:
        return timm.create_model(name, **options)
    except (RuntimeError, AttributeError, AssertionError, TypeError, KeyError) as error:
        asked = f" with drop_path={options['drop_path_rate']}" if "drop_path_rate" in options else ""
        raise InputError(f"backbone {name}: timm cannot build it as a feature extractor{asked} ({error})") from error


def _weights_name(name: str, pretrained: bool | str) -> str:
    """The model's name, with the tag of its weights where one is asked for."""
    if not isinstance(pretrained, str):
        return name
    model, _ = split_model_name_tag(name)
    _require_tag(model, pretrained)
    return f"{model}.{pretrained}"


def _normalization(name: str) -> Normalization:
    """Of the images that the weights of this tag expect; without a tag, those of timm's default one."""
    configuration = get_pretrained_cfg(name)
    return IMAGENET if configuration is None else Normalization.of(configuration.mean, configuration.std)


def _create_pretrained(name: str, options: dict[str, Any]) -> Any:
    """Build with the library's weights; from the cache without any network, else after a look whether there is one."""
    configuration = get_pretrained_cfg(name)
    if configuration is None or not configuration.has_weights:
        raise InputError(f"backbone {name}: timm has no pretrained weights for it; use pretrained=false or a file")
    source = dataclasses.asdict(configuration)
    options = {**options, "pretrained": True}
    host = source.get("url") or ""
    if source.get("hf_hub_id"):
        host = huggingface_hub.constants.ENDPOINT
        cached = _cached(source["hf_hub_id"], source.get("hf_hub_filename"))
        if cached and not source.get("custom_load"):
            return _create(name, {**options, "pretrained_cfg_overlay": {"file": cached}})
    elif _in_torch_hub(host):
        return _create(name, options)
    require_reachable(host, name)
    try:
        return _create(name, options)
    except OSError as error:
        raise no_network(name, host, error) from error


def _cached(repository: str, file: str | None) -> str | None:
    for candidate in [file] if file else ["model.safetensors", "pytorch_model.bin"]:
        path = huggingface_hub.try_to_load_from_cache(repository, candidate)
        if isinstance(path, str):
            return path
    return None


def _in_torch_hub(url: str) -> bool:
    return (Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]).is_file()


def _frozen_parameters(name: str, options: dict[str, Any], strides: Sequence[int], frozen_stages: int) -> set[str]:
    """Names of the parameters of the frozen stages, found on a dummy without memory."""
    if frozen_stages == 0:
        return set()
    model = _create(name, options | {"out_indices": tuple(range(len(strides)))}).eval()
    size = dummy_size(max(strides))
    with torch.enable_grad(), accepts_size(name, size, max(strides)):
        features = model(torch.zeros(1, 3, *size))
    taps = {
        str(model.feature_info[index]["module"]): (stride, feature)
        for index, (stride, feature) in enumerate(zip(strides, features, strict=True))
    }
    return stage_parameters(model, taps, frozen_stages, name)
