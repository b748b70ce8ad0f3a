"""Medical keywords: their lists and one-pass matching in a text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from configs.errors import MissingInputError

# Spellings that differ in print only. A line break is a space, so that terms of several words match across it.
_SAME = (("ё", "е"), ("’", "'"), ("\u00ad", ""), ("\u00a0", " "), ("\n", " "), ("\r", " "))
# Loose accents, full-width letters and digits, half-width kana, ligatures, doubled CJK signs. Punctuation is not among
# them: nearly every Chinese text has full-width commas, and NFKC of all of them was 4/5 of the filter's time.
_COMPATIBLE = re.compile(
    "[\u0300-\u036f\u3099\u309a\uf900-\ufaff\ufb00-\ufb06\uff10-\uff19\uff21-\uff3a\uff41-\uff5a\uff66-\uff9f]"
)
FIRST_UNSPACED = 0x0590  # Latin, Greek and Cyrillic letters lie below; only they make words in unspaced scripts


def normalise(text: str) -> str:
    """The form in which keywords and texts are compared: lower case, and NFKC where letters have other forms.

    The length may change; whoever counts characters counts those of the result.
    """
    if not text.isascii() and _COMPATIBLE.search(text):
        text = unicodedata.normalize("NFKC", text)
    text = text.lower()
    for old, new in _SAME:
        text = text.replace(old, new)
    return text


def read_keywords(path: Path) -> list[str]:
    """The keywords of a list (one a line, `#` starts a comment), normalised, sorted, each once.

    Raises:
        MissingInputError: the list is absent, empty or not UTF-8.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MissingInputError(
            "the keyword list cannot be read",
            where=path,
            found=error,
            wanted="one keyword a line, UTF-8",
            todo="write the list, or name another with --keywords",
        ) from None
    keywords = {" ".join(normalise(line.partition("#")[0]).split()) for line in lines} - {""}
    if not keywords:
        raise MissingInputError("the keyword list is empty", where=path, todo="give one keyword a line")
    return sorted(keywords)


class Match(NamedTuple):
    """What a text holds of the keywords.

    Attributes:
        num_keywords: MKC, how many different keywords occur.
        density: DENS, the share of the text's characters that lie in a keyword, 0 to 1. The published sum counts a
            character once for every keyword over it ("diabetes" in "diabetes mellitus"); here it counts once.
    """

    num_keywords: int
    density: float


class KeywordMatcher:
    """Finds all keywords in one pass over a text (Aho-Corasick).

    Args:
        keywords: as `read_keywords` gives them.
        spaced: keywords are whole words. In unspaced scripts they are substrings, except that a Latin abbreviation
            ("ct") still does not match inside a Latin word ("action").
    """

    def __init__(self, keywords: Sequence[str], spaced: bool):
        from ahocorasick_rs import AhoCorasick

        self._automaton = AhoCorasick(keywords)
        self._spaced = spaced
        self._bound = [(self._joins(keyword[0]), self._joins(keyword[-1])) for keyword in keywords]

    def _joins(self, character: str) -> bool:
        """Whether the character makes one word with a letter beside it."""
        return character.isalnum() and (self._spaced or ord(character) < FIRST_UNSPACED)

    def match(self, text: str) -> Match:
        """Count the keywords of a text that is not normalised yet."""
        text = normalise(text)
        spans: list[tuple[int, int]] = []
        found: set[int] = set()
        last = len(text)
        for keyword, start, end in self._automaton.find_matches_as_indexes(text, overlapping=True):
            left, right = self._bound[keyword]
            if right and end < last and self._joins(text[end]):
                continue
            if left and start and self._joins(text[start - 1]):
                continue
            found.add(keyword)
            spans.append((start, end))
        spans.sort()
        covered = reached = 0
        for start, end in spans:
            if end > reached:
                covered += end - max(start, reached)
                reached = end
        return Match(len(found), covered / last if last else 0.0)
