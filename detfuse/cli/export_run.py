"""``export``: a checkpoint's detector with its suppression as one file, checked against the detector."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detfuse.build import build_combine, build_data, instantiate, size_divisor
from detfuse.cli.commands import ExportSettings
from detfuse.cli.state_dict import write_state_dict
from detfuse.data import Transforms
from detfuse.data.collate import padded_size
from detfuse.data.dataset import DetectionDataset, Key
from detfuse.data.generators import Shapes
from detfuse.errors import UserError
from detfuse.export import (
    Agreement,
    Deployed,
    Description,
    Picture,
    Resize,
    agreement_of,
    program_of,
    read_exported,
    written,
)
from detfuse.runs.header import describe
from detfuse.runs.invocation import Invocation
from detfuse.runs.outputs import note_made, require_file
from detfuse.runs.run_folder import run_folder_of
from detfuse.runs.stored import open_checkpoint, trained_detector
from detfuse.structures import Size

_PICTURES = 3


def run(invocation: Invocation) -> None:
    """Write ``output``, by default ``<checkpoint's name>.<format>`` in the checkpoint's run folder.

    The file computes what the detector computes for an image padded to the same size. ``predict`` and ``evaluate`` with
    the checkpoint pad each batch as little as they can; as norms and biases let the padding reach the scores, theirs
    differ, the more the larger the file's size is than its images.
    """
    settings = ExportSettings.of(invocation.config)
    checkpoint, config = open_checkpoint(invocation)
    detector = trained_detector(checkpoint, config).eval()
    if settings.format == "torchvision":
        write_state_dict(settings, checkpoint, detector)
        return
    combine = build_combine(config, fitted=True)
    deployed = Deployed(detector, combine)
    transform: Transforms = instantiate(config["data"]["transform"])()
    divisor = transform.divisor(size_divisor(detector.backbone.out_spec))
    given = _given_size(settings.size, transform, divisor)
    dataset = _validation(config, divisor, needed=given is None)
    fitting = None if dataset is None else _largest(dataset, transform, divisor)
    size = given or fitting
    assert size is not None
    description = Description(
        version=version("detfuse"),
        model=describe(detector, config),
        categories=checkpoint.categories,
        size=size,
        resize=Resize(transform.size, transform.short_side, transform.long_side),
        combine=config["combine"],
    )
    default = run_folder_of(checkpoint.path) / f"{checkpoint.path.stem}.{settings.format}"
    path = require_file(Path(settings.output).expanduser() if settings.output else default)
    pictures = _fitting(dataset, transform, size) or _drawn(size)
    print(f"model   {description.model}")
    print(f"size    {size[0]} x {size[1]} pixels (height x width): images are resized and padded to it", flush=True)
    if fitting is not None and fitting != size:
        print(
            f"        the validation images take {fitting[0]} x {fitting[1]}; more padding shifts scores, through norms"
        )
    program = program_of(deployed, size)
    with written(path, settings.format, program, description) as draft:
        agreement = agreement_of(read_exported(draft), detector, combine, pictures)
    note_made(path)
    print(f"check   {_told(agreement, pictures)}")
    print(f"written to {path} ({path.stat().st_size / 2**20:.1f} MiB)")


def _given_size(typed: Size | None, transform: Transforms, divisor: int) -> Size | None:
    """The padded size, unless it depends on the images.

    Raises:
        UserError: if the typed one is not what the detector is ever given.
    """
    size = None if typed is None else (typed[0], typed[1])  # YAML's lists are no tuples
    if transform.size is not None:
        if size not in (None, transform.size):
            raise UserError(
                f"size={typed}: the checkpoint's images all have exactly {list(transform.size)}; leave size out"
            )
        return transform.size
    if size is not None and padded_size(*size, divisor) != size:
        raise UserError(
            f"size={typed}: height and width must be multiples of {divisor}, to which the detector's images are "
            f"padded; {list(padded_size(*size, divisor))} are"
        )
    return size


def _validation(config: dict[str, Any], divisor: int, *, needed: bool) -> DetectionDataset | None:
    """The validation images; None if they are not here and not needed."""
    try:
        data = build_data(config, divisor)
        data.prepare_data()
        data.setup("validate")
    except (UserError, OSError) as error:
        if not needed:
            return None
        raise UserError(
            f"the size to pad images to follows from the validation images, which cannot be read ({error}); "
            "give size=[HEIGHT,WIDTH], or data.root"
        ) from error
    return data.dataset("val")


def _largest(dataset: DetectionDataset, transform: Transforms, divisor: int) -> Size:
    """The smallest padded size into which every image fits."""
    sizes = [transform.resized(int(height), int(width)) for height, width in np.unique(dataset.index.sizes, axis=0)]
    return padded_size(max(height for height, _ in sizes), max(width for _, width in sizes), divisor)


def _fitting(dataset: DetectionDataset | None, transform: Transforms, size: Size) -> list[Picture]:
    """The fullest validation images that fit."""
    if dataset is None:
        return []
    index = dataset.index
    order = np.argsort(-index.counts, kind="stable").tolist()
    resized = (transform.resized(*(int(side) for side in index.sizes[i])) for i in order)
    fitting = [i for i, (height, width) in zip(order, resized, strict=True) if height <= size[0] and width <= size[1]]
    return [Picture(index.file_names[i], dataset[Key(0, i)].image) for i in fitting[:_PICTURES]]


def _drawn(size: Size) -> list[Picture]:
    """Generated pictures of just this size, where there are no validation images."""
    shapes = Shapes(
        num_train=1, num_val=_PICTURES, image_size=256, min_size=16.0, max_size=160.0, max_objects=6, data_seed=0
    )
    exact = Transforms(size=size)
    pictures = []
    for number in range(_PICTURES):
        pixels = shapes.draw("val", number).pixels.round().astype(np.uint8)
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        pictures.append(Picture(f"drawing {number + 1}", exact.evaluate(image).image))
    return pictures


def _told(agreement: Agreement, pictures: list[Picture]) -> str:
    names = ", ".join(picture.name for picture in pictures)
    if not agreement.candidates:
        return f"nothing is detected in {names}, neither by the file nor by the detector: not much of a check"
    return (
        f"equal to the detector: {agreement.candidates} candidates and {agreement.detections} detections in {names}; "
        f"boxes within {agreement.box_difference:.1e} px, scores within {agreement.score_difference:.1e}"
    )
