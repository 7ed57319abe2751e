"""Published detectors against ours, live: same random weights, same picture, same objects; a section of benchmark.py.

What is compared is the whole way from a picture to its detections, by the recipe in ``conf/experiment``: resizing,
normalisation, padding, backbone, neck, head, limits and NMS. The weights are random, since there is no network; norms
have the statistics of a picture, and the predictors are scaled so that scores spread, so that all parts matter.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor, nn
from torchvision.models import get_model

from detfuse.build import build_combine, build_detector, instantiate, size_divisor
from detfuse.config import conf_dir
from detfuse.data import load_image
from detfuse.data.collate import collate
from detfuse.data.generators import Shapes
from detfuse.data.scene import Objects
from detfuse.data.transforms import Transforms
from detfuse.detector import Detector
from detfuse.protocols import Combine
from detfuse.structures import Batch, Categories, Detections
from detfuse.visualize.boxes import draw_detections, save_picture
from detfuse.weights.checkpoint import Checkpoint, load_weights
from detfuse.weights.published import Published
from detfuse.weights.sources import ALL

_SPREAD = {
    "cls_logits": 1.5,
    "class_net": 1.5,
    "bbox_ctrness": 1.0,
    "cls_score": 3.0,
    "classification_head.module_list": 2.0,
}
"""Standard deviation of what predictors of classes give; those of boxes: see :func:`_deviation`."""
_PIXELS = 1e-5  # of resized images, relative to the largest
_NEAR, _TIE = 0.05, 1e-6  # pixels, and of a score


class Pair(NamedTuple):
    """The same detector in both libraries.

    Attributes:
        theirs: torchvision's, or effdet's behind the same interface.
        ours: by our recipe.
        published: what they are called.
        transform: of the recipe.
        combine: of the recipe.
        divisor: of padded sizes.
        frozen: whether the backbone's norms are.
    """

    theirs: Any
    ours: Detector
    published: Published
    transform: Transforms
    combine: Combine
    divisor: int
    frozen: bool


class Compared(NamedTuple):
    """Detections of both, in pixels of the picture.

    Attributes:
        boxes: largest difference of a coordinate, in pixels.
        scores: largest difference.
        detections: how many were compared; both have as many.
        ties: how many have another box in the other library, of the same class and score: regions that pool the same
            cells score alike, and rounding decides which of them stays.
    """

    boxes: float
    scores: float
    detections: int
    ties: int


def pair_of(
    model: str,
    picture: Tensor,
    *overrides: str,
    num_classes: int | None = None,
    dtype: torch.dtype = torch.float64,
    **options: Any,
) -> Pair:
    """Both detectors with the same random weights.

    Args:
        model: name in its library, and of the recipe.
        picture: (3, H, W) uint8, for the statistics of the norms.
        overrides: of the recipe.
        num_classes: theirs; None: the published number.
        dtype: of both, up to the head: random weights magnify what float32 rounds in each layer.
        options: of their model.
    """
    published = ALL[model]
    count = num_classes or len(published.categories) + published.background
    theirs = _theirs(published, count, options).eval()
    parts = [picture[:, : picture.shape[1] * part // 4] for part in (4, 3)]
    if published.library == "effdet":
        parts.append(picture[:, :, : picture.shape[2] // 3])  # a narrow one is mostly padding in its squares
    spread(theirs, parts)
    given = [f"experiment={model}", "data.root=none", "backbone.pretrained=false", "backbone.frozen_stages=0"]
    if published.library == "effdet":
        given.append("backbone.drop_path=0.0")  # which draws lots
    mean, std = (list(numbers) for numbers in published.normalization)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = compose("train", [*given, f"detector.mean={mean}", f"detector.std={std}", *overrides])
    config: Any = OmegaConf.to_container(composed, resolve=True)
    ours = build_detector(config, count - published.background).eval()
    state, unknown = published.table.to_ours(theirs.state_dict())
    if unknown:
        raise AssertionError(f"{model}: the table does not know {unknown}")
    state, _ = published.settled(state, published=False)
    load_weights(ours, Checkpoint(Path(model), config, Categories((1,), ("any",)), state, 0, "0", is_ema=False))
    transform: Transforms = instantiate(config["data"]["transform"])()
    divisor = transform.divisor(size_divisor(ours.backbone.out_spec))
    frozen = config["backbone"]["norm"] == "frozen"
    theirs.to(dtype), ours.to(dtype)
    return Pair(theirs, ours, published, transform, build_combine(config), divisor, frozen)


def _theirs(published: Published, num_classes: int, options: Mapping[str, Any]) -> Any:
    if published.library == "torchvision":
        return get_model(published.model, weights=None, weights_backbone=None, num_classes=num_classes, **options)
    from benchmarks.effdet_detector import EffdetDetector  # here, since torchvision's need no effdet

    return EffdetDetector(published.model, num_classes, **options)


def spread(model: Any, pictures: Sequence[Tensor]) -> None:
    """Random weights with which all parts of a model of theirs matter; torch's generator is left as it was.

    Args:
        model: of a library.
        pictures: whose statistics its norms get.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    module.bias.normal_(std=0.1)
            elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.1)
        for name, parameter in model.named_parameters():
            if name.endswith("edge_weights"):  # of effdet's fusion
                parameter.uniform_(0.5, 1.5)
        images = [picture / 255 for picture in pictures]
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.train().momentum = None  # the mean of all batches
        _scaled_predictors(model, images)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.eval().momentum = momentum
            variance = norm.running_var
            assert variance is not None
            variance.clamp_(min=float(variance.mean()) / 10)  # of a few cells it may be almost none
        _scaled_predictors(model, images)


def _scaled_predictors(model: Any, images: list[Tensor]) -> None:
    """Run the model once more, each predictor scaled as soon as it is asked."""

    def scale(module: Any, inputs: Any, output: Tensor) -> Tensor:
        name, factor = names[module], 1.0
        if module not in scaled:
            factor = _deviation(name) / (float((output - module.bias.view(shape_of(output))).std()) + 1e-6)
            module.weight *= factor
            module.bias.normal_(std=0.1)
            module.bias -= _rarity(name)
            scaled.add(module)
        if output.ndim == 2:
            return nn.functional.linear(inputs[0], module.weight, module.bias)
        result: Tensor = module._conv_forward(inputs[0], module.weight, module.bias)
        return result

    def shape_of(output: Tensor) -> tuple[int, ...]:
        return (1, -1, 1, 1) if output.ndim == 4 else (1, -1)

    named = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    names = {module: name for name, module in named.items() if _is_predictor(name)}
    scaled: set[Any] = set()
    handles = [module.register_forward_hook(scale) for module in names]
    model(images)
    for handle in handles:
        handle.remove()


def _is_predictor(name: str) -> bool:
    last = name.rpartition(".")[2]
    if name.endswith("predict.conv_pw"):  # effdet's
        return True
    predicts = any(part in name for part in ("cls_logits", "bbox_reg", "bbox_pred", "bbox_ctrness", "cls_score"))
    return predicts or ("module_list" in name and (name.count(".") == 3 or last == "1") and name.split(".")[-2] != "0")


def _deviation(name: str) -> float:
    known = next((value for part, value in _SPREAD.items() if part in name), None)
    if known is not None:
        return known
    return 1.0 if "roi_heads" in name or "module_list" in name else 0.4


def _rarity(name: str) -> float:
    """By how much the bias of a predictor is lowered, so that the best of many scores do not round to 1."""
    if "class_net" in name:
        return 8.0
    if "ctrness" in name:
        return 1.0
    return 6.0 if "cls_logits" in name and "rpn" not in name else 0.0


def compare(pair: Pair, pictures: Sequence[Tensor]) -> Compared:
    """Compare what both detect in some pictures.

    Raises:
        AssertionError: if they differ in the number of detections, or in classes and boxes where no tie explains it.
    """
    boxes = scores = 0.0
    count = ties = 0
    for picture in pictures:
        theirs, ours = detections_of(pair, picture)
        if len(ours.scores) != len(theirs.scores):
            raise AssertionError(f"{len(ours.scores)} detections, theirs are {len(theirs.scores)}")
        count += len(ours.scores)
        scores = max(scores, float((ours.scores - theirs.scores).abs().max()))
        # by place rather than by rank: scores that are equal but for rounding may change places
        apart = (ours.boxes[:, None] - theirs.boxes).abs().amax(-1)
        apart = apart.masked_fill(ours.labels[:, None] != theirs.labels, torch.inf)
        nearest = torch.maximum(apart.amin(0), apart.amin(1))
        tied = (nearest > _NEAR) & ((ours.scores - theirs.scores).abs() < _TIE)
        ties += int(tied.sum())
        boxes = max(boxes, float(nearest[~tied].max()))
    return Compared(boxes, scores, count, ties)


@torch.no_grad()
def detections_of(pair: Pair, picture: Tensor) -> tuple[Detections, Detections]:
    """Theirs and ours, in pixels of the picture; theirs with our numbers of the classes."""
    batch = collate([pair.transform.evaluate(picture)], size_divisor=pair.divisor)
    with same_pixels(pair, batch):
        (found,) = pair.theirs.eval()([picture / 255])
    first = int(pair.published.background)
    theirs = Detections(found["boxes"], found["scores"], found["labels"] - first, torch.zeros_like(found["labels"]))
    (ours,) = pair.ours.eval().predict(batch.images, batch.image_sizes, pair.combine)
    return theirs, ours.to_original(batch.scales[0], batch.original_sizes[0])


_LOSSES = {
    "loss_cls": ("classification", "loss_classifier"),
    "loss_box": ("bbox_regression", "loss_box_reg"),
    "loss_ctr": ("bbox_ctrness",),
    "loss_rpn_cls": ("loss_objectness",),
    "loss_rpn_box": ("loss_rpn_box_reg",),
}


def compare_losses(pair: Pair, pictures: Sequence[Tensor], objects: Sequence[Objects]) -> float:
    """Largest relative difference of a loss on one batch; where gradients are enabled, the weights have theirs then.

    Args:
        pair: both detectors.
        pictures: of the batch.
        objects: in each, perhaps none.
    """
    first = int(pair.published.background)
    targets = [{"boxes": each.boxes, "labels": each.labels + first} for each in objects]
    samples = [pair.transform.evaluate(p, each) for p, each in zip(pictures, objects, strict=True)]
    batch = collate(samples, size_divisor=pair.divisor)
    pair.theirs.train()
    for module in pair.theirs.backbone.modules():
        if pair.frozen and isinstance(module, nn.BatchNorm2d):
            module.eval()
    with first_come(), same_pixels(pair, batch):
        theirs = pair.theirs([picture / 255 for picture in pictures], targets)
        ours = pair.ours.train().loss(batch)
    worst = 0.0
    for name, value in ours.items():
        expected = next(theirs[their] for their in _LOSSES[name] if their in theirs)
        worst = max(worst, float(((value - expected).abs() / expected.abs().clamp(min=1e-6)).detach()))
    if torch.is_grad_enabled():
        torch.autograd.backward(list(theirs.values()))
        torch.autograd.backward(list(ours.values()))
    return worst


@contextmanager
def same_pixels(pair: Pair, batch: Batch) -> Iterator[None]:
    """Within the context the other library goes on from our pixels, once its own are the same but for rounding.

    torchvision normalises before it resizes, so some differ by 1e-7. Random weights magnify that: it may switch a ReLU,
    or decide which of two boxes of one score suppresses the other.

    Raises:
        AssertionError: if they differ by more than 1e-5 of the largest, or in shape.
    """
    pixels = pair.ours.normalize(batch.images, batch.image_sizes)

    def checked(_module: Any, _inputs: Any, output: Any) -> Any:
        images, targets = output
        if images.tensors.shape != pixels.shape:
            raise AssertionError(f"resized and padded to {tuple(images.tensors.shape)}, ours {tuple(pixels.shape)}")
        apart = float((images.tensors - pixels).abs().max() / pixels.abs().max())
        if apart > _PIXELS:
            raise AssertionError(f"other pixels after resizing: they differ by {apart:.1e} of the largest")
        images.tensors = pixels
        return images, targets

    handle = pair.theirs.transform.register_forward_hook(checked)
    try:
        yield
    finally:
        handle.remove()


def compare_gradients(pair: Pair) -> float:
    """Largest difference of a weight's gradient, relative to that gradient's largest, after the losses.

    Left out are weights whose gradient is none but for rounding, such as those before a norm that takes them away.
    """
    theirs = {name: p.grad for name, p in pair.theirs.named_parameters() if p.grad is not None}
    expected, _ = pair.published.table.to_ours(theirs)
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    apart = 0.0
    for name, parameter in pair.ours.named_parameters():
        given, wanted = parameter.grad, expected.get(name)
        if given is None or wanted is None:
            raise AssertionError(f"{name} has no gradient in one of the libraries")
        scale = float(wanted.abs().max())
        if scale > 1e-9 * largest:
            apart = max(apart, float((given - wanted).abs().max()) / scale)
    return apart


@contextmanager
def first_come() -> Iterator[None]:
    """Samples of anchors and regions are the first ones in both libraries, which else draw them differently."""
    permutation, uniform = torch.randperm, torch.rand
    torch.randperm = lambda count, **_: torch.arange(count)  # type: ignore[assignment]  # for a while
    torch.rand = lambda shape, **_: torch.linspace(1, 0.1, shape[-1]).expand(shape)  # type: ignore[assignment]  # likewise
    try:
        yield
    finally:
        torch.randperm, torch.rand = permutation, uniform


_SHORT, _LONG = 160, 267  # pixels of the resized pictures; where a recipe has an exact size, that
_SQUARE = 256  # of effdet's
_DRAWN = ("retinanet_resnet50_fpn", "ssd300_vgg16", "fasterrcnn_mobilenet_v3_large_320_fpn", "tf_efficientdet_d0")


def parity(picture: str | None = None, *models: str) -> None:
    """Compare every detector, print a row of each, and draw some.

    Args:
        picture: a file; without one a picture is generated.
        models: some of the names; all without.
    """
    whole = load_image(picture).contiguous() if picture else _drawn_picture()
    height, width = whole.shape[1:]
    pictures = [whole, whole[:, : height // 2], whole[:, :, : width // 3], whole[:, 5:, : height - 5]]
    sizes = ", ".join(f"{each.shape[1]} x {each.shape[2]}" for each in pictures)
    print(f"pictures of {sizes} pixels (height x width), the last of a batch of three without objects")
    names = ("checkpoint", "parameters", "boxes", "scores", "losses", "gradients", "detections", "ties", "time")
    print(("{:<40}" + "{:>12}" * 8).format(*names), flush=True)
    for model in models or ALL:
        start = time.monotonic()
        overrides, options = _smaller(ALL[model])
        pair = pair_of(model, whole, *overrides, **options)
        found = compare(pair, pictures)
        if model in _DRAWN:
            _draw(pair, whole, Path(f"parity_{model}.jpg"))
        losses = compare_losses(pair, pictures[:3], [*map(_objects, pictures[:2]), Objects.none()])
        row = (
            *(
                model,
                f"{sum(p.numel() for p in pair.theirs.parameters()):,}",
                f"{found.boxes:.1e}",
                f"{found.scores:.1e}",
            ),
            *(f"{losses:.1e}", f"{compare_gradients(pair):.1e}", found.detections, found.ties),
            f"{time.monotonic() - start:.0f} s",
        )
        print(("{:<40}" + "{:>12}" * 8).format(*row), flush=True)


def _smaller(published: Published) -> tuple[list[str], dict[str, Any]]:
    """Overrides and options for smaller pictures."""
    if published.model.startswith("ssd"):
        return [], {}
    if published.library == "effdet":
        sides = ("short_side", "long_side", "pad_multiple")
        return [f"data.transform.{side}={_SQUARE}" for side in sides], {"image_size": _SQUARE}
    return (
        [f"data.transform.short_side={_SHORT}", f"data.transform.long_side={_LONG}"],
        {"min_size": _SHORT, "max_size": _LONG},
    )


def _drawn_picture() -> Tensor:
    shapes = Shapes(num_train=1, num_val=1, image_size=480, min_size=16.0, max_size=300.0, max_objects=6, data_seed=0)
    pixels = shapes.draw("val", 0).pixels
    return torch.from_numpy(pixels).round().to(torch.uint8).permute(2, 0, 1).contiguous()


def _objects(picture: Tensor) -> Objects:
    """Three objects of several sizes, of classes that all detectors have."""
    height, width = picture.shape[1:]
    sides = torch.tensor([width, height, width, height])
    boxes = torch.tensor([[0.11, 0.13, 0.52, 0.68], [0.35, 0.22, 0.93, 0.91], [0.02, 0.53, 0.31, 0.97]]) * sides
    return Objects(boxes, torch.tensor([2, 16, 2]), torch.zeros(3, dtype=torch.bool))


def _draw(pair: Pair, picture: Tensor, file: Path) -> None:
    """The best detections of both libraries side by side: theirs on the left."""
    halves = []
    for found in detections_of(pair, picture):
        best = Detections(*(column[:12].float() if i < 2 else column[:12] for i, column in enumerate(found)))
        halves.append(draw_detections(picture, best, pair.published.categories, threshold=0.0))
    save_picture(file, torch.cat(halves, dim=2))
