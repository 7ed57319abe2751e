"""``predict``: detections in pictures that nobody annotated."""

from __future__ import annotations

import glob
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor

from detfuse.cli.settings import PredictSettings
from detfuse.data import Transforms, load_image
from detfuse.errors import UserError
from detfuse.evaluation import coco_results, rows_of
from detfuse.export import ExportError
from detfuse.files.text import write_json
from detfuse.runs.invocation import Invocation
from detfuse.runs.outputs import default_output, note_made, published_output, require_folder
from detfuse.runs.predictors import Predictor, open_predictor
from detfuse.structures import Categories, Detections
from detfuse.visualize.boxes import draw_detections, save_picture
from detfuse.words import shown

_DETECTIONS = "detections.json"
_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def run(invocation: Invocation) -> None:
    """Detect, draw, and write.

    ``<output>/<name>.jpg`` are the pictures. ``<output>/detections.json`` is a list of COCO results: ``image_id`` is
    the position of the picture (from 1, in the order of the names), ``file_name`` beside it says which one that is.

    Raises:
        UserError: if files are in the way that it did not make; after all pictures, if some could not be read, or the
            detector's outputs were not finite in them.
    """
    settings = PredictSettings.of(invocation.config)
    files = find_pictures(settings.source)
    names = picture_names(files)
    given = settings.output
    if given:
        output = Path(given).expanduser()
    elif settings.checkpoint is None:
        output = published_output(invocation, "predictions")
    else:
        output = default_output(Path(settings.checkpoint).expanduser(), "predictions")
    require_folder(output, files=[*names, _DETECTIONS])
    predictor = open_predictor(invocation, [field.name for field in fields(PredictSettings)])
    rows: list[dict[str, Any]] = []
    broken: list[Path] = []
    failed: list[str] = []
    for image_id, (file, name) in enumerate(zip(files, names, strict=True), start=1):
        try:
            image = load_image(file, upright=settings.upright)
            predicted = _predicted(predictor, image, file)
        except UserError as error:  # the others are none the worse for it
            failed.append(str(error))
            print(f"{file}: left out", flush=True)
            continue
        _tell_if_extreme(predictor.transform, image, file)
        found = _select(predicted, settings.threshold)
        picture = draw_detections(image, found, predictor.categories, threshold=settings.threshold)
        written = save_picture(output / name, picture)
        note_made(written)
        results = coco_results({image_id: found}, predictor.categories)
        rows += [{**row, "file_name": str(file)} for row in rows_of(results)]
        told = _counted(found, predictor.categories)
        if predicted.broken:
            broken.append(file)
            told = "outputs that are NaN or infinite"
        print(f"{shown(str(file))}: {told} -> {written}", flush=True)
    if len(failed) < len(files):
        write_json(output / _DETECTIONS, rows)
        note_made(output / _DETECTIONS)
        print(f"{len(rows)} detections in {len(files) - len(failed)} pictures: {output / _DETECTIONS}")
    if failed:
        raise UserError("\n  ".join([f"{len(failed)} of {len(files)} pictures were left out:", *failed]))
    if broken:
        raise UserError(
            f"the outputs of {settings.checkpoint or settings.weights} are NaN or infinite in {len(broken)} of "
            f"{len(files)} pictures "
            f"({', '.join(map(str, broken[:5]))}{', ...' if len(broken) > 5 else ''}), where it cannot detect. A "
            "checkpoint of 16-mixed may do with trainer.precision=32-true; else take an earlier one"
        )


def find_pictures(source: str) -> list[Path]:
    """The picture, the pictures of a folder, or those of a glob pattern, sorted by name.

    Raises:
        UserError: if there is none.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        files = [file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES]
    else:
        files = [Path(name) for name in glob.glob(str(path), recursive=True)]  # noqa: PTH207  Path.glob takes no absolute patterns
        files = [file for file in files if file.suffix.lower() in _SUFFIXES and file.is_file()]
    if not files:
        what = "no such file, folder or pattern" if not path.exists() else "the folder has no pictures"
        raise UserError(f"source={source}: {what}; pictures end in {', '.join(sorted(_SUFFIXES))}")
    return sorted(files)


def picture_names(files: Sequence[Path]) -> list[str]:
    """Names of the pictures drawn of these files, all different, also where a file system takes ``X`` for ``x``.

    The first file of a name keeps it; others get the next number that is free.
    """
    taken = {file.stem.casefold() for file in files}
    first: set[str] = set()
    names = []
    for file in files:
        name = file.stem
        if name.casefold() in first:
            numbered = (f"{file.stem}_{number}" for number in itertools.count(2))
            name = next(name for name in numbered if name.casefold() not in taken)
            taken.add(name.casefold())
        first.add(file.stem.casefold())
        names.append(f"{name}.jpg")
    return names


def _predicted(predictor: Predictor, image: Tensor, file: Path) -> Detections:
    try:
        return predictor(image)
    except ExportError as error:  # it does not fit
        raise UserError(f"{file}: {error}") from error


def _tell_if_extreme(transform: Transforms, image: Tensor, file: Path) -> None:
    height, width = image.shape[-2:]
    if transform.is_extreme(height, width):
        resized = " x ".join(map(str, transform.resized(height, width)))
        print(
            f"{shown(str(file))}: {height} x {width} pixels (height x width) would become monstrous, so its longer "
            f"side is capped: {resized}. Another cap is for training to choose (data.transform.long_side)"
        )


def _select(found: Detections, threshold: float) -> Detections:
    rows = found.scores >= threshold
    return Detections(*(column[rows] for column in found))


def _counted(found: Detections, categories: Categories) -> str:
    counts = Counter(categories.names[label] for label in found.labels.tolist())
    return ", ".join(f"{count} {shown(name)}" for name, count in counts.most_common()) or "nothing"
