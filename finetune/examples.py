"""Questions to training examples: which questions train, which are the dev split, and their tokens and labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from configs.errors import FailedItems, MissingInputError
from configs.files import REPOSITORY
from configs.progress import log
from data_collection.contamination import TestQuestions, question_text, read_test_questions
from data_collection.questions.mmedbench import find_files, read_questions
from data_collection.questions.question import Question
from finetune.prompts import KINDS, render_completion, render_prompt
from pretrain.blocks import IGNORED
from pretrain.packing import pack

Segment = tuple[np.ndarray, np.ndarray]


def find_benchmark(data: Path | None) -> Path:
    """The folder of questions: the one given, else data/mmedbench, else the sample.

    Raises:
        MissingInputError: none of them is there.
    """
    for folder in (data,) if data else (REPOSITORY / "data" / "mmedbench", REPOSITORY / "assets" / "sample"):
        if (folder / "mmedbench").is_dir() or any((folder / split).is_dir() for split in ("Train", "Test")):
            return folder
    raise MissingInputError(
        "there are no questions",
        where=data or "data/mmedbench and assets/sample",
        wanted="a folder with Train/LANGUAGE.jsonl and Test/LANGUAGE.jsonl, or with these under mmedbench/",
        todo="python scripts/download.py mmedbench, or --data DIR",
    )


def read_train(data: Path, languages: list[str] | None, failed: FailedItems) -> list[Question]:
    """All usable training questions, languages in the order of the language table."""
    questions = []
    for path in find_files(data, "Train", languages).values():
        questions += read_questions(path, "Train", failed)
    return questions


def leave_out_test_questions(questions: Sequence[Question], data: Path, failed: FailedItems) -> list[Question]:
    """The training questions that hold no question of the Test split beside them; the others are added to `failed`.

    A folder without a Test split has nothing to compare with: all are returned.
    """
    try:
        find_files(data, "Test")
    except MissingInputError:
        log.info(f"{data} has no test questions, so none was looked for in the training questions")
        return list(questions)
    try:
        test = TestQuestions(read_test_questions([data], FailedItems()))  # unusable test rows fail no training
    except MissingInputError as error:
        log.info(f"no test question was looked for in the training questions: {error.what}")
        return list(questions)
    clean = []
    for question, hits in zip(questions, test.find([question_text(question) for question in questions]), strict=True):
        if hits:
            failed.add(question.id, f"holds the test question {hits[0].question} ({hits[0].share:.0%} of its n-grams)")
        else:
            clean.append(question)
    return clean


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


def to_segments(questions: Sequence[Question], tokenizer: Any, block_size: int, failed: FailedItems) -> list[Segment]:
    """Two examples a question, (input_ids, labels): labels only on the completion and its end token.

    Prompt and completion are tokenized apart and joined, so that the prompt's tokens are those of inference. Examples
    that do not fit in a block, or have no rationale to teach, are added to `failed`.
    """
    segments: list[Segment] = []
    for question in questions:
        for kind in KINDS:
            try:
                completion = render_completion(question, kind)
            except ValueError as error:
                failed.add(f"{question.id} ({kind})", str(error))
                continue
            prompt_ids = tokenizer(render_prompt(question, kind))["input_ids"]
            completion_ids = tokenizer(completion, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
            if len(prompt_ids) + len(completion_ids) > block_size:
                num_tokens = len(prompt_ids) + len(completion_ids)
                failed.add(f"{question.id} ({kind})", f"{num_tokens} tokens, block_size is {block_size}")
                continue
            ids = np.array(prompt_ids + completion_ids, dtype=np.int64)
            labels = ids.copy()
            labels[: len(prompt_ids)] = IGNORED
            segments.append((ids, labels))
    return segments


class PackedExamples(torch.utils.data.Dataset):
    """Examples packed into blocks whole; the collator keeps them from seeing each other."""

    def __init__(self, segments: list[Segment], block_size: int):
        self.segments = segments
        lengths = np.array([len(ids) for ids, _ in segments], dtype=np.int64)
        self.pieces, self.offsets = pack(lengths, block_size)
        self.num_tokens = int(lengths.sum())

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> list[Segment]:
        items = self.pieces["item"][self.offsets[index] : self.offsets[index + 1]]
        return [self.segments[item] for item in items]
