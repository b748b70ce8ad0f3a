"""Scores: a pure function of predictions. No torch, no model, no network.

A row of predictions.jsonl holds `id, lang, kind, prompt, output, options, parsed, gold, rationale, human_checked,
human_check_passed, num_prompt_tokens, num_new_tokens, hit_limit, seconds`, and where they were recorded `setting`,
`log_likelihoods`, and of shuffled options `order` and `original_letters` (options and gold are as they were shown).
Answers are read out of `output` again, so that one parser judges old and new files alike; where that differs from the
recorded `parsed`, the rows are counted.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import FailedItems, MissingInputError
from configs.files import write_json
from configs.languages import LANGUAGES
from configs.progress import track
from data_collection.questions.answers import parse_answer, split_answer
from data_collection.questions.question import LETTERS, chance_level, is_correct
from data_collection.selection.detection import detect
from inference import kinds, orders
from inference.kinds import CHOOSES_ONE, SCORED_KINDS
from inference.scores import significance
from inference.scores.overlap import MAX_ORDER, Overlap, overlap
from inference.scores.significance import interval, resampled_means
from inference.scores.words import word_splitter, words

Row = dict[str, Any]
Resampled = dict[str, np.ndarray]
PREDICTIONS_FILE, SCORES_FILE = "predictions.jsonl", "scores.json"
# Scores of one rationale; each has its mean over the questions that have a reference, and an interval.
RATIONALE_SCORES = (
    *(f"bleu_{order}_sentence" for order in range(1, MAX_ORDER + 1)),
    "rouge_1_f",
    "rouge_2_f",
    "rouge_l_f",
    "bert_score_f",
)
# What each value is, in the words that go into scores.json beside the values.
DEFINITIONS = {
    "accuracy": "share of questions answered with every right letter and no other (exact set); unparsed ones are wrong",
    "accuracy_single_answer": "the same over questions with one right answer; _several_answers: over the others",
    "..._standard_error": "standard deviation over the questions / sqrt(n), which is sqrt(p (1 - p) / n); of an "
    "average, the root of the summed squares over the languages, by their number",
    "..._low, ..._high": significance.DEFINITION,
    "chance_level": "mean over questions of 1/options; where any question of that language in the file has several "
    "right answers, of 1/(2^options - 1), for then any non-empty subset may be the answer",
    "num_unparsed": "outputs that give no answer explicitly; they stay in the denominator",
    "hit_limit_share": "share of outputs cut at the limit of new tokens",
    "bleu_N_sentence": "BLEU of orders 1 to N, equal weights, brevity penalty, unsmoothed, a rationale at a time, mean "
    "over questions that have a reference; as nltk's sentence_bleu, on the words of `words`, but an order above the "
    "number of words of the reference is lowered to it",
    "bleu_4_corpus": "BLEU of orders 1 to 4 from the counts of all rationales together, sacrebleu's formula and "
    "exponential smoothing, on the words of `words`",
    "rouge_N_f, rouge_l_f": "F measure of ROUGE-N or ROUGE-L (the whole text one sequence) a rationale at a time, mean "
    "over the same questions; as rouge-score, on the words of `words`, orders lowered as for BLEU",
    "bert_score_f": "BERTScore F a rationale at a time, by the model and layer of `bert_score`; none without a model",
    "human_check_passed": "the same over the references that passed a check by people, as in the paper",
    "own_language_share": "share of the rationales that are not empty whose first 500 characters fastText finds to be "
    "in the question's language",
    "rationale": "of an output, what stands before the first answer heading (### Answer:), else before the last line "
    "that begins with an answer marker, else all of it; an empty one scores 0",
    "generation_seconds": "sum of the rows' seconds, each a question's share of the time its batch took; of several "
    "processes that answer at once the sum over all",
    **kinds.DEFINITIONS,
    **orders.DEFINITIONS,
    "average": "mean over the languages, each counting the same; counts and seconds are sums",
}


def read_predictions(path: Path | str, failed: FailedItems) -> list[Row]:
    """The usable rows of a predictions.jsonl; a broken row goes to `failed` with its line and reason.

    Raises:
        MissingInputError: the file is absent or empty, or none of its rows can be used.
    """
    path = Path(path)
    if not path.is_file() or not path.stat().st_size:
        raise MissingInputError(
            "there are no predictions",
            where=path,
            found="an empty file" if path.is_file() else "no such file",
            wanted=f"a {PREDICTIONS_FILE}",
            todo="python inference/eval.py writes it",
        )
    rows: dict[tuple[str, str, int | None], Row] = {}
    shuffled: dict[tuple[str, str], bool] = {}
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = _checked(json.loads(line.decode("utf-8-sig")))
                key = row["id"], row["kind"], row.get("order")
                if key in rows:
                    raise ValueError(f"question {row['id']} ({row['kind']}) occurs twice")
                is_shuffled = row.get("order") is not None
                if shuffled.setdefault(key[:2], is_shuffled) != is_shuffled:
                    raise ValueError(f"question {row['id']} ({row['kind']}) with and without an order")
                rows[key] = row
            except UnicodeDecodeError as error:
                failed.add(f"{path}:{number}", f"not UTF-8: {error.reason} at byte {error.start}")
            except json.JSONDecodeError as error:
                failed.add(f"{path}:{number}", f"broken JSON: {error.msg} at column {error.colno}")
            except RecursionError:
                failed.add(f"{path}:{number}", "broken JSON: nested too deep")
            except ValueError as error:
                failed.add(f"{path}:{number}", str(error))
    if not rows:
        raise MissingInputError(
            "no row of the predictions can be used", where=path, found=failed.items[-1:], todo="run inference again"
        )
    return list(rows.values())


_SETTING = {"adaptation", "num_fewshot", "prompt_style", "shuffled"}


def _checked(row: Any) -> Row:
    """The row, if everything that scores depend on is there and of its type; what is optional is filled in."""
    if not isinstance(row, dict):
        raise ValueError(f"a {type(row).__name__}, wanted an object")
    row = {"rationale": "", "human_check_passed": False, "hit_limit": False, "seconds": 0.0} | row
    types = {"id": str, "lang": str, "kind": str, "output": str, "options": dict, "gold": list, "rationale": str}
    types |= {"human_check_passed": (bool, int), "hit_limit": bool, "seconds": (int, float)}
    types |= {"order": (int, type(None))} if "order" in row else {}
    types |= {"parsed": (list, type(None))} if "parsed" in row else {}
    types |= {"original_letters": str} if row.get("original_letters") is not None else {}
    types |= {"setting": dict} if row.get("setting") is not None else {}
    for name, wanted in types.items():
        if name not in row:
            raise ValueError(f"{name} is missing")
        if not isinstance(row[name], wanted):
            names = " or ".join(kind.__name__ for kind in (wanted if isinstance(wanted, tuple) else (wanted,)))
            raise ValueError(f"{name} is {row[name]!r:.80}, wanted {names}")
    letters = tuple(row["options"])
    if not 2 <= len(letters) <= len(LETTERS) or letters != tuple(LETTERS[: len(letters)]):
        raise ValueError(f"option letters {', '.join(letters)}, wanted A, B, ...")
    if not all(isinstance(text, str) for text in row["options"].values()):
        raise ValueError("an option is no text")
    if not row["gold"] or not all(letter in letters for letter in row["gold"]):
        raise ValueError(f"gold is {row['gold']}, wanted letters among {', '.join(letters)}")
    if row["lang"] not in LANGUAGES:
        raise ValueError(f"language {row['lang']!r}, wanted one of {', '.join(LANGUAGES)}")
    if row["kind"] not in SCORED_KINDS:
        raise ValueError(f"kind {row['kind']!r}, wanted one of {', '.join(SCORED_KINDS)}")
    lacking = _SETTING - row["setting"].keys() if row.get("setting") else ()
    if lacking:
        raise ValueError(f"setting lacks {', '.join(sorted(lacking))}")
    if sorted(row.get("original_letters") or letters) != list(letters):
        raise ValueError(
            f"original_letters is {row['original_letters']!r:.80}, wanted {''.join(letters)} in some order"
        )
    if not 0 <= row["seconds"] <= 1e12:  # false for NaN too; an integer may be too large for a float
        raise ValueError(f"seconds is {row['seconds']!r:.80}")
    return row


def extract_rationale(output: str) -> str:
    """The rationale of an output: what stands before the answer (DEFINITIONS["rationale"]), without its heading."""
    return re.sub(r"^\s*#{2,6} *Rationale *[:：]?", "", split_answer(output)[0], flags=re.IGNORECASE).strip()


def score(rows: list[Row], bert_f: Mapping[tuple[str, int | None], float] | None = None) -> dict[str, Any]:
    """All scores of one file of predictions.

    Args:
        rows: rows as `read_predictions` gives them.
        bert_f: BERTScore of the rationales by question id and order, where a model for it was given (`bert_scoring`).

    Returns:
        `languages[kind][code]` and `average[kind]` hold the scores, `definitions` says what they are. Shares and scores
        are fractions (0 to 1) at full precision; what could not be measured is None.
    """
    return summarise(rows, mark(rows, bert_f))


def mark(rows: list[Row], bert_f: Mapping[tuple[str, int | None], float] | None = None) -> list[Row]:
    """What each question adds to the scores of each kind, sorted by language, kind and id, so that the rows' order
    changes no score."""
    several = _several_possible(rows)
    in_order = sorted(rows, key=lambda row: (row["lang"], row["kind"], row["id"], row.get("order") or 0))
    marks = [_mark(row, several[row["lang"]], bert_f or {}) for row in track(in_order, "scoring", unit="answers")]
    return orders.merge_orders(marks)


def summarise(rows: list[Row], marks: list[Row]) -> dict[str, Any]:
    """Scores from the marks of all rows; see `score`."""
    several = _several_possible(rows)
    languages: dict[str, dict[str, Any]] = {}
    average: dict[str, Any] = {}
    for kind in SCORED_KINDS:
        groups = {code: [m for m in marks if (m["lang"], m["kind"]) == (code, kind)] for code in several}
        found = {code: _of_language(group) for code, group in groups.items() if group}
        if found:
            languages[kind] = {code: scores for code, (scores, _) in found.items()}
            average[kind] = _average(*zip(*found.values(), strict=True))
    settings = {row["kind"]: row["setting"] for row in rows if row.get("setting")}
    prompts = {json.dumps(row["prompt"], sort_keys=True) for row in rows if row.get("prompt")}
    return {
        "definitions": DEFINITIONS,
        "words": {code: word_splitter(code) for code in several},
        "any_subset_may_be_drawn": several,
        "settings": {kind: settings[kind] for kind in languages if kind in settings},
        "prompts": [json.loads(prompt) for prompt in sorted(prompts)],
        "num_rows": len(rows),
        "num_parsed_otherwise_than_recorded": sum(m["parsed_otherwise"] for m in marks),
        "average": average,
        "languages": languages,
    }


def _several_possible(rows: list[Row]) -> dict[str, bool]:
    """Languages of the rows, in the table's order, and whether a question of theirs may have several right answers:
    as the rows say, or where they do not, whether one has."""
    by_lang = {code: [row for row in rows if row["lang"] == code] for code in LANGUAGES}
    return {
        code: any(said if (said := row.get("several_possible")) is not None else len(row["gold"]) > 1 for row in of)
        for code, of in by_lang.items()
        if of
    }


@lru_cache(maxsize=1 << 14)
def _reference_words(text: str, lang: str) -> tuple[str, ...]:
    """Words of a reference, which every model that is scored shares; equal words are one object."""
    return tuple(map(sys.intern, words(text, lang)))


def _mark(row: Row, several_possible: bool, bert_f: Mapping[str, float]) -> Row:
    parsed = parse_answer(row["output"], row["options"])
    recorded = row.get("parsed", parsed)
    marks = {
        "id": row["id"],
        "lang": row["lang"],
        "kind": row["kind"],
        "accuracy": is_correct(parsed, row["gold"]),
        "unparsed": parsed is None,
        "parsed_otherwise": list(recorded or ()) != list(parsed or ()),
        "several": len(row["gold"]) > 1,
        "chance": _chance(row, several_possible),
        "order": row.get("order"),
        "answer": orders.original_answer(row, parsed),
        "hit_limit": row["hit_limit"],
        "seconds": row["seconds"],
    }
    if row["kind"] == "with_rationale":
        rationale = extract_rationale(row["output"])
        marks["own_language"] = detect(rationale) == row["lang"] if rationale else None
        if row["rationale"].strip():
            split = words(rationale, row["lang"])
            pair = overlap(_reference_words(row["rationale"], row["lang"]), split)
            marks |= rationale_scores(pair) | {
                "bert_score_f": bert_f.get((row["id"], row.get("order"))),
                "pair": pair,
                "empty": not split,
            }
            marks["passed"] = bool(row["human_check_passed"])
    return marks


def _chance(row: Row, several_possible: bool) -> float:
    if row["kind"] in CHOOSES_ONE:
        return 1 / len(row["options"]) if len(row["gold"]) == 1 else 0.0
    return chance_level(len(row["options"]), several_possible=several_possible)


def rationale_scores(pair: Overlap) -> dict[str, float]:
    """Word scores of one rationale against its reference, 0 to 1, by their names in scores.json."""
    bleu = {f"bleu_{order}_sentence": pair.bleu(order) for order in range(1, MAX_ORDER + 1)}
    return bleu | {"rouge_1_f": pair.rouge(1), "rouge_2_f": pair.rouge(2), "rouge_l_f": pair.rouge_l()}


def corpus_bleu(pairs: Sequence[Overlap]) -> float | None:
    """Corpus BLEU-4 of the pairs, 0 to 1, by sacrebleu from their summed counts; None where there is no pair."""
    if not pairs:
        return None
    from sacrebleu.metrics import BLEU

    matches, totals = (
        [*map(sum, zip(*of, strict=True))] for of in zip(*((p.matches, p.totals()) for p in pairs), strict=True)
    )
    lengths = sum(p.num_candidate for p in pairs), sum(p.num_reference for p in pairs)
    return BLEU.compute_bleu(matches, totals, *lengths, smooth_method="exp").score / 100


def _mean(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return math.fsum(found) / len(found) if found else None


def _of_language(marked: list[Row]) -> tuple[dict[str, Any], Resampled]:
    """The scores of one kind in one language, and the resampled means of those that get an interval."""
    num = len(marked)
    seconds = math.fsum(m["seconds"] for m in marked)
    scores: dict[str, Any] = {
        "num_questions": num,
        "num_correct": sum(m["accuracy"] for m in marked),
        "accuracy": _mean(m["accuracy"] for m in marked),
        "accuracy_standard_error": _standard_error(marked),
        "chance_level": _mean(m["chance"] for m in marked),
        "num_unparsed": sum(m["unparsed"] for m in marked),
        "unparsed_share": _mean(m["unparsed"] for m in marked),
        "hit_limit_share": _mean(m["hit_limit"] for m in marked),
        "generation_seconds": seconds,
        "questions_per_second": num / seconds if seconds else None,
    }
    for name, several in (("single_answer", False), ("several_answers", True)):
        group = [m for m in marked if m["several"] == several]
        scores[f"num_{name}"] = len(group)
        scores[f"accuracy_{name}"] = _mean(m["accuracy"] for m in group)
        scores[f"accuracy_{name}_standard_error"] = _standard_error(group)
    resampled = _resample(marked, ("accuracy",), "")
    if marked[0]["kind"] == "with_rationale":
        scores["own_language_share"] = _mean(m["own_language"] for m in marked)
        with_reference = [m for m in marked if "pair" in m]
        scores["num_empty_rationales"] = sum(m["empty"] for m in with_reference)
        passed = [m for m in with_reference if m["passed"]]
        for prefix, group in (("", with_reference), ("human_check_passed_", passed)):
            scores[f"{prefix}num_references"] = len(group)
            scores |= {f"{prefix}{name}": _mean(m[name] for m in group) for name in RATIONALE_SCORES}
            scores[f"{prefix}bleu_4_corpus"] = corpus_bleu(
                [pair for m in group for pair in m.get("pairs", [m["pair"]])]
            )
            resampled |= _resample(group, RATIONALE_SCORES, prefix)
    return scores | orders.order_scores(marked) | _intervals(resampled), resampled


def _standard_error(marked: list[Row]) -> float | None:
    share = _mean(m["accuracy"] for m in marked)
    if share is None:
        return None
    return math.sqrt(math.fsum((m["accuracy"] - share) ** 2 for m in marked)) / len(marked)


def _resample(marked: list[Row], names: Sequence[str], prefix: str) -> Resampled:
    """Resampled means (NUM_RESAMPLES,) of those scores that every row has."""
    names = [name for name in names if marked and all(m[name] is not None for m in marked)]
    if not names:
        return {}
    values = np.array([[m[name] for name in names] for m in marked], dtype=float)
    means = resampled_means(values, f"{marked[0]['lang']} {marked[0]['kind']} {prefix}")
    return {f"{prefix}{name}": column for name, column in zip(names, means.T, strict=True)}


def _intervals(resampled: Resampled) -> dict[str, float]:
    ends = {name: interval(means) for name, means in resampled.items()}
    return {
        f"{name}_{end}": value for name, both in ends.items() for end, value in zip(("low", "high"), both, strict=True)
    }


def _average(languages: Sequence[dict[str, Any]], resampled: Sequence[Resampled]) -> dict[str, Any]:
    """The macro average: each language counts the same; counts and seconds are summed."""
    average: dict[str, Any] = {"num_languages": len(languages)}
    for name in languages[0]:
        if "order" in name:
            continue
        values = [scores.get(name) for scores in languages]
        is_sum = name.startswith("num_") or name.endswith(("num_references", "_seconds"))
        average[name] = sum(values) if is_sum else _mean(values)
        if name.endswith("_standard_error"):
            errors = [error for error in values if error is not None]
            average[name] = math.sqrt(math.fsum(e * e for e in errors)) / len(errors) if errors else None
    seconds = average["generation_seconds"]
    average["questions_per_second"] = average["num_questions"] / seconds if seconds else None
    names = {name: None for of in resampled for name in of}
    means = {name: np.mean([of[name] for of in resampled if name in of], axis=0) for name in names}
    return average | orders.average_spread(languages) | _intervals(means)


def write_scores(
    labelled: list[tuple[str, dict[str, Any]]],
    output_dir: Path | str,
    caption: str = "",
    comparisons: Sequence[dict[str, Any]] = (),
) -> Path:
    """Write scores.json: the caption, one entry of `runs` a label in the order given, and paired comparisons."""
    path = Path(output_dir) / SCORES_FILE
    runs = [{"label": label, **scores} for label, scores in labelled]
    write_json(path, {"caption": caption, "runs": runs} | ({"comparisons": list(comparisons)} if comparisons else {}))
    return path
