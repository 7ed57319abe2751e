"""What an ablation is able to tell: before anything runs, and by the noise that its runs then show.

Before, the variances are those of earlier ablations of the same kind, or else assumed, from what is known of seed
noise: two seeds of one arm differ with a standard deviation of about .25 AP points on COCO's 5,000 validation
images and of about 2 on sets of a hundred, which is the root of the number of images; the difference of two arms
varies over images, beyond what seeds average out, half as much as one arm over seeds. The arms are assumed to vary
independently: pairing by seed can only help. Short schedules are noisier (3.6 points where this says 1.9, on 87
images of blood cells): what an assumption resolves is therefore told for twice the noise, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, sqrt
from statistics import NormalDist

from detfuse.errors import InputError
from detfuse.statistics.dunnett import ALONE, MOST_FREEDOM, Family, critical
from detfuse.statistics.intervals import LEVEL, half_width
from detfuse.statistics.looks import PLANNED
from detfuse.statistics.records import Comparison, Difference
from detfuse.statistics.verdict import POWER, first_that
from detfuse.words import clock

COCO_DEVIATION, COCO_IMAGES = 0.0025, 5000
FIRST = PLANNED * LEVEL  # what the planned looks of an ablation have
MOST_PROPOSED = 100  # seeds
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


def pooled(comparisons: Iterable[Comparison]) -> Noise | None:
    """What comparisons of several arms show together, each by its degrees of freedom; None if they show nothing.

    An arm that learnt nothing is left out.
    """
    seeds, images, freedom = 0.0, 0.0, 0
    for comparison in comparisons:
        main = comparison.differences[0] if comparison.differences else None
        noise, told = comparison.noise, main is not None and main.low is not None
        if noise is None or main is None or not told or (noise.lenders and comparison.arm not in noise.lenders):
            continue
        weight = len(comparison.seeds) - 1
        seeds += weight * noise.own**2
        images += weight * (main.se_images or 0.0) ** 2
        freedom += weight
    return Noise(seeds / freedom, images / freedom) if freedom and seeds > 0 else None


def resolvable(noise: Noise, num_seeds: int, family: Family = ALONE, level: float = LEVEL) -> float | None:
    """The smallest true difference that is found with 80 % probability at the 95 % level; None with one seed."""
    if num_seeds < 2:
        return None
    return half_width(noise.seeds, noise.images, num_seeds, level, POWER, family=family)


def seeds_for(noise: Noise, difference: float, family: Family = ALONE, level: float = LEVEL) -> int | None:
    """How many seeds find a difference with 80 % probability; None if images alone hide it, or above 1,000."""
    return first_that(lambda seeds: (resolvable(noise, seeds, family, level) or 1) <= difference, 2)


def resolution_text(
    num_seeds: int, num_images: int, *, num_arms: int = 1, found: Noise | None = None, by: str = ""
) -> str:
    """What the plan can tell, in a few lines for a terminal.

    Args:
        num_seeds: of every arm.
        num_images: that are scored.
        num_arms: compared with the baseline.
        found: noise of earlier ablations of the same kind; None assumes one.
        by: which ablations those are.
    """
    noise, family = found or assumed(num_images), Family(num_arms)
    smallest = resolvable(noise, num_seeds, family, FIRST)
    if smallest is None:
        first = "one seed: differences between arms cannot be told from differences between seeds; use 3 or more"
    else:
        twice = resolvable(Noise(4 * noise.seeds, 4 * noise.images), num_seeds, family, FIRST) or smallest
        doubt = "" if found else f", {100 * twice:.2g} if the runs are twice as noisy"
        first = (
            f"{num_seeds} seeds x {num_images:,} images find a difference of {100 * smallest:.2g} AP points or "
            f"more{doubt} (80 % power, 95 % level for all arms)"
        )
    needed: dict[str, list[str]] = {}  # seeds -> the differences, in points, that need so many
    for difference in TOLD:
        seeds = seeds_for(noise, difference, family, FIRST)
        what = f"{seeds} seeds" if seeds is not None else f"out of reach with {num_images:,} images"
        needed.setdefault(what, []).append(f"{100 * difference:.2g}")
    told = "; ".join(f"{' or '.join(sizes)} points: {seeds}" for seeds, sizes in needed.items())
    if found is not None:
        source = (
            f"measured, by {by}: a standard deviation of {100 * sqrt(found.seeds):.2g} AP points of one seed's "
            f"difference, and of {100 * sqrt(found.images):.2g} from the images"
        )
    else:
        deviation, of_coco = 100 * _deviation(num_images), 100 * COCO_DEVIATION
        source = (
            f"assumed for {num_images:,} images: a standard deviation of {deviation:.2g} AP points between seeds of "
            f"one arm ({of_coco:.2g} on {COCO_IMAGES:,} images, growing with the root as they get fewer), and half as "
            "much from the images; the report says it again by the noise of the runs themselves"
        )
    return f"{first}\nto find {told}\n{source}"


def proposal(difference: float, noise: Noise, num_arms: int, seconds: float | None = None) -> str:
    """What it takes to find a difference with 80 % probability: seeds and looks with what they cost, or images.

    Args:
        difference: a fraction.
        noise: measured or assumed.
        num_arms: compared with the baseline.
        seconds: that one seed of all arms takes; None if it is not known.
    """
    family = Family(num_arms)
    seeds = seeds_for(noise, difference, family, FIRST)
    wanted = f"to find {100 * difference:.3g} AP points"
    if seeds is None or seeds > MOST_PROPOSED:
        reach = critical(family, MOST_FREEDOM, FIRST) + NormalDist().inv_cdf(POWER)
        times = ceil(2 * noise.images * (reach / difference) ** 2)  # half of the variance is then left for the seeds
        if times > 1:
            return f"{wanted}: not with these images; about {times:,} times as many, or a larger difference"
        return f"{wanted}: more than {MOST_PROPOSED} seeds; look for a larger difference, or train longer"
    cost = f", {seeds * (num_arms + 1)} runs" + (f", about {clock(seconds * seeds)}" if seconds is not None else "")
    looks = sorted({max(2, ceil(0.4 * seeds)), max(2, ceil(0.6 * seeds)), seeds})
    listed = f"seeds=[{','.join(map(str, range(seeds)))}]"
    early = f", and looks=[{','.join(map(str, looks))}] to end earlier what is clear earlier" if len(looks) > 1 else ""
    return f"{wanted}: {seeds} seeds{cost}: {listed}{early}"
