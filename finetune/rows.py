"""The rows of a training: read, without those that hold a test question, and without the dev questions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from configs.errors import FailedItems, MissingInputError
from configs.files import atomic_open
from configs.progress import log
from data_collection.overlaps.contamination import TestQuestions, question_text, read_test_questions
from data_collection.questions.mmedbench import find_files, read_questions
from data_collection.questions.question import Question
from finetune.conversations import Conversation
from finetune.mixtures import parse_mixture, read_source

Row = TypeVar("Row", Question, Conversation)


@dataclass(frozen=True)
class Rows:
    """What a training learns from and what it is measured on.

    Attributes:
        train: training rows of each data set, all of them questions or all conversations.
        dev: questions held out of them, each once.
        contaminated: rows that were left out because they hold a test question: `row`, `test_question` and `share`, how
            much of the test question is in the row.
    """

    train: list[list[Question] | list[Conversation]]
    dev: list[Question]
    contaminated: list[dict[str, Any]]

    @property
    def num_train(self) -> int:
        """Training rows of all data sets."""
        return sum(map(len, self.train))


def read_rows(
    data: Path,
    mixture: Mapping[str, Any] | None,
    languages: list[str] | None,
    failed: FailedItems,
    *,
    keep_contaminated: bool,
    dev_share: float,
) -> Rows:
    """The usable rows of each data set of the mixture, or of the Train split in `data` where there is none.

    Args:
        failed: gets the rows that cannot be used.
        keep_contaminated: train also on rows that hold a question of the Test split in `data`.
        dev_share: share of each language's questions held out.
    """
    if mixture:
        rows = [read_source(source, languages, failed) for source in parse_mixture(mixture)]
    else:
        rows = [read_train(data, languages, failed)]
    contaminated: list[dict[str, Any]] = []
    test = None if keep_contaminated else _test_questions(data)
    if test:
        rows = [leave_out(of_source, test, contaminated) for of_source in rows]
    questions = [row for of_source in rows for row in of_source if isinstance(row, Question)]
    dev = {question.content_hash: question for question in split_dev(questions, dev_share)[1]}
    train = [
        [row for row in of_source if not (isinstance(row, Question) and row.content_hash in dev)] for of_source in rows
    ]
    return Rows(train, list(dev.values()), contaminated)


def read_train(data: Path, languages: list[str] | None, failed: FailedItems) -> list[Question]:
    """All usable training questions, languages in the order of the language table."""
    questions = []
    for path in find_files(data, "Train", languages).values():
        questions += read_questions(path, "Train", failed)
    return questions


def _test_questions(data: Path) -> TestQuestions | None:
    """The Test split in `data`; a folder without one has nothing to compare with."""
    try:
        find_files(data, "Test")
        return TestQuestions(read_test_questions([data], FailedItems()))  # unusable test rows fail no training
    except MissingInputError as error:
        log.info(f"no test question was looked for in the training data: {error.what} ({data})")
        return None


def leave_out(rows: Sequence[Row], test: TestQuestions, contaminated: list[dict[str, Any]]) -> list[Row]:
    """The rows that hold no test question; the others are added to `contaminated`."""
    clean = []
    for row, hits in zip(rows, test.find([_text(row) for row in rows]), strict=True):
        if hits:
            share = round(float(hits[0].share), 4)
            contaminated.append({"row": row.id, "test_question": hits[0].question, "share": share})
        else:
            clean.append(row)
    return clean


def _text(row: Row) -> str:
    if isinstance(row, Conversation):
        return "\n".join(content for _, content in row.messages)
    return question_text(row)


def write_contaminated(contaminated: list[dict[str, Any]], path: Path) -> None:
    """One JSON line a row that was left out; an older list is removed where there is none."""
    if not contaminated:
        path.unlink(missing_ok=True)
        return
    with atomic_open(path) as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in contaminated)


def split_dev(questions: Sequence[Question], dev_share: float) -> tuple[list[Question], list[Question]]:
    """Train and dev. In each language the questions with the smallest content hashes are dev.

    The same question asked twice has one hash and so stands on one side; Test is never touched.
    """
    train: list[Question] = []
    dev: list[Question] = []
    for lang in dict.fromkeys(question.lang for question in questions):
        of_language = [question for question in questions if question.lang == lang]
        hashes = sorted({question.content_hash for question in of_language})
        held_out = set(hashes[: int(len(hashes) * dev_share)])
        for question in of_language:
            (dev if question.content_hash in held_out else train).append(question)
    return train, dev
