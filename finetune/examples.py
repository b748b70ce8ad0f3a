"""Questions and conversations to training examples: their tokens and labels, and blocks of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from configs.errors import FailedItems, MissingInputError, SettingsError
from configs.files import REPOSITORY
from data_collection.questions.question import Question
from finetune.conversations import Conversation, Piece, render_conversation, said
from finetune.encoding import continued, encode
from finetune.prompts import KINDS, Kind, prompt_parts, render_completion
from finetune.styles import PLAIN, Style
from pretrain.token_blocks.blocks import IGNORED
from pretrain.token_blocks.packing import pack

Segment = tuple[np.ndarray, np.ndarray]
Example = tuple[str, list[Piece]]  # what a list of failures calls it, and its text
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


def segments_of(
    rows: Sequence[Question] | Sequence[Conversation],
    tokenizer: Any,
    block_size: int,
    failed: FailedItems,
    style: Style = PLAIN,
    kinds: Sequence[Kind] = KINDS,
) -> list[Segment]:
    """Examples of the rows of one data set, which are all questions or all conversations."""
    questions = [row for row in rows if isinstance(row, Question)]
    conversations = [row for row in rows if isinstance(row, Conversation)]
    return to_segments(questions, tokenizer, block_size, failed, style, kinds) + conversation_segments(
        conversations, tokenizer, block_size, failed, style
    )


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

    def render() -> Iterator[Example]:
        for question in questions:
            for kind in kinds:
                name = f"{question.id} ({kind})"
                try:
                    completion = render_completion(question, kind, style)
                except ValueError as error:
                    failed.add(name, str(error))
                    continue
                yield name, [Piece(tuple(prompt_parts(question, kind, style)), False), said(completion, True)]

    return list(_tokenized(render(), tokenizer, block_size, failed, style))


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

    def render() -> Iterator[Example]:
        for conversation in conversations:
            try:
                rendered = render_conversation(conversation, style, tokenizer)
            except SettingsError as error:
                failed.add(conversation.id, f"{error.what}: {error.found}")
                continue
            yield from ((conversation.id, pieces) for pieces in rendered)

    return list(_tokenized(render(), tokenizer, block_size, failed, style))


def _tokenized(
    examples: Iterator[Example], tokenizer: Any, block_size: int, failed: FailedItems, style: Style
) -> Iterator[Segment]:
    """Pieces to (input_ids, labels). Tokenizers take many texts at once several times faster than one by one."""
    end = style.end_token_id(tokenizer)
    while chunk := list(islice(examples, _EXAMPLES_AT_ONCE)):
        all_pieces = [pieces for _, pieces in chunk]
        first = iter(encode([pieces[0].parts for pieces in all_pieces], tokenizer))
        later = [piece for pieces in all_pieces for piece in pieces[1:]]
        read = iter(encode([piece.parts for piece in later if not piece.taught], tokenizer, start=False))
        taught = iter(continued(tokenizer, [piece.text for piece in later if piece.taught], as_text=True))
        for name, pieces in chunk:
            parts = [(next(first), False)]
            parts += [([*next(taught), end], True) if piece.taught else (next(read), False) for piece in pieces[1:]]
            ids = np.concatenate([np.array(tokens, dtype=np.int32) for tokens, _ in parts])
            if len(ids) > block_size:
                failed.add(name, f"{len(ids)} tokens, block_size is {block_size}")
                continue
            is_taught = np.repeat([learnt for _, learnt in parts], [len(tokens) for tokens, _ in parts])
            yield ids, np.where(is_taught, ids, np.int32(IGNORED))


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
