"""All wiring: from a resolved configuration (plain containers) to objects. The only calls of Hydra's ``instantiate``.

A part is told what the parts before it are (feature specs, number of classes, size divisor), never by the YAML.
"""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pytorch_lightning as pl
from hydra.errors import InstantiationException
from hydra.utils import instantiate as hydra_instantiate
from lightning_fabric.utilities.exceptions import MisconfigurationException

from detfuse.annotations import Annotations
from detfuse.attention.inserts import BACKBONE_SITES, HEAD_SITES, NECK_SITES, AttentionChoice, Levels, Site, Sites
from detfuse.data import DetectionDataModule
from detfuse.detector import Detector, normalization_of
from detfuse.errors import InputError
from detfuse.evaluation.coco import CocoEvaluator
from detfuse.evaluation.engines import MAX_DETECTIONS
from detfuse.initialisation import initialised
from detfuse.ops.translation import Translated
from detfuse.protocols import Backbone, Combine, Head, Neck
from detfuse.structures import Categories, FeatureSpec
from detfuse.training.module import DetectionModule, ImageIdOf

Config = Mapping[str, Any]
_MIN_DIVISOR = 32
_NO_ATTENTION = "detfuse.attention.none"


class Start(Protocol):
    """Weights that training starts from: those of another detector."""

    def announce(self, backbone: Backbone) -> None:
        """Let a backbone know what of it is going to be read, and how its images are normalised."""
        ...

    def give(self, detector: Detector, classes: Categories) -> None:
        """Put them into a detector of these classes."""
        ...


class ConfigError(InputError):
    """A configuration that cannot be built; the message is for the user."""


def instantiate(node: Config) -> Callable[..., Any]:
    """The callable of a node's ``_target_`` with its configured arguments; call it with the wired ones.

    Nested nodes are built on the way. Runtime objects never pass through Hydra, which would turn dataclasses into
    configurations (Hydra issue 2364).

    Raises:
        Exception: what a nested target raised.
    """
    try:
        made: Callable[..., Any] = hydra_instantiate(node, _partial_=True, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, ImportError) and (target := _private(str(error))):
            raise ConfigError(f"{target}: {_not_imported(error.__cause__)}") from error
        if error.__cause__ is not None:
            raise error.__cause__ from None  # Hydra's wrapper hides the message behind a dump of the call
        raise ConfigError(str(error)) from error
    return made


def _private(message: str) -> str | None:
    """The target that Hydra could not locate, if it is the user's own: ours are there."""
    found = re.search(r"Error locating target '([^']+)'", message)
    return found[1] if found and not found[1].startswith("detfuse.") else None


def _not_imported(error: ImportError) -> str:
    """Why, and where in the user's own file."""
    cause = error.__cause__ or error
    last = traceback.extract_tb(cause.__traceback__)[-1:]
    place = "".join(f" at {frame.filename}:{frame.lineno}" for frame in last if "importlib" not in frame.filename)
    return f"cannot be imported: {type(cause).__name__}: {cause}{place}"


@dataclass(frozen=True)
class Parts:
    """A run's parts, as they are built from one configuration.

    Attributes:
        data: the data module.
        detector: its detector.
        module: what Lightning trains and validates.
        classes: what the detector predicts: the data's classes, or those of weights that are only scored on the data.
    """

    data: DetectionDataModule
    detector: Detector
    module: DetectionModule
    classes: Categories


def build_parts(
    config: Config,
    *,
    stage: str,
    pretrained: bool = True,
    start: Start | None = None,
    classes: Categories | None = None,
) -> Parts:
    """Everything but the trainer: the data is read, the detector initialised under ``config["seed"]``.

    The module's configuration has the numbers that images are normalised by, so that its checkpoints need nothing else.

    Args:
        config: plain and resolved.
        stage: ``fit`` reads both splits, ``validate`` the validation split.
        pretrained: False: a checkpoint brings all weights, so the backbone's are not read.
        start: what training starts from in place of the backbone's weights.
        classes: what the detector predicts, where weights bring more classes than the data have.
    """
    backbone = build_backbone(config if pretrained and start is None else without_pretrained(config))
    if start is not None:
        start.announce(backbone)
    config = with_normalization(config, backbone)
    data = build_data(config, size_divisor(backbone.out_spec))
    data.prepare_data()
    data.setup(stage)
    predicted = classes or data.categories
    detector = build_detector(config, len(predicted), backbone)
    if start is not None:
        start.give(detector, predicted)
    evaluator = build_evaluator(config, data.ground_truth("val"))
    combine = build_combine(config)
    if predicted != data.categories:
        combine = Translated(combine, predicted, data.categories)
    module = build_module(config, detector, combine, evaluator, data.categories, data.image_id_of)
    return Parts(data, detector, module, predicted)


def without_pretrained(config: Config) -> dict[str, Any]:
    """The configuration of a detector whose weights come from a checkpoint: no others are to be read or downloaded."""
    backbone = config["backbone"]
    return {**config, "backbone": {**backbone, "pretrained": False} if "pretrained" in backbone else backbone}


def with_normalization(config: Config, backbone: Backbone) -> dict[str, Any]:
    """The configuration with ``detector.mean`` and ``std`` as numbers, where they were left to the backbone.

    Raises:
        ValueError: if the numbers asked for are not what the backbone's weights expect.
    """
    node = config["detector"]
    if not {"mean", "std"} <= inspect.signature(instantiate(node)).parameters.keys():
        return dict(config)  # a detector of one's own
    used = normalization_of(backbone, node.get("mean"), node.get("std"))
    return {**config, "detector": {**node, "mean": list(used.mean), "std": list(used.std)}}


def size_divisor(spec: FeatureSpec) -> int:
    """What image sizes are padded to a multiple of: the backbone's coarsest stride, at least 32."""
    return max(_MIN_DIVISOR, spec.strides[-1])


def build_attention(config: Config, sites: Sequence[Site]) -> Sites:
    """What the configuration puts at some of the sites; those without attention are left out, whatever their levels.

    So a sweep may hold levels fixed and have ``none`` among its kinds.
    """
    chosen = config.get("attention")
    if chosen is None:  # a checkpoint that is older than the sites
        return {}
    levels: Levels = instantiate(chosen["levels"])()
    found: dict[Site, AttentionChoice] = {}
    for site in sites:
        if chosen[site]["_target_"] != _NO_ATTENTION:
            at = getattr(levels, site)
            found[site] = AttentionChoice(instantiate(chosen[site]), None if at is None else tuple(sorted(at)))
    return found


def build_backbone(config: Config) -> Backbone:
    """The feature extractor."""
    backbone = instantiate(config["backbone"])
    make = partial(backbone, **_attention_for(backbone, config, BACKBONE_SITES, "backbone"))
    built: Backbone = initialised(make, config["seed"], "backbone")
    return built


def _attention_for(part: Callable[..., Any], config: Config, sites: tuple[Site, ...], kind: str) -> dict[str, Sites]:
    """The argument ``attention`` of a part, if it takes one."""
    attention = build_attention(config, sites)
    if "attention" in inspect.signature(part).parameters:
        return {"attention": attention}
    if attention:
        raise ConfigError(
            f"attention@attention.{next(iter(attention))}: {kind}={_target_name(config[kind])} has no such site, it "
            "takes no attention"
        )
    return {}


def _target_name(node: Config) -> str:
    return str(node["_target_"]).rpartition(".")[2]


def build_data(config: Config, size_divisor: int) -> DetectionDataModule:
    """The data module, not yet set up."""
    data: DetectionDataModule = instantiate(config["data"])(size_divisor=size_divisor, seed=config["seed"])
    return data


def build_neck(config: Config, in_spec: FeatureSpec) -> Neck:
    """The neck, with the parts that its YAML brings: an operator and resamplers for a fusion graph, else none.

    Raises:
        ConfigError: if there is attention for a site that the neck does not have, or it does not keep its contract.
    """
    neck = instantiate(config["neck"])
    resample = config.get("resample") or {}
    brought = {
        "operator": config.get("operator"),
        "resample_up": resample.get("up"),
        "resample_down": resample.get("down"),
    }
    wired = {name: instantiate(node) for name, node in brought.items() if node is not None}
    attention = _attention_for(neck, config, NECK_SITES, "neck")
    built: Neck = initialised(partial(neck, in_spec=in_spec, **wired, **attention), config["seed"], "neck")
    if lacking := [name for name in ("in_spec", "out_spec", "graph", "describe") if not hasattr(built, name)]:
        raise ConfigError(
            f"neck={_target_name(config['neck'])} is no neck yet: it has no {', '.join(lacking)}; "
            "detfuse.protocols.Neck says what they are (graph = None for a neck that is no fusion graph)"
        )
    return built


def build_head(config: Config, in_spec: FeatureSpec, num_classes: int) -> Head[Any]:
    """The head on a neck's maps."""
    head = instantiate(config["head"])
    attention = _attention_for(head, config, HEAD_SITES, "head")
    make = partial(head, in_spec=in_spec, num_classes=num_classes, **attention)
    built: Head[Any] = initialised(make, config["seed"], "head")
    return built


def build_detector(config: Config, num_classes: int, backbone: Backbone | None = None) -> Detector:
    """Backbone, neck and head; each parameter starts from its name and ``config["seed"]``, whatever else there is.

    Args:
        config: plain and resolved.
        num_classes: of the data.
        backbone: if it was built already.
    """
    backbone = backbone or build_backbone(config)
    neck = build_neck(config, backbone.out_spec)
    head = build_head(config, neck.out_spec, num_classes)
    detector: Detector = instantiate(config["detector"])(backbone=backbone, neck=neck, head=head)
    return detector


def build_combine(config: Config, *, fitted: bool = False) -> Combine:
    """How candidates become detections.

    Args:
        config: plain and resolved.
        fitted: whether no image will be there to fit a calibration to.

    Raises:
        ConfigError: for a calibration that is to be fitted and cannot be.
    """
    if is_to_be_fitted(config):
        if fitted:
            raise ConfigError(
                "combine.calibration=platt is to be fitted: `evaluate` of the checkpoint does so and says the numbers "
                "to give here, combine.calibration=[[slope,offset],...]; or give combine.calibration=null"
            )
        if not config["data"]["loader"].get("hold_back"):
            raise ConfigError(
                "combine.calibration=platt is fitted to training images that nothing was trained on: hold some back "
                "when training, by data.loader.hold_back=0.1"
            )
    combine: Combine = instantiate(config["combine"])()
    return combine


def is_to_be_fitted(config: Config) -> bool:
    """Whether the combination needs a calibration that the configuration does not have in numbers."""
    return bool(config["combine"].get("calibration") == "platt")


def build_evaluator(config: Config, ground_truth: Annotations) -> CocoEvaluator:
    """The judge of one split.

    Raises:
        ConfigError: if it is to count more detections than there will be.
    """
    given, there = config["evaluation"].get("max_detections"), config["combine"].get("max_detections")
    if given is not None and there is not None and given > there:
        raise ConfigError(
            f"evaluation.max_detections={given}: an image has no more detections than combine.max_detections={there}; "
            "give that, too"
        )
    limit = given if given is not None or there is None else max(there, MAX_DETECTIONS[-1])
    evaluator: CocoEvaluator = instantiate({**config["evaluation"], "max_detections": limit})(ground_truth=ground_truth)
    return evaluator


def build_module(
    config: Config,
    detector: Detector,
    combine: Combine,
    evaluator: CocoEvaluator | None,
    categories: Categories,
    image_id_of: ImageIdOf,
) -> DetectionModule:
    """The module that Lightning trains; it carries the configuration into the checkpoints."""
    module: DetectionModule = instantiate(config["module"])(
        detector=detector,
        combine=combine,
        evaluator=evaluator,
        categories=categories,
        config=dict(config),
        optimizer=instantiate(config["optimizer"]),
        scheduler=instantiate(config["scheduler"]),
        image_id_of=image_id_of,
    )
    return module


def build_trainer(config: Config, run_dir: Path, *, bare: bool = False) -> pl.Trainer:
    """Lightning's trainer with callbacks and loggers.

    Args:
        config: plain and resolved.
        run_dir: the run folder.
        bare: without callbacks and loggers, for evaluation.
    """
    callbacks = [] if bare else [instantiate(node)() for node in _present(config.get("callbacks"))]
    loggers = [] if bare else [instantiate(node)(run_dir=run_dir) for node in _present(config.get("logger"))]
    try:
        trainer: pl.Trainer = instantiate(config["trainer"])(run_dir=run_dir, callbacks=callbacks, loggers=loggers)
    except (MisconfigurationException, ValueError, ImportError) as error:  # Lightning's for what it cannot do here
        raise ConfigError(f"trainer: {error}") from error
    return trainer


def _present(nodes: Config | None) -> list[Config]:
    return [node for node in (nodes or {}).values() if node is not None]
