"""The answer in one sentence, and what a colleague who knows no statistics is told of every arm."""

from __future__ import annotations

from dataclasses import replace

import pytest

from detfuse.ablation.records import Arm, Plan
from detfuse.ablation.report.headline import headline
from detfuse.ablation.report.plainly import plainly
from detfuse.statistics.records import Comparison, Difference, Score, Verdict, VerdictKind

PLAN = Plan("p", tuple(Arm(name, {}, ()) for name in ("base", "a", "b", "c", "d", "e")), (0, 1, 2), ())
SCORES = [Score(arm.name, "mAP", {}, 0.3, 0.01) for arm in PLAN.arms]
MEANS = {score.arm: score.mean for score in SCORES}


def compared(
    arm: str, kind: VerdictKind, per_seed: tuple[float, ...], half: float | None = 0.02, more: int | None = None
) -> Comparison:
    mean = sum(per_seed) / len(per_seed)
    ends = (None, None) if half is None else (mean - half, mean + half)
    main = Difference("mAP", dict(enumerate(per_seed)), mean, *ends, 0.01, 0.01, "")
    return Comparison(arm, "base", tuple(range(len(per_seed))), {}, (main,), Verdict(kind, "", more), None)


def test_an_open_answer_has_size_and_direction() -> None:
    down = compared("a", "undecided", (-0.05, -0.07, -0.075), 0.09, 2)
    up = compared("b", "undecided", (0.02, -0.01, 0.005), 0.05, 9)
    assert headline(PLAN, SCORES, [up, down]) == (
        "No arm is shown to differ from base: a is 6.5 points AP lower (in 3 of 3 seeds), "
        "b is 0.5 higher (in 2 of 3 seeds); 3 seeds are too few to tell."
    )
    never = [replace(one, verdict=Verdict("undecided", "")) for one in (up, down)]
    assert headline(PLAN, SCORES, never).endswith("; too close to tell.")
    single = compared("a", "undecided", (-0.05,))
    assert headline(PLAN, SCORES, [single]).endswith("a is 5.0 points AP lower; one seed cannot tell.")


def test_of_many_open_arms_the_largest_are_named() -> None:
    arms = [compared(name, "undecided", (size, size), 0.1, 3) for name, size in zip("abcde", range(1, 6), strict=True)]
    arms = [replace(one, differences=(scaled(one.differences[0]),)) for one in arms]
    text = headline(PLAN, SCORES, arms)
    assert "e is 5.0 points AP higher (in 2 of 2 seeds), d is 4.0 higher" in text
    assert "; the other 2 by 2.0 or less; 2 seeds are too few to tell." in text
    assert "b is" not in text


def scaled(difference: Difference) -> Difference:
    assert difference.estimate is not None
    per_seed = {seed: value / 100 for seed, value in difference.per_seed.items()}
    return replace(difference, estimate=difference.estimate / 100, per_seed=per_seed)


def test_decided_answers_have_sizes_too() -> None:
    better, worse = compared("a", "better", (0.04, 0.05)), compared("b", "worse", (-0.05, -0.052))
    unknown = compared("c", "undecided", (0.01, -0.02), 0.1, 4)
    assert headline(PLAN, SCORES, [better, worse]) == (
        "a is better than base by 4.5 points AP (95 % interval 2.5 to 6.5); b (by 5.1) is worse."
    )
    assert headline(PLAN, SCORES, [worse]) == "base is better than b (by 5.1 points AP)."
    assert headline(PLAN, SCORES, [worse, unknown]).startswith(
        "No arm is shown to be better than base: c is 0.5 points "
    )
    assert headline(PLAN, SCORES, [worse, unknown]).endswith("; b (by 5.1) is worse.")
    same = compared("c", "equivalent", (0.001, 0.0), 0.003)
    assert headline(PLAN, SCORES, [same, worse]) == (
        "It makes no difference that matters (0.5 points AP or more) whether base or c is used; "
        "b (by 5.1 points AP) is worse."
    )


@pytest.mark.parametrize(
    ("comparison", "said"),
    [
        (
            compared("a", "worse", (-0.05, -0.052, -0.06)),
            "a is worse than base here: it scored 5.4 points lower, and lower in each of 3 trainings. "
            "Luck alone hardly ever does that.",
        ),
        (
            compared("a", "undecided", (-0.05, 0.01), 0.05, 1),
            "Nobody can tell yet: it scored 2.0 points lower, and lower in 1 of 2 trainings. Luck alone may do that; "
            "the truth lies anywhere from 7.0 lower to 3.0 higher. About 1 more seed may settle it.",
        ),
        (
            compared("a", "equivalent", (0.0001, 0.0002), 0.002),
            "Take whichever is cheaper: it scored as high as base on average, and almost certainly the two differ by "
            "less than the 0.5 points that would matter.",
        ),
        (
            compared("a", "undecided", (0.03,), 0.01),
            "One training cannot tell: it scored 3.0 points higher, but another seed may say the opposite. Run three "
            "or more.",
        ),
        (
            compared("a", "better", (0.03, 0.02), 0.05),
            "a is better than base here: it scored 2.5 points higher, and higher in both trainings. An "
            "earlier look, after fewer trainings, has decided it.",
        ),
        (compared("a", "identical", (0.0, 0.0), 0.0), "a and base found exactly the same"),
        (Comparison("a", "base", (), {0: "x"}, (), Verdict("missing", ""), None), "a cannot be judged: no training of"),
        (None, "a cannot be judged"),
    ],
)
def test_every_verdict_has_plain_words(comparison: Comparison | None, said: str) -> None:
    text = plainly(PLAN, comparison, "a", MEANS)
    assert text.startswith(said)
    assert not {"interval", "significant", "variance", "p <"} & set(text.split())


def test_plain_words_tell_what_was_changed_together_and_that_nothing_was_learnt() -> None:
    worse = compared("a", "worse", (-0.05, -0.052))
    bundle = replace(PLAN, things={"a": ("neck", "operator")})
    told = "It differs in neck and operator together: which of them does it is not known."
    assert plainly(bundle, worse, "a", MEANS).endswith(told)
    assert plainly(PLAN, worse, "a", {"a": 0.002, "base": 0.004}).startswith("Neither a nor base has learnt")
