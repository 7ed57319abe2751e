"""The nouns of the judge, all of them plain data.

AP and its differences are fractions (0..1) here; people are shown points (0..100).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

VerdictKind = Literal["better", "worse", "equivalent", "undecided", "identical", "missing"]


@dataclass(frozen=True)
class Score:
    """One arm in one metric: mean and standard deviation over seeds; None where undefined."""

    arm: str
    metric: str
    per_seed: Mapping[int, float | None]
    mean: float | None
    deviation: float | None


@dataclass(frozen=True)
class Difference:
    """An arm minus the baseline in one metric, paired by seed.

    Attributes:
        metric: ``mAP``, ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl``, or ``mAP/<category>`` for one class.
        per_seed: seed -> difference.
        estimate: mean over the seeds; None where the metric is undefined.
        low: end of the 95 % interval over seeds and images; None where there is none. Of the main metric it is the one
            that decides: it holds for all arms, and all looks, at once. The rest is exploratory.
        high: the other end.
        se_seeds: standard error from the seeds alone (None with one seed), by the noise that was borrowed too.
        se_images: standard error from the images alone.
        method: how the interval was made.
        p: of the hypothesis of no difference, of this arm alone.
        p_corrected: for all arms (Dunnett); only for the main metric.
        p_equivalent: of the hypothesis of a difference that matters (``Plan.equivalence`` or more); likewise.
        p_equivalent_corrected: for all arms.
    """

    metric: str
    per_seed: Mapping[int, float]
    estimate: float | None
    low: float | None
    high: float | None
    se_seeds: float | None
    se_images: float | None
    method: str
    p: float | None = None
    p_corrected: float | None = None
    p_equivalent: float | None = None
    p_equivalent_corrected: float | None = None


@dataclass(frozen=True)
class SeedNoise:
    """How much one seed's difference varies between seeds in the main metric, and what was borrowed from where.

    Attributes:
        own: standard deviation of this pair's differences.
        lent: root of the mean variance of the pairs that lend; None if none does.
        lenders: arms whose pairs lend, this one included if it does.
        share: of the pairs' part of the variance that is used, how much is lent, 0..1; the rest is the pair's own.
        used: standard deviation that the interval rests on.
        freedom: its degrees of freedom; S - 1 if nothing was borrowed.
        apart: standard deviation of two runs' difference by what the arms show one by one, as if the scores of one seed
            had nothing in common; None if it does not count.
        apart_share: how much of the variance that is used is that one, 0..1.
    """

    own: float
    lent: float | None
    lenders: tuple[str, ...]
    share: float
    used: float
    freedom: float
    apart: float | None = None
    apart_share: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """One sentence, and what it rests on."""

    kind: VerdictKind
    text: str
    more_seeds: int | None = None


@dataclass(frozen=True)
class Comparison:
    """One arm against the baseline.

    Attributes:
        arm: its name.
        baseline: the other's.
        seeds: of the pairs that were compared.
        dropped: seed -> why its pair is missing.
        differences: the main metric first.
        verdict: of the main metric.
        pairing_correlation: of the two arms' scores over the seeds; None with fewer than three.
        shared_start: share of the arm's parameters (0..1) that started equal to the baseline's; None if unknown.
        noise: of the main metric between seeds; None with one seed.
    """

    arm: str
    baseline: str
    seeds: tuple[int, ...]
    dropped: Mapping[int, str]
    differences: tuple[Difference, ...]
    verdict: Verdict
    pairing_correlation: float | None
    shared_start: float | None = None
    noise: SeedNoise | None = None
