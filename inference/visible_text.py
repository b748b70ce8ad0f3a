"""Text of others made fit to be shown: in pages, tables and on a terminal."""

from __future__ import annotations

import re

MAX_CHARACTERS = 4000
# Control characters but tab and line end, marks that change the direction of the text around them, no characters.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff]")
_SURROGATE = re.compile("[\ud800-\udfff]")  # half a character, which UTF-8 cannot write


def clean(value: object, max_characters: int = MAX_CHARACTERS) -> str:
    """Any value as text that can be shown: unseen characters made visible, what is very long cut, its length said."""
    if value is None:
        return "–"
    text = value if isinstance(value, str) else str(value)
    shown = _SURROGATE.sub("�", text[:max_characters].replace("\r\n", "\n"))
    shown = _UNSEEN.sub(lambda found: _visible(ord(found[0])), shown)
    return shown + (f" … ({len(text) - max_characters:,} more characters)" if len(text) > max_characters else "")


def _visible(code: int) -> str:
    return chr(0x2400 + code) if code < 0x20 else f"⟨U+{code:04X}⟩"


def clean_line(value: object, max_characters: int) -> str:
    """The same in one line of at most so many characters."""
    line = " ".join(clean(value).split())
    return line if len(line) <= max_characters else line[: max_characters - 1] + "…"
