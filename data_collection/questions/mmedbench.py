"""Reader of MMedBench's own layout: FOLDER/{Train,Test}/LANGUAGE.jsonl, one question a line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from configs.errors import FailedItems, MissingInputError
from configs.languages import LANGUAGES, Language, language
from data_collection.questions.question import LETTERS, Question
from data_collection.questions.rows import plain_text

Split = Literal["Train", "Test"]
_OWN_FIELDS = {"question", "options", "answer_idx", "answer", "rationale", "human_checked", "human_check_passed"}


def find_files(folder: Path | str, split: Split, languages: list[str] | None = None) -> dict[str, Path]:
    """Language code to file of one split, in the order of the language table.

    Args:
        folder: a folder with Train/ and Test/, or one that holds it as mmedbench/.
        languages: codes wanted; all that are there when None.

    Raises:
        MissingInputError: there is no file of that split, or one of the languages asked for is absent.
    """
    folder = Path(folder)
    root = folder / "mmedbench" if (folder / "mmedbench").is_dir() else folder
    wanted = [language(code) for code in languages] if languages else list(LANGUAGES.values())
    found = {row.code: root / split / f"{row.name}.jsonl" for row in wanted}
    missing = {code: path for code, path in found.items() if not path.is_file()}
    if len(missing) == len(found) or (languages and missing):
        raise MissingInputError(
            f"there are no {split} questions" + (f" in {', '.join(missing)}" if languages else ""),
            where=root,
            wanted=", ".join(str(path.relative_to(root)) for path in missing.values()),
            todo="python scripts/download.py mmedbench puts them under data/; assets/sample has a small set",
        )
    return {code: path for code, path in found.items() if path.is_file()}


def read_questions(path: Path, split: Split, failed: FailedItems) -> Iterator[Question]:
    """The questions of one file. A row that cannot be used goes to `failed` with its line and reason.

    Real quirks read: answers as a string or a list, "A OR D" or "A,C" in one string, 2 to 8 options, empty options
    (dropped when no answer points at them and no letter after them is used).
    """
    row = language(path.stem)
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                yield to_question(json.loads(line.decode("utf-8-sig")), row, f"{split}/{row.name}/{number:05d}")
            except UnicodeDecodeError as error:
                failed.add(where, f"not UTF-8: {error.reason} at byte {error.start}")
            except json.JSONDecodeError as error:
                failed.add(where, f"broken JSON: {error.msg} at column {error.colno}")
            except RecursionError:
                failed.add(where, "JSON nested too deeply")
            except KeyError as error:
                failed.add(where, f"missing field {error}")
            except (ValueError, TypeError, AttributeError) as error:
                failed.add(where, str(error))


def to_question(row: dict[str, Any], lang: Language, question_id: str) -> Question:
    """One MMedBench row as a `Question`.

    Raises:
        ValueError, KeyError, TypeError: the row cannot be used; the message says why.
    """
    if not isinstance(row, dict):
        raise ValueError(f"a {type(row).__name__}, wanted an object")
    if not isinstance(row["question"], str) or not isinstance(row["options"], dict):
        raise ValueError("question wants text and options an object of letters")
    answers = _letters(row["answer_idx"])
    # One French row lists its letters out of order: what is asked is the same.
    options = {letter.strip(): plain_text(text) for letter, text in sorted(row["options"].items())}
    for letter in reversed(list(options)):
        if options[letter] or letter in answers:
            break
        del options[letter]
    return Question(
        id=question_id,
        lang=lang.code,
        question=plain_text(row["question"]),
        options=options,
        answers=answers,
        rationale=plain_text(row.get("rationale")),
        human_checked=bool(row.get("human_checked")),
        human_check_passed=bool(row.get("human_check_passed")),
        meta={name: value for name, value in row.items() if name not in _OWN_FIELDS},
    )


def to_row(question: Question) -> dict[str, Any]:
    """A `Question` as a row of MMedBench: several letters as a list, one as a string, in Japanese and French always a
    list, as in the published files; `to_question` reads it back."""
    several = len(question.answers) != 1 or question.lang in ("ja", "fr")
    return {
        "question": question.question,
        "options": question.options,
        "answer_idx": list(question.answers) if several else question.answers[0],
        "rationale": question.rationale,
        "human_checked": int(question.human_checked),
        "human_check_passed": int(question.human_check_passed),
        **{name: value for name, value in question.meta.items() if name not in _OWN_FIELDS},
    }


def _letters(value: Any) -> tuple[str, ...]:
    parts = value if isinstance(value, list) else [value]
    letters: set[str] = set()
    for part in parts:
        if not isinstance(part, str):
            raise ValueError(f"answer_idx holds {part!r}, wanted letters")
        if re.search(r"\bor\b", part, re.IGNORECASE):
            raise ValueError(f"answer_idx {part!r} leaves open which option is right")
        pieces = re.split(r"[\s,;/、，]+", part.strip())
        pieces = list(pieces[0]) if len(pieces) == 1 and all(c in LETTERS for c in pieces[0]) else pieces
        letters.update(piece for piece in pieces if piece)
    if not letters:
        raise ValueError("answer_idx is empty")
    return tuple(sorted(letters))
