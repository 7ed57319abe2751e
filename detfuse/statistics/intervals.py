"""The 95 % interval of a mean difference over seeds and images.

The layout is crossed: every seed of both arms is scored on the same images, so a difference varies with the seed, with
the images, and with both together. Its variance is that of the seeds plus that of the images less their interaction,
which both contain; Satterthwaite's approximation gives the degrees of freedom (Biometrics Bulletin 2, 1946,
https://doi.org/10.2307/3002019). With two or three seeds this alone covers too little where seeds dominate, since by
chance the few seeds may agree: the interval is therefore never narrower than the paired t interval over the seeds.
The coverage that decided this is in .github/STATISTICS.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
from numpy.typing import NDArray

from detfuse.statistics.student import quantile, two_sided

LEVEL = 0.05


@dataclass(frozen=True)
class Spread:
    """How far a mean difference may be from the truth, by source.

    Attributes:
        seeds: variance of the mean from the seeds, their interaction with the images included; None with one seed.
        images: variance from the images, the interaction included; None where it cannot be estimated.
        both: the interaction alone; 0 where seeds or images are missing.
        num_seeds: S.
        num_groups: groups of images left out in turn.
    """

    seeds: float | None
    images: float | None
    both: float
    num_seeds: int
    num_groups: int

    @property
    def total(self) -> float | None:
        """Variance of the mean; of two sources at least the larger one."""
        if self.seeds is None or self.images is None:
            return self.images if self.seeds is None else self.seeds
        return max(self.seeds + self.images - self.both, self.seeds, self.images)

    @property
    def freedom(self) -> float:
        """Satterthwaite's degrees of freedom of the total, at least those of the smaller part."""
        seeds, groups = self.num_seeds - 1, self.num_groups - 1
        if self.seeds is None or self.images is None:
            return groups if self.seeds is None else seeds
        noise = self.seeds**2 / seeds + self.images**2 / groups + self.both**2 / (seeds * groups)
        total = self.total or 0.0
        return max(total**2 / noise, min(seeds, groups)) if noise > 0 else min(seeds, groups)


@dataclass(frozen=True)
class Interval:
    """Ends of the interval, p of no difference, and how they came about; None where there is nothing to go by."""

    low: float | None
    high: float | None
    p: float | None
    method: str


def spread_of(differences: NDArray[np.float64], without: NDArray[np.float64] | None) -> Spread:
    """Variances of the mean over seeds.

    Args:
        differences: (S,) of each seed, on all images.
        without: (S, G) of each seed, with one group of images left out at a time; None if that is not defined.
    """
    num_seeds = len(differences)
    seeds = float(differences.var(ddof=1)) / num_seeds if num_seeds > 1 else None
    if without is None or without.shape[1] < 2:
        return Spread(seeds, None, 0.0, num_seeds, 0)
    groups = without.shape[1]
    # Delete-a-group jackknife: pseudo-values behave like one measurement per group.
    pseudo = groups * differences[:, None] - (groups - 1) * without
    by_group = pseudo.mean(axis=0)
    images = float(by_group.var(ddof=1)) / groups
    both = 0.0
    if num_seeds > 1:
        residual = pseudo - pseudo.mean(axis=1, keepdims=True) - by_group + pseudo.mean()
        both = float((residual**2).sum()) / ((num_seeds - 1) * (groups - 1) * num_seeds * groups)
    return Spread(seeds, images, both, num_seeds, groups)


def interval(estimate: float, spread: Spread) -> Interval:
    """The 95 % interval around a mean difference."""
    total, freedom = spread.total, spread.freedom
    if total is None:
        return Interval(None, None, None, "no interval: one seed, and the images do not allow one")
    half = quantile(1 - LEVEL / 2, freedom) * sqrt(total)
    if spread.seeds is None:
        method = f"jackknife over {spread.num_groups} groups of images; seeds are not covered"
    elif spread.images is None:
        method = f"paired t over {spread.num_seeds} seeds; images are not covered"
    else:
        method = f"two-way t over {spread.num_seeds} seeds and {spread.num_groups} groups of images, df {freedom:.1f}"
        alone = quantile(1 - LEVEL / 2, spread.num_seeds - 1) * sqrt(spread.seeds)
        if alone > half:
            half, method = alone, f"paired t over {spread.num_seeds} seeds (wider than with the images' variance)"
    return Interval(estimate - half, estimate + half, _p_of(estimate, spread), method)


def equivalence_p(estimate: float, spread: Spread, limit: float) -> float | None:
    """P of the hypothesis that the true difference is ``limit`` or more, to either side; None without a variance.

    Two one-sided tests, of which the one of the nearer limit counts (Schuirmann, Journal of Pharmacokinetics and
    Biopharmaceutics 15, 1987, https://doi.org/10.1007/BF01068419), each at half the level: p is below .05 exactly where
    the 95 % interval lies inside of ±``limit``.
    """
    if spread.total is None:
        return None
    return _p_of(limit - abs(estimate), spread) if abs(estimate) < limit else 1.0


def _p_of(distance: float, spread: Spread) -> float:
    """Two-sided p of this distance from the hypothesis, by the wider of the two intervals."""
    assert spread.total is not None
    p = _p(distance, spread.total, spread.freedom)
    if spread.seeds is None or spread.images is None:
        return p
    return max(p, _p(distance, spread.seeds, spread.num_seeds - 1))


def half_width(seeds: float, images: float, num_seeds: int, level: float = LEVEL, power: float | None = None) -> float:
    """Half the interval to be expected with another number of seeds; the difference it resolves, if ``power`` is given.

    Args:
        seeds: variance of the difference of one pair of runs between seeds, on these images.
        images: variance of the difference from the images that no number of seeds removes.
        num_seeds: at least 2.
        level: 1 - confidence.
        power: probability of finding the difference; None for half the interval.
    """
    part = seeds / num_seeds
    total = part + images
    freedom = (num_seeds - 1) * (total / part) ** 2 if part > 0 else inf
    return max(
        _factor(freedom, level, power) * sqrt(total),
        _factor(num_seeds - 1, level, power) * sqrt(part),
    )


def _factor(freedom: float, level: float, power: float | None) -> float:
    return quantile(1 - level / 2, freedom) + (quantile(power, freedom) if power is not None else 0.0)


def _p(estimate: float, variance: float, freedom: float) -> float:
    if variance <= 0:
        return float(estimate == 0)
    return two_sided(estimate / sqrt(variance), freedom)
