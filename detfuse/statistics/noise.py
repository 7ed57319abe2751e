"""How noisy a difference is between seeds, by what all arms of an ablation show together.

Of three seeds each pair has a variance with two degrees of freedom, which is next to nothing: it makes intervals jump
by a factor of four from one repetition to the next. The other pairs know something of it. Each pair's variance is
therefore drawn towards the mean of all (the moderated t of Smyth, Statistical Applications in Genetics and Molecular
Biology 3, 2004, https://doi.org/10.2202/1544-6115.1027), with two cautions, as here are few arms where there are
thousands of genes:

* the prior degrees of freedom are those that match the moments of the log variances, but never more than ``PRIOR``: so
  few arms cannot show that they are equally noisy, and a noisy arm must keep a voice of its own;
* the pairs share the baseline, so that their variances err together: where the baseline is the noisy one, all of them
  are one number. They are counted with the correlation ``ALIKE``, that of a baseline a little noisier than the arms.

Both numbers are decided by simulation (.github/STATISTICS.md). What cannot lend: an arm that learnt nothing, and a pair
of which every seed has the same difference.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, polygamma

Floats = NDArray[np.float64]

PRIOR = 4.0
"""Most prior degrees of freedom."""
ALIKE = 0.42
"""Squared correlation of two differences that share the baseline, by which their variances are taken to correlate; 1/4
if all arms are equally noisy."""


class Moderated(NamedTuple):
    """Of K pairs, with any leading dimensions.

    Attributes:
        variance: (..., K) of one seed's difference.
        freedom: (..., K) its degrees of freedom.
        share: (..., K) how much of the variance is lent, 0..1, the pair's own part in what all lend included.
        lent: (...) mean variance of those that lend; NaN if none does.
    """

    variance: Floats
    freedom: Floats
    share: Floats
    lent: Floats


def moderated(own: Floats, freedom: Floats, lends: NDArray[np.bool_]) -> Moderated:
    """Draw each pair's variance towards what all pairs show.

    A pair alone, and pairs whose variances differ by more than chance allows, keep their own: the paired t.

    Args:
        own: (..., K) variance of each pair's difference between seeds, at least 0.
        freedom: (..., K) or (K,) its degrees of freedom, at least 1.
        lends: likewise, whether it may be lent to others.
    """
    lends = lends & (own > 0)
    weight = np.where(lends, freedom, 0.0)
    total = weight.sum(-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        lent = (weight * own).sum(-1, keepdims=True) / total
        part = np.where(total > 0, weight / total, 0.0)
    prior = np.where(total > weight, np.minimum(_prior(own, freedom, lends), PRIOR), 0.0)  # 0 if no other lends
    share = prior / (prior + freedom)
    variance = share * np.where(total > 0, lent, 0.0) + (1 - share) * own
    # Satterthwaite of the weighted sum of all pairs' variances, each by its degrees of freedom, correlated by ALIKE.
    weights = share[..., None] * part[..., None, :] + (1 - share)[..., None] * np.eye(own.shape[-1])
    root = np.sqrt(freedom)[..., None, :]
    error = (1 - ALIKE) * ((weights / root) ** 2).sum(-1) + ALIKE * (weights / root).sum(-1) ** 2
    return Moderated(variance, 1 / error, share, lent[..., 0])


def _prior(own: Floats, freedom: Floats, lends: NDArray[np.bool_]) -> Floats:
    """(..., 1) degrees of freedom of the prior that explain how far the log variances of those that lend lie apart."""
    count = lends.sum(-1, keepdims=True)
    logs = np.log(np.where(lends, own, 1.0)) - digamma(freedom / 2) + np.log(freedom / 2)
    mean = np.where(lends, logs, 0.0).sum(-1, keepdims=True) / np.maximum(count, 1)
    spread = np.where(lends, (logs - mean) ** 2, 0.0).sum(-1, keepdims=True) / np.maximum(count - 1, 1)
    by_chance = np.where(lends, polygamma(1, freedom / 2), 0.0).sum(-1, keepdims=True) / np.maximum(count, 1)
    excess = spread - by_chance
    return np.where((count < 2) | (excess <= 0), np.inf, 2 * _inverse_trigamma(np.maximum(excess, 1e-9)))


_ARGUMENTS = np.geomspace(1e-4, 1e9, 2000)
_TRIGAMMA = polygamma(1, _ARGUMENTS)


def _inverse_trigamma(value: Floats) -> Floats:
    found = np.interp(-np.log(value), -np.log(_TRIGAMMA), np.log(_ARGUMENTS))
    return np.asarray(np.exp(found), np.float64)


def expected_freedom(num_seeds: int, num_pairs: int) -> float:
    """Degrees of freedom to be expected of equally noisy arms.

    Args:
        num_seeds: at least 2.
        num_pairs: arms that are compared with the baseline.
    """
    alike = np.ones(num_pairs)
    return float(moderated(alike, (num_seeds - 1) * alike, alike > 0).freedom[0])
