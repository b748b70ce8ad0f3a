"""Conversations: instruction and dialogue data in the messages format, read strictly and rendered in a prompt's style.

A row is {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}, ...]}, with a system
message before them or without.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from configs.errors import FailedItems, MissingInputError, SettingsError
from data_collection.corpus.document_files import read_lines
from finetune.encoding import special_names
from finetune.styles import Style, apply_template, without_start

_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
_MARK = "MESSAGE-8C41-"


class Piece(NamedTuple):
    """A stretch of text in parts, a template's and people's in turn (`encoding.encode`), and whether it is taught (then
    an end token follows it) or only read."""

    parts: tuple[str, ...]
    taught: bool

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.parts)


def said(text: str, taught: bool) -> Piece:
    """A piece that is people's words alone."""
    return Piece(("", text), taught)


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
            pieces += [said(text, False), said(style.lead + content, True)]
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
        quoted = _quoted(messages[:place], asked, tokenizer)
        if so_far is not None and asked.startswith(so_far):
            examples[-1].append(_piece(asked, len(so_far), quoted))
        else:
            examples.append([_piece(asked, len(asked) - len(without_start(asked, tokenizer)), quoted)])
        examples[-1].append(said(style.lead + content, True))
        so_far = asked + style.lead + content + (style.end or tokenizer.eos_token)
    return examples


def _quoted(messages: list[dict[str, str]], asked: str, tokenizer: Any) -> list[tuple[int, int]]:
    """Where the messages stand in a template's text, (start, end) of each, if one of them names a special token.

    Raises:
        SettingsError: the template changes one, so that its words cannot be told from the template's own.
    """
    special = special_names(tokenizer)
    if not any(special.search(message["content"]) for message in messages):
        return []
    marked = [{**message, "content": f"{_MARK}{number}."} for number, message in enumerate(messages)]
    frames = re.split(rf"{_MARK}\d+\.", apply_template(tokenizer, marked, asking=True))
    places, end = [], 0
    for frame, message in zip(frames, messages, strict=False):
        start = end + len(frame)
        end = start + len(message["content"])
        places.append((start, end))
    if len(frames) != len(messages) + 1 or asked != "".join(
        frame + message["content"] for frame, message in zip(frames, [*messages, {"content": ""}], strict=True)
    ):
        raise SettingsError(
            "the chat template changes a message that names a special token",
            where=tokenizer.name_or_path,
            found=next(name[0] for message in messages if (name := special.search(message["content"]))),
            wanted="messages in the template as they are, to tell their words from the template's own",
            todo="--prompt_style plain, or take the name out of the message",
        )
    return places


def _piece(text: str, begin: int, quoted: list[tuple[int, int]]) -> Piece:
    """What is read of a template's text from `begin` on."""
    parts = []
    for start, end in quoted:
        if start >= begin:
            parts += [text[begin:start], text[start:end]]
            begin = end
    return Piece((*parts, text[begin:]), False)
