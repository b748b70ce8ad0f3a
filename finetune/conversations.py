"""Conversations: instruction and dialogue data in the messages format, read strictly and rendered in a prompt's style.

A row is {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}, ...]}, with a system
message before them or without.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from configs.errors import FailedItems, MissingInputError
from data_collection.documents import read_lines
from finetune.styles import Style, apply_template, without_start

_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")


class Piece(NamedTuple):
    """A stretch of text, and whether it is taught (then an end token follows it) or only read."""

    text: str
    taught: bool


@dataclass(frozen=True)
class Conversation:
    """Turns of a user and an assistant.

    Attributes:
        id: file and line.
        messages: (role, content) in order: perhaps a system message, then user and assistant in turn, an assistant's
            message last.
    """

    id: str
    messages: tuple[tuple[str, str], ...]


def find_conversation_files(path: Path) -> list[Path]:
    """The file itself, or the files of a folder, by name.

    Raises:
        MissingInputError: there is none.
    """
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.name.endswith(_SUFFIXES))
    if not files:
        raise MissingInputError(
            "there are no conversations",
            where=path,
            wanted="a file or folder of " + ", ".join(_SUFFIXES) + ' with {"messages": [...]} in each line',
            todo="give the path of one",
        )
    return files


def read_conversations(path: Path, failed: FailedItems) -> Iterator[Conversation]:
    """The conversations of one file. A row that cannot be used goes to `failed` with its line and reason."""
    for number, line in read_lines(path, failed):
        where = f"{path}:{number}"
        try:
            yield to_conversation(json.loads(line.decode("utf-8-sig")), where)
        except UnicodeDecodeError as error:
            failed.add(where, f"not UTF-8: {error.reason} at byte {error.start}")
        except json.JSONDecodeError as error:
            failed.add(where, f"broken JSON: {error.msg} at column {error.colno}")
        except RecursionError:
            failed.add(where, "JSON nested too deeply")
        except ValueError as error:
            failed.add(where, str(error))


def to_conversation(row: Any, conversation_id: str) -> Conversation:
    """One row in the messages format as a `Conversation`.

    Raises:
        ValueError: the row cannot be used; the message says why.
    """
    messages = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(messages, list) or not messages:
        raise ValueError('wanted an object with a list "messages"')
    turns = []
    for place, message in enumerate(messages, 1):
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise ValueError(f"message {place} has no text as its content")
        # Lone surrogates, which no tokenizer takes, become replacement characters.
        turns.append((message.get("role"), message["content"].encode("utf-8", "replace").decode().strip()))
    start = int(turns[0][0] == "system")
    for place, (role, content) in enumerate(turns[start:], start + 1):
        wanted = "assistant" if (place - start) % 2 == 0 else "user"
        if role != wanted:
            raise ValueError(f"message {place} is the {role}'s, wanted the {wanted}'s")
        if not content:
            raise ValueError(f"message {place} is empty")
    if turns[-1][0] != "assistant":
        raise ValueError("no assistant's message at the end")
    return Conversation(conversation_id, tuple(turns))


def render_conversation(conversation: Conversation, style: Style, tokenizer: Any) -> list[list[Piece]]:
    """The examples that a conversation gives: every assistant's turn is taught, in one of them.

    In `plain` and `published` a user's turn ends with a cue and all is one example. In `chat` the tokenizer's template
    decides: while it only appends, all is one example; where it renders earlier turns anew (Qwen 3 leaves out their
    thoughts) the turns before a new answer are repeated, read only, so that each answer is taught after the very text
    that it would be asked with.

    Raises:
        SettingsError: the chat template refuses the conversation.
    """
    return [_with_cues(conversation, style)] if style.name != "chat" else _by_template(conversation, style, tokenizer)


def _with_cues(conversation: Conversation, style: Style) -> list[Piece]:
    pieces, text = [], ""
    for role, content in conversation.messages:
        if role == "assistant":
            pieces += [Piece(text, False), Piece(style.lead + content, True)]
            text = "\n\n"
        else:
            text += content + ("\n\n" if role == "system" else style.response_cue)
    return pieces


def _by_template(conversation: Conversation, style: Style, tokenizer: Any) -> list[list[Piece]]:
    messages = [{"role": role, "content": content} for role, content in conversation.messages]
    examples: list[list[Piece]] = []
    so_far = None
    for place, (role, content) in enumerate(conversation.messages):
        if role != "assistant":
            continue
        asked = apply_template(tokenizer, messages[:place], asking=True)
        if so_far is not None and asked.startswith(so_far):
            examples[-1].append(Piece(asked[len(so_far) :], False))
        else:
            examples.append([Piece(without_start(asked, tokenizer), False)])
        examples[-1].append(Piece(style.lead + content, True))
        so_far = asked + style.lead + content + (style.end or tokenizer.eos_token)
    return examples
