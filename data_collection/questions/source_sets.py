"""The question sets that MMedBench was built from and that models are compared on, read from their original files.

One row of `SOURCE_SETS` and one function from a row to a question make a set. Rows read = questions + failed items.
"""

from __future__ import annotations

import csv
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import FailedItems, MissingInputError, SettingsError
from configs.languages import language
from data_collection.questions.question import LETTERS, Question
from data_collection.questions.rows import Row, csv_rows, json_rows, plain_text, sentences, table_rows

Fields = dict[str, Any]  # of a Question; id and lang are filled in where a set does not give them


@dataclass(frozen=True)
class SourceSet:
    """A published set.

    Attributes:
        languages: codes of its questions; where there are several, a file's or folder's name tells which.
        files: patterns of its files below a folder.
        rows: path to rows.
        question: row to the fields of a Question; raises ValueError or KeyError when it cannot be used.
        several_possible: whether it asks for all right options instead of one.
        licence: as its authors state it.
    """

    languages: tuple[str, ...]
    files: tuple[str, ...]
    rows: Callable[[Path, FailedItems], Iterator[Row]]
    question: Callable[[dict[str, Any]], Fields]
    several_possible: bool = False
    licence: str = "none stated"


def source_set(name: str) -> SourceSet:
    """The set of that name.

    Raises:
        SettingsError: there is none; the names are listed.
    """
    if name not in SOURCE_SETS:
        raise SettingsError(
            "there is no reader for this question set",
            found=name,
            wanted=", ".join(SOURCE_SETS),
            todo="name one of these",
        )
    return SOURCE_SETS[name]


def read_source_set(name: str, folder: Path, failed: FailedItems, split: str | None = None) -> Iterator[Question]:
    """The questions of a set, in the order of its files.

    Args:
        name: a key of `SOURCE_SETS`.
        folder: the set's folder, or one of its files.
        failed: gets every row that cannot be used, with its place and reason.
        split: only files with this word in their name or folder (train, dev, val, test).

    Raises:
        MissingInputError: none of the set's files is there.
    """
    asked, folder, places = source_set(name), Path(folder), Counter[str]()
    files = [folder] if folder.is_file() else find_set_files(name, folder, split)
    if not files:
        raise MissingInputError(
            "no file of this question set is there",
            where=folder,
            wanted=", ".join(asked.files) + (f" with {split} in its name or folder" if split else ""),
            todo="give the folder that holds the set's original files",
        )
    for path in files:
        lang = _language(asked, path)
        file = path.stem if folder.is_file() else path.relative_to(folder).with_suffix("").as_posix()
        try:
            for number, (where, row) in enumerate(asked.rows(path, failed), 1):
                try:
                    if not isinstance(row, dict):
                        raise ValueError(f"a {type(row).__name__}, wanted an object")
                    if "" in row and len(row) == 1:
                        raise ValueError(row[""])
                    fields = {"lang": lang, **asked.question(row)}
                    place = f"{name}/{file}/{fields.pop('key', None) or f'{number:05d}'}"
                    places[place] += 1  # one real set gives the same id to two rows
                    question = Question(id=place if places[place] == 1 else f"{place}-{places[place]}", **fields)
                    if language(question.lang).spaced and _is_cjk(question.question):
                        raise ValueError(f"in Chinese or Japanese, wanted {language(question.lang).name}")
                    yield question
                except KeyError as error:
                    failed.add(where, f"missing field {error}")
                except (ValueError, TypeError, AttributeError) as error:
                    failed.add(where, str(error))
        except RecursionError:
            failed.add(path, "the file cannot be read: nested too deeply")
        except (ValueError, KeyError, TypeError, AttributeError, csv.Error, zipfile.BadZipFile) as error:
            failed.add(path, f"the file cannot be read: {type(error).__name__} {error}")


def find_set_files(name: str, folder: Path, split: str | None = None) -> list[Path]:
    """The files of a set in its folder, in the order of their names; those with `split` in their name or folder."""
    patterns = source_set(name).files
    found = sorted({path for pattern in patterns for path in folder.rglob(pattern) if path.is_file()})
    # Hidden folders hold copies (.cache, .git), and "~$" is Excel's own note of an open file.
    found = [p for p in found if not any(part.startswith((".", "~$")) for part in p.relative_to(folder).parts)]
    word = re.compile(rf"(^|[^a-z]){re.escape(split.lower())}([^a-z]|$)") if split else None
    return [path for path in found if word is None or word.search(str(path.relative_to(folder)).lower())]


def _is_cjk(text: str) -> bool:
    """Whether most letters are Chinese or Japanese: MedQA's archive has folders of several languages in one."""
    return 2 * len(re.findall("[\u3040-\u30ff\u3400-\u9fff]", text)) > sum(map(str.isalpha, text))


def _language(asked: SourceSet, path: Path) -> str:
    if len(asked.languages) == 1:
        return asked.languages[0]
    named = [part for part in (path.stem.lower(), path.parent.name.lower()) if part in asked.languages]
    if not named:
        raise MissingInputError(
            "the language of a question file is not clear",
            where=path,
            wanted=f"a file or folder named {', '.join(asked.languages)}",
            todo="keep the names of the published files",
        )
    return named[0]


# Pieces of rows


def _lettered(texts: list[Any]) -> dict[str, str]:
    """Options by letter; empty ones at the end, which tables of fixed width have, are left out."""
    kept = [plain_text(text) for text in texts]
    while kept and kept[-1].lower() in ("", "nan"):
        kept.pop()
    if len(kept) > len(LETTERS):
        raise ValueError(f"{len(kept)} options, wanted at most {len(LETTERS)}")
    return dict(zip(LETTERS, kept, strict=False))


def _split_options(text: str, mark: str) -> dict[str, str]:
    """Options that stand in one string, each begun by `mark` (a pattern whose group is the letter)."""
    pieces = re.split(mark, text)
    letters, texts = pieces[1::2], pieces[2::2]
    if not letters or "".join(letters) != LETTERS[: len(letters)]:
        raise ValueError(f"the options {text[:80]!r} do not begin with A, B, ... in order")
    return _lettered(texts)


def _letters(value: Any) -> tuple[str, ...]:
    """Letters of right options from "B", "b", "(B)", "ACD", ["a", "c"] or "a,c"."""
    parts = [str(part) for part in value] if isinstance(value, (list, tuple)) else [str(value)]
    text = " ".join(parts).strip().upper()
    if not re.fullmatch(rf"[({{\[]?\s*[{LETTERS}](?:[\s,;、，]*[{LETTERS}])*\s*[)}}\]]?", text):
        raise ValueError(f"the answer {value!r} is no letters")
    return tuple(sorted(set(re.findall(rf"[{LETTERS}]", text))))


def _numbered(value: Any) -> tuple[str, ...]:
    """The letter of a right option that is given by its number, from 1 on."""
    text = str(value).strip()
    if not text.isdecimal() or not 1 <= int(text) <= len(LETTERS):
        raise ValueError(f"the answer {value!r} is no number of an option")
    return (LETTERS[int(text) - 1],)


# The sets


def _medqa(row: dict[str, Any]) -> Fields:
    context = row.get("context") or []
    context = [context] if isinstance(context, str) else context
    return {
        "question": " ".join([*map(plain_text, context), plain_text(row["question"])]),
        "options": {letter: plain_text(text) for letter, text in sorted(row["options"].items())},
        "answers": _letters(row["answer_idx"]),
        "meta": {"exam": row["meta_info"]} if row.get("meta_info") else {},
    }


def _medmcqa(row: dict[str, Any]) -> Fields:
    return {
        "key": row.get("id"),
        "question": plain_text(row["question"]),
        "options": _lettered([row[f"op{letter}"] for letter in "abcd"]),
        "answers": _numbered(row["cop"]),  # the original files count from 1
        "rationale": plain_text(row.get("exp")),
        "meta": {"subject": row.get("subject_name"), "topic": row.get("topic_name")},
    }


def _pubmedqa(row: dict[str, Any]) -> Fields:
    options = {"A": "yes", "B": "no", "C": "maybe"}
    decision = plain_text(row["final_decision"]).lower()
    if decision not in options.values():
        raise ValueError(f"the decision {decision!r} is none of yes, no, maybe")
    return {
        "key": row.get("key"),
        "question": "\n".join([*map(plain_text, row["CONTEXTS"]), plain_text(row["QUESTION"])]),
        "options": options,
        "answers": tuple(letter for letter, text in options.items() if text == decision),
        "rationale": plain_text(row.get("LONG_ANSWER")),
    }


def _four_columns(row: dict[str, Any]) -> Fields:
    return {
        "question": plain_text(row["Question"]),
        "options": _lettered([row[letter] for letter in "ABCD"]),
        "answers": _letters(row["Answer"]),
    }


def _xmedbench(row: dict[str, Any]) -> Fields:
    context = plain_text(row.get("context"))
    return {
        "question": f"{context}\n{plain_text(row['question'])}".strip(),
        "options": _split_options(plain_text(row["options"]), r"(?:^|\n)\(([A-H])\)"),
        "answers": _letters(row["answer"]),
        "meta": {"source": row.get("source")},
    }


def _cmb(row: dict[str, Any]) -> Fields:
    return {
        "key": row.get("id"),
        "question": plain_text(row["question"]),
        "options": _lettered([text for _, text in sorted(row["option"].items())]),
        "answers": _letters(row["answer"]),
        "rationale": plain_text(row.get("explanation")),
        "meta": {name: row.get(name) for name in ("exam_type", "exam_class", "exam_subject", "question_type")},
    }


def _cmexam(row: dict[str, Any]) -> Fields:
    explanation = plain_text(row.get("Explanation"))
    return {
        "question": plain_text(row["Question"]),
        "options": _split_options(plain_text(row["Options"]).replace("\\n", "\n"), r"(?:^|\n)([A-H])[\s.．、:：]"),
        "answers": _letters(row["Answer"]),
        "rationale": "" if explanation.lower() == "nan" else explanation,
    }


def _frenchmedmcqa(row: dict[str, Any]) -> Fields:
    letters = sorted(row["answers"])
    if [letter.upper() for letter in letters] != list(LETTERS[: len(letters)]):
        raise ValueError(f"options {', '.join(letters)}, wanted a, b, ...")
    return {
        "key": row.get("id"),
        "question": plain_text(row["question"]),
        "options": _lettered([row["answers"][letter] for letter in letters]),
        "answers": _letters(row["correct_answers"]),
        "meta": {"subject": row.get("subject_name"), "type": row.get("type")},
    }


def _igakuqa(row: dict[str, Any]) -> Fields:
    if not row["choices"]:
        raise ValueError("a number is asked for, there are no options")
    answer = row["answer"]
    if any(re.search(r"\bor\b", str(part), re.IGNORECASE) for part in answer):
        raise ValueError(f"the answer {answer} leaves open which option is right")
    return {
        "key": row.get("problem_id"),
        "question": plain_text(row["problem_text"]),
        "options": _lettered(row["choices"]),
        "answers": _letters(answer),
        "meta": {"needs_image": not row.get("text_only", True), "points": row.get("points")},
    }


def _rumeddanet(row: dict[str, Any]) -> Fields:
    options = {"A": "да", "B": "нет"}
    answer = plain_text(row["answer"]).lower()
    if answer not in options.values():
        raise ValueError(f"the answer {answer!r} is neither да nor нет")
    return {
        "key": row.get("pairID"),
        "question": plain_text(row["question"]),
        "options": options,
        "answers": tuple(letter for letter, text in options.items() if text == answer),
        "meta": {"context": plain_text(row.get("context"))},
    }


def _with_context(row: dict[str, Any]) -> Fields:
    fields = _rumeddanet(row)
    return {**fields, "question": f"{fields['meta']['context']}\n{fields['question']}".strip(), "meta": {}}


def _headqa(row: dict[str, Any]) -> Fields:
    ordered = sorted(row["answers"], key=lambda answer: int(answer["aid"]))
    if [int(answer["aid"]) for answer in ordered] != list(range(1, len(ordered) + 1)):
        raise ValueError("the options are not numbered from 1 on")
    return {
        "key": f"{row['exam']}/{row['qid']}",
        "question": plain_text(row["qtext"]),
        "options": _lettered([answer["atext"] for answer in ordered]),
        "answers": _numbered(row["ra"]),
        "meta": {"needs_image": bool(row.get("image")), "category": row["category"], "year": row["year"]},
    }


def _headqa_rows(path: Path, failed: FailedItems) -> Iterator[Row]:
    for _, whole in json_rows(path, failed):
        exams = whole.get("exams") if isinstance(whole, dict) else None
        if not isinstance(exams, dict):
            raise ValueError("no exams in it")
        for name, exam in exams.items():
            for row in exam["data"]:
                more = {"exam": name, "category": exam.get("category"), "year": exam.get("year")}
                yield f"{path}#{name}/{row.get('qid')}", {**row, **more}


def _casimedicos(row: dict[str, Any]) -> Fields:
    options = {number: text for number, text in row["options"]}
    if list(options) != list(range(1, len(options) + 1)):
        raise ValueError(f"options numbered {', '.join(map(str, options))}, wanted 1, 2, ...")
    return {
        "question": " ".join(row["case"]),
        "options": _lettered(list(options.values())),
        "answers": _numbered(row["answer"]),
        "rationale": " ".join(row["explanation"]),
        "meta": {"subject": row["subject"]},
    }


def _casimedicos_rows(path: Path, failed: FailedItems) -> Iterator[Row]:
    """Cases out of a file of labelled tokens: a heading, the case, numbered options, the answer, its discussion."""
    row: dict[str, Any] = {}
    start = 0
    for number, text in sentences(path):
        if heading := re.fullmatch(r"QUESTION TYPE:\s*(.+)", text):
            if row:
                yield f"{path}:{start}", row
            start = number
            row = {"subject": heading[1], "case": [], "options": [], "answer": None, "explanation": []}
        elif not row:
            failed.add(f"{path}:{number}", "text before the first heading")
        elif row["answer"] is None and (option := re.fullmatch(r"(\d)\s?-\s(.+)", text)):
            row["options"].append((int(option[1]), option[2]))
        elif row["answer"] is None and (answer := re.fullmatch(r"[^\W\da-z]+(?: [^\W\da-z]+)+\s?:\s*(\d)", text)):
            row["answer"] = answer[1]
        elif row["answer"] is not None:
            row["explanation"].append(text)
        elif text != "CLINICAL CASE:":
            row["case"].append(text)
    if row:
        yield f"{path}:{start}", row


def _headless_csv(path: Path, failed: FailedItems) -> Iterator[Row]:
    return csv_rows(path, ("Question", "A", "B", "C", "D", "Answer"))


def _headed_table(path: Path, failed: FailedItems) -> Iterator[Row]:
    return table_rows(path)


_MMLU_SUBJECTS = "anatomy clinical_knowledge college_biology college_medicine medical_genetics professional_medicine"
_CMMLU_SUBJECTS = "anatomy clinical_knowledge college_medicine genetics nutrition traditional_chinese_medicine virology"
_JSON = ("*.json", "*.jsonl")
_MMLU_FILES = tuple(f"{subject}_*.csv" for subject in _MMLU_SUBJECTS.split())
_CMMLU_FILES = tuple(f"{subject}.csv" for subject in _CMMLU_SUBJECTS.split())
_XMEDBENCH = ("en", "zh", "es", "fr", "ar", "hi")
_CASIMEDICOS = ("en", "es", "fr")

SOURCE_SETS: dict[str, SourceSet] = {
    "medqa": SourceSet(("en",), _JSON, json_rows, _medqa, licence="MIT"),
    "medqa_mcmle": SourceSet(("zh",), _JSON, json_rows, _medqa, licence="MIT"),
    "medmcqa": SourceSet(("en",), _JSON, json_rows, _medmcqa, licence="MIT"),
    "pubmedqa": SourceSet(("en",), _JSON, json_rows, _pubmedqa, licence="MIT"),
    "mmlu": SourceSet(("en",), _MMLU_FILES, _headless_csv, _four_columns, licence="MIT"),
    "cmmlu": SourceSet(("zh",), _CMMLU_FILES, _headed_table, _four_columns, licence="CC BY-NC-SA 4.0"),
    "xmedbench": SourceSet(_XMEDBENCH, ("*.json",), json_rows, _xmedbench, True, licence="Apache-2.0"),
    "cmb": SourceSet(("zh",), _JSON, json_rows, _cmb, True, licence="Apache-2.0"),
    "cmexam": SourceSet(("zh",), ("*.csv", "*.xlsx"), _headed_table, _cmexam, True, licence="Apache-2.0"),
    "frenchmedmcqa": SourceSet(("fr",), _JSON, json_rows, _frenchmedmcqa, True, licence="Apache-2.0"),
    "igakuqa": SourceSet(("ja",), ("[0-9]*-[A-Z].jsonl",), json_rows, _igakuqa, True),
    "rumeddanet": SourceSet(("ru",), _JSON, json_rows, _rumeddanet),
    "rumeddanet_with_context": SourceSet(("ru",), _JSON, json_rows, _with_context),
    "headqa": SourceSet(("es",), ("*_HEAD.json",), _headqa_rows, _headqa, licence="MIT"),
    "casimedicos": SourceSet(_CASIMEDICOS, ("*.tsv",), _casimedicos_rows, _casimedicos, licence="CC BY 4.0"),
}
