"""What a checkpoint predicts before it is combined, kept in a file: other combinations then need no detector.

A file belongs to one checkpoint, one split and the settings that candidates depend on; it says which, and is refused
for others.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detfuse.config.kinds import AFTER_TRAINING, keys_of
from detfuse.config.leaves import leaves
from detfuse.config.schema.overrides import is_below
from detfuse.data import AnnotationIndex
from detfuse.detector import Detector
from detfuse.errors import UserError
from detfuse.files.archive import digest_of, read_archive, write_archive
from detfuse.ops.calibration import Line, fitted_lines, on_objects
from detfuse.protocols import Combine
from detfuse.structures import Batch, Detections
from detfuse.training.inference import Inference

_NOT_OF_CANDIDATES = (
    *AFTER_TRAINING,
    *("seed", "evaluate", "evaluation", "optimizer", "scheduler", "callbacks"),
    *keys_of("place", "machine", "display"),
)
"""Settings on which the candidates of a checkpoint do not depend."""
_COLUMNS: dict[str, tuple[Any, ...]] = {
    "numbers": (torch.int64, "image"),
    "scales": (torch.float32, "image", 2),
    "original_sizes": (torch.int64, "image", 2),
    "counts": (torch.int64, "image"),
    "boxes": (torch.float32, "row", 4),
    "scores": (torch.float32, "row"),
    "labels": (torch.int64, "row"),
    "levels": (torch.int64, "row"),
}
"""Column in the file -> its numbers, and its shape."""
_OF_IMAGES = ("numbers", "scales", "original_sizes", "counts")
_OTHER = {"checkpoint": "another checkpoint", "settings": "other settings", "images": "other images"}


@dataclass(frozen=True)
class Candidates:
    """The candidates of all images of a split, image after image.

    Attributes:
        numbers: (I,) of the images in their batches.
        scales: (I, 2) as in :class:`~detfuse.structures.Batch`.
        original_sizes: (I, 2) likewise.
        counts: (I,) rows of each image.
        rows: of all images, in pixels of the resized ones.
    """

    numbers: Tensor
    scales: Tensor
    original_sizes: Tensor
    counts: Tensor
    rows: Detections

    @torch.inference_mode()
    def combined(self, combine: Combine, device: torch.device) -> dict[int, Detections]:
        """Number of each image -> its detections, in pixels of the file.

        Args:
            combine: how candidates become detections.
            device: that of the run whose validation is repeated.
        """
        images = zip(*(torch.split(column, self.counts.tolist()) for column in self.rows), strict=True)
        found = {}
        for number, scale, size, image in zip(
            self.numbers.tolist(), self.scales, self.original_sizes, images, strict=True
        ):
            detections = combine(*(column.to(device) for column in image))
            in_file = detections.to_original(scale.to(device), size.to(device))
            found[number] = Detections(*(column.cpu() for column in in_file))
        return found


def candidates_of(detector: Detector, config: Mapping[str, Any], loader: Iterable[Batch]) -> Candidates:
    """Run a detector with its weights over a split, as its run validates with it.

    Args:
        detector: is moved and converted.
        config: the run's, plain and resolved.
        loader: evaluation batches.
    """
    inference = Inference(detector, uncombined, config)
    batches, rows = [], []
    for batch in loader:
        found = inference(inference.placed(batch.images), batch.image_sizes.to(inference.device))
        rows += [Detections(*(column.cpu() for column in image)) for image in found]
        batches.append((batch.image_ids, batch.scales, batch.original_sizes))
    numbers, scales, sizes = (torch.cat(column) for column in zip(*batches, strict=True))
    counts = torch.tensor([len(image.scores) for image in rows])
    return Candidates(numbers, scales, sizes, counts, Detections(*map(torch.cat, zip(*rows, strict=True))))


def lines_of(candidates: Candidates, index: AnnotationIndex, num_levels: int) -> list[Line]:
    """The line of every level, by whether candidates lie on objects.

    Args:
        candidates: of the images of the index.
        index: what the images contain.
        num_levels: that the head predicts from.
    """
    found = candidates.combined(lambda *columns: Detections(*columns), torch.device("cpu"))
    told = []
    for position in range(len(index)):
        boxes, scores, labels, levels = found[index.number_of(position)]
        objects = (index.boxes_xyxy(position), index.labels_of(position), index.crowd_of(position))
        hits, counted = on_objects(boxes, labels, *map(torch.from_numpy, objects))
        counted &= scores > 0  # neither padding nor NaN
        told.append((scores[counted], hits[counted], levels[counted]))
    scores, hits, levels = (torch.cat(column) for column in zip(*told, strict=True))
    return fitted_lines(scores, hits, levels, num_levels)


def uncombined(boxes: Tensor, scores: Tensor, labels: Tensor, levels: Tensor) -> Detections:
    """All candidates of an image, in the order given; of the padding a row per level, since combinations count levels.

    It keeps the contract :class:`~detfuse.protocols.Combine`, but for the order and the number.
    """
    kept = scores != 0  # not > 0: NaN stays
    for level in torch.unique(levels):
        kept[(levels == level).nonzero()[0]] = True
    return Detections(boxes[kept], scores[kept], labels[kept], levels[kept])


def read_candidates(file: Path, key: Mapping[str, str]) -> Candidates:
    """Inverse of :func:`write_candidates`.

    Args:
        file: an existing one.
        key: see :func:`key_of`.

    Raises:
        UserError: if it holds none, if they are another checkpoint's or were made with other settings.
        ArchiveError: if the file cannot be read.
    """
    content = read_archive(file, legacy=False)
    if not isinstance(content, dict) or not isinstance(content.get("key"), dict) or not _are_columns(content):
        raise UserError(f"{file}: holds no candidates; name another file, which need not be there yet")
    if differing := [name for name, value in key.items() if content["key"].get(name) != value]:
        raise UserError(
            f"{file}: its candidates are of {' and '.join(_OTHER[name] for name in differing)}; name another file, "
            "which need not be there yet"
        )
    of_images = {name: content[name] for name in _OF_IMAGES}
    return Candidates(**of_images, rows=Detections(*(content[name] for name in Detections._fields)))


def _are_columns(content: Mapping[Any, Any]) -> bool:
    """Whether these are columns of candidates, of as many rows as they count."""
    sizes: dict[str, int] = {}
    for name, (number, of, *others) in _COLUMNS.items():
        column = content.get(name)
        if (
            not isinstance(column, Tensor)
            or column.layout != torch.strided
            or column.dtype != number
            or not column.ndim
        ):
            return False
        if list(column.shape) != [sizes.setdefault(of, len(column)), *others]:
            return False
    counts = content["counts"]
    return bool((counts >= 0).all()) and int(counts.sum()) == sizes["row"]


def write_candidates(file: Path, candidates: Candidates, key: Mapping[str, str]) -> None:
    """Write candidates at once, with what they belong to."""
    of_images = {name: getattr(candidates, name) for name in _OF_IMAGES}
    write_archive(file, {"key": dict(key), **of_images, **candidates.rows._asdict()})


def key_of(checkpoint: Path, config: Mapping[str, Any], images: Sequence[object]) -> dict[str, str]:
    """What candidates belong to.

    Args:
        checkpoint: its file.
        config: plain and resolved.
        images: the annotation file's own ids.
    """
    settings = {path: value for path, value in leaves(config) if not is_below(path, _NOT_OF_CANDIDATES)}
    return {
        "checkpoint": digest_of(checkpoint),
        "settings": json.dumps(settings, sort_keys=True),
        "images": json.dumps(list(images)),
    }
