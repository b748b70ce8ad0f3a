"""Whether a file of predictions may stand on the leaderboard: well formed, complete, about this very test set."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from configs.errors import ExitCode, FailedItems
from configs.languages import LANGUAGES, language
from data_collection.questions.answers import parse_answer
from data_collection.questions.mmedbench import find_files, read_questions
from data_collection.questions.question import Question
from finetune.examples import find_benchmark
from finetune.prompts import KINDS
from inference.board.leaderboard_rows import NUM_TEST
from inference.scores.table_formats import markdown
from inference.scoring import Row, read_predictions
from inference.visible_text import clean_line

_MAX_SHOWN = 10


def check_submission(path: Path, data: Path | None) -> int:
    """Print what a submission holds and lacks; the last line is one JSON object.

    Accuracy wants an answer to every test question, all asked in one way; BLEU-1 to 4 and ROUGE-1, 2, L want a
    rationale for every reference that passed the human check. Outputs without a readable answer are counted; they are
    no fault of form.

    Returns:
        0 when the file is complete and well formed, else 5.

    Raises:
        MissingInputError: the file is absent or holds no usable row, or there is no test set.
    """
    folder = find_benchmark(data)
    test, unusable = _read_test(folder)
    failed = FailedItems()
    # Rows of the test set without a usable key, of which the real one has a few, count for nobody.
    rows = [row for row in read_predictions(path, failed) if row["id"] not in unusable]
    problems = [f"{clean_line(item['where'], 200)}: {clean_line(item['reason'], 200)}" for item in failed.items]
    problems += _wrong_rows(rows, {question.id: question for question in test})
    report = _completeness(rows, test)
    answered = [f"Answered, {kind.replace('_', ' ')}" for kind in report["kinds"]]
    headings = ["Language", "Questions", *answered, "Human-checked references with a rationale"]
    print(markdown(headings, report["languages"], 1))
    for heading, found in (("Wrong", problems), ("Missing", report["missing"])):
        if found:
            print(f"{heading}: {len(found):,}")
            print("".join(f"  {line}\n" for line in found[:_MAX_SHOWN]), end="")
            print(f"  and {len(found) - _MAX_SHOWN:,} more\n" if len(found) > _MAX_SHOWN else "", end="")
    counts = Counter(question.lang for question in test) + Counter(
        language(name.split("/")[1]).code for name in unusable
    )
    is_published = counts == Counter(NUM_TEST)
    print(f"\nTest set: {folder}, {len(test):,} questions, and {len(unusable)} that cannot be used", end="")
    print("." if is_published else f". It is not the published test set, which has {sum(NUM_TEST.values()):,}.")
    complete = report["accuracy"] and report["rationales"]
    good = complete and not problems
    print("This file is complete and well formed for it." if good else "This file cannot be taken as it is.")
    values = {name: report[name] for name in ("accuracy", "rationales", "num_unanswered", "num_references_missing")}
    values |= {"num_rows": len(rows), "num_wrong": len(problems), "num_test": len(test)}
    values["num_unparsed"] = sum(parse_answer(row["output"], row["options"]) is None for row in rows)
    print(json.dumps({"complete": complete, "well_formed": not problems, "published_test_set": is_published} | values))
    return ExitCode.DONE if good else ExitCode.FAILED_ITEMS


def _read_test(folder: Path) -> tuple[list[Question], set[str]]:
    """The usable test questions, and the ids of the others."""
    failed = FailedItems()
    test = [q for file in find_files(folder, "Test").values() for q in read_questions(file, "Test", failed)]
    names = (Path(item["where"]).name.partition(".jsonl:") for item in failed.items)  # FOLDER/LANGUAGE.jsonl:LINE
    return test, {f"Test/{name}/{int(line):05d}" for name, _, line in names}


def _wrong_rows(rows: list[Row], test: dict[str, Question]) -> list[str]:
    """Rows about other questions than the test set's, or with another key or reference, which gives other scores."""
    found = []
    for row in rows:
        question, name = test.get(row["id"]), f"{clean_line(row['id'], 80)} ({row['kind']})"
        if question is None:
            found.append(f"{name}: no such test question")
            continue
        # Of options that were shuffled the texts count, whatever their letters.
        wanted = {
            "lang": question.lang,
            "options": sorted(question.options.values()),
            "gold": sorted(question.options[letter] for letter in question.answers),
            "rationale": question.rationale,
            "human_check_passed": question.human_check_passed,
            "question": question.question,
        }
        there = {"question": question.question} | row
        there["options"] = sorted(row["options"].values())
        there["gold"] = sorted(row["options"][letter] for letter in row["gold"])
        other = [field for field, value in wanted.items() if there[field] != value]
        if other:
            found.append(f"{name}: {', '.join(other)} not as in the test set")
    return found


def _completeness(rows: list[Row], test: list[Question]) -> dict[str, Any]:
    """What is there of what each score needs, by language and together."""
    kinds = list(dict.fromkeys([*KINDS, *(row["kind"] for row in rows)]))
    answered = {kind: {row["id"] for row in rows if row["kind"] == kind} for kind in kinds}
    unanswered = {kind: [q for q in test if q.id not in answered[kind]] for kind in kinds}
    nearest = min(kinds, key=lambda kind: len(unanswered[kind]))
    passed = [q for q in test if q.human_check_passed and q.rationale]
    without = [q for q in passed if q.id not in answered["with_rationale"]]
    missing = [f"{q.id}: no {nearest.replace('_', ' ')} answer" for q in unanswered[nearest]]
    if nearest != "with_rationale":  # else they are listed already
        missing += [f"{q.id}: no rationale, its reference passed the human check" for q in without]
    languages = []
    for code, row in LANGUAGES.items():
        if not (of := [q.id for q in test if q.lang == code]):
            continue
        references = [q.id for q in passed if q.lang == code]
        languages.append(
            [
                row.name,
                f"{len(of):,}",
                *(f"{sum(name in answered[kind] for name in of):,}" for kind in kinds),
                f"{sum(name in answered['with_rationale'] for name in references):,} of {len(references):,}",
            ]
        )
    return {
        "kinds": kinds,
        "languages": languages,
        "missing": missing,
        "accuracy": not unanswered[nearest],
        "rationales": not without,
        "num_unanswered": len(unanswered[nearest]),
        "num_references_missing": len(without),
    }
