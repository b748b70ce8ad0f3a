"""Questions to training examples: which questions train, which are the dev split, and their tokens and labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from configs.errors import FailedItems, MissingInputError, SettingsError
from configs.files import REPOSITORY
from configs.progress import log
from data_collection.contamination import TestQuestions, question_text, read_test_questions
from data_collection.questions.mmedbench import find_files, read_questions
from data_collection.questions.question import Question
from finetune.conversations import Conversation, Piece, render_conversation
from finetune.prompts import KINDS, Kind, render_completion, render_prompt
from finetune.styles import PLAIN, Style
from pretrain.blocks import IGNORED
from pretrain.packing import pack

Segment = tuple[np.ndarray, np.ndarray]
Row = TypeVar("Row", Question, Conversation)
_EXAMPLES_AT_ONCE = 1000


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


def leave_out_test_questions(rows: Sequence[Row], data: Path, failed: FailedItems) -> list[Row]:
    """The training rows that hold no question of the Test split in `data`; the others are added to `failed`.

    A folder without a Test split has nothing to compare with: all are returned.
    """
    try:
        find_files(data, "Test")
    except MissingInputError:
        log.info(f"{data} has no test questions, so none was looked for in the training data")
        return list(rows)
    try:
        test = TestQuestions(read_test_questions([data], FailedItems()))  # unusable test rows fail no training
    except MissingInputError as error:
        log.info(f"no test question was looked for in the training data: {error.what}")
        return list(rows)
    clean = []
    for row, hits in zip(rows, test.find([_text(row) for row in rows]), strict=True):
        if hits:
            failed.add(row.id, f"holds the test question {hits[0].question} ({hits[0].share:.0%} of its n-grams)")
        else:
            clean.append(row)
    return clean


def _text(row: Row) -> str:
    if isinstance(row, Conversation):
        return "\n".join(content for _, content in row.messages)
    return question_text(row)


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


def to_segments(
    questions: Sequence[Question],
    tokenizer: Any,
    block_size: int,
    failed: FailedItems,
    style: Style = PLAIN,
    kinds: Sequence[Kind] = KINDS,
) -> list[Segment]:
    """An example a question and kind, (input_ids, labels): labels only on the completion and its end token.

    Prompt and completion are tokenized apart and joined, so that the prompt's tokens are those of inference. Examples
    that do not fit in a block, or have no rationale to teach, are added to `failed`.
    """
    names, examples = [], []
    for question in questions:
        for kind in kinds:
            try:
                completion = render_completion(question, kind, style)
            except ValueError as error:
                failed.add(f"{question.id} ({kind})", str(error))
                continue
            names.append(f"{question.id} ({kind})")
            examples.append([Piece(render_prompt(question, kind, style), False), Piece(completion, True)])
    return list(_tokenized(names, examples, tokenizer, block_size, failed, style))


def conversation_segments(
    conversations: Sequence[Conversation],
    tokenizer: Any,
    block_size: int,
    failed: FailedItems,
    style: Style = PLAIN,
) -> list[Segment]:
    """Examples of conversations, as `to_segments` makes them of questions: labels on the assistant's turns only.

    Those that the chat template refuses (some take no system message) are added to `failed`.
    """
    names, examples = [], []
    for conversation in conversations:
        try:
            rendered = render_conversation(conversation, style, tokenizer)
        except SettingsError as error:
            failed.add(conversation.id, f"{error.what}: {error.found}")
            continue
        names += [conversation.id] * len(rendered)
        examples += rendered
    return list(_tokenized(names, examples, tokenizer, block_size, failed, style))


def _tokenized(
    names: list[str],
    examples: list[list[Piece]],
    tokenizer: Any,
    block_size: int,
    failed: FailedItems,
    style: Style,
) -> Iterator[Segment]:
    """Pieces to (input_ids, labels). Tokenizers take many texts at once several times faster than one by one."""
    end = style.end_token_id(tokenizer)
    for start in range(0, len(examples), _EXAMPLES_AT_ONCE):
        chunk = examples[start : start + _EXAMPLES_AT_ONCE]
        first = iter(tokenizer([pieces[0].text for pieces in chunk])["input_ids"])
        read = iter(_continued(tokenizer, [p.text for pieces in chunk for p in pieces[1:] if not p.taught], False))
        taught = iter(_continued(tokenizer, [p.text for pieces in chunk for p in pieces if p.taught], True))
        for name, pieces in zip(names[start : start + len(chunk)], chunk, strict=True):
            parts = [(next(first), False)]
            parts += [([*next(taught), end], True) if piece.taught else (next(read), False) for piece in pieces[1:]]
            ids = np.array([token for tokens, _ in parts for token in tokens], dtype=np.int64)
            if len(ids) > block_size:
                failed.add(name, f"{len(ids)} tokens, block_size is {block_size}")
                continue
            is_taught = np.repeat([learnt for _, learnt in parts], [len(tokens) for tokens, _ in parts])
            yield ids, np.where(is_taught, ids, IGNORED)


def _continued(tokenizer: Any, texts: list[str], as_text: bool) -> list[list[int]]:
    """Token ids of texts that go on after others, without a start token.

    A tokenizer in the manner of SentencePiece (Llama 2's) puts a blank before every text; behind a line end it does
    not, so each text is tokenized behind one, which is taken off again.

    Args:
        as_text: names of special tokens in the texts are text like any other; nobody's data ends an answer.
    """
    if not texts:
        return []
    options = {"add_special_tokens": False, "split_special_tokens": as_text}
    mark = tokenizer("\n", **options)["input_ids"]
    behind = tokenizer(["\n" + text for text in texts], **options)["input_ids"]
    alone = [ids[: len(mark)] != mark for ids in behind]  # the line end became one token with what follows
    again = [text for text, is_alone in zip(texts, alone, strict=True) if is_alone]
    rest = iter(tokenizer(again, **options)["input_ids"] if again else [])
    return [next(rest) if is_alone else ids[len(mark) :] for ids, is_alone in zip(behind, alone, strict=True)]


class PackedExamples(torch.utils.data.Dataset):
    """Examples packed into blocks whole; the collator keeps them from seeing each other.

    Args:
        segments: (input_ids, labels) of each example.
        block_size: tokens a block holds.
        window: pack so many examples after another among themselves, so that the blocks keep the examples' order but
            within a window (for a mixture drawn by priority); all of them together by default.
        packed: False gives each example a block of its own, for architectures that cannot be packed.

    Attributes:
        in_order: the blocks are to be trained on as they stand, not shuffled.
    """

    def __init__(self, segments: list[Segment], block_size: int, window: int | None = None, packed: bool = True):
        self.segments, self.in_order = segments, window is not None
        lengths = np.array([len(ids) for ids, _ in segments], dtype=np.int64)
        self.num_tokens = int(lengths.sum())
        self.blocks: list[np.ndarray] = []  # of each block its examples
        if not packed:
            self.blocks += list(np.arange(len(segments))[:, None])
            return
        window = window or max(1, len(segments))
        for start in range(0, len(segments), window):
            pieces, offsets = pack(lengths[start : start + window], block_size)
            self.blocks += np.split(pieces["item"] + start, offsets[1:-1])

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> list[Segment]:
        return [self.segments[item] for item in self.blocks[index]]
