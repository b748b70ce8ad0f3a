"""MMedBench for lm-evaluation-harness: rows to documents, and what an answer is worth.

It imports nothing of ours, so that this folder works by itself wherever the harness does. Rows are read and prompts are
laid out as inference/eval.py does it; tests/test_lm_eval_tasks.py holds the two alike.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets

LETTERS = "ABCDEFGH"


def load(language: str, data: str = "data/mmedbench", **_: Any) -> dict[str, datasets.Dataset]:
    """The splits of one language that are there.

    Args:
        language: name of the files.
        data: folder with Train/ and Test/, or one that holds it as mmedbench/ (--metadata '{"data": "DIR"}').
    """
    root = Path(data) / "mmedbench" if (Path(data) / "mmedbench").is_dir() else Path(data)
    files = {split: root / split.capitalize() / f"{language}.jsonl" for split in ("train", "test")}
    if not files["test"].is_file():
        raise FileNotFoundError(f'{files["test"]} is missing: --metadata \'{{"data": "FOLDER"}}\' names the folder')
    return {
        split: datasets.Dataset.from_list(list(read(path))) if path.is_file() else datasets.Dataset.from_list([])
        for split, path in files.items()
    }


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The documents of one file; rows that cannot be used are named on standard error."""
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield {"row": number, **to_document(json.loads(line))}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            print(f"not used: {path}:{number}: {error!r}", file=sys.stderr)


def to_document(row: dict[str, Any]) -> dict[str, Any]:
    """Question, its options as the prompt shows them, their letters, and the letters of the right ones.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: the row cannot be used.
    """
    given = row["answer_idx"]
    text = ",".join(given if isinstance(given, list) else [given])
    if re.search(r"\bor\b", text, re.IGNORECASE):
        raise ValueError(f"answer_idx {given!r} leaves open which option is right")
    options = {letter.strip(): (option or "").strip() for letter, option in sorted(row["options"].items())}
    answers = sorted({letter for letter in re.split(r"[\s,;/、，]*", text) if letter})
    while options and not options[last := max(options)] and last not in answers:
        del options[last]
    letters = list(options)
    if len(letters) < 2 or letters != list(LETTERS[: len(letters)]) or not all(options.values()):
        raise ValueError(f"options {options}")
    if not answers or not set(answers) <= set(letters) or not row["question"].strip():
        raise ValueError(f"answers {answers} to {row['question']!r}")
    shown = "\n".join(f"{letter}. {option}" for letter, option in options.items())
    return {"question": row["question"].strip(), "options": shown, "letters": letters, "answers": answers}


def process_results(doc: dict[str, Any], results: list[tuple[float, bool]]) -> dict[str, float]:
    """Exact set: the letter of the highest log-likelihood, the first of equal ones, is all of the answer.

    A question with several right answers is never right so; it stays in acc, and acc_single_answer leaves it out.
    """
    values = [value for value, _ in results]
    right = float(doc["answers"] == [doc["letters"][values.index(max(values))]])
    return {"acc": right} | ({"acc_single_answer": right} if len(doc["answers"]) == 1 else {})
