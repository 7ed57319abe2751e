"""Student's t: tail probability and quantile, for degrees of freedom that need not be whole.

None of the libraries that detfuse stands on has them.
"""

from __future__ import annotations

from math import exp, lgamma, log, pi
from statistics import NormalDist

from detfuse.errors import InputError

_PRECISION = 1e-14
_STEPS = 10_000
_NORMAL_FROM = 1e7  # degrees of freedom beyond which t is normal to 1e-7


def two_sided(t: float, df: float) -> float:
    """Probability of a value at least as far from 0 as ``t``."""
    if df >= _NORMAL_FROM:
        return 2 * NormalDist().cdf(-abs(t))
    return _beta(df / (df + t * t), df / 2, 0.5)


def quantile(probability: float, df: float) -> float:
    """The value that is exceeded with probability ``1 - probability``.

    Args:
        probability: .5 <= probability < 1.
        df: degrees of freedom, more than 0.

    Raises:
        ValueError: if the probability is outside.
    """
    if not 0.5 <= probability < 1:
        raise InputError(f"probability {probability}, expected .5 or more and less than 1")
    value = NormalDist().inv_cdf(probability)
    if df >= _NORMAL_FROM or value == 0:
        return value
    # The upper tail is convex and t's quantiles lie beyond the normal's: Newton's steps rise to the root.
    scale = lgamma((df + 1) / 2) - lgamma(df / 2) - 0.5 * log(df * pi)
    for _ in range(100):
        density = exp(scale - (df + 1) / 2 * log(1 + value * value / df))
        step = (two_sided(value, df) / 2 - (1 - probability)) / density
        value += step
        if abs(step) <= 1e-12 * value:
            break
    return value


def _beta(x: float, a: float, b: float) -> float:
    """Regularised incomplete beta function by its continued fraction (https://dlmf.nist.gov/8.17.E22)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast on the other side
        return 1 - _beta(1 - x, b, a)
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log(1 - x)) / a
    # 1 + d1 / (1 + d2 / (1 + ...)) by the modified Lentz method.
    fraction, upper, lower = 1.0, 1.0, 0.0
    for step in range(1, _STEPS):
        m = step // 2
        if step % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        lower = 1 / (1 + term * lower)
        upper = 1 + term / upper
        fraction *= upper * lower
        if abs(upper * lower - 1) < _PRECISION:
            break
    return front / fraction
