"""What is made of numbers that are not finite: a validation tells them or refuses, training stops."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from detfuse.annotations import Results
from detfuse.errors import UserError
from detfuse.structures import ImageId
from detfuse.words import some

_SHOWN = 10  # how many image ids or layers a message names
_LAST_GOOD = "the last good ones are in checkpoints/last.ckpt once it was written"
_REPLAY = "debug=anomaly with resume= computes this step again, and shows where it breaks"


class NonFiniteLossError(UserError, RuntimeError):
    """A loss term or the gradient is NaN or infinite: going on would only train and store NaN weights."""


def non_finite_loss(
    terms: Mapping[str, float], when: str, image_ids: Sequence[ImageId], *, where: str, precision: str
) -> NonFiniteLossError:
    """The error of a step whose loss is not finite.

    Args:
        terms: name -> value.
        when: the step, for people.
        image_ids: of its batch.
        where: the layer, see :func:`first_broken`.
        precision: what it was computed in.
    """
    bad = ", ".join(f"{name} = {value}" for name, value in terms.items() if not math.isfinite(value))
    good = ", ".join(f"{name} = {value:.6g}" for name, value in terms.items() if math.isfinite(value))
    return NonFiniteLossError(
        f"{bad or f'the sum of {good} overflows'} at {when}, images {', '.join(map(repr, image_ids))}"
        + (f"; finite: {good}" if bad and good else "")
        + f". {where}. The weights of this step were not stored; {_LAST_GOOD}. {_remedy(precision)}; else look at "
        f"these images' annotations. {_REPLAY}"
    )


def non_finite_gradient(
    gradients: Mapping[str, Tensor], norm: float, when: str, image_ids: Sequence[ImageId], *, precision: str
) -> NonFiniteLossError:
    """The error of a step whose gradient is not finite, though its loss is."""
    found = not_finite(gradients)
    where = f"in {some(found, _SHOWN)}" if found else "though that of each layer is finite: their sum overflows"
    return NonFiniteLossError(
        f"the norm of the gradient is {norm} at {when}, images {', '.join(map(repr, image_ids))}, {where}, though the "
        f"loss is finite; the weights were not changed. {_remedy(precision)}. {_REPLAY}"
    )


def non_finite_state(names: Sequence[str], when: str, image_ids: Sequence[ImageId] = ()) -> NonFiniteLossError:
    """The error of weights, or of statistics of norms, that are not finite; no loss need show it."""
    images = f", images {', '.join(map(repr, image_ids))}" if image_ids else ""
    return NonFiniteLossError(
        f"{some(list(names), _SHOWN)} became NaN or infinite at {when}{images}: nothing of it is stored; {_LAST_GOOD}. "
        f"{_remedy('32-true')}{f'. {_REPLAY}' if images else ''}"
    )


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of those that hold a number that is not finite."""
    return [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]


def first_broken(detector: nn.Module, forward: Callable[[], object]) -> str:
    """Where numbers cease to be finite, in a sentence: weights, or the first layer whose output is not.

    Statistics of norms that are not finite follow from such an output; training does not read them.

    Args:
        detector: as it was when they did.
        forward: computes with it once more.
    """
    stored = not_finite(dict(detector.named_parameters()))
    if stored:
        return f"Of the weights, {some(stored, _SHOWN)} are not finite themselves"
    first: list[str] = []

    def look(name: str, layer: nn.Module, output: object) -> None:
        if not first and not all(bool(x.isfinite().all()) for x in tree_leaves(output) if isinstance(x, Tensor)):
            first.append(f"The first layer whose output is not finite is {name} ({type(layer).__name__})")

    hooks = [
        layer.register_forward_hook(lambda layer, _, output, name=name: look(name, layer, output))
        for name, layer in detector.named_modules()
        if name
    ]
    try:
        with torch.no_grad():
            forward()
    finally:
        for hook in hooks:
            hook.remove()
    return first[0] if first else "The outputs of all layers are finite: it is the loss itself"


class NonFiniteOutputError(UserError, RuntimeError):
    """A detector's outputs are not finite in any image: its metrics would say nothing."""


class NonFiniteOutputWarning(UserWarning):
    """A detector's outputs are not finite in some images, where it then detects nothing or too little."""


def finite_results(results: Results, precision: str) -> Results:
    """Results without the detections whose score is NaN.

    Args:
        results: with every image that was validated among their ids.
        precision: what they were computed in, for the message.

    Warns:
        NonFiniteOutputWarning: once, if there are such detections in some of the images.

    Raises:
        NonFiniteOutputError: if there are such detections in every image.
    """
    finite = np.isfinite(results.scores)
    if finite.all():
        return results
    broken = [results.ids[position] for position in np.unique(results.images[~finite])]
    more = f" and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
    told = (
        f"the detector's outputs are NaN or infinite in {len(broken)} of {len(results.ids)} validation images (ids "
        f"{', '.join(map(str, broken[:_SHOWN]))}{more}), where it cannot detect. {_remedy(precision)}"
    )
    if len(broken) == len(results.ids):
        raise NonFiniteOutputError(told)
    rank_zero_warn(
        f"{told}. The metrics count these images with what is left", category=NonFiniteOutputWarning, stacklevel=4
    )
    return results.select(finite)


def _remedy(precision: str) -> str:
    if precision.startswith("16"):
        return f"Half precision overflows: trainer.precision=bf16-mixed or 32-true has room, {precision} has not"
    return (
        "The weights are diverging. Usual remedies: a lower optimizer.lr, a longer scheduler.warmup_steps, "
        "trainer.gradient_clip_val=10" + ("" if precision == "32-true" else ", trainer.precision=32-true")
    )
