"""What an ablation is able to tell: before anything runs, and by the noise that its runs then show.

Before, the variances are assumed, from what is known of seed noise: two seeds of one arm differ with a standard
deviation of about .25 AP points on COCO's 5,000 validation images and of about 2 on sets of a hundred, which is the
root of the number of images; the difference of two arms varies over images, beyond what seeds average out, half as
much as one arm over seeds. The arms are assumed to vary independently: pairing by seed can only help.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from detfuse.errors import InputError
from detfuse.statistics.intervals import half_width
from detfuse.statistics.records import Difference
from detfuse.statistics.verdict import POWER, first_that

COCO_DEVIATION, COCO_IMAGES = 0.0025, 5000
TOLD = (0.005, 0.01, 0.02, 0.05)  # differences for which the number of seeds is told


@dataclass(frozen=True)
class Noise:
    """Variances of a difference of AP (fractions).

    Attributes:
        seeds: between seeds, of one pair of runs.
        images: from the choice of images; more seeds do not reduce it.
    """

    seeds: float
    images: float


def assumed(num_images: int) -> Noise:
    """What to expect on a validation set of this size.

    Raises:
        ValueError: without images.
    """
    if num_images < 1:
        raise InputError(f"num_images={num_images}: there must be images to score")
    deviation = _deviation(num_images)
    return Noise(2 * deviation**2, (deviation / 2) ** 2)


def _deviation(num_images: int) -> float:
    """Standard deviation of AP between seeds of one arm."""
    return COCO_DEVIATION * sqrt(COCO_IMAGES / min(num_images, COCO_IMAGES))


def measured(difference: Difference) -> Noise | None:
    """What the runs show: at most this much, as the images' part still holds what more seeds would average out.

    None with one seed, where seeds make no difference at all, or without a variance of the images.
    """
    if not difference.se_seeds or difference.se_images is None:
        return None
    return Noise(difference.se_seeds**2 * len(difference.per_seed), difference.se_images**2)


def resolvable(noise: Noise, num_seeds: int) -> float | None:
    """The smallest true difference that is found with 80 % probability at the 95 % level; None with one seed."""
    return half_width(noise.seeds, noise.images, num_seeds, power=POWER) if num_seeds > 1 else None


def seeds_for(noise: Noise, difference: float) -> int | None:
    """How many seeds find a difference with 80 % probability; None if images alone hide it, or above 1,000."""
    return first_that(lambda seeds: half_width(noise.seeds, noise.images, seeds, power=POWER) <= difference, 2)


def resolution_text(num_seeds: int, num_images: int) -> str:
    """What the plan can tell by the assumed noise, in a few lines for a terminal."""
    noise = assumed(num_images)
    smallest = resolvable(noise, num_seeds)
    if smallest is None:
        first = "one seed: differences between arms cannot be told from differences between seeds; use 3 or more"
    else:
        first = (
            f"{num_seeds} seeds x {num_images:,} images find a difference of {100 * smallest:.2g} AP points or more "
            "(80 % power, 95 % level)"
        )
    needed: dict[str, list[str]] = {}  # seeds -> the differences, in points, that need so many
    for difference in TOLD:
        seeds = seeds_for(noise, difference)
        what = f"{seeds} seeds" if seeds is not None else f"out of reach with {num_images:,} images"
        needed.setdefault(what, []).append(f"{100 * difference:.2g}")
    told = "; ".join(f"{' or '.join(sizes)} points: {seeds}" for seeds, sizes in needed.items())
    deviation, of_coco = 100 * _deviation(num_images), 100 * COCO_DEVIATION
    source = (
        f"assumed for {num_images:,} images: a standard deviation of {deviation:.2g} AP points between seeds of one "
        f"arm ({of_coco:.2g} on {COCO_IMAGES:,} images, growing with the root as they get fewer), and half as much "
        "from the images; the report says it again by the noise of the runs themselves"
    )
    return f"{first}\nto find {told}\n{source}"
