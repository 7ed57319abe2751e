"""Student's t, the verdict's arithmetic, and what a plan can resolve."""

from __future__ import annotations

import pytest

from detfuse.statistics.intervals import Spread, equivalence_p, half_width, interval
from detfuse.statistics.records import Difference, Verdict
from detfuse.statistics.resolution import Noise, assumed, measured, resolution_text, resolvable, seeds_for
from detfuse.statistics.student import quantile, two_sided
from detfuse.statistics.verdict import Question, verdict


@pytest.mark.parametrize(
    ("probability", "df", "expected"),
    [  # https://www.itl.nist.gov/div898/handbook/eda/section3/eda3672.htm
        (0.975, 1, 12.706),
        (0.975, 2, 4.303),
        (0.975, 10, 2.228),
        (0.9, 5, 1.476),
        (0.999, 1, 318.313),
        (0.975, 100, 1.984),
        (0.975, 1e9, 1.960),
        (0.5, 3, 0.0),
    ],
)
def test_quantiles_of_the_tables(probability: float, df: float, expected: float) -> None:
    value = quantile(probability, df)
    assert value == pytest.approx(expected, rel=2e-5, abs=5e-4)
    assert two_sided(value, df) == pytest.approx(2 * (1 - probability), rel=1e-6)


def test_t_between_whole_degrees_of_freedom() -> None:
    assert quantile(0.975, 2) < quantile(0.975, 1.5) < quantile(0.975, 1)
    with pytest.raises(ValueError, match="probability"):
        quantile(0.4, 3)


@pytest.mark.parametrize(("seeds", "images", "both"), [(4.0, 0.1, 0.05), (1.0, 1.0, 0.5), (0.1, 3.0, 0.05)])
@pytest.mark.parametrize("num_seeds", [2, 3, 10])
def test_p_and_interval_agree(seeds: float, images: float, both: float, num_seeds: int) -> None:
    spread = Spread(seeds, images, both, num_seeds, 50)
    found = interval(0.0, spread)
    assert found.high is not None
    for factor, significant in ((0.999, False), (1.001, True)):
        p = interval(factor * found.high, spread).p
        assert p is not None
        assert (p < 0.05) is significant


def test_the_interval_covers_seeds_alone_and_images_alone() -> None:
    wide = interval(0.0, Spread(1.0, 0.5, 0.1, 3, 50))
    assert wide.high == pytest.approx(4.303, abs=1e-3)  # what Satterthwaite adds in variance it takes back in freedom
    assert "paired t" in wide.method
    images = interval(0.0, Spread(0.01, 1.0, 0.01, 10, 100))
    assert images.high == pytest.approx(1.98, abs=0.02)
    assert "two-way" in images.method


def conclude(estimate: float, spread: Spread, equivalence: float = 0.005, num_arms: int = 1) -> Verdict:
    found = interval(estimate, spread)
    assert found.p is not None
    question = Question("fpn", "unfused", equivalence, num_arms, "arms")
    return verdict(question, estimate, found, spread, min(num_arms * found.p, 1))


def test_undecided_names_the_seeds_that_decide() -> None:
    per_pair = 0.006**2
    result = conclude(0.008, Spread(per_pair / 3, 1e-8, 0.0, 3, 100))
    assert result.kind == "undecided"
    assert result.more_seeds is not None
    assert f"needs about {result.more_seeds} more seed" in result.text
    needed = 3 + result.more_seeds
    assert half_width(per_pair, 1e-8, needed) < 0.008 <= half_width(per_pair, 1e-8, needed - 1)


def test_more_arms_need_more_seeds() -> None:
    spread = Spread(0.006**2 / 3, 1e-8, 0.0, 3, 100)
    few, many = conclude(0.008, spread).more_seeds, conclude(0.008, spread, num_arms=8).more_seeds
    assert few is not None
    assert many is not None
    assert few < many


def test_undecided_by_images_says_so() -> None:
    result = conclude(0.008, Spread(1e-8, 0.01**2, 0.0, 5, 100))
    assert (result.kind, result.more_seeds) == ("undecided", None)
    assert "more images, not seeds: about 7 times" in result.text


def test_what_only_the_correction_undoes_is_explained() -> None:
    spread = Spread(0.004**2 / 5, 1e-8, 0.0, 5, 100)
    assert conclude(0.006, spread, equivalence=0.0).kind == "better"
    corrected = conclude(0.006, spread, equivalence=0.0, num_arms=10)
    assert corrected.kind == "undecided"
    assert "among 10 arms (Holm)" in corrected.text


def test_certain_but_negligible_is_equivalent() -> None:
    result = conclude(0.002, Spread(1e-8, 1e-8, 0.0, 5, 100))
    assert result.kind == "equivalent"
    assert "within 0.5 AP points" in result.text


def test_equivalence_is_corrected_for_the_number_of_arms() -> None:
    spread = Spread(0.001**2, 1e-8, 0.0, 5, 100)
    alone = interval(0.002, spread)
    assert alone.high is not None
    assert 0.004 < alone.high < 0.005
    assert conclude(0.002, spread).kind == "equivalent"
    many = conclude(0.002, spread, num_arms=5)
    assert many.kind == "undecided"
    assert "all of it negligible, which does not hold up among 5 arms (Holm)" in many.text
    assert many.more_seeds is not None


@pytest.mark.parametrize("estimate", [0.0, -0.002, 0.0049, 0.006])
def test_the_p_of_equivalence_agrees_with_the_interval(estimate: float) -> None:
    for spread in (Spread(0.001**2, 0.0008**2, 1e-8, 5, 100), Spread(0.0015**2, None, 0.0, 4, 0)):
        for limit in (0.001, 0.003, 0.005, 0.01):
            found, p = interval(estimate, spread), equivalence_p(estimate, spread, limit)
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
    noise = Noise(0.0035**2, 0.0005**2, "test")
    needed = seeds_for(noise, 0.004)
    assert needed is not None
    assert (resolvable(noise, needed) or 1) <= 0.004 < (resolvable(noise, needed - 1) or 1)
    assert seeds_for(noise, 0.001) is None  # the images alone hide it
    assert seeds_for(Noise(1e-12, 0.0, "test"), 0.01) == 2


def test_a_pilot_replaces_the_assumption() -> None:
    pilot = Difference("mAP", {0: 0.01, 1: 0.02, 2: 0.03}, 0.02, 0.0, 0.04, 0.002, 0.001, "")
    assert measured(pilot).seeds == pytest.approx(3 * 0.002**2)
    assert "measured on 3 pairs" in resolution_text(5, 200, pilot)
    one = Difference("mAP", {0: 0.01}, 0.01, 0.0, 0.02, None, 0.001, "")
    with pytest.raises(ValueError, match="two seeds"):
        measured(one)


def test_the_text_says_what_it_assumes() -> None:
    text = resolution_text(3, 5000)
    assert "3 seeds x 5,000 images find a difference of" in text
    assert "assumed for 5,000 images" in text
    assert "out of reach with 100 images" in resolution_text(3, 100)
    assert "use 3 or more" in resolution_text(1, 100)
