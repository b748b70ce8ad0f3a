"""Prompts and completions to token ids: the only special tokens are a template's own and the end of an answer.

What people wrote (questions, options, rationales, messages) is text, also where it says "<|im_end|>" or "</s>":
nobody's data ends an answer or opens a turn, in training or in asking.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from data_collection.questions.question import Question
from finetune.prompts import PromptKind, prompt_parts
from finetune.styles import Style


def encode_prompts(
    questions: Sequence[Question], kind: PromptKind, style: Style, tokenizer: Any, examples: Sequence[Question] = ()
) -> list[list[int]]:
    """Token ids of the prompts that `render_prompt` gives, with the start token if the tokenizer puts one.

    Args:
        examples: shown before each question, as `render_prompt` takes them.
    """
    return encode([prompt_parts(question, kind, style, examples) for question in questions], tokenizer)


def encode(texts: Sequence[Sequence[str]], tokenizer: Any, start: bool = True) -> list[list[int]]:
    """Token ids of texts in parts: a template's and people's in turn, the template's first (it may be empty).

    They are the ids of the parts' text as a whole, but that in people's parts no name is a special token.

    Args:
        start: texts begin with the start token, if the tokenizer puts one; else they go on after others (`continued`).
    """
    whole = ["".join(parts) for parts in texts]
    encoded = _ids(tokenizer, whole) if start else continued(tokenizer, whole)
    special = special_names(tokenizer)
    for number, parts in enumerate(texts):
        if any(special.search(words) for words in parts[1::2]):
            encoded[number] = _in_runs(parts, tokenizer, special, start)
    return encoded


@lru_cache(maxsize=2)
def special_names(tokenizer: Any) -> re.Pattern[str]:
    """What finds the names of a tokenizer's special tokens in a text."""
    names = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special and token.content]
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))) or r"(?!)")


def _in_runs(parts: Sequence[str], tokenizer: Any, special: re.Pattern[str], start: bool) -> list[int]:
    """As `encode`, run by run between the template's special tokens, where tokenizers cut a text anyway."""
    runs, tokens = [""], []
    for number, part in enumerate(parts):
        place = 0
        for match in special.finditer(part) if number % 2 == 0 else ():
            runs[-1] += part[place : match.start()]
            runs.append("")
            tokens.append(tokenizer.convert_tokens_to_ids(match[0]))
            place = match.end()
        runs[-1] += part[place:]
    (ids,) = _ids(tokenizer, runs[:1], as_text=True) if start else continued(tokenizer, runs[:1], as_text=True)
    for token, more in zip(tokens, continued(tokenizer, runs[1:], as_text=True), strict=True):
        ids = [*ids, token, *more]
    return ids


def continued(tokenizer: Any, texts: Sequence[str], as_text: bool = False) -> list[list[int]]:
    """Token ids of texts that go on after others, without a start token.

    A tokenizer in the manner of SentencePiece (Llama 2's) puts a blank before every text; behind a line end it does
    not, so each text is tokenized behind one, which is taken off again.

    Args:
        as_text: names of special tokens in the texts are text like any other.
    """
    if not texts:
        return []
    options = {"start": False, "as_text": as_text}
    (mark,) = _ids(tokenizer, ["\n"], **options)
    behind = _ids(tokenizer, ["\n" + text for text in texts], **options)
    alone = [ids[: len(mark)] != mark for ids in behind]  # the line end became one token with what follows
    again = [text for text, is_alone in zip(texts, alone, strict=True) if is_alone]
    rest = iter(_ids(tokenizer, again, **options))
    return [next(rest) if is_alone else ids[len(mark) :] for ids, is_alone in zip(behind, alone, strict=True)]


def _ids(tokenizer: Any, texts: Sequence[str], start: bool = True, as_text: bool = False) -> list[list[int]]:
    """What the tokenizer makes of texts.

    Args:
        start: put the start token, if the tokenizer has it put.
        as_text: names of special tokens in the texts are text like any other.
    """
    if not texts:
        return []
    options = {"add_special_tokens": start, "split_special_tokens": as_text, "return_attention_mask": False}
    ids = tokenizer(list(texts), **options)["input_ids"]
    behind = _num_put_behind(tokenizer) if start else 0
    return [of[:-behind] for of in ids] if behind else ids


@lru_cache(maxsize=2)
def _num_put_behind(tokenizer: Any) -> int:
    """Tokens that a tokenizer puts behind every text (Llama's with add_eos_token): a prompt goes on."""
    bare, whole = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
    return next(n for n in range(len(whole)) if whole[: len(whole) - n][-len(bare) :] == bare)
