"""Kendall's rank correlation tau-b, and how far a metric ranks rationales as raters do."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from inference.scores.significance import interval, resampled_means

DEFINITIONS = {
    "tau_question": "Kendall's tau-b between the values of a question's rationales and the raters' mean points for "
    "them, mean over the questions where it is defined (a question whose rationales are all tied on either side has no "
    "tau-b), of all languages together",
    "tau_question_low, tau_question_high": "percentile bootstrap over these questions, 95 %",
    "tau_pooled": "tau-b over all pairs of question and rationale at once, so that it also sees which questions are "
    "harder",
    "tau_model": "tau-b between the models' means",
    "num_questions": "rated questions that have the metric for every model",
    "num_undefined": "of these, questions without a tau-b",
}


def kendall_tau_b(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Kendall's tau-b (Kendall 1945): concordant less discordant pairs, by the geometric mean of the pairs that are not
    tied on either side.

    In n log n comparisons, as in Knight (1966).

    Returns:
        -1 to 1; None where all values of a side are tied, or there are fewer than two.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values against {len(second)}")
    num = len(first)
    num_pairs = num * (num - 1) // 2
    not_tied = [num_pairs - sum(n * (n - 1) // 2 for n in Counter(of).values()) for of in (first, second)]
    if not all(not_tied):
        return None
    balance = 0
    before: list[float] = []  # second values of all pairs with a smaller first value, sorted
    for _, group in groupby(sorted(zip(first, second, strict=True)), key=lambda pair: pair[0]):
        values = [value for _, value in group]
        balance += sum(bisect_left(before, v) - (len(before) - bisect_right(before, v)) for v in values)
        for value in values:
            insort(before, value)
    return balance / math.sqrt(not_tied[0] * not_tied[1])


def correlation(values: Mapping[str, Mapping[str, float]], points: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """How far a metric ranks rationales as raters do; the keys are explained in DEFINITIONS.

    Args:
        values: question id to label of each model to the metric of its rationale.
        points: the same with the raters' points, higher better; questions that one side lacks are left out.
    """
    shared = sorted(name for name in points if name in values)
    labels = sorted(points[shared[0]]) if shared else []
    pairs = [([values[name][of] for of in labels], [points[name][of] for of in labels]) for name in shared]
    taus = [tau for pair in pairs if (tau := kendall_tau_b(*pair)) is not None]
    found: dict[str, Any] = {"num_questions": len(shared), "num_undefined": len(shared) - len(taus)}
    if taus:
        low, high = interval(resampled_means(np.array(taus)[:, None], "tau_question")[:, 0])
        found |= {"tau_question": math.fsum(taus) / len(taus), "tau_question_low": low, "tau_question_high": high}
    if pairs:
        pooled = [[value for pair in pairs for value in pair[side]] for side in (0, 1)]
        means = [
            [math.fsum(of) / len(of) for of in zip(*(pair[side] for pair in pairs), strict=True)] for side in (0, 1)
        ]
        found |= {"tau_pooled": kendall_tau_b(*pooled), "tau_model": kendall_tau_b(*means)}
    return found
