"""Published weights in place of a checkpoint: a command then takes its settings from the experiment that it names."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from detfuse.build import build_data, without_pretrained
from detfuse.errors import UserError
from detfuse.runs.invocation import Invocation
from detfuse.structures import Categories
from detfuse.weights.checkpoint import Checkpoint
from detfuse.weights.sources import ALL, Source, read_source


def open_published(invocation: Invocation, *, reads_data: bool = True) -> tuple[Checkpoint, dict[str, Any]]:
    """The weights that a command names, as a checkpoint would bring them, and the configuration it composed.

    What was read is printed.

    Args:
        invocation: of a command with ``weights``.
        reads_data: whether it reads a data set, whose classes those of the file may be.

    Raises:
        UserError: if they cannot be used.
    """
    recipe = invocation.choices.get("experiment")
    source = read_source(invocation.config["weights"], recipe)
    if source.model is None:
        raise UserError(f"weights={source.path}: this is a checkpoint of detfuse, give it by checkpoint=")
    if recipe in (None, "none"):
        raise UserError(f"weights: these are of {source.name}: choose experiment={source.model}")
    if recipe in ALL and recipe != source.model:  # some differ in nothing that the names of weights tell
        raise UserError(f"weights: these are of {source.name}, no {recipe}: choose experiment={source.model}")
    config = with_normalization_of(without_pretrained(invocation.config), source)
    categories = source.categories or (_of_data if reads_data else _numbered)(config, source)
    print(_told(source, categories), flush=True)
    checkpoint = Checkpoint(
        path=source.path,
        config=config,
        categories=categories,
        detector_state=source.state,
        epoch=0,
        version=version("detfuse"),
        is_ema=False,
    )
    return checkpoint, config


def with_normalization_of(config: dict[str, Any], source: Source) -> dict[str, Any]:
    """The configuration with the images of the source, where it leaves them open.

    Raises:
        UserError: if it asks for others.
    """
    if source.normalization is None:
        return config
    node, numbers = config["detector"], source.normalization._asdict()
    for name, wanted in numbers.items():
        asked = node.get(name)
        if asked is not None and any(abs(a - b) > 1e-3 * abs(b) for a, b in zip(asked, wanted, strict=True)):
            raise UserError(f"detector.{name}={asked}: {source.name} expects {list(wanted)}; leave it out")
    return {**config, "detector": {**node, **{name: list(wanted) for name, wanted in numbers.items()}}}


def _of_data(config: dict[str, Any], source: Source) -> Categories:
    """The data's classes, for weights that name none but have as many."""
    data = build_data(config, size_divisor=1)
    data.prepare_data()
    data.setup("validate")
    if len(data.categories) != source.num_classes:
        raise UserError(
            f"{source.path}: has {source.num_classes} classes and does not say which; the data have "
            f"{len(data.categories)}. Weights of COCO have 91, of other data as many as these"
        )
    print(f"{source.path} does not name its {source.num_classes} classes: taken for the data's, in their order")
    return data.categories


def _numbered(_config: dict[str, Any], source: Source) -> Categories:
    """Classes without names, where nobody tells them."""
    numbers = range(1, source.num_classes + 1)
    return Categories(tuple(numbers), tuple(f"class {number}" for number in numbers))


def _told(source: Source, categories: Categories) -> str:
    count = sum(value.numel() for value in source.state.values())
    lines = [
        f"weights: {source.name}: {len(source.state)} weights of {count / 1e6:.2f} M numbers, all of them mapped; "
        f"{len(categories)} classes",
        *(f"         {note}" for note in source.notes),
    ]
    return "\n".join(lines)
