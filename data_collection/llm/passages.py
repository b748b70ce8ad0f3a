"""A document cut into passages at the ends of paragraphs and sentences, none longer than a limit."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from data_collection.llm.server_settings import BYTES_PER_TOKEN

# Places where a text may be cut, the best first: after a paragraph, a line, a sentence, a part of one, a word.
_BOUNDS = tuple(
    re.compile(pattern)
    for pattern in (
        r"\n[^\S\n]*\n\s*",
        r"\n\s*",
        r"(?<=[.!?؟।])[\"'»”’)\]]*\s+|(?<=[。！？])[」』”’）]*",
        r"(?<=[;:,،؛])\s+|(?<=[；：，、])",
        r"\s+",
    )
)


def num_tokens(text: str) -> float:
    """About how many tokens a text has; a tokenizer alone knows (`servers` estimates prices the same way)."""
    return len(text.encode("utf-8", "surrogatepass")) / BYTES_PER_TOKEN


def cut_passages(text: str, max_tokens: int) -> list[str]:
    """The text in passages of at most `max_tokens` (`num_tokens`), about equally long, without the white space at cuts.

    A paragraph is cut only where it alone is too long, a sentence likewise, and so on down to characters.
    """
    text = text.strip()
    if not text:
        return []
    number = math.ceil(num_tokens(text) / max_tokens)
    wanted = num_tokens(text) / number  # so that no scrap is left at the end
    passages: list[str] = []
    start = end = 0
    size = 0.0
    for piece_start, piece_end in _pieces(text, 0, len(text), max_tokens, 0):
        piece = num_tokens(text[end:piece_end])
        # A piece goes to the passage that has more of it, as far as the limit allows.
        if size and (size + piece > max_tokens or size + piece / 2 > wanted):
            passages.append(text[start:end])
            start, size, piece = piece_start, 0.0, num_tokens(text[piece_start:piece_end])
        size += piece
        end = piece_end
    passages.append(text[start:end])
    return passages


def _pieces(text: str, start: int, end: int, max_tokens: int, level: int) -> Iterator[tuple[int, int]]:
    """Stretches of text[start:end] without the white space between: paragraphs, and smaller where too long."""
    if level == len(_BOUNDS):
        while start < end:
            length = max(1, max_tokens * BYTES_PER_TOKEN // 4)  # no character has more than four bytes
            yield start, min(end, start + length)
            start += length
        return
    at = start
    for bound in [*_BOUNDS[level].finditer(text, start, end), None]:
        piece_end = bound.end() - len(bound[0]) + len(bound[0].rstrip()) if bound else end
        if at < piece_end:
            if num_tokens(text[at:piece_end]) <= max_tokens:
                yield at, piece_end
            else:
                yield from _pieces(text, at, piece_end, max_tokens, level + 1)
        at = bound.end() if bound else end
