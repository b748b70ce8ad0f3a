"""How far checkers agree, and what their marks say of a rationale.

A mark is what one checker says of one criterion: yes, no or unsure. A checker passes a rationale by a yes to every
criterion. A rationale passes when more than half of its checkers pass it: of two both, of three two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations
from typing import Any

CRITERIA = {
    "correct": "What it says is medically right.",
    "fits_answer": "It argues for the given answer, and for no other.",
    "complete": "It says why the right options are right and why the others are not.",
    "in_language": "It is written in the language of the question, well enough to be understood.",
}
VALUES = ("yes", "no", "unsure")
RULE = "passed: more than half of a rationale's checkers say yes to every criterion"

Marks = Mapping[str, str]  # criterion to value, of one checker


def is_complete(marks: Marks) -> bool:
    """Whether every criterion has a mark."""
    return all(marks.get(criterion) in VALUES for criterion in CRITERIA)


def passes(marks: Marks) -> bool:
    """Whether a checker passes the rationale."""
    return all(marks.get(criterion) == "yes" for criterion in CRITERIA)


def verdict(of_checkers: Sequence[Marks]) -> bool:
    """Whether a rationale passes, by the complete marks of its checkers (`RULE`)."""
    return 2 * sum(map(passes, of_checkers)) > len(of_checkers)


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | None:
    """Cohen's kappa of two checkers on the same items (Educational and Psychological Measurement 20, 1960, 37-46).

    Returns:
        (observed - expected) / (1 - expected) agreement; None where it is not defined: no items, or both gave one and
        the same value to all.
    """
    if not first:
        return None
    counted = Counter(first), Counter(second)
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / len(first)
    expected = sum(number * counted[1][value] for value, number in counted[0].items()) / len(first) ** 2
    return None if expected == 1 else (observed - expected) / (1 - expected)


def fleiss_kappa(items: Sequence[Sequence[Hashable]]) -> float | None:
    """Fleiss' kappa of several checkers (Psychological Bulletin 76, 1971, 378-382).

    Items may have different numbers of ratings: an item's agreement is over its own pairs, and the share of a value is
    the mean of its shares in the items (Gwet, Handbook of Inter-Rater Reliability, 4th edition, section 2.3); with
    equal numbers this is Fleiss' own. Items with one rating say nothing and are left out.

    Returns:
        The kappa; None where it is not defined: no item with two ratings, or one and the same value everywhere.
    """
    counted = [Counter(item) for item in items if len(item) > 1]
    if not counted:
        return None
    observed = _observed(counted)
    shares = Counter[Hashable]()
    for item in counted:
        for value, number in item.items():
            shares[value] += number / item.total() / len(counted)
    expected = sum(share**2 for share in shares.values())
    return None if len(shares) == 1 else (observed - expected) / (1 - expected)


def _observed(counted: Sequence[Counter[Any]]) -> float:
    """The mean share of pairs of ratings that agree."""
    pairs = (sum(n * (n - 1) for n in item.values()) / (item.total() * (item.total() - 1)) for item in counted)
    return sum(pairs) / len(counted)


def agreement(marks: Mapping[str, Mapping[str, Marks]]) -> dict[str, Any]:
    """Agreement by criterion, and on whether the rationale passes ("passed").

    Args:
        marks: question to checker to the checker's complete marks.

    Returns:
        criterion to: questions (marked by two checkers or more), observed (mean share of agreeing pairs), fleiss_kappa,
        and cohen_kappa, a list of {checkers, questions, kappa}, one for each pair with common questions.
    """
    checkers = sorted({checker for found in marks.values() for checker in found})
    result: dict[str, Any] = {}
    for criterion in (*CRITERIA, "passed"):
        values = {
            question: {
                checker: ("yes" if passes(own) else "no") if criterion == "passed" else own[criterion]
                for checker, own in found.items()
            }
            for question, found in marks.items()
        }
        several = [list(found.values()) for found in values.values() if len(found) > 1]
        pairs = []
        for first, second in combinations(checkers, 2):
            common = [(found[first], found[second]) for found in values.values() if first in found and second in found]
            if common:
                kappa = cohen_kappa(*map(list, zip(*common, strict=True)))
                pairs.append({"checkers": [first, second], "questions": len(common), "kappa": kappa})
        result[criterion] = {
            "questions": len(several),
            "observed": _observed(list(map(Counter, several))) if several else None,
            "fleiss_kappa": fleiss_kappa(several),
            "cohen_kappa": pairs,
        }
    return result
