"""From predictions of arms and seeds to scores, intervals and verdicts."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_1samp
from statsmodels.regression.mixed_linear_model import MixedLM

from detfuse.evaluation import CocoEvaluator
from detfuse.evaluation.replicates import ReplicateEvaluator
from detfuse.evaluation.scoring import Scored, score_runs
from detfuse.statistics.comparison import Statistics, judge, weightings
from detfuse.statistics.records import Comparison, SeedNoise

Rows = list[dict[str, Any]]


def ground_truth(num_images: int = 40, *, dogs: int = 0) -> dict[str, Any]:
    """Cats in every image, dogs in the first ones, no birds."""
    rng = np.random.default_rng(7)
    annotations = [
        {"id": 2 * i + n, "image_id": i, "category_id": 1, "bbox": [*rng.uniform(0, 99, 2), *rng.uniform(20, 90, 2)]}
        for i in range(num_images)
        for n in range(2)
    ]
    annotations += [
        {"id": 2 * num_images + i, "image_id": i, "category_id": 2, "bbox": [0, 0, 30, 30]} for i in range(dogs)
    ]
    names = {1: "cat", 2: "dog", 3: "bird"}
    categories = [{"id": k, "name": name} for k, name in names.items()]
    return {"images": [{"id": i} for i in range(num_images)], "categories": categories, "annotations": annotations}


def detections(truth: Mapping[str, Any], found: float, seed: int) -> Rows:
    """Finds a share of the objects, with strays."""
    rng = np.random.default_rng(seed)
    rows = []
    for annotation in truth["annotations"]:
        row = {"image_id": annotation["image_id"], "category_id": annotation["category_id"]}
        near = (np.array(annotation["bbox"]) * rng.uniform(0.95, 1.05, 4)).tolist()
        if rng.random() < found:
            rows.append(row | {"bbox": near, "score": float(rng.beta(4, 2))})
        rows.append(row | {"bbox": rng.uniform(1, 90, 4).tolist(), "score": float(rng.beta(2, 4))})
    return rows


def compare(truth: Mapping[str, Any], arms: Mapping[str, Mapping[int, Rows]], **options: Any) -> Statistics:
    reading = {arm: {seed: (lambda rows=rows: rows) for seed, rows in runs.items()} for arm, runs in arms.items()}
    evaluator = ReplicateEvaluator(truth)
    scored = score_runs(evaluator, reading, weightings(evaluator.num_images))
    return judge(scored, evaluator.metrics, "base", num_images=evaluator.num_images, **options)


def arms_of(truth: Mapping[str, Any], seeds: int = 4, **found: float) -> dict[str, dict[int, Rows]]:
    return {
        arm: {seed: detections(truth, share, 100 * number + seed) for seed in range(seeds)}
        for number, (arm, share) in enumerate(found.items())
    }


def only(results: Statistics) -> Comparison:
    (comparison,) = results.comparisons
    return comparison


def test_scores_are_coco_ap() -> None:
    truth = ground_truth(dogs=5)
    arms = arms_of(truth, base=0.5, good=0.9)
    scores = {(score.arm, score.metric): score for score in compare(truth, arms).scores}
    for arm, runs in arms.items():
        metrics = [CocoEvaluator(truth).evaluate(rows) for rows in runs.values()]
        values = [metric.stats["mAP"] for metric in metrics]
        score = scores[arm, "mAP"]
        assert list(score.per_seed.values()) == values
        assert (score.mean, score.deviation) == (float(np.mean(values)), float(np.std(values, ddof=1)))
        assert scores[arm, "mAP/dog"].per_seed[0] == metrics[0].per_class["dog"]["AP"]
        assert scores[arm, "mAP/bird"].mean is None
        assert scores[arm, "APl"].per_seed == dict.fromkeys(runs)


def test_a_real_difference_is_better_one_way_and_worse_the_other() -> None:
    truth = ground_truth()
    arms = arms_of(truth, base=0.5, good=0.9)
    better = only(compare(truth, arms))
    assert better.verdict.kind == "better"
    assert "good is better than base" in better.verdict.text
    turned = only(compare(truth, {"base": arms["good"], "poor": arms["base"]}))
    assert turned.verdict.kind == "worse"
    for there, back in zip(better.differences, turned.differences, strict=True):
        if there.estimate is not None:
            assert (there.estimate, there.se_seeds) == pytest.approx((-(back.estimate or 0), back.se_seeds))
        if there.low is not None:
            assert (there.low, there.high) == pytest.approx((-(back.high or 0), -(back.low or 0)))
    main = better.differences[0]
    assert main.metric == "mAP"
    assert list(main.per_seed) == [0, 1, 2, 3]
    assert main.estimate == pytest.approx(np.mean(list(main.per_seed.values())))
    assert main.p is not None
    assert main.p == main.p_corrected < 0.05
    assert all(difference.p_corrected is None for difference in better.differences[1:])
    assert better.pairing_correlation is not None


def test_what_the_ground_truth_cannot_tell_is_left_open() -> None:
    truth = ground_truth(dogs=1)
    differences = {d.metric: d for d in only(compare(truth, arms_of(truth, base=0.5, good=0.9))).differences}
    assert differences["mAP/bird"].estimate is None
    assert differences["mAP/bird"].per_seed == {}
    # The only dog is in one image, which says nothing of dogs in others.
    assert differences["mAP/dog"].se_images is None
    assert "images are not covered" in differences["mAP/dog"].method


def test_the_same_predictions_are_identical_in_any_order() -> None:
    truth = ground_truth()
    runs = arms_of(truth, base=0.7)["base"]
    comparison = only(compare(truth, {"base": runs, "same": {seed: rows[::-1] for seed, rows in runs.items()}}))
    assert comparison.verdict.kind == "identical"
    defined = [d for d in comparison.differences if d.estimate is not None]
    assert {value for d in defined for value in (d.estimate, *d.per_seed.values())} == {0.0}


def test_a_missing_seed_drops_its_pair_and_says_why() -> None:
    truth = ground_truth()
    arms = arms_of(truth, base=0.5, good=0.9)
    whole = only(compare(truth, {arm: {s: r for s, r in runs.items() if s != 1} for arm, runs in arms.items()}))
    del arms["good"][1]
    comparison = only(compare(truth, arms, missing={"good": {1: "out of memory"}}))
    assert comparison.seeds == (0, 2, 3)
    assert comparison.dropped == {1: "good: out of memory"}
    assert comparison.differences == whole.differences


def test_an_arm_without_any_pair_is_missing() -> None:
    truth = ground_truth(10)
    arms = arms_of(truth, seeds=2, base=0.5, good=0.9)
    comparison = only(compare(truth, {"base": arms["base"], "good": {}}, missing={"good": {0: "killed"}}))
    assert comparison.verdict.kind == "missing"
    assert comparison.dropped == {0: "good: killed", 1: "good: no predictions"}


def test_one_seed_gives_the_images_interval_and_says_so() -> None:
    truth = ground_truth()
    arms = arms_of(truth, seeds=1, base=0.3, good=0.95)
    comparison = only(compare(truth, arms))
    main = comparison.differences[0]
    assert main.low is not None
    assert main.low > 0
    assert main.se_seeds is None
    assert "seeds are not covered" in main.method
    assert comparison.verdict.kind == "undecided"
    models = only(compare(truth, arms, subject="models")).verdict
    assert models.kind == "better"
    assert "seeds are not covered" in models.text


def test_one_image_gives_no_interval() -> None:
    truth = ground_truth(1)
    main = only(compare(truth, arms_of(truth, seeds=1, base=0, good=1))).differences[0]
    assert (main.low, main.high, main.p) == (None, None, None)
    assert "no interval" in main.method


def test_a_small_difference_is_equivalent_where_nobody_cares() -> None:
    truth = ground_truth()
    arms = arms_of(truth, base=0.7, near=0.7)
    assert only(compare(truth, arms, equivalence=0.9)).verdict.kind == "equivalent"
    undecided = only(compare(truth, arms, equivalence=0.0)).verdict
    assert undecided.kind == "undecided"
    assert "needs" in undecided.text


def test_what_has_learnt_nothing_is_not_called_equivalent() -> None:
    truth = ground_truth()
    poor = only(compare(truth, arms_of(truth, base=0.0, poor=0.0), equivalence=0.05))
    assert poor.verdict.kind == "undecided"
    assert poor.verdict.text.startswith("Undecided: neither poor nor base reaches one AP point: nothing was learnt")
    none = {
        arm: {seed: rows[: arm == "base"] for seed, rows in runs.items()}
        for arm, runs in arms_of(truth, base=0.5, none=0.5).items()
    }
    assert only(compare(truth, none, equivalence=0.05)).verdict.kind == "undecided"


def test_the_interval_that_decides_holds_for_all_arms_at_once() -> None:
    truth = ground_truth()
    arms = arms_of(truth, base=0.5, good=0.9, near=0.5, same=0.5)
    arms["same"] = arms["base"]
    by_arm = {comparison.arm: comparison for comparison in compare(truth, arms).comparisons}
    good, near, same = (by_arm[arm].differences[0] for arm in ("good", "near", "same"))
    for main, kind in ((good, "better"), (near, "undecided")):
        assert by_arm["good" if main is good else "near"].verdict.kind == kind
        assert main.low is not None
        assert main.p is not None
        assert main.p_corrected is not None
        assert (
            main.p < main.p_corrected < 2 * main.p
        )  # of two tests, as an identical arm is none: Dunnett, no Bonferroni
        assert (main.p_corrected < 0.05) is (main.low > 0)
    assert (same.p_corrected, by_arm["same"].verdict.kind) == (None, "identical")
    few = {comparison.arm: comparison for comparison in compare(truth, arms, level=0.001).comparisons}
    assert (few["good"].differences[0].low or 1) < (good.low or 0)


def test_equivalence_holds_for_all_arms_at_once() -> None:
    truth = ground_truth()
    arms = arms_of(truth, base=0.7, near=0.7, far=0.9, close=0.7)

    evaluator = ReplicateEvaluator(truth)
    reading = {arm: {seed: partial(list, rows) for seed, rows in runs.items()} for arm, runs in arms.items()}
    runs = score_runs(evaluator, reading, weightings(evaluator.num_images))

    def found(limit: float) -> Comparison:
        judged = judge(runs, evaluator.metrics, "base", equivalence=limit)
        return next(one for one in judged.comparisons if one.arm == "near")

    near = found(0.2).differences[0]
    widest = max(-(near.low or 0), near.high or 0)
    assert found(1.01 * widest).verdict.kind == "equivalent"
    assert found(0.99 * widest).verdict.kind != "equivalent"
    assert (found(1.01 * widest).differences[0].p_equivalent_corrected or 1) < 0.05
    assert (found(0.99 * widest).differences[0].p_equivalent_corrected or 0) > 0.05


def scored(layout: Mapping[str, list[float]]) -> dict[str, dict[int, Scored]]:
    """Runs of which only the seeds matter."""
    return {
        arm: {seed: Scored(np.full((3, 1), value), f"{arm}{seed}".encode()) for seed, value in enumerate(values)}
        for arm, values in layout.items()
    }


LAYOUT = {
    "base": [0.30, 0.33, 0.31],
    "one": [0.35, 0.36, 0.37],
    "two": [0.31, 0.32, 0.30],
    "three": [0.29, 0.34, 0.32],
}


def test_noise_is_borrowed_from_all_arms_and_says_from_where() -> None:
    found = {one.arm: one for one in judge(scored(LAYOUT), ["mAP"], "base").comparisons}
    own = {arm: float(np.var(np.subtract(LAYOUT[arm], LAYOUT["base"]), ddof=1)) for arm in ("one", "two", "three")}
    noise = found["one"].noise
    assert noise is not None
    assert noise.lenders == ("one", "two", "three")
    assert noise.own**2 == pytest.approx(own["one"])
    assert (noise.lent or 0) ** 2 == pytest.approx(np.mean(list(own.values())))
    assert noise.share == pytest.approx(4 / (4 + 2))
    assert noise.used**2 == pytest.approx(noise.share * (noise.lent or 0) ** 2 + (1 - noise.share) * own["one"])
    assert 2 < noise.freedom < 4
    alone = only(judge(scored({arm: LAYOUT[arm] for arm in ("base", "one")}), ["mAP"], "base")).noise
    assert alone is not None
    assert (alone.lenders, alone.share, alone.freedom) == ((), 0, pytest.approx(2))
    assert alone.used == alone.own


FIVE = LAYOUT | {"four": [0.36, 0.33, 0.34]}


def test_arms_count_one_by_one_where_one_seeds_scores_have_nothing_in_common() -> None:
    def told(layout: Mapping[str, list[float]]) -> dict[str, SeedNoise]:
        found = judge(scored(layout), ["mAP"], "base").comparisons
        return {one.arm: one.noise for one in found if one.noise is not None}

    noise, covariance = told(FIVE)["one"], np.cov(list(FIVE.values()))  # of the five arms over the seeds
    alike = (covariance.sum() - covariance.trace()) / 4 / covariance.trace()
    assert noise.apart_share == pytest.approx(1 - (alike + 0.5) * 3 / 2)
    arms = covariance.diagonal()[1:]
    assert (noise.apart or 0) ** 2 == pytest.approx(covariance[0, 0] + arms.mean() / 3 + 2 * arms[0] / 3)
    pairs = noise.share * (noise.lent or 0) ** 2 + (1 - noise.share) * noise.own**2
    apart = noise.apart_share * (noise.apart or 0) ** 2
    assert noise.used**2 == pytest.approx((1 - noise.apart_share) * pairs + apart)

    def counts(layout: Mapping[str, list[float]]) -> bool:
        (share,) = {one.apart_share for one in told(layout).values()}
        return share > 0

    luck = [0.0, 0.2, 0.1]
    assert not counts({arm: [a + b for a, b in zip(scores, luck, strict=True)] for arm, scores in FIVE.items()})
    # Too few to tell: three pairs, two seeds, or three that differ from the baseline.
    assert not counts(LAYOUT)
    assert not counts({arm: scores[:2] for arm, scores in FIVE.items()})
    assert not counts(FIVE | {"four": FIVE["base"]})
    # One that stopped or failed does not keep the others from telling, and a copy of the baseline tells nothing.
    for other in ([0.3, 0.31], FIVE["base"]):
        assert told(FIVE | {"five": other})["one"].apart_share == pytest.approx(noise.apart_share)
    # A seed that the baseline and one arm alone have tells of their noise.
    more = told(FIVE | {"base": [*FIVE["base"], 0.9], "one": [*FIVE["one"], 0.36]})
    assert (more["two"].apart or 0) > 4 * (told(FIVE)["two"].apart or 1)


def test_what_learnt_nothing_lends_nothing_and_wild_differences_are_not_shared() -> None:
    nothing = LAYOUT | {"three": [0.001, 0.001, 0.001]}
    by_arm = {one.arm: one.noise for one in judge(scored(nothing), ["mAP"], "base").comparisons}
    assert all(noise is not None and noise.lenders == ("one", "two") for noise in by_arm.values())
    constant = LAYOUT | {"three": [value + 0.1 for value in LAYOUT["base"]]}
    third = next(one for one in judge(scored(constant), ["mAP"], "base").comparisons if one.arm == "three")
    assert third.noise is not None
    assert third.noise.used > 0  # the same difference three times is chance
    wild = {
        arm: [0.3 + size * x for x in (0.1, -0.2, 0.3, -0.25, 0.05, 0.2)]
        for arm, size in {"base": 1e-5, "one": 1e-4, "two": 1e-2, "three": 1.0}.items()
    }
    small = next(one for one in judge(scored(wild), ["mAP"], "base").comparisons if one.arm == "one")
    assert small.noise is not None
    assert small.noise.share < 0.1


def test_copies_of_one_run_are_no_seeds() -> None:
    layout = {"base": [0.3, 0.3, 0.3], "copied": [0.4, 0.4, 0.4]}
    copied = only(judge(scored(layout), ["mAP"], "base"))
    assert copied.verdict.kind == "undecided"
    assert "the same difference under every seed" in copied.verdict.text
    assert (copied.differences[0].low, copied.differences[0].p) == (None, None)
    truth = ground_truth()
    arms = {arm: dict.fromkeys(range(3), runs[0]) for arm, runs in arms_of(truth, 1, base=0.3, good=0.95).items()}
    comparison = only(compare(truth, arms))
    assert comparison.verdict.kind == "undecided"
    assert "seeds that are copies of one say nothing about another" in comparison.verdict.text


def test_all_pairs_agree_with_a_mixed_model() -> None:
    """Seeds as a random effect, by restricted maximum likelihood: an independent calculation of the same layout."""
    found = judge(scored(LAYOUT), ["mAP"], "base", all_pairs=True)
    arms, seeds = list(LAYOUT), range(3)
    score = np.concatenate([LAYOUT[arm] for arm in arms])
    exog = np.column_stack([np.ones(12), *(np.repeat([name == arm for name in arms], 3) for arm in arms[1:])])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says when the seeds matter little
        model = MixedLM(score, exog.astype(float), groups=np.tile(seeds, 4)).fit()
    assert [c.differences[0].estimate for c in found.comparisons] == pytest.approx(list(model.fe_params[1:]))
    assert len(found.pairs) == 6
    lent = found.pairs[0].noise
    assert lent is not None
    assert (lent.lent or 0) ** 2 == pytest.approx(2 * model.scale, rel=1e-3)
    widths = [(main.high or 0) - (main.low or 0) for pair in found.pairs for main in pair.differences]
    assert min(widths) > 0
    two = judge(scored({arm: LAYOUT[arm] for arm in ("base", "one")}), ["mAP"], "base")
    pair = np.subtract(LAYOUT["one"], LAYOUT["base"])
    assert only(two).differences[0].p == pytest.approx(ttest_1samp(pair, 0).pvalue)


def test_one_object_in_one_image_decides_nothing() -> None:
    """A class whose objects lie in one image has the same AP under all weights: that is no certainty."""
    truth = ground_truth(dogs=1)
    rows = detections(truth, 0.8, 0)
    # Some cats are lost as well, so that other images differ, too.
    lost = [row for row in rows if row["category_id"] != 2][10:]
    comparison = only(compare(truth, {"base": {0: lost}, "whole": {0: rows}}, subject="models"))
    for difference in comparison.differences[:3]:
        assert difference.estimate != 0
        assert difference.low is None or difference.low <= 0 <= (difference.high or 0)
    assert comparison.verdict.kind == "undecided"


def test_equal_confidences_in_another_order_are_not_called_identical_where_they_move_ap() -> None:
    truth = ground_truth()
    rows = [row | {"score": round(row["score"], 1)} for row in detections(truth, 0.7, 0)]
    comparison = only(compare(truth, {"base": {0: rows}, "turned": {0: rows[::-1]}}, subject="models"))
    assert comparison.differences[0].estimate != 0
    assert comparison.verdict.kind != "identical"
    assert "equal confidences stand in another order" in comparison.verdict.text


def test_a_main_metric_without_objects_is_undefined_and_strict_json() -> None:
    nothing = Scored(np.full((5, 1), np.nan), b"1")
    runs = {
        "base": dict.fromkeys(range(3), nothing),
        "arm": dict.fromkeys(range(3), nothing._replace(fingerprint=b"2")),
    }
    found = judge(runs, ["mAP"], "base")
    comparison = only(found)
    assert comparison.verdict.text == "arm cannot be compared with base: undefined: nothing to find."
    assert [score.per_seed for score in found.scores] == [dict.fromkeys(range(3))] * 2
    json.dumps(asdict(found), allow_nan=False)


def test_wrong_input_is_told_together() -> None:
    truth = ground_truth(5)
    arms = arms_of(truth, seeds=2, base=0.5, good=0.9)
    arms["base"][1] = [arms["base"][1][0] | {"image_id": 77}]
    arms["good"][0] = [arms["good"][0][0] | {"score": None}]
    with pytest.raises(ValueError, match=r"base, seed 1: .*image id 77.*\ngood, seed 0: "):
        compare(truth, arms)
    with pytest.raises(ValueError, match="none of the arms"):
        judge({"a": {}, "b": {}}, ["mAP"], "base")
    with pytest.raises(ValueError, match="nothing to compare"):
        compare(truth, {"base": {}})


def test_the_judge_needs_numpy_and_scipy_only() -> None:
    found = """
import importlib, pkgutil, sys
import detfuse.statistics
for module in pkgutil.iter_modules(detfuse.statistics.__path__, "detfuse.statistics."):
    importlib.import_module(module.name)
print(*sorted({name.partition(".")[0] for name in sys.modules}), *(n for n in sys.modules if n.startswith("detfuse.")))
"""
    done = subprocess.run([sys.executable, "-c", found], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"numpy", "scipy"} <= loaded
    assert not {"torch", "torchvision", "hydra", "omegaconf", "pytorch_lightning", "lightning_fabric"} & loaded
    rooms = {".".join(name.split(".")[:2]) for name in loaded if name.startswith("detfuse.")}
    assert rooms == {"detfuse.statistics", "detfuse.errors", "detfuse.words"}
