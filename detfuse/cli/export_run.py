"""``export``: a checkpoint's detector with its suppression as one file, checked against the detector."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from detfuse.build import build_combine, build_data, build_evaluator, instantiate, size_divisor
from detfuse.cli.settings import ExportSettings
from detfuse.cli.state_dict import write_state_dict
from detfuse.data import Transforms
from detfuse.data.dataset import DetectionDataset, Key
from detfuse.data.generators import Shapes
from detfuse.data.splits import DetectionDataModule
from detfuse.detector import Detector
from detfuse.errors import UserError
from detfuse.export import (
    Agreement,
    Deployed,
    Description,
    Exported,
    NamedImage,
    Resizing,
    agreement_of,
    chosen,
    program_of,
    read_exported,
    scores_of,
    written,
)
from detfuse.protocols import Combine
from detfuse.runs.header import describe
from detfuse.runs.invocation import Invocation
from detfuse.runs.outputs import note_made, require_file
from detfuse.runs.run_folder import run_folder_of
from detfuse.runs.stored import open_checkpoint, trained_detector
from detfuse.structures import Categories, Size
from detfuse.words import shown

_SCORED = 24
"""Validation images that AP is compared on."""
_COMPARED = 4
"""Those of them that candidates are compared on, number by number."""
_THIN: tuple[Size, ...] = ((12, 480), (480, 12))
"""(height, width) of drawings that leave maps of a single row or column."""
_DRAWN: tuple[Size, ...] = ((240, 320), (320, 240), (280, 280), (160, 320))
"""(height, width) of what is drawn where there are no validation images."""


def run(invocation: Invocation) -> None:
    """Write ``output``, by default ``<checkpoint's name>.<format>`` in the checkpoint's run folder.

    The file takes images of any size, any number of one padded size at a time, and finds in them what the detector
    finds when it is evaluated: that is checked, in AP, before the file counts.
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
    description = Description(
        version=version("detfuse"),
        model=describe(detector, config),
        categories=checkpoint.categories,
        resize=Resizing(transform.size, transform.short_side, transform.long_side, transform.resize),
        divisor=divisor,
        combine=config["combine"],
    )
    default = run_folder_of(checkpoint.path) / f"{checkpoint.path.stem}.{settings.format}"
    path = require_file(Path(settings.output).expanduser() if settings.output else default)
    data = _validation(config, divisor, checkpoint.categories)
    print(f"model   {description.model}")
    print(f"takes   {_taken(description)}, any number at a time", flush=True)
    program = program_of(deployed, description)
    with written(path, settings.format, program, description) as draft:
        _check(read_exported(draft), detector, combine, config, data)
    note_made(path)
    print(f"written to {path} ({path.stat().st_size / 2**20:.1f} MiB)")


def _taken(description: Description) -> str:
    exact = description.resize.size
    if exact:
        return f"images resized to {exact[0]} x {exact[1]} pixels (height x width)"
    return f"images of any size, padded to multiples of {description.divisor} pixels"


def _validation(config: dict[str, Any], divisor: int, categories: Categories) -> DetectionDataModule | str:
    """The checkpoint's data with its validation split, or why it cannot be used."""
    try:
        data = build_data(config, divisor)
        data.prepare_data()
        data.setup("validate")
    except (UserError, OSError) as error:
        return str(error)
    if data.categories != categories:
        return f"the categories of {data.indexes['val'].source} are not the checkpoint's"
    return data


def _check(
    exported: Exported, detector: Detector, combine: Combine, config: dict[str, Any], data: DetectionDataModule | str
) -> None:
    """Compare file and detector, and say what was compared.

    Raises:
        ExportError: if they differ.
    """
    if isinstance(data, str):
        print(f"check   AP is not compared, for there are no validation images: {data}")
        pictures = _drawings(exported.transform, *_DRAWN, *_THIN)
    else:
        index = chosen(data.indexes["val"], data.transform, data.size_divisor, _SCORED)
        few = chosen(index, data.transform, data.size_divisor, _COMPARED)
        samples = DetectionDataset(few, data.transform, train=False, seed=data.seed)
        pictures = [NamedImage(shown(name), samples[Key(0, i)].image) for i, name in enumerate(few.file_names)]
        pictures += _drawings(exported.transform, *_THIN)
    agreement = agreement_of(exported, detector, combine, pictures)
    if not isinstance(data, str):
        dataset = DetectionDataset(index, data.transform, train=False, seed=data.seed)
        batches = data.loader.evaluate(dataset, size_divisor=data.size_divisor)
        scores = scores_of(exported, detector, combine, index, batches, build_evaluator(config, index))
        file, evaluated = map(_points, (scores.file, scores.detector))
        print(f"check   mAP {file} of the file, {evaluated} of the detector as evaluated, on {_shapes(index.sizes)}")
    print(f"        {_told(agreement, pictures)}")


def _points(ap: float) -> str:
    return "n/a" if ap < 0 else f"{100 * ap:.1f}"


def _shapes(sizes: NDArray[np.int64]) -> str:
    wide, tall = (int((sizes[:, i] > sizes[:, 1 - i]).sum()) for i in (1, 0))
    counts = {"landscape": wide, "portrait": tall, "square": len(sizes) - wide - tall}
    told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    return f"{len(sizes)} validation images ({told})"


def _drawings(transform: Transforms, *sizes: Size) -> list[NamedImage]:
    """Generated pictures of these sizes, resized as images are."""
    shapes = Shapes(
        num_train=1, num_val=len(sizes), image_size=256, min_size=16.0, max_size=160.0, max_objects=6, data_seed=0
    )
    pictures = []
    for number, size in enumerate(sizes):
        pixels = shapes.draw("val", number).pixels.round().astype(np.uint8)
        image = Transforms(size=size).evaluate(torch.from_numpy(pixels).permute(2, 0, 1)).image
        pictures.append(NamedImage(f"a drawing of {size[0]} x {size[1]}", transform.evaluate(image).image))
    return pictures


def _told(agreement: Agreement, pictures: list[NamedImage]) -> str:
    names = ", ".join(picture.name for picture in pictures)
    if not agreement.candidates:
        return f"nothing is detected in {names}, neither by the file nor by the detector: not much of a check"
    return (
        f"equal to the detector: {agreement.candidates} candidates and {agreement.detections} detections in {names}; "
        f"boxes within {agreement.box_difference:.1e} px, scores within {agreement.score_difference:.1e}"
    )
