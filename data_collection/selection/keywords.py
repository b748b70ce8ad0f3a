"""Medical keywords: their lists, and what a text holds of them."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from configs.errors import MissingInputError
from configs.languages import language, simplified_characters
from data_collection.selection.trie import (
    FIRST_OWN,
    NUM_CODE_POINTS,
    OTHER,
    RARE,
    SKIPPED,
    SPACE,
    compile_patterns,
    scan,
)

# Characters that mean the same in a keyword, whatever the language. NFKC does the others.
_ALIKE = {
    **dict.fromkeys("’‘ʼ′´`＇", "'"),
    **dict.fromkeys("‐‑‒–−", "-"),
    **dict(zip("ёøłđıħŧ", "еoldiht", strict=True)),
    **dict(zip("ٱىةکی", "ايهكي", strict=True)),
    **dict(zip("ँॉऑ", "ंाआ", strict=True)),
}
# Letters and signs that are left out when they are printed at all: soft hyphen, marks of direction, zero-width ones
# and their like, Arabic vowel signs and tatweel, the Devanagari dot below.
_LEFT_OUT = frozenset(
    chr(point)
    for first, last in (
        *((0x00AD, 0x00AD), (0x0300, 0x036F), (0x0610, 0x061A), (0x0640, 0x0640), (0x064B, 0x065F), (0x0670, 0x0670)),
        *((0x06D6, 0x06ED), (0x093C, 0x093C), (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x2060), (0x2066, 0x2069)),
        *((0xFE00, 0xFE0F), (0xFEFF, 0xFEFF)),
    )
    for point in range(first, last + 1)
)
# Accented letters that are letters of their own; all others of Latin, Greek and Arabic lose their marks, since many
# write without them. Combined from a letter and a loose mark they are seen by real normalisation only.
_OWN_LETTERS = {"es": "ñ", "de": "äöü"}
_LOOSE_MARKS = {"es": "\u0303", "de": "\u0308", "ru": "\u0306"}
_ALWAYS_RARE = "\u3099\u309a\uff9e\uff9f"  # the loose voicing marks of kana
# Other ways to write a keyword.
_LIGATURES = (("oe", "œ"), ("œ", "oe"), ("ae", "æ"), ("æ", "ae"))
_NASALS = tuple(  # a nasal before a consonant of its place, in Hindi a letter or a dot above
    (f"{nasal}\u094d{consonant}", f"\u0902{consonant}")
    for nasal, consonants in zip("ङञणनम", ("कखगघ", "चछजझ", "टठडढ", "तथदधस", "पफबभ"), strict=True)
    for consonant in consonants
)
_RESPELLINGS = {
    "de": (("ä", "ae"), ("ö", "oe"), ("ü", "ue"), ("ß", "ss")),
    **dict.fromkeys(("en", "es", "fr"), _LIGATURES),
    "hi": (*_NASALS, *((dot, letter) for letter, dot in _NASALS)),
}
_FIRST_UNSPACED = 0x0590  # Latin, Greek and Cyrillic letters lie below; only they make words in unspaced scripts
_RARE = "\0"


def _fold(character: str, lang: str) -> str:
    """The one character for which `character` stands in a search, "" for none, `_RARE` where it is not one."""
    if character in _LOOSE_MARKS.get(lang, "") + _ALWAYS_RARE:
        return _RARE
    if character in _LEFT_OUT:
        return ""
    if character in _ALIKE:
        return _ALIKE[character]
    if character.isspace():
        return " "
    plain = unicodedata.normalize("NFKC", character).lower()
    bare = "".join(part for part in plain if part not in _LEFT_OUT)
    if len(bare) != 1:  # ligatures of letters are written out; of other signs (…, ㎏, №) no keyword has any
        return _RARE if bare.isalpha() and character.isalpha() else character
    if bare.isspace():
        return " "
    if (digit := unicodedata.decimal(bare, None)) is not None:
        return str(digit)
    base = unicodedata.normalize("NFD", bare)[0]
    if base != bare and bare not in _OWN_LETTERS.get(lang, "") and _loses_marks(base):
        bare = base
    return _ALIKE.get(bare, bare) if lang != "zh" else simplified_characters().get(bare, _ALIKE.get(bare, bare))


def _loses_marks(base: str) -> bool:
    return base < "\u0400" or "\u0600" <= base < "\u0700"


@functools.lru_cache(maxsize=8)
def _folding(lang: str) -> dict[int, str]:
    """The characters that stand for others (mathematical letters among them), or for none."""
    uniform = [*range(0x3400, 0x4DC0), *range(0x4E00, 0xA000), *range(0xAC00, 0xD7A4), *range(0xD800, 0xF900)]
    points = {*range(0x10000), *range(0x1D400, 0x1D800)}.difference(uniform)
    if lang == "zh":
        points.update(map(ord, simplified_characters()))
    return {point: folded for point in sorted(points) if (folded := _fold(chr(point), lang)) != chr(point)}


def normalise(text: str, lang: str) -> str:
    """The form in which keywords and texts of a language are compared; its length is what density is a share of.

    The trie sees texts in this form without making it: this function defines what it sees.
    """
    folding = _folding(lang)
    if any(folding.get(ord(character)) == _RARE for character in set(text)):
        text = unicodedata.normalize("NFKC", text)
    return re.sub(" +", " ", text.translate(folding).replace(_RARE, ""))


def read_keywords(path: Path) -> list[str]:
    """The keywords of a list (one a line, `#` starts a comment), in lower case and NFKC, sorted, each once.

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
    words = (unicodedata.normalize("NFKC", line.partition("#")[0]).lower().replace("’", "'") for line in lines)
    keywords = {" ".join(word.split()) for word in words} - {""}
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


class Matches(NamedTuple):
    """What each text of a column holds of the keywords.

    Attributes:
        num_keywords: MKC, int32.
        density: DENS, float64.
        num_characters: of the text as `normalise` would give it, int64.
    """

    num_keywords: np.ndarray
    density: np.ndarray
    num_characters: np.ndarray


class Span(NamedTuple):
    """A keyword at its place in a text: `text[start:end]`."""

    start: int
    end: int
    keyword: str


class KeywordMatcher:
    """Finds all keywords in one pass over a text.

    Keywords are whole words. In unspaced scripts they are substrings, except that a Latin abbreviation ("ct") still
    does not match inside a Latin word ("action").

    Args:
        keywords: as `read_keywords` gives them. Those that read the same in `normalise`'s form count as one.
        lang: code or name of a language of the table.
    """

    def __init__(self, keywords: Iterable[str], lang: str):
        row = language(lang)
        self.lang = row.code
        by_form = {normalise(keyword, self.lang).strip(): keyword for keyword in reversed(list(keywords))}
        by_form.pop("", None)
        self.keywords = tuple(by_form.values())
        forms = [(form, number) for number, form in enumerate(by_form)]
        for form, number in forms[:]:  # after all keywords' own forms, which go first where two read the same
            other = form
            for old, new in _RESPELLINGS.get(self.lang, ()):
                if old in form:
                    other = other.replace(old, new)
                    forms += [(form.replace(old, new), number), (other, number)]
        joining = _joining(row.spaced)
        characters = {character for form, _ in forms for character in form} - {" "}
        ordered = sorted(characters, key=lambda character: (joining[ord(character)], character))
        alphabet = {character: symbol for symbol, character in enumerate(ordered, FIRST_OWN)}
        first_joining = FIRST_OWN + sum(not joining[ord(character)] for character in ordered)
        other_joining = FIRST_OWN + len(ordered)  # in no keyword; makes a word with a letter beside it
        classes = np.where(joining, other_joining, OTHER).astype(np.uint16)
        alphabet[" "] = SPACE
        for character, symbol in alphabet.items():
            classes[ord(character)] = symbol
        for point, folded in _folding(self.lang).items():
            classes[point] = {"": SKIPPED, _RARE: RARE}.get(folded) if folded in ("", _RARE) else classes[ord(folded)]
        patterns = [([alphabet[character] for character in form], number) for form, number in forms]
        self._trie = compile_patterns(patterns, classes, first_joining, other_joining + 1)

    def match(self, text: str) -> Match:
        """The numbers of one text."""
        num_keywords, density, _ = self.match_array(pa.array([_utf8(text)], pa.binary()))
        return Match(int(num_keywords[0]), float(density[0]))

    def match_array(self, texts: pa.Array, wanted: np.ndarray | None = None) -> Matches:
        """The numbers of a column of texts, without making a Python object of any.

        Args:
            texts: string, large_string or binary (UTF-8).
            wanted: bool, which texts to look at; the others' numbers are 0.
        """
        wanted = np.ones(len(texts), np.bool_) if wanted is None else wanted
        num_found, *numbers, rare = self._scan(texts, wanted)
        for row in np.flatnonzero(rare):
            text = str(texts[row].as_buffer().to_pybytes(), "utf-8", "replace")
            plain = pa.array([_utf8(unicodedata.normalize("NFKC", text))], pa.binary())
            (num_found[row],), *each, _ = self._scan(plain, np.ones(1, np.bool_))
            for array, (number,) in zip(numbers, each, strict=True):
                array[row] = number
        num_covered, num_characters = numbers
        return Matches(num_found, num_covered / np.maximum(num_characters, 1), num_characters)

    def _scan(self, texts: pa.Array, wanted: np.ndarray) -> tuple[np.ndarray, ...]:
        size = len(texts)
        found = np.zeros(size, np.int32), np.zeros(size, np.int64), np.zeros(size, np.int64), np.zeros(size, np.bool_)
        scan(self._trie, *utf8_buffers(texts), wanted, *found, np.zeros((0, 3), np.int64))
        return found

    def spans(self, text: str) -> tuple[str, list[Span]]:
        """Where keywords lie in one text, overlapping ones too, in the order of their beginnings.

        Returns:
            (the text to which the places belong: NFKC where only that shows the keywords, spans)
        """
        folding = _folding(self.lang)
        if any(folding.get(ord(character)) == _RARE for character in set(text)):
            text = unicodedata.normalize("NFKC", text)
        places: list[int] = []  # of the characters that count
        previous = ""
        for place, character in enumerate(text):
            folded = folding.get(ord(character), character)
            if folded not in ("", _RARE) and (folded, previous) != (" ", " "):
                places.append(place)
            previous = folded if folded not in ("", _RARE) else previous
        buffers = utf8_buffers(pa.array([_utf8(text)], pa.binary()))
        found = np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(1, np.bool_)
        room = np.zeros((1024, 3), np.int64)
        while (number := scan(self._trie, *buffers, np.ones(1, np.bool_), *found, room)) == len(room):
            room = np.zeros((4 * len(room), 3), np.int64)
        return text, [
            Span(places[first], places[end - 1] + 1, self.keywords[keyword]) for keyword, first, end in room[:number]
        ]


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def utf8_buffers(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of a string column as an array (no copy), and where in it each text begins and the last one ends."""
    wide = pa.types.is_large_string(texts.type) or pa.types.is_large_binary(texts.type)
    _, offsets, data = texts.buffers()
    if offsets is None or not len(texts):
        return np.zeros(1, np.uint8), np.zeros(len(texts) + 1, np.int64)
    offsets = np.frombuffer(offsets, np.int64 if wide else np.int32)[texts.offset : texts.offset + len(texts) + 1]
    return np.frombuffer(data or b"\0", np.uint8), offsets.astype(np.int64)


@functools.lru_cache(maxsize=2)
def _joining(spaced: bool) -> np.ndarray:
    """For each code point, whether it makes one word with a letter beside it; vowel signs of Indic scripts do."""
    points = np.arange(NUM_CODE_POINTS, dtype=np.uint32)
    if not spaced:
        points = points[:_FIRST_UNSPACED]
    joining = np.strings.isalnum(points.view("<U1"))
    if spaced:
        marks = [point for point in range(0x0900, 0x0E80) if unicodedata.category(chr(point))[0] == "M"]
        joining[marks] = True
    return np.concatenate((joining, np.zeros(NUM_CODE_POINTS - len(joining), np.bool_)))
