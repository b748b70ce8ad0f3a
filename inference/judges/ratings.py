"""Ratings of rationales by people or by a judge: which are rated, what ranks are worth, how far raters agree.

A row of ratings.jsonl is what one rater said of one question: `id, lang, rater, shown` (labels of the models in the
order in which their rationales stood) and `points` (label to number, higher better).
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import FailedItems, MissingInputError
from configs.files import atomic_open, fingerprint, write_json
from configs.languages import LANGUAGES
from data_collection.questions.answers import parse_answer
from inference.judges.rank_correlation import kendall_tau_b
from inference.scores import significance
from inference.scores.runs import Shared
from inference.scores.score_tables import NOTICE
from inference.scores.significance import interval, mcnemar_exact, resampled_means
from inference.scores.table_formats import bold, markdown
from inference.scoring import extract_rationale

RATINGS_FILE = "ratings.jsonl"
Rating = dict[str, Any]
DEFINITIONS = {
    "points": "of a ranking among n rationales n for the best and 1 for the last, tied ones share their mean; "
    "of a rating what was given. A question's points are the mean over "
    "its raters, an average is the mean over the languages",
    "points_low, points_high": significance.DEFINITION,
    "wins, ties, losses": "questions in which the first model's points are above, equal to and below the second's",
    "sign_test_p": "two-sided exact sign test of wins against losses",
    "pair_agreement": "of all pairs of rationales of a question and all pairs of its raters, the share in which both "
    "raters say the same: better, worse or tied",
    "tau_b": "Kendall's tau-b between two raters of a question, mean over all such pairs that have one",
    "earlier_preferred_share": "of all pairs of rationales that a rater did not tie, the share in which the one that "
    "stood earlier was preferred; 0.5 where the order has no influence",
}


def sample_questions(shared: Iterable[Shared], num_per_language: int, seed: int) -> list[Shared]:
    """Questions to rate: those asked with rationale, so many of each language, drawn by a hash of seed and id."""
    found: list[Shared] = []
    with_rationale: dict[str, Shared] = {}  # of shuffled options the first order
    for of in shared:
        if _row(of)["kind"] == "with_rationale" and not _row(of).get("order"):
            with_rationale.setdefault(_row(of)["id"], of)
    for code in LANGUAGES:
        group = [of for of in with_rationale.values() if _row(of)["lang"] == code]
        found += sorted(group, key=lambda of: fingerprint([seed, _row(of)["id"]]))[:num_per_language]
    if not found:
        raise MissingInputError(
            "there is no rationale to rate",
            where=", ".join(next(iter(shared), {})) or "the runs",
            wanted="questions that every run answered with rationale",
            todo="evaluate the models with rationale on the same questions",
        )
    return found


def _row(shared: Shared) -> dict[str, Any]:
    return next(iter(shared.values()))


def question_text(row: dict[str, Any]) -> str:
    """What raters see of a question: its text, its options, the right answer."""
    options = "\n".join(f"{letter}. {text}" for letter, text in row["options"].items())
    return f"{row.get('question', '')}\n{options}\nRight answer: {', '.join(row['gold'])}"


def rated_text(row: dict[str, Any]) -> str:
    """What raters see of a model's output: the rationale, and the answer that is read out of it."""
    parsed = parse_answer(row["output"], row["options"])
    answer = f"Answer: {', '.join(parsed)}" if parsed else "(no answer)"
    return f"{extract_rationale(row['output']) or '(empty)'}\n{answer}"


def shuffled(labels: Iterable[str], *seed: Any) -> list[str]:
    """The labels in an order that the seed decides, whatever order they come in."""
    drawn = sorted(labels)
    random.Random(fingerprint(seed)).shuffle(drawn)  # noqa: S311 (no secret)
    return drawn


def points_of_ranks(ranks: Mapping[str, int]) -> dict[str, float]:
    """Ranks (1 the best; ties have the same) as points: n for the best of n, 1 for the last, the mean for ties."""
    return {
        name: sum(other > rank for other in ranks.values()) + (sum(other == rank for other in ranks.values()) + 1) / 2
        for name, rank in ranks.items()
    }


def read_ratings(path: Path, failed: FailedItems) -> list[Rating]:
    """The rows of a ratings.jsonl; a broken one goes to `failed`.

    Raises:
        MissingInputError: there is no such file, or none of its rows can be used.
    """
    path = path / RATINGS_FILE if path.is_dir() else path
    found: list[Rating] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n") if path.is_file() else (), 1):
        if not line:
            continue
        try:
            row = json.loads(line)
            if not all(isinstance(row[name], str) for name in ("id", "lang", "rater")):
                raise ValueError("id, lang or rater is no text")
            if not row["points"] or not all(_is_number(value) for value in row["points"].values()):
                raise ValueError("points are no numbers")
            found.append(row)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            failed.add(f"{path}:{number}", f"no rating: {type(error).__name__}: {error}")
    if not found:
        raise MissingInputError(
            "there are no ratings",
            where=path,
            wanted=f"a {RATINGS_FILE}",
            todo="python inference/judge.py writes it, and python inference/rating_sheet.py of filled-in sheets",
        )
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def mean_points(ratings: Sequence[Rating]) -> dict[str, dict[str, float]]:
    """Question id to label to the mean of its raters' points, for questions whose raters rated the same models."""
    by_question: dict[str, list[Rating]] = {}
    for rating in ratings:
        by_question.setdefault(rating["id"], []).append(rating)
    return {
        name: {label: math.fsum(r["points"][label] for r in of) / len(of) for label in of[0]["points"]}
        for name, of in by_question.items()
        if len({frozenset(r["points"]) for r in of}) == 1
    }


def agreement(ratings: Sequence[Rating]) -> dict[str, Any]:
    """How far the raters of the same questions agree; the keys are explained in DEFINITIONS."""
    by_question: dict[str, list[Rating]] = {}
    for rating in ratings:
        by_question.setdefault(rating["id"], []).append(rating)
    same = total = 0
    taus = []
    for first, second in (pair for of in by_question.values() for pair in combinations(of, 2)):
        labels = sorted(first["points"].keys() & second["points"].keys())
        values = [[rating["points"][label] for label in labels] for rating in (first, second)]
        for i, j in combinations(range(len(labels)), 2):
            signs = [(of[i] > of[j]) - (of[i] < of[j]) for of in values]
            same, total = same + (signs[0] == signs[1]), total + 1
        tau = kendall_tau_b(*values)
        taus += [] if tau is None else [tau]
    earlier: Counter[bool] = Counter()
    for rating in ratings:
        in_order = [rating["points"][label] for label in rating["shown"]]
        earlier.update(a > b for a, b in combinations(in_order, 2) if a != b)
    return {
        "num_compared_pairs": total,
        "pair_agreement": same / total if total else None,
        "tau_b": math.fsum(taus) / len(taus) if taus else None,
        "earlier_preferred_share": earlier[True] / earlier.total() if earlier else None,
    }


def summarise(ratings: Sequence[Rating]) -> dict[str, Any]:
    """What raters think of each model, of each pair of models, and how far they agree; keys as in DEFINITIONS."""
    points = mean_points(ratings)
    labels = sorted({label for of in points.values() for label in of})
    lang_of = {rating["id"]: rating["lang"] for rating in ratings}
    names = {code: sorted(n for n in points if lang_of[n] == code) for code in LANGUAGES}
    values = {code: np.array([[points[n][of] for of in labels] for n in ids]) for code, ids in names.items() if ids}
    resampled = {code: resampled_means(of, f"{code} points") for code, of in values.items()}
    models = {}
    for column, label in enumerate(labels):
        by_language = {
            code: {"num_questions": len(of), **_with_interval(of[:, column].mean(), resampled[code][:, column])}
            for code, of in values.items()
        }
        mean = np.mean([of["points"] for of in by_language.values()])
        of_all = _with_interval(mean, np.mean([means[:, column] for means in resampled.values()], axis=0))
        models[label] = {"languages": by_language, "average": {"num_questions": len(points), **of_all}}
    pairs = []
    for first, second in combinations(labels, 2):
        differences = [of[first] - of[second] for of in points.values()]
        wins, losses = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
        ties = len(differences) - wins - losses
        p = mcnemar_exact(wins, losses)  # the same coin: as uneven a split of the decided questions
        pairs.append({"first": first, "second": second, "wins": wins, "ties": ties, "losses": losses, "sign_test_p": p})
    raters = dict(Counter(rating["rater"] for rating in ratings))
    return {
        "definitions": DEFINITIONS,
        "raters": raters,
        "models": models,
        "pairs": pairs,
        "agreement": agreement(ratings),
    }


def _with_interval(mean: float, means: np.ndarray) -> dict[str, float]:
    low, high = interval(means)
    return {"points": float(mean), "points_low": low, "points_high": high}


def write_ratings(ratings: Sequence[Rating], output_dir: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Write ratings.jsonl, ratings.json (summary) and ratings.md; returns the summary.

    Args:
        about: what is said beside the numbers (judge, method, unreadable judgements).
    """
    summary = {"about": about, **summarise(ratings)}
    with atomic_open(output_dir / RATINGS_FILE) as file:
        for rating in ratings:
            file.write(json.dumps(rating, ensure_ascii=False) + "\n")
    write_json(output_dir / "ratings.json", summary)
    with atomic_open(output_dir / "ratings.md") as file:
        file.write(render_markdown(summary))
    return summary


def render_markdown(summary: dict[str, Any]) -> str:
    """The summary as Markdown tables."""
    rows = []
    for label, of in sorted(summary["models"].items(), key=lambda item: -item[1]["average"]["points"]):
        parts = {LANGUAGES[code].name: values for code, values in of["languages"].items()} | {"Average": of["average"]}
        for name, values in parts.items():
            ends = f"{values['points_low']:.2f} to {values['points_high']:.2f}"
            row = [label, name, f"{values['num_questions']:,}", f"{values['points']:.2f}", ends]
            rows.append(bold(row) if name == "Average" else row)
    parts = [markdown(["Model", "Language", "Questions", "Points", "Interval"], rows, 2)]
    if summary["pairs"]:
        pairs = [
            [of["first"], of["second"], *(str(of[n]) for n in ("wins", "ties", "losses")), f"{of['sign_test_p']:.3g}"]
            for of in summary["pairs"]
        ]
        parts.append(markdown(["First", "Second", "First better", "Tied", "Second better", "p"], pairs, 2))
    found = summary["agreement"]
    shown = {
        name: "–" if found[name] is None else f"{found[name]:.3f}"
        for name in ("pair_agreement", "tau_b", "earlier_preferred_share")
    }
    parts.append(
        f"Agreement between raters of the same question: {shown['pair_agreement']} of pairs of rationales, tau-b "
        f"{shown['tau_b']}. The rationale that stood earlier was preferred in {shown['earlier_preferred_share']} "
        f"of the pairs that were not tied. Intervals: 95 %, bootstrap over questions. p: exact sign test.\n"
    )
    said = [f"{name.replace('_', ' ')}: {value}" for name, value in summary["about"].items()]
    return "\n".join([*parts, " ".join(f"{text[0].upper()}{text[1:]}." for text in said), "", NOTICE, ""])
