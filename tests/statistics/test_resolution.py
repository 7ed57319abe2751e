"""Intervals, the verdict's arithmetic, and what a plan can resolve."""

from __future__ import annotations

import re
from dataclasses import replace
from math import atan, inf, pi, sqrt, tan
from statistics import NormalDist

import numpy as np
import pytest
from scipy.stats import dunnett

from detfuse.statistics.dunnett import ALONE, Family, critical, critical_values, p_value
from detfuse.statistics.intervals import Variances, equivalence_p, half_width, interval
from detfuse.statistics.records import Comparison, Difference, SeedNoise, Verdict
from detfuse.statistics.resolution import (
    Noise,
    assumed,
    measured,
    pooled,
    proposal,
    resolution_text,
    resolvable,
    seeds_for,
)
from detfuse.statistics.verdict import Question, decide
from detfuse.words import signed


def over_seeds(variance: float, num_seeds: int) -> Variances:
    return Variances(variance, None, 0.0, num_seeds, num_seeds - 1.0, inf)


def over_both(seeds: float, images: float, both: float, num_seeds: int, groups: int = 100) -> Variances:
    return Variances(seeds, images, both, num_seeds, num_seeds - 1.0, groups - 1.0)


@pytest.mark.parametrize(
    ("num_seeds", "factor"),
    [
        (2, tan(0.475 * pi)),  # Cauchy's distribution
        (3, 0.95 * sqrt(2 / (1 - 0.95**2))),
        (11, 2.2281388519649385),  # https://www.itl.nist.gov/div898/handbook/eda/section3/eda3672.htm has three digits
    ],
)
def test_the_interval_over_seeds_is_students(num_seeds: int, factor: float) -> None:
    found = interval(0.0, over_seeds(1.0, num_seeds))
    assert found.high == pytest.approx(factor, rel=1e-10)
    assert interval(factor, over_seeds(1.0, num_seeds)).p == pytest.approx(0.05, rel=1e-10)


def test_p_is_that_of_the_tails() -> None:
    for t in (0.0, 0.1, 2.0, 60.0):
        cauchy = interval(t, over_seeds(1.0, 2)).p
        assert cauchy == pytest.approx(1 - 2 / pi * atan(t), rel=1e-10)
        two = interval(-t, over_seeds(1.0, 3)).p
        assert two == pytest.approx(2 / (2 + t * t + t * sqrt(2 + t * t)), rel=1e-10)


def test_one_baseline_and_many_arms_have_dunnetts_distribution() -> None:
    rng = np.random.default_rng(3)
    baseline, *arms = rng.normal(size=(5, 3))
    found = dunnett(*arms, control=baseline, random_state=0)
    error = sqrt(np.mean([x.var(ddof=1) for x in (baseline, *arms)]) * 2 / 3)
    ours = [p_value((arm.mean() - baseline.mean()) / error, Family(4), 10) for arm in arms]
    assert ours == pytest.approx(found.pvalue, abs=2e-3)
    # Between one arm's and Bonferroni's, and without a common baseline wider than with one.
    assert critical(ALONE, 4.5, 0.05) < critical(Family(4), 4.5, 0.05) < critical(Family(4, 0.0), 4.5, 0.05)
    assert critical(Family(4, 0.0), 4.5, 0.05) < critical(ALONE, 4.5, 0.05 / 4)
    assert p_value(critical(Family(6), 2.5, 0.01), Family(6), 2.5) == pytest.approx(0.01, rel=1e-6)
    freedom = [1.1, 2.2, 4.4, 9.0, 70.0]
    exact = [critical(Family(3), value, 0.05) for value in freedom]
    assert critical_values(Family(3), freedom, 0.05) == pytest.approx(exact, rel=3e-3)


def test_without_noise_of_seeds_t_is_normal() -> None:
    assert half_width(0.0, 1.0, 5) == pytest.approx(NormalDist().inv_cdf(0.975), rel=1e-4)


def test_t_between_whole_degrees_of_freedom() -> None:
    # the tables have 2.306 for 8 degrees of freedom and 2.262 for 9
    variances = over_both(1.0, 1.0, 0.5, 5)
    assert variances.crossed == pytest.approx((1.5, 8.63), abs=0.01)
    half = interval(0.0, variances).high
    assert half is not None
    assert 2.262 < half / sqrt(1.5) < 2.306


@pytest.mark.parametrize(("seeds", "images", "both"), [(4.0, 0.1, 0.05), (1.0, 1.0, 0.5), (0.1, 3.0, 0.05)])
@pytest.mark.parametrize("family", [ALONE, Family(5)])
def test_p_and_interval_agree(seeds: float, images: float, both: float, family: Family) -> None:
    for num_seeds in (2, 10):
        variances = over_both(seeds, images, both, num_seeds, 50)
        found = interval(0.0, variances, family=family)
        assert found.high is not None
        for factor, significant in ((0.999, False), (1.001, True)):
            p = interval(factor * found.high, variances, family=family).p
            assert p is not None
            assert (p < 0.05) is significant


def test_the_interval_covers_seeds_alone_and_images_alone() -> None:
    wide = interval(0.0, over_both(1.0, 0.5, 0.1, 3, 50))
    assert wide.high == pytest.approx(4.303, abs=1e-3)  # what Satterthwaite adds in variance it takes back in freedom
    images = interval(0.0, over_both(0.01, 1.0, 0.01, 10))
    assert images.high == pytest.approx(1.98, abs=0.02)


def conclude(estimate: float, variances: Variances, equivalence: float = 0.005, num_arms: int = 1) -> Verdict:
    family = Family(num_arms)
    found = interval(estimate, variances, family=family)
    return decide(Question("fpn", "unfused", equivalence, "arms", family), estimate, found, variances)


def test_undecided_names_the_seeds_that_decide() -> None:
    per_pair = 0.006**2
    result = conclude(0.008, over_both(per_pair / 3, 1e-8, 0.0, 3))
    assert result.kind == "undecided"
    assert result.more_seeds is not None
    assert f"about {result.more_seeds} more seed" in result.text
    assert "with 80 % probability" in result.text
    needed = 3 + result.more_seeds
    found = [half_width(per_pair, 1e-8, seeds, power=0.8) for seeds in (needed, needed - 1)]
    assert found[0] <= 0.008 < found[1]


def test_more_arms_need_more_seeds() -> None:
    variances = over_both(0.006**2 / 3, 1e-8, 0.0, 3)
    few, many = conclude(0.006, variances).more_seeds, conclude(0.006, variances, num_arms=8).more_seeds
    assert few is not None
    assert many is not None
    assert few < many


def test_undecided_by_images_says_so() -> None:
    result = conclude(0.008, over_both(1e-8, 0.01**2, 0.0, 5))
    assert (result.kind, result.more_seeds) == ("undecided", None)
    assert "more images, not seeds: about 7 times" in result.text


def test_the_verdict_is_read_off_the_interval_of_all_arms() -> None:
    variances = over_both(0.004**2 / 5, 1e-8, 0.0, 5)
    assert conclude(0.006, variances, equivalence=0.0).kind == "better"
    assert conclude(-0.006, variances, equivalence=0.0).kind == "worse"
    many = conclude(0.006, variances, equivalence=0.0, num_arms=10)
    low = interval(0.006, variances, family=Family(10)).low
    assert low is not None
    assert low < 0
    assert many.kind == "undecided"
    assert signed(low) in many.text


def test_certain_but_negligible_is_equivalent() -> None:
    result = conclude(0.002, over_both(1e-8, 1e-8, 0.0, 5))
    assert result.kind == "equivalent"
    assert "within 0.5 AP points" in result.text


def test_equivalence_holds_for_all_arms_at_once() -> None:
    variances = over_both(0.001**2, 1e-8, 0.0, 5)
    assert conclude(0.002, variances).kind == "equivalent"
    many = conclude(0.002, variances, num_arms=5)
    assert many.kind == "undecided"
    assert many.more_seeds is not None


@pytest.mark.parametrize("estimate", [0.0, -0.002, 0.0049, 0.006])
def test_the_p_of_equivalence_agrees_with_the_interval(estimate: float) -> None:
    for variances in (over_both(0.001**2, 0.0008**2, 1e-8, 5), over_seeds(0.0015**2, 4)):
        for limit in (0.001, 0.003, 0.005, 0.01):
            found, p = interval(estimate, variances), equivalence_p(estimate, variances, limit)
            assert found.low is not None
            assert found.high is not None
            assert p is not None
            assert (p < 0.05) == (-limit < found.low and found.high < limit)


def test_resolution_improves_with_seeds_and_images() -> None:
    by_seeds = [resolvable(assumed(5000), seeds) or 0 for seeds in (2, 3, 5, 10)]
    assert by_seeds == sorted(by_seeds, reverse=True)
    by_images = [resolvable(assumed(images), 5) or 0 for images in (100, 500, 5000)]
    assert by_images == sorted(by_images, reverse=True)
    assert resolvable(assumed(100), 1) is None
    with pytest.raises(ValueError, match="images"):
        assumed(0)


def test_the_seeds_for_a_difference_are_the_fewest() -> None:
    noise = Noise(0.0035**2, 0.0005**2)
    needed = seeds_for(noise, 0.004)
    assert needed is not None
    assert (resolvable(noise, needed) or 1) <= 0.004 < (resolvable(noise, needed - 1) or 1)
    assert seeds_for(noise, 0.001) is None  # the images alone hide it
    assert seeds_for(Noise(1e-12, 0.0), 0.01) == 2


def test_the_noise_of_runs_is_measured_from_their_difference() -> None:
    difference = Difference("mAP", {0: 0.01, 1: 0.02, 2: 0.03}, 0.02, 0.0, 0.04, 0.002, 0.001, "")
    assert measured(difference) == Noise(pytest.approx(3 * 0.002**2), pytest.approx(0.001**2))
    assert measured(replace(difference, se_seeds=None)) is None
    assert measured(replace(difference, se_seeds=0.0)) is None
    assert measured(replace(difference, se_images=None)) is None


def test_the_text_says_what_it_assumes() -> None:
    text = resolution_text(3, 5000)
    assert "3 seeds x 5,000 images find a difference of" in text
    assert "assumed for 5,000 images" in text
    assert "out of reach with 100 images" in resolution_text(3, 100)
    assert "use 3 or more" in resolution_text(1, 100)


def test_an_assumption_is_told_with_its_doubt_and_what_was_measured_is_not() -> None:
    assert "if the runs are twice as noisy" in resolution_text(3, 87)
    text = resolution_text(3, 87, num_arms=4, found=Noise(0.036**2, 0.006**2), by="the runs of past")
    assert "measured, by the runs of past: a standard deviation of 3.6 AP points" in text
    assert "assumed" not in text
    assert "twice as noisy" not in text
    few, many = (resolvable(Noise(0.01**2, 0.0), 5, Family(size)) or 0 for size in (1, 6))
    assert few < many


def test_a_proposal_finds_what_is_wanted() -> None:
    noise = Noise(0.01**2, 0.002**2)
    text = proposal(0.01, noise, 3, seconds=60.0)
    found = re.search(r"(\d+) seeds, (\d+) runs, about (\d+):00: seeds=\[([\d,]+)\], and looks=\[([\d,]+)\]", text)
    assert found is not None
    seeds = int(found[1])
    level = 0.045  # of the planned looks
    sizes = [resolvable(noise, number, Family(3), level) or 1 for number in (seeds, seeds - 1)]
    assert sizes[0] <= 0.01 < sizes[1]
    assert (int(found[2]), int(found[3]), found[4].count(",") + 1) == (4 * seeds, seeds, seeds)
    assert found[5].endswith(str(seeds))
    assert "about 2 times as many" in proposal(0.005, Noise(0.01**2, 0.002**2 * 0.7), 1)
    assert "more than 100 seeds" in proposal(0.005, Noise(0.2**2, 1e-10), 1)


def test_noise_is_pooled_over_arms_that_learnt() -> None:
    def one(arm: str, own: float, seeds: int, low: float | None = 0.0) -> Comparison:
        main = Difference("mAP", {}, 0.0, low, low, own, 0.01, "")
        noise = SeedNoise(own, own, ("a", "b"), 0.5, own, 2.0)
        return Comparison(arm, "base", tuple(range(seeds)), {}, (main,), Verdict("undecided", ""), None, noise=noise)

    found = pooled([one("a", 0.02, 3), one("b", 0.03, 5), one("nothing", 0.5, 3), one("b", 9.0, 3, low=None)])
    assert found == Noise(pytest.approx((2 * 0.02**2 + 4 * 0.03**2) / 6), pytest.approx(0.01**2))
    assert pooled([]) is None
