"""The images on which the arms disagree most, with what each of them found and missed there."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from detfuse.ablation.report.blocks import Block, Figure, Picture, PictureRow, Text
from detfuse.ablation.report.evidence import ArmEvidence
from detfuse.ablation.report.objects import Positions, best, corners, found_by, wanted
from detfuse.annotations import Annotations, Results
from detfuse.data.images import load_image
from detfuse.data.index import DataError
from detfuse.structures import ImageId
from detfuse.visualize import draw
from detfuse.visualize.boxes import BoxMark, Color, draw_marks

_MAX_IMAGES, _MAX_PICTURES = 8, 20  # together with the width, about 1 MB
_MOST_ARMS = 6  # beside one another; of more, the baseline and the extremes are shown
_WIDTH, _QUALITY = 420, 80
_FOUND, _MISSED, _WRONG, _IGNORED = "#00b386", "#ff6a00", "#f0e442", "#ffffff"

ImageOf = Callable[[ImageId], Path]
"""Image id of the ground truth -> its file."""

RULE = (
    "Chosen by the largest difference between two arms in the number of objects found, averaged over the seeds, and "
    "drawn for the seed in which it is largest. Of an image with k objects only the k highest-scored detections of an "
    "arm count and are drawn; an object is found if one of them has its class and an IoU of at least 0.5."
)
_FEWER = " Of the arms, the baseline is shown, and those that found the most and the fewest."


def disagreements(evidence: Mapping[str, ArmEvidence], truth: Annotations, image_of: ImageOf) -> list[Block]:
    """A row per image with a picture per arm, by the rule that stands above them.

    Args:
        evidence: of each arm, the baseline first.
        truth: of the validation set.
        image_of: finds the files; an image that cannot be read is named in place of its pictures.
    """
    arms = {name: one for name, one in evidence.items() if one.found}
    if len(arms) < 2:
        return [Text("There are fewer than two arms with predictions.")]
    seeds = sorted(set.intersection(*(set(one.found) for one in arms.values())))
    means = {arm: np.mean([one.found[seed] for seed in seeds or one.found], axis=0) for arm, one in arms.items()}
    spread = np.ptp(np.stack(list(means.values())), axis=0)
    order = sorted(np.flatnonzero(spread).tolist(), key=lambda image: (-spread[image], str(truth.ids[image])))
    if not order:
        return [Text("All arms find the same number of objects on every image.")]
    pictures = len(arms) if len(arms) <= _MOST_ARMS else 3
    chosen = order[: max(1, min(_MAX_IMAGES, _MAX_PICTURES // pictures))]
    rule = RULE + (_FEWER if pictures < len(arms) else "")
    rows = _Rows(arms, truth, seeds, means, image_of)
    return [Figure("found-and-missed", _legend(), rule), *map(rows.row, chosen)]


class _Rows:
    """Makes the rows of pictures.

    Args:
        arms: with predictions.
        truth: of the validation set.
        seeds: that all of them have; empty if there is none.
        means: arm -> (I,) objects found on each image, mean over the seeds.
        image_of: finds the files.
    """

    def __init__(
        self,
        arms: Mapping[str, ArmEvidence],
        truth: Annotations,
        seeds: Sequence[int],
        means: Mapping[str, NDArray[np.float64]],
        image_of: ImageOf,
    ) -> None:
        self.arms, self.truth, self.seeds, self.means, self.image_of = arms, truth, seeds, means, image_of
        self.rows_of = cache(lambda arm, seed: arms[arm].predictions[seed].by_image())

    def row(self, image: int) -> Block:
        """All pictures of the image at this position."""
        name = self.truth.ids[image]
        try:
            pixels = load_image(self.image_of(name))
        except DataError as error:
            return Text(f"Image {name} is not shown: {error}", note=True)
        seed_of = self._seeds(image)
        drawn = [self._picture(arm, seed_of[arm], image, pixels) for arm in self._shown(image, seed_of)]
        seeds = ", ".join(map(str, sorted(set(seed_of.values()))))
        return PictureRow(f"Image {name}, seed {seeds}", tuple(drawn))

    def _seeds(self, image: int) -> dict[str, int]:
        """The seed in which the arms differ most, the same for all; each arm's own first where they share none."""

        def spread(seed: int) -> int:
            return int(np.ptp([one.found[seed][image] for one in self.arms.values()]))

        most = max(self.seeds, key=spread, default=None)  # the first of equals
        return {arm: min(one.found) if most is None else most for arm, one in self.arms.items()}

    def _shown(self, image: int, seed_of: Mapping[str, int]) -> list[str]:
        """The arms to show; of many the baseline and the extremes."""
        names = list(self.arms)
        if len(names) <= _MOST_ARMS:
            return names
        found = {arm: int(one.found[seed_of[arm]][image]) for arm, one in self.arms.items()}
        kept = {names[0], max(names[1:], key=found.__getitem__), min(names[1:], key=found.__getitem__)}
        return [arm for arm in names if arm in kept]

    def _picture(self, arm: str, seed: int, image: int, pixels: Tensor) -> Picture:
        results, rows = self.arms[arm].predictions[seed], self.rows_of(arm, seed)[image]
        objects = wanted(self.truth, image)
        found = found_by(self.truth, objects, results, rows)
        marks = _marks(self.truth, image, results, best(results, rows, len(objects)), found)
        caption = f"{arm}: {len(found)} of {len(objects)} found"
        if len(self.arms[arm].found) > 1:
            caption += f" (on average {self.means[arm][image]:.1f})"
        return Picture(_jpeg(draw_marks(pixels, list(marks))), caption)


def _marks(
    truth: Annotations, image: int, results: Results, detections: Positions, found: Mapping[int, int]
) -> Iterator[BoxMark]:
    """What was found and missed, the most important last: it lies on top."""
    names = truth.categories.names
    everything = np.arange(*truth.offsets[image : image + 2])

    def mark(box: Tensor, name: str, color: str, *, dashed: bool = False, thin: bool = False) -> BoxMark:
        return BoxMark(tuple(box.tolist()), name, _rgb(color), dashed, thin)

    for row in sorted(set(everything.tolist()) - set(wanted(truth, image).tolist())):
        yield mark(corners(truth.boxes[[row]])[0], "", _IGNORED, dashed=True, thin=True)
    for row in sorted(set(detections.tolist()) - set(found.values())):
        named = f"{names[results.labels[row]]} {results.scores[row]:.2f}"
        yield mark(corners(results.boxes[[row]])[0], named, _WRONG, thin=True)
    for row in sorted(set(wanted(truth, image).tolist()) - set(found)):
        yield mark(corners(truth.boxes[[row]])[0], names[truth.labels[row]], _MISSED, dashed=True)
    for row in found.values():
        named = f"{names[results.labels[row]]} {results.scores[row]:.2f}"
        yield mark(corners(results.boxes[[row]])[0], named, _FOUND)


def _rgb(color: str) -> Color:
    red, green, blue = ImageColor.getrgb(color)[:3]
    return red, green, blue


def _legend() -> str:
    """How found and missed objects look; apart by their lines, too, for whoever does not see the colours."""
    entries = (
        (_FOUND, 4.0, None, "found"),
        (_MISSED, 4.0, "7 5", "missed: the object as it is"),
        (_WRONG, 2.0, None, "detection of nothing, or of another class"),
        (_IGNORED, 2.0, "7 5", "not to be counted"),
    )
    parts, x = [draw.rect(0, 0, 1060, 30, color="#3e4c59", radius=3)], 14.0
    for color, width, dash, text in entries:
        parts.append(draw.line(x, 15, x + 34, 15, color=color, width=width, dash=dash))
        parts.append(draw.text(x + 42, 19, text, size=12, color="white"))
        x += 72 + draw.width_of(text, 12)
    return draw.document(1060, 30, parts, "how found and missed objects are drawn")


def _jpeg(drawn: Tensor) -> bytes:
    picture = to_pil_image(drawn)
    if picture.width > _WIDTH:
        picture = picture.resize((_WIDTH, round(picture.height * _WIDTH / picture.width)), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
