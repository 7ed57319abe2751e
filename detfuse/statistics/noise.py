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

Where five arms or more have three seeds or more, they show another thing: how much the scores of one seed have in
common. Where that is next to nothing, a difference varies as much as its two sides do together, and the sides are known
better than the difference: of the arms' own noise all of them tell, the baseline's is not counted once per pair. That
is too much where the scores correlate, so the less they do, the more it counts (:func:`arm_by_arm`).

All numbers are decided by simulation (.github/STATISTICS.md). What cannot lend: an arm that learnt nothing, and a pair
of which every seed has the same difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
FEWEST_PAIRS, FEWEST_SEEDS = 4, 3
"""Pairs that lend, and seeds, of which the correlation of one seed's scores can be told."""
PRIOR_OF_ARMS = 1.0
"""Most prior degrees of freedom of a single arm's noise."""
LEAST, TRUSTED = -0.5, 2.0
"""Correlation, as found, at which the pairs count for nothing; and what it must exceed that by, times the number of
seeds, for them to count alone."""


class Moderated(NamedTuple):
    """Of K pairs, with any leading dimensions.

    Attributes:
        variance: (..., K) of one seed's difference.
        freedom: (..., K) its degrees of freedom.
        share: (..., K) how much of the variance is lent, 0..1, the pair's own part in what all lend included.
        lent: (...) mean variance of those that lend; NaN if none does.
        apart: (..., K) the variance arm by arm, as if the scores of one seed had nothing in common; NaN if not told.
        apart_share: (..., K) how much it counts, 0..1.
    """

    variance: Floats
    freedom: Floats
    share: Floats
    lent: Floats
    apart: Floats
    apart_share: Floats


def moderated(
    own: Floats, freedom: Floats, lends: NDArray[np.bool_], *, most: float = PRIOR, alike: float = ALIKE
) -> Moderated:
    """Draw each pair's variance towards what all pairs show.

    A pair alone, and pairs whose variances differ by more than chance allows, keep their own: the paired t.

    Args:
        own: (..., K) variance of each pair's difference between seeds, at least 0.
        freedom: (..., K) or (K,) its degrees of freedom, at least 1.
        lends: likewise, whether it may be lent to others.
        most: prior degrees of freedom.
        alike: correlation of two of the variances.
    """
    lends = lends & (own > 0)
    weight = np.where(lends, freedom, 0.0)
    total = weight.sum(-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        lent = (weight * own).sum(-1, keepdims=True) / total
        part = np.where(total > 0, weight / total, 0.0)
    prior = np.where(total > weight, np.minimum(_prior(own, freedom, lends), most), 0.0)  # 0 if no other lends
    share = prior / (prior + freedom)
    variance = share * np.where(total > 0, lent, 0.0) + (1 - share) * own
    # Satterthwaite of the weighted sum of all pairs' variances, each by its degrees of freedom, correlated by alike.
    weights = share[..., None] * part[..., None, :] + (1 - share)[..., None] * np.eye(own.shape[-1])
    root = np.sqrt(freedom)[..., None, :]
    error = (1 - alike) * ((weights / root) ** 2).sum(-1) + alike * (weights / root).sum(-1) ** 2
    unknown = np.full_like(variance, np.nan)
    return Moderated(variance, 1 / error, share, lent[..., 0], unknown, np.zeros_like(variance))


def arm_by_arm(
    paired: Moderated, arms: Sequence[Mapping[int, Floats]], baseline: Mapping[int, Floats], lends: NDArray[np.bool_]
) -> Moderated:
    """What the pairs show, drawn towards what their sides show where the scores of one seed have little in common.

    Args:
        paired: of K pairs, (metrics, K).
        arms: of each pair, seed -> (metrics,) the arm's scores under the seeds that both have.
        baseline: seed -> scores, of all its seeds.
        lends: (K,) which of the pairs lend.
    """
    lending = [arm for arm, lent in zip(arms, lends, strict=True) if lent]
    if len(lending) < FEWEST_PAIRS:
        return paired
    enough = sorted(map(len, lending))[-FEWEST_PAIRS]  # an arm that stopped early or failed tells less than the others
    lending = [arm for arm in lending if len(arm) >= enough]
    common = sorted(set(baseline).intersection(*lending))
    if len(common) < FEWEST_SEEDS:
        return paired
    scores = np.stack([np.stack([side[seed] for seed in common], -1) for side in (baseline, *lending)], -2)
    own = np.stack([_variance(arm) for arm in arms], -1)
    freedom = np.broadcast_to([len(arm) - 1.0 for arm in arms], own.shape)
    base, base_freedom = _variance(baseline)[:, None], len(baseline) - 1.0
    lent = np.broadcast_to(lends, own.shape)
    found = between(paired, own, freedom, lent, base, base_freedom, correlation(scores), len(common))
    told = np.isfinite(found.freedom)
    variance, free = np.where(told, found.variance, paired.variance), np.where(told, found.freedom, paired.freedom)
    return found._replace(variance=variance, freedom=free, apart_share=np.where(told, found.apart_share, 0.0))


def _variance(scores: Mapping[int, Floats]) -> Floats:
    return np.asarray(np.var(list(scores.values()), axis=0, ddof=1), np.float64)


def between(
    paired: Moderated,
    own: Floats,
    freedom: Floats,
    lends: NDArray[np.bool_],
    baseline: Floats,
    baseline_freedom: float,
    correlation: Floats,
    num_seeds: int,
) -> Moderated:
    """Between the variance of pairs and that of their sides, by how much one seed's scores correlate.

    Args:
        paired: (..., K) of the pairs.
        own: (..., K) variance of each arm between seeds.
        freedom: likewise, its degrees of freedom.
        lends: likewise, whether it may be lent.
        baseline: (..., 1) variance of the baseline.
        baseline_freedom: its degrees of freedom.
        correlation: (..., 1) of one seed's scores, as found.
        num_seeds: in which it was found.
    """
    arm = moderated(own, freedom, lends, most=PRIOR_OF_ARMS, alike=0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = arm.variance + baseline
        apart_freedom = apart**2 / (arm.variance**2 / arm.freedom + baseline**2 / baseline_freedom)
        share = 1 - np.clip((correlation - LEAST) * num_seeds / TRUSTED, 0, 1) + np.zeros_like(apart)
        variance = (1 - share) * paired.variance + share * apart
        # Both come from the same scores: their errors are taken to go together.
        error = (1 - share) * paired.variance / np.sqrt(paired.freedom) + share * apart / np.sqrt(apart_freedom)
        return paired._replace(variance=variance, freedom=(variance / error) ** 2, apart=apart, apart_share=share)


def correlation(scores: Floats) -> Floats:
    """Mean covariance of two arms over the seeds by the mean variance of one; (..., arms, S) -> (..., 1)."""
    centred = scores - scores.mean(-1, keepdims=True)
    alone = centred.var(-1, ddof=1).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (centred.sum(-2).var(-1, ddof=1) - alone) / (alone * (scores.shape[-2] - 1))
    return np.asarray(found[..., None], np.float64)


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
