"""The interval of a mean difference over seeds and images.

The layout is crossed: every seed of both arms is scored on the same images, so a difference varies with the seed, with
the images, and with both together. Its variance is that of the seeds plus that of the images less their interaction,
which both contain; Satterthwaite's approximation gives the degrees of freedom (Biometrics Bulletin 2, 1946,
https://doi.org/10.2307/3002019). The seeds' part is moderated by what all arms show (:mod:`detfuse.statistics.noise`).
With two or three seeds the sum alone covers too little where seeds dominate, since by chance the few seeds may agree:
the interval is therefore never narrower than that of the seeds alone. The coverage that decided this is in
.github/STATISTICS.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit  # the quantile of Student's t

from detfuse.statistics.dunnett import ALONE, Family, critical, critical_values, p_value
from detfuse.statistics.noise import expected_freedom

LEVEL = 0.05


@dataclass(frozen=True)
class Variances:
    """Of a mean difference, by source: how far it may be from the truth.

    Attributes:
        seeds: variance of the mean from the seeds, their interaction with the images included; None with one seed.
        images: variance from the images, the interaction included; None where it cannot be estimated.
        both: the interaction alone; 0 where seeds or images are missing.
        num_seeds: S.
        seeds_freedom: degrees of freedom of ``seeds``; S - 1 if nothing was borrowed.
        images_freedom: of ``images``.
    """

    seeds: float | None
    images: float | None
    both: float
    num_seeds: int
    seeds_freedom: float
    images_freedom: float

    @property
    def crossed(self) -> tuple[float, float] | None:
        """Variance of the mean and its degrees of freedom; None without any source."""
        if self.seeds is None or self.images is None:
            alone = (self.images, self.images_freedom) if self.seeds is None else (self.seeds, self.seeds_freedom)
            return None if alone[0] is None else (alone[0], alone[1])
        total, freedom = crossed(self.seeds, self.seeds_freedom, self.images, self.images_freedom, self.both)
        return float(total), float(freedom)

    @property
    def parts(self) -> list[tuple[float, float]]:
        """Variances with their degrees of freedom, each of which the interval allows for: the whole, and the seeds'."""
        whole = self.crossed
        seeds = [(self.seeds, self.seeds_freedom)] if self.seeds is not None and self.images is not None else []
        return [*([] if whole is None else [whole]), *seeds]


def crossed(seeds: Any, seeds_freedom: Any, images: Any, images_freedom: Any, both: Any) -> tuple[Any, Any]:
    """Variance of a mean difference, at least that of either source, and Satterthwaite's degrees of freedom.

    Args:
        seeds: its variance from the seeds; numbers or arrays, like all others.
        seeds_freedom: degrees of freedom of it.
        images: variance from the images.
        images_freedom: degrees of freedom of it.
        both: of the interaction, which both contain.
    """
    total = np.maximum(np.maximum(seeds + images - both, seeds), images)
    noise = seeds**2 / seeds_freedom + images**2 / images_freedom + both**2 / (seeds_freedom * images_freedom)
    least = np.minimum(seeds_freedom, images_freedom)
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom = np.where(noise > 0, np.maximum(total**2 / noise, least), least)
    return total, freedom


@dataclass(frozen=True)
class Interval:
    """Ends of the interval, p of no difference; None where there is nothing to go by."""

    low: float | None
    high: float | None
    p: float | None


def variances_of_images(differences: NDArray[np.float64], weighted: NDArray[np.float64]) -> tuple[float | None, float]:
    """Variance of a mean over seeds from the images, and how much of it is their interaction with the seeds.

    Args:
        differences: (S,) of each seed, on these images.
        weighted: (S, B) of each seed, under random weights of the images; NaN where that is not defined.

    Returns:
        None for what cannot be told: fewer than two weightings, or a difference that no weighting changes.
    """
    num_seeds, replicates = weighted.shape
    if replicates < 2 or np.isnan(weighted).any():
        return None, 0.0
    images = float(weighted.mean(axis=0).var(ddof=1))
    # A few units in the last place are no variance.
    if images <= 1e-24 and np.abs(differences).max() > 1e-12:
        return None, 0.0
    if num_seeds < 2:
        return images, 0.0
    single = float(weighted.var(axis=1, ddof=1).mean())
    return images, min(max((single - images) / (num_seeds - 1), 0.0), images)


def interval(estimate: float, variances: Variances, *, family: Family = ALONE, level: float = LEVEL) -> Interval:
    """The interval around a mean difference that with probability 1 - ``level`` holds the truth.

    Args:
        estimate: the difference.
        variances: what it rests on.
        family: of differences, of which the intervals hold all at once.
        level: of all of them together.
    """
    if not variances.parts:
        return Interval(None, None, None)
    half = max(critical(family, freedom, level) * sqrt(variance) for variance, freedom in variances.parts)
    return Interval(estimate - half, estimate + half, _p_of(abs(estimate), variances, family))


def equivalence_p(estimate: float, variances: Variances, limit: float, family: Family = ALONE) -> float | None:
    """P of the hypothesis that the true difference is ``limit`` or more, to either side; None without a variance.

    Two one-sided tests, of which the one of the nearer limit counts (Schuirmann, Journal of Pharmacokinetics and
    Biopharmaceutics 15, 1987, https://doi.org/10.1007/BF01068419), each at half the level: p is below the level exactly
    where the interval lies inside of ±``limit``.
    """
    if not variances.parts:
        return None
    return _p_of(limit - abs(estimate), variances, family) if abs(estimate) < limit else 1.0


def _p_of(distance: float, variances: Variances, family: Family) -> float:
    """Two-sided p of this distance from the hypothesis, by the wider of the two intervals."""
    return max(_p(distance, variance, freedom, family) for variance, freedom in variances.parts)


def half_width(
    seeds: float,
    images: float,
    num_seeds: int,
    level: float = LEVEL,
    power: float | None = None,
    *,
    family: Family = ALONE,
) -> float:
    """Half the interval to be expected with another number of seeds; the difference it resolves, if ``power`` is given.

    Args:
        seeds: variance of the difference of one pair of runs between seeds, on these images.
        images: variance of the difference from the images that no number of seeds removes.
        num_seeds: at least 2.
        level: of the whole family.
        power: probability of finding one difference; None for half the interval.
        family: of differences that are judged together.
    """
    part, alone = seeds / num_seeds, expected_freedom(num_seeds, family.size)
    total = part + images
    freedom = alone * (total / part) ** 2 if part > 0 else inf
    return max(
        _factor(freedom, level, power, family) * sqrt(total),
        _factor(alone, level, power, family) * sqrt(part),
    )


def _factor(freedom: float, level: float, power: float | None, family: Family) -> float:
    return float(critical_values(family, freedom, level)) + (_quantile(power, freedom) if power is not None else 0.0)


def _p(distance: float, variance: float, freedom: float, family: Family) -> float:
    if variance <= 0:
        return float(distance == 0)
    return p_value(distance / sqrt(variance), family, freedom)


def _quantile(probability: float, freedom: float) -> float:
    return float(stdtrit(freedom, probability))
