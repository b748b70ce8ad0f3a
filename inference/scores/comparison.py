"""Two models on the same questions: paired differences of their scores, tested."""

from __future__ import annotations

from typing import Any

import numpy as np

from configs.languages import LANGUAGES
from inference.kinds import SCORED_KINDS
from inference.scores.significance import mcnemar_exact, paired_bootstrap
from inference.scoring import RATIONALE_SCORES, Row

DEFINITIONS = {
    "num_common": "questions that both models were asked; only these are compared",
    "X_difference": "score X of the second model minus that of the first, mean over the common questions; of all "
    "languages together, the mean over the languages",
    "X_difference_low, X_difference_high": "interval of the difference, paired bootstrap over questions",
    "mcnemar_p": "two-sided exact McNemar test of the accuracies (the sign test, where these are means over orders of "
    "the options); of all languages together, over all questions",
}


def compare(first: list[Row], second: list[Row]) -> dict[str, dict[str, dict[str, Any]]]:
    """Differences between two models.

    Args:
        first, second: marks of each model as `scoring.mark` gives them.

    Returns:
        Kind to language code, and to "average" for all languages together, to the values named in DEFINITIONS; kinds
        and languages without a common question are left out.
    """
    other = {(mark["kind"], mark["id"]): mark for mark in second}
    pairs = [(mark, other[mark["kind"], mark["id"]]) for mark in first if (mark["kind"], mark["id"]) in other]
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for kind in SCORED_KINDS:
        by_language = {
            code: of for code in LANGUAGES if (of := [p for p in pairs if (p[0]["kind"], p[0]["lang"]) == (kind, code)])
        }
        if by_language:
            found[kind] = {code: _differences({code: of}, kind) for code, of in by_language.items()}
            found[kind]["average"] = _differences(by_language, kind)
    return found


def _differences(by_language: dict[str, list[tuple[Row, Row]]], kind: str) -> dict[str, Any]:
    everything = [pair for of in by_language.values() for pair in of]
    first_only = sum(a["accuracy"] > b["accuracy"] for a, b in everything)
    second_only = sum(b["accuracy"] > a["accuracy"] for a, b in everything)
    values: dict[str, Any] = {
        "num_common": len(everything),
        "num_first_only_right": first_only,
        "num_second_only_right": second_only,
        "mcnemar_p": mcnemar_exact(first_only, second_only),
    }
    for name in ("accuracy", *RATIONALE_SCORES):
        measured = {
            code: [(a[name], b[name]) for a, b in of if a.get(name) is not None and b.get(name) is not None]
            for code, of in by_language.items()
        }
        groups = [
            (f"{code} {kind} paired", np.array([float(b) - float(a) for a, b in of]))
            for code, of in measured.items()
            if of
        ]
        if groups:
            ends = zip(("", "_low", "_high"), paired_bootstrap(groups), strict=True)
            values |= {f"{name}_difference{end}": value for end, value in ends}
    return values
