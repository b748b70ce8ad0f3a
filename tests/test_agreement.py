"""Agreement between checkers: kappas against published numbers, scikit-learn and a plain count of pairs; verdicts."""

import itertools
import random

import pytest
from sklearn.metrics import cohen_kappa_score

from data_collection.checking.agreement import (
    CRITERIA,
    agreement,
    cohen_kappa,
    fleiss_kappa,
    is_complete,
    passes,
    verdict,
)

GOOD = dict.fromkeys(CRITERIA, "yes")


def test_cohen_by_hand_and_by_scikit_learn():
    # 20 times both yes, 15 both no, 5 and 10 apart: observed .7, expected .5 x .6 + .5 x .4 = .5
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert cohen_kappa(first, second) == pytest.approx(0.4)
    rng = random.Random(1)
    for number in (2, 5, 40):
        a, b = ([rng.choice(["yes", "no", "unsure"]) for _ in range(number)] for _ in range(2))
        assert cohen_kappa(a, b) == pytest.approx(cohen_kappa_score(a, b))
    assert cohen_kappa(["yes"] * 3, ["yes"] * 3) is None and cohen_kappa([], []) is None
    assert cohen_kappa(["yes", "no"], ["no", "yes"]) == pytest.approx(-1)


# Ten items, fourteen raters, five categories: the worked example that many texts give for Fleiss' kappa, .210.
FLEISS_EXAMPLE = (
    "0 0 0 0 14", "0 2 6 4 2", "0 0 3 5 6", "0 3 9 2 0", "2 2 8 1 1",
    "7 7 0 0 0", "3 2 6 3 0", "2 5 3 2 2", "6 5 2 1 0", "0 2 2 3 7",
)  # fmt: skip


def test_fleiss_by_the_known_example_and_by_counting_pairs():
    items = [
        [category for category, number in enumerate(map(int, row.split())) for _ in range(number)]
        for row in FLEISS_EXAMPLE
    ]
    assert fleiss_kappa(items) == pytest.approx(0.20993, abs=1e-5)

    rng = random.Random(2)
    items = [[rng.choice("ynu") for _ in range(rng.randint(1, 5))] for _ in range(60)]
    rated = [item for item in items if len(item) > 1]
    observed = sum(
        sum(a == b for a, b in itertools.combinations(item, 2)) / (len(item) * (len(item) - 1) / 2) for item in rated
    ) / len(rated)
    share = {value: sum(item.count(value) / len(item) for item in rated) / len(rated) for value in "ynu"}
    expected = sum(value**2 for value in share.values())
    assert fleiss_kappa(items) == pytest.approx((observed - expected) / (1 - expected))
    assert fleiss_kappa([["y", "y"], ["y", "y", "y"]]) is None and fleiss_kappa([["y"], ["n"]]) is None


def test_agreement_is_over_the_questions_that_two_have_marked():
    bad = {**GOOD, "complete": "no"}
    unsure = {**GOOD, "correct": "unsure"}
    marks = {
        "1": {"checker 1": GOOD, "checker 2": GOOD},
        "2": {"checker 1": GOOD, "checker 2": bad},
        "3": {"checker 1": bad, "checker 2": bad, "checker 3": unsure},
        "4": {"checker 1": bad},
    }
    found = agreement(marks)
    assert found["complete"]["questions"] == 3
    assert found["complete"]["observed"] == pytest.approx((1 + 0 + 1 / 3) / 3)
    assert found["complete"]["cohen_kappa"][0] == {
        "checkers": ["checker 1", "checker 2"],
        "questions": 3,
        "kappa": pytest.approx(cohen_kappa_score(["yes", "yes", "no"], ["yes", "no", "no"])),
    }
    assert found["in_language"]["fleiss_kappa"] is None and found["in_language"]["observed"] == 1
    assert found["passed"]["observed"] == pytest.approx(2 / 3)  # the third checker's doubt fails the third one as well


def test_more_than_half_of_the_checkers_must_pass_a_rationale():
    bad, unsure = {**GOOD, "correct": "no"}, {**GOOD, "fits_answer": "unsure"}
    assert passes(GOOD) and not passes(unsure) and not passes({})
    assert verdict([GOOD]) and not verdict([unsure]) and not verdict([GOOD, bad])
    assert verdict([GOOD, bad, GOOD]) and not verdict([GOOD, bad, GOOD, unsure])
    assert is_complete(unsure) and not is_complete({"correct": "yes", "complete": "yes"})
