"""Scores: a pure function of predictions. No torch, no model, no network.

A row of predictions.jsonl holds `id, lang, kind, prompt, output, options, parsed, gold, rationale, human_checked,
human_check_passed, num_prompt_tokens, num_new_tokens, hit_limit, seconds`. Answers are read out of `output` again, so
that one parser judges old and new files alike; where that differs from the recorded `parsed`, the rows are counted.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from configs.errors import FailedItems, MissingInputError
from configs.files import write_json
from configs.languages import LANGUAGES
from configs.progress import track
from data_collection.questions.answers import parse_answer, split_answer
from data_collection.questions.question import LETTERS, chance_level, is_correct
from finetune.prompts import KINDS
from inference.words import word_splitter, words

Row = dict[str, Any]
PREDICTIONS_FILE, SCORES_FILE = "predictions.jsonl", "scores.json"
# What each value is, in the words that go into scores.json beside the values.
DEFINITIONS = {
    "accuracy": "share of questions answered with every right letter and no other (exact set); unparsed ones are wrong",
    "accuracy_standard_error": "sqrt(p (1 - p) / n); of an average, the root of the summed squares over the languages",
    "chance_level": "mean over questions of 1/options; where any question of that language in the file has several "
    "right answers, of 1/(2^options - 1), for then any non-empty subset may be the answer",
    "num_unparsed": "outputs that give no answer explicitly; they stay in the denominator",
    "hit_limit_share": "share of outputs cut at the limit of new tokens",
    "bleu_1_sentence": "BLEU of order 1 with brevity penalty, a rationale at a time, mean over questions that have a "
    "reference; nltk sentence_bleu without smoothing, which order 1 never needs",
    "rouge_1_f": "F measure of ROUGE-1 a rationale at a time, mean over the same questions; rouge-score with our words",
    "human_check_passed": "the same two over the references that passed a check by people",
    "rationale": "of an output, what stands before the first answer heading (### Answer:), else before the last line "
    "that begins with an answer marker, else all of it; an empty one scores 0",
    "generation_seconds": "sum of the rows' seconds, each a question's share of the time its batch took",
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
    rows: dict[tuple[str, str], Row] = {}
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = _checked(json.loads(line.decode("utf-8-sig")))
                if (row["id"], row["kind"]) in rows:
                    raise ValueError(f"question {row['id']} ({row['kind']}) occurs twice")
                rows[row["id"], row["kind"]] = row
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


def _checked(row: Any) -> Row:
    """The row, if everything that scores depend on is there and of its type; what is optional is filled in."""
    if not isinstance(row, dict):
        raise ValueError(f"a {type(row).__name__}, wanted an object")
    row = {"rationale": "", "human_check_passed": False, "hit_limit": False, "seconds": 0.0} | row
    types = {"id": str, "lang": str, "kind": str, "output": str, "options": dict, "gold": list, "rationale": str}
    types |= {"human_check_passed": (bool, int), "hit_limit": bool, "seconds": (int, float)}
    types |= {"parsed": (list, type(None))} if "parsed" in row else {}
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
    if row["kind"] not in KINDS:
        raise ValueError(f"kind {row['kind']!r}, wanted one of {', '.join(KINDS)}")
    if not 0 <= row["seconds"] <= 1e12:  # false for NaN too; an integer may be too large for a float
        raise ValueError(f"seconds is {row['seconds']!r:.80}")
    return row


def extract_rationale(output: str) -> str:
    """The rationale of an output: what stands before the answer (DEFINITIONS["rationale"]), without its heading."""
    return re.sub(r"^\s*#{2,6} *Rationale *[:：]?", "", split_answer(output)[0], flags=re.IGNORECASE).strip()


def bleu_1(reference: list[str], candidate: list[str]) -> float:
    """Sentence BLEU of order 1 with brevity penalty, 0 to 1 (Papineni et al. 2002), of words."""
    from nltk.translate.bleu_score import sentence_bleu

    return float(sentence_bleu([reference], candidate, weights=(1.0,))) if candidate else 0.0


def rouge_1_f(reference: list[str], candidate: list[str]) -> float:
    """F measure of ROUGE-1, 0 to 1 (Lin 2004), of words."""
    return float(_rouge_scorer().score(reference, candidate)["rouge1"].fmeasure)


@cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    class Given:
        """Takes words as they are given: rouge-score's own tokenizer drops all but a-z and 0-9."""

        def tokenize(self, words: list[str]) -> list[str]:
            return words

    return RougeScorer(["rouge1"], tokenizer=Given())


def score(rows: list[Row]) -> dict[str, Any]:
    """All scores of one file of predictions.

    Args:
        rows: rows as `read_predictions` gives them.

    Returns:
        `languages[kind][code]` and `average[kind]` hold the scores, `definitions` says what they are. Shares and scores
        are fractions (0 to 1) at full precision; what could not be measured is None.
    """
    langs = [code for code in LANGUAGES if any(row["lang"] == code for row in rows)]
    several = {code: any(len(row["gold"]) > 1 for row in rows if row["lang"] == code) for code in langs}
    marked = [_mark(row, several[row["lang"]]) for row in track(rows, "scoring", unit="answers")]
    languages: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        groups = {code: [m for m in marked if (m["lang"], m["kind"]) == (code, kind)] for code in langs}
        languages[kind] = {code: _of_language(group) for code, group in groups.items() if group}
    prompts = {json.dumps(row["prompt"], sort_keys=True) for row in rows if row.get("prompt")}
    return {
        "definitions": DEFINITIONS,
        "words": {code: word_splitter(code) for code in langs},
        "any_subset_may_be_drawn": several,
        "prompts": [json.loads(prompt) for prompt in sorted(prompts)],
        "num_rows": len(rows),
        "num_parsed_otherwise_than_recorded": sum(m["parsed_otherwise"] for m in marked),
        "average": {kind: _average(list(scores.values())) for kind, scores in languages.items() if scores},
        "languages": {kind: scores for kind, scores in languages.items() if scores},
    }


def _mark(row: Row, several_possible: bool) -> Row:
    """What one row adds to the scores."""
    parsed = parse_answer(row["output"], row["options"])
    recorded = row.get("parsed", parsed)
    marks = {
        "lang": row["lang"],
        "kind": row["kind"],
        "correct": is_correct(parsed, row["gold"]),
        "unparsed": parsed is None,
        "parsed_otherwise": list(recorded or ()) != list(parsed or ()),
        "chance": chance_level(len(row["options"]), several_possible=several_possible),
        "hit_limit": row["hit_limit"],
        "seconds": row["seconds"],
    }
    if row["kind"] == "with_rationale" and row["rationale"].strip():
        reference = words(row["rationale"], row["lang"])
        candidate = words(extract_rationale(row["output"]), row["lang"])
        marks |= {"bleu": bleu_1(reference, candidate), "rouge": rouge_1_f(reference, candidate)}
        marks |= {"empty": not candidate, "passed": bool(row["human_check_passed"])}
    return marks


def _mean(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return math.fsum(found) / len(found) if found else None


def _of_language(marked: list[Row]) -> dict[str, Any]:
    """The scores of one kind in one language."""
    num, accuracy = len(marked), _mean(m["correct"] for m in marked)
    seconds = math.fsum(m["seconds"] for m in marked)
    scores: dict[str, Any] = {
        "num_questions": num,
        "num_correct": sum(m["correct"] for m in marked),
        "accuracy": accuracy,
        "accuracy_standard_error": math.sqrt(accuracy * (1 - accuracy) / num),
        "chance_level": _mean(m["chance"] for m in marked),
        "num_unparsed": sum(m["unparsed"] for m in marked),
        "unparsed_share": _mean(m["unparsed"] for m in marked),
        "hit_limit_share": _mean(m["hit_limit"] for m in marked),
        "generation_seconds": seconds,
        "questions_per_second": num / seconds if seconds else None,
    }
    if marked[0]["kind"] == "with_rationale":
        with_reference = [m for m in marked if "bleu" in m]
        scores["num_empty_rationales"] = sum(m["empty"] for m in with_reference)
        for prefix, group in (
            ("", with_reference),
            ("human_check_passed_", [m for m in with_reference if m["passed"]]),
        ):
            scores[f"{prefix}num_references"] = len(group)
            scores[f"{prefix}bleu_1_sentence"] = _mean(m["bleu"] for m in group)
            scores[f"{prefix}rouge_1_f"] = _mean(m["rouge"] for m in group)
    return scores


def _average(languages: list[dict[str, Any]]) -> dict[str, Any]:
    """The macro average: each language counts the same; counts and seconds are summed."""
    average: dict[str, Any] = {"num_languages": len(languages)}
    for name in languages[0]:
        values = [scores[name] for scores in languages]
        is_sum = name.startswith("num_") or name.endswith(("num_references", "_seconds"))
        average[name] = sum(values) if is_sum else _mean(values)
    errors = [scores["accuracy_standard_error"] for scores in languages]
    average["accuracy_standard_error"] = math.sqrt(math.fsum(e * e for e in errors)) / len(errors)
    seconds = average["generation_seconds"]
    average["questions_per_second"] = average["num_questions"] / seconds if seconds else None
    return average


def write_scores(labelled: list[tuple[str, dict[str, Any]]], output_dir: Path | str, caption: str = "") -> Path:
    """Write scores.json: the caption, and one entry of `runs` a label, in the order given."""
    path = Path(output_dir) / SCORES_FILE
    write_json(path, {"caption": caption, "runs": [{"label": label, **scores} for label, scores in labelled]})
    return path
