"""What an ablation will be able to tell, before anything runs.

Without a pilot the variances are assumed, from what is known of seed noise: two seeds of one arm differ with a standard
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
from detfuse.statistics.verdict import first_that

POWER = 0.8
COCO_DEVIATION, COCO_IMAGES = 0.0025, 5000
TOLD = (0.005, 0.01, 0.02, 0.05)  # differences for which the number of seeds is told


@dataclass(frozen=True)
class Noise:
    """Variances of a difference of AP (fractions).

    Attributes:
        seeds: between seeds, of one pair of runs.
        images: from the choice of images; more seeds do not reduce it.
        source: where the numbers are from, for the reader.
    """

    seeds: float
    images: float
    source: str


def assumed(num_images: int) -> Noise:
    """What to expect on a validation set of this size.

    Raises:
        ValueError: without images.
    """
    if num_images < 1:
        raise InputError(f"num_images={num_images}: there must be images to score")
    deviation = COCO_DEVIATION * sqrt(COCO_IMAGES / min(num_images, COCO_IMAGES))
    source = (
        f"assumed for {num_images:,} images: a standard deviation of {100 * deviation:.2g} AP points between seeds of "
        f"one arm ({100 * COCO_DEVIATION:.2g} on {COCO_IMAGES:,} images, growing with the root as they get fewer), and "
        "half as much from the images; a pilot's own numbers replace this"
    )
    return Noise(2 * deviation**2, (deviation / 2) ** 2, source)


def measured(difference: Difference) -> Noise:
    """From a pilot: at most this much, as the images' part still holds what more seeds would average out.

    Raises:
        ValueError: if the pilot has one seed, or no variance of the images.
    """
    if difference.se_seeds is None or difference.se_images is None:
        raise InputError(f"{difference.metric}: a pilot needs two seeds or more, and an interval over images")
    seeds = difference.se_seeds**2 * len(difference.per_seed)
    return Noise(seeds, difference.se_images**2, f"measured on {len(difference.per_seed)} pairs of seeds")


def resolvable(noise: Noise, num_seeds: int) -> float | None:
    """The smallest true difference that is found with 80 % probability at the 95 % level; None with one seed."""
    return half_width(noise.seeds, noise.images, num_seeds, power=POWER) if num_seeds > 1 else None


def seeds_for(noise: Noise, difference: float) -> int | None:
    """How many seeds find a difference with 80 % probability; None if images alone hide it, or above 1,000."""
    return first_that(lambda seeds: half_width(noise.seeds, noise.images, seeds, power=POWER) <= difference, 2)


def resolution_text(num_seeds: int, num_images: int, pilot: Difference | None = None) -> str:
    """What the plan can tell, in a few lines for a terminal."""
    noise = assumed(num_images) if pilot is None else measured(pilot)
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
    return f"{first}\nto find {told}\n{noise.source}"
