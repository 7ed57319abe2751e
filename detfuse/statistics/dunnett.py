"""The distribution of the largest of several t that share a baseline and a variance: Dunnett's.

Several arms are compared with one baseline. If all are equally noisy, two differences from it correlate by 1/2, and the
largest of their t has the distribution of Dunnett (Journal of the American Statistical Association 50, 1955,
https://doi.org/10.1080/01621459.1955.10501294). It is narrower than what Bonferroni or Holm's first step allow, and an
interval of its width around every difference covers all of them at once. scipy.stats.dunnett has the test of given
samples; here the degrees of freedom are no whole number, so the integral itself is needed: over the baseline
(Gauss-Hermite) and over the common standard deviation (Gauss-Legendre over its quantiles). Without a common baseline
the differences are taken for independent, which holds whatever they share (Sidak, Journal of the American Statistical
Association 62, 1967, https://doi.org/10.1080/01621459.1967.10482935).
"""

from __future__ import annotations

from functools import cache
from math import exp, inf, log
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import gammaincinv, ndtr, stdtr, stdtrit

MOST_FREEDOM = 1e6
_LEAST, _MOST = 1e-3, 1e7  # within which critical values are sought

_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(80)
_BASE, _BASE_WEIGHTS = np.polynomial.hermite_e.hermegauss(32)
_BASE_WEIGHTS = _BASE_WEIGHTS / _BASE_WEIGHTS.sum()


class Family(NamedTuple):
    """Differences that are judged together.

    Attributes:
        size: how many.
        correlation: of any two of them: 1/2 if they share the baseline and all arms are equally noisy.
    """

    size: int
    correlation: float = 0.5


ALONE = Family(1)


def p_value(t: float, family: Family, freedom: float) -> float:
    """Probability that the largest of the absolute t of a family is this large where nothing differs.

    Args:
        t: of one difference.
        family: it belongs to; alone it is Student's t.
        freedom: degrees of freedom of the variance; may be infinite.
    """
    t, freedom = abs(t), min(freedom, MOST_FREEDOM)
    alone = 2 * float(stdtr(freedom, -t))
    if family.size == 1 or t == inf:
        return alone
    # Never below one alone and never above Bonferroni's, which far out in the tail is more exact than any quadrature.
    return min(max(float(_beyond(t, family, freedom)), alone), family.size * alone, 1.0)


@cache
def critical(family: Family, freedom: float, level: float) -> float:
    """What the largest absolute t of a family exceeds with probability ``level`` where nothing differs."""
    if family.size == 1:
        return float(stdtrit(min(freedom, MOST_FREEDOM), 1 - level / 2))

    def excess(log_t: float) -> float:
        return log(max(p_value(exp(log_t), family, freedom), 1e-300)) - log(level)

    return exp(brentq(excess, log(_LEAST), log(_MOST), xtol=1e-7))


_GRID = np.array([1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 5, 6, 8, 10, 14, 20, 32, 60, 150, MOST_FREEDOM])


def critical_values(family: Family, freedom: ArrayLike, level: float) -> NDArray[np.float64]:
    """:func:`critical` of many degrees of freedom at once, within .3 %, for simulations; below 1 they count as 1."""
    wanted = np.clip(np.asarray(freedom, np.float64), 1, MOST_FREEDOM)
    if family.size == 1:
        return np.asarray(stdtrit(wanted, 1 - level / 2), np.float64)
    known = np.log([critical(family, float(value), level) for value in _GRID])
    return np.exp(np.interp(-1 / wanted, -1 / _GRID, known))


def _beyond(t: float, family: Family, freedom: float) -> np.float64:
    scale = np.sqrt(gammaincinv(freedom / 2, (_NODES + 1) / 2) * 2 / freedom)
    reach = (t * scale)[:, None]
    shift, rest = family.correlation**0.5 * _BASE, (1 - family.correlation) ** 0.5
    within = (ndtr((shift + reach) / rest) - ndtr((shift - reach) / rest)) ** family.size
    return np.float64(1 - (_NODE_WEIGHTS / 2) @ (within @ _BASE_WEIGHTS))
