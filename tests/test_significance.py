"""Intervals and paired tests: closed forms, scipy-free worked numbers, and what must not matter."""

import math

import numpy as np
import pytest

from inference import scoring
from inference.scores.comparison import compare
from inference.scores.significance import interval, mcnemar_exact, paired_bootstrap, resampled_means

OPTIONS = {"A": "fever", "B": "cough", "C": "rash", "D": "pain"}


def marks(lang_to_outputs, kind="answer_only", rationale=""):
    rows = [
        {
            "id": f"{lang}{number:04d}", "lang": lang, "kind": kind, "output": output, "options": OPTIONS, "gold": ["A"],
            "rationale": rationale, "human_check_passed": False, "hit_limit": False, "seconds": 0.0,
        }
        for lang, outputs in lang_to_outputs.items()
        for number, output in enumerate(outputs)
    ]  # fmt: skip
    return scoring.mark(rows)


def test_the_bootstrap_interval_is_the_binomials():
    values = np.array([[1.0]] * 300 + [[0.0]] * 700)
    means = resampled_means(values, "x")[:, 0]
    low, high = interval(means)
    # Normal approximation of a binomial share: .3 ± 1.96 sqrt(.3 .7 / 1000) = .2716 to .3284.
    assert low == pytest.approx(0.2716, abs=0.004) and high == pytest.approx(0.3284, abs=0.004)
    assert means.std() == pytest.approx(math.sqrt(0.3 * 0.7 / 1000), rel=0.08)
    assert np.array_equal(means, resampled_means(values, "x")[:, 0])  # seeded
    assert not np.array_equal(means, resampled_means(values, "y")[:, 0])
    assert interval(resampled_means(np.full((5, 1), 0.25), "x")[:, 0]) == (0.25, 0.25)


def test_mcnemar_worked_numbers():
    # 10 questions that one model alone answered right: 2 and 8. 2 (1 + 10 + 45) / 1024.
    assert mcnemar_exact(2, 8) == mcnemar_exact(8, 2) == pytest.approx(112 / 1024, rel=1e-12)
    assert mcnemar_exact(0, 5) == pytest.approx(2 / 32, rel=1e-12)
    assert mcnemar_exact(0, 0) == mcnemar_exact(5, 5) == 1.0
    # Thousands of questions, where a float would underflow: 2 sum C(3000, i) / 2^3000, i to 1400.
    wanted = 2 * sum(math.comb(3000, i) for i in range(1401)) / 2**3000
    assert mcnemar_exact(1400, 1600) == pytest.approx(wanted, rel=1e-12)


def test_pairing_sees_what_two_intervals_would_not():
    draw = np.random.default_rng(0)
    first = draw.normal(size=400)
    difference, low, high = paired_bootstrap([("x", np.full(400, 0.1)), ("y", first * 0 + 0.3)])
    assert (difference, low, high) == pytest.approx((0.2, 0.2, 0.2))
    low, high = paired_bootstrap([("x", draw.normal(0, 1, 400))])[1:]
    assert low < 0 < high and high - low == pytest.approx(2 * 1.96 / 20, rel=0.2)


def test_two_models_are_compared_on_their_common_questions():
    first = marks({"en": [" A"] * 6 + [" B"] * 4, "fr": [" B", " B", " A"]})
    second = marks({"en": [" A"] * 4 + [" B"] * 2 + [" A"] * 2, "fr": [" A", " A", " A"], "ru": [" A"]})
    found = compare(first, second)["answer_only"]
    assert set(found) == {"en", "fr", "average"}
    english = found["en"]
    # Of ten questions eight are common; two each are right in one model only.
    assert [english[name] for name in ("num_common", "num_first_only_right", "num_second_only_right")] == [8, 2, 2]
    assert english["mcnemar_p"] == 1 and english["accuracy_difference"] == 0
    assert found["fr"]["accuracy_difference"] == pytest.approx(2 / 3) and found["fr"]["mcnemar_p"] == 0.5
    # Languages count the same; McNemar's test pools the questions: 2 against 4.
    assert found["average"]["accuracy_difference"] == pytest.approx(1 / 3)
    assert found["average"]["mcnemar_p"] == mcnemar_exact(2, 4)
    assert found["average"]["accuracy_difference_low"] <= 1 / 3 <= found["average"]["accuracy_difference_high"]
    assert "bleu_1_sentence_difference" not in english
    swapped = compare(second, first)["answer_only"]["fr"]
    assert swapped["accuracy_difference"] == -found["fr"]["accuracy_difference"]


def test_rationales_are_compared_where_both_have_a_score():
    reference, kind = "the cat sat on the mat", "with_rationale"
    first = marks({"en": ["the cat\n\n### Answer: A"] * 3}, kind, reference)
    second = marks({"en": [f"{reference}\n\n### Answer: A"] * 3}, kind, reference)
    found = compare(first, second)[kind]["en"]
    # ROUGE-1 of two words of six: 2 * 2 / (2 + 6).
    assert found["rouge_1_f_difference"] == pytest.approx(0.5) == pytest.approx(found["rouge_1_f_difference_low"])
    assert "bert_score_f_difference" not in found
    assert compare(first, marks({"en": [" A"]})) == {}
