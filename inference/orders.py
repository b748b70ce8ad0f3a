"""Options in other orders: how far a model's answers hang on the letters they stand behind. No torch."""

from __future__ import annotations

import dataclasses
import random
import statistics
from collections.abc import Sequence
from typing import Any

from data_collection.questions.question import Question

# Of several orders: mean of the shares of each order, sum of what counts work.
_SUMMED = ("seconds",)
_MEANS = ("accuracy", "unparsed", "hit_limit", "own_language", "empty")
DEFINITIONS = {
    "num_orders": "orders in which the options of each question were shown, drawn question by question; all scores are "
    "means over them, a question counts once, and intervals are over questions",
    "accuracy_by_order": "accuracy of each order",
    "accuracy_order_sd, _min, _max": "sample standard deviation and range of accuracy_by_order",
    "order_consistency": "share of questions answered with the same options (or not at all) in every order",
}


def shuffle_options(question: Question, seed: int, order: int) -> tuple[Question, str]:
    """The question with its options in another order, and the letters that these had, in the order shown.

    The draw hangs on the question's id, `seed` and `order` alone. Options that speak of others by letter ("A and B")
    are shuffled like any: such questions then mean something else, which is one reason for the spread.
    """
    letters = list(question.options)
    shown = random.Random(f"{seed} {order} {question.id}").sample(letters, len(letters))  # noqa: S311 - no secret
    options = {letter: question.options[old] for letter, old in zip(letters, shown, strict=True)}
    answers = tuple(letter for letter, old in zip(letters, shown, strict=True) if old in question.answers)
    return dataclasses.replace(question, options=options, answers=answers), "".join(shown)


def original_answer(row: dict[str, Any], parsed: Sequence[str] | None) -> list[str] | None:
    """The letters of an answer as the question's own file has them."""
    shown = dict(zip(row["options"], row.get("original_letters") or row["options"], strict=True))
    return None if parsed is None else sorted(shown[letter] for letter in parsed)


def merge_orders(marks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Marks with one a question and kind, in the order of the first ones: means over the orders it was asked in."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for mark in marks:
        groups.setdefault((mark["lang"], mark["kind"], mark["id"]), []).append(mark)
    return [_merge(of) if of[0]["order"] is not None else of[0] for of in groups.values()]


def _merge(of: list[dict[str, Any]]) -> dict[str, Any]:
    of = sorted(of, key=lambda mark: mark["order"])
    merged = dict(of[0])
    for name, first in of[0].items():
        if name in _MEANS or name.endswith(("_f", "_sentence")):
            found = [mark[name] for mark in of if mark[name] is not None]
            merged[name] = sum(found) / len(found) if found else first
        elif name in _SUMMED:
            merged[name] = sum(mark[name] for mark in of)
    merged["parsed_otherwise"] = any(mark["parsed_otherwise"] for mark in of)
    if "pair" in merged:
        merged["pairs"] = [mark["pair"] for mark in of]
    merged["by_order"] = {mark["order"]: float(mark["accuracy"]) for mark in of}
    merged["same_answer"] = all(mark["answer"] == of[0]["answer"] for mark in of)
    return merged


def order_scores(marks: list[dict[str, Any]]) -> dict[str, Any]:
    """Scores of one language by order; {} where the options were not shuffled."""
    by_order: dict[int, list[float]] = {}
    for mark in marks:
        for order, accuracy in mark.get("by_order", {}).items():
            by_order.setdefault(order, []).append(accuracy)
    if not by_order:
        return {}
    same = [mark["same_answer"] for mark in marks if "same_answer" in mark]
    accuracies = [sum(of) / len(of) for _, of in sorted(by_order.items())]
    return {**spread(accuracies), "order_consistency": sum(same) / len(same)}


def spread(accuracies: list[float]) -> dict[str, Any]:
    """What is said of the accuracies of several orders; no deviation of a single one."""
    return {
        "num_orders": len(accuracies),
        "accuracy_by_order": accuracies,
        "accuracy_order_sd": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        "accuracy_order_min": min(accuracies),
        "accuracy_order_max": max(accuracies),
    }


def average_spread(languages: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The spread of the macro average: order by order the mean over the languages."""
    shuffled = [scores for scores in languages if "accuracy_by_order" in scores]
    if not shuffled or len({scores["num_orders"] for scores in shuffled}) > 1:
        return {}
    columns = zip(*(scores["accuracy_by_order"] for scores in shuffled), strict=True)
    consistency = sum(scores["order_consistency"] for scores in shuffled) / len(shuffled)
    return {**spread([sum(of) / len(of) for of in columns]), "order_consistency": consistency}
