"""How much of the 5 % every look at an ablation spends.

Whoever looks after three seeds, adds one, looks again, and stops once it is decided, has many chances of a false
verdict: with 5 % at each of six looks it comes to 12 to 14 %. Here all looks share the 5 % (as in Lan and DeMets,
Biometrika 70, 1983, https://doi.org/10.1093/biomet/70.3.659, and Jennison and Turnbull's repeated confidence
intervals, Journal of the Royal Statistical Society B 51, 1989). The levels of the looks are simply added up, which
needs nothing to be known of how they depend on each other; so the intervals of all looks hold at once.

The planned looks have nine tenths of it, growing with the square of the seeds seen: little early, most at the last.
Each look that was not planned spends half of what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple

from scipy.special import ndtr

from detfuse.statistics.dunnett import Family
from detfuse.statistics.intervals import LEVEL, half_width
from detfuse.statistics.records import Difference

PLANNED = 0.9
"""Share of the level that planned looks spend together."""


class Spent(NamedTuple):
    """An earlier look.

    Attributes:
        level: that it spent.
        planned: whether it was a planned one.
    """

    level: float
    planned: bool


def next_level(past: Sequence[Spent], planned: Sequence[int], num_seeds: int) -> Spent:
    """What the next look spends.

    Args:
        past: all earlier looks.
        planned: numbers of seeds at which looks were planned, rising; the last is the most.
        num_seeds: that this look sees of the arms that are still open.
    """
    spent = sum(look.level for look in past if look.planned)
    due = [seeds for seeds in planned if seeds <= num_seeds]
    if due:
        allowed = PLANNED * LEVEL * (due[-1] / planned[-1]) ** 2
        if allowed > spent * (1 + 1e-9):
            return Spent(allowed - spent, True)
    unplanned = (1 - PLANNED) * LEVEL - sum(look.level for look in past if not look.planned)
    return Spent(unplanned / 2, False)


def chance(difference: Difference, num_seeds: int, equivalence: float, family: Family, level: float) -> float:
    """Probability that a difference will be decided with this number of seeds, if it is as large as it looks now.

    Args:
        difference: as found so far, with fewer seeds.
        num_seeds: that there will be.
        equivalence: a difference (a fraction) that nobody would care about.
        family: of arms.
        level: of the look that will be taken then.
    """
    if difference.estimate is None or not difference.se_seeds:
        return 1.0
    seen = len(difference.per_seed)
    per_seed, images = difference.se_seeds**2 * seen, (difference.se_images or 0.0) ** 2
    half = half_width(per_seed, images, num_seeds, level, family=family)
    size, spread = abs(difference.estimate), sqrt(per_seed * max(1 / seen - 1 / num_seeds, 1e-12))
    differs = ndtr((size - half) / spread) + ndtr((-size - half) / spread)
    room = max(equivalence - half, 0.0)
    return float(differs + max(ndtr((room - size) / spread) - ndtr((-room - size) / spread), 0.0))
