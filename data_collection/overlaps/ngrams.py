"""Texts as hashes of their words, and of n of these in a row; each Chinese character and kana counts as a word.

Many texts at a time, joined and as NumPy arrays: nothing here goes word by word in Python.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from configs.languages import simplified_characters

_SEPARATOR, _DROPPED, _EXPANDED = 0, 2**29, 2**29 + 1
_ALONE = 2**30  # flag of characters that are a token each: Chinese characters and kana
_ALONE_RANGES = ((0x3005, 0x3007), (0x3040, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF))
_NUM_MULTIPLIERS = 64
_MULTIPLIERS = np.random.default_rng(0).integers(2**63, size=_NUM_MULTIPLIERS, dtype=np.uint64) * 2 + 1
Array = np.ndarray


@functools.cache
def _characters() -> tuple[Array, dict[int, str]]:
    """(code point to what it counts as, the code points that count as several with their expansions).

    Case, width, compatibility forms, accents and other marks make no difference, nor do traditional and simplified
    Chinese characters; whatever is no letter or digit parts words.
    """
    table = np.zeros(0x110000, np.uint32)
    expansions = {}
    for code in range(0x80, 0x20000):
        character = chr(code)
        category = unicodedata.category(character)
        if category[0] == "M" or category == "Cf":
            table[code] = _DROPPED
        elif category not in ("Cn", "Cs", "Co"):
            hangul = 0xAC00 <= code <= 0xD7A3  # would fall apart into its letters
            spread = character if hangul else unicodedata.normalize("NFKD", character.casefold())
            text = "".join(c for c in spread.casefold() if unicodedata.category(c)[0] != "M")
            letters = [c for c in text if c.isalnum()]
            if len(letters) == 1:
                table[code] = ord(letters[0])
            elif letters:
                table[code], expansions[code] = _EXPANDED, text
    for code in range(0x80):
        table[code] = ord(chr(code).lower()) if chr(code).isalnum() else _SEPARATOR
    table[0x20000:0x32400] = np.arange(0x20000, 0x32400)
    simplified = np.arange(len(table), dtype=np.uint32)
    for traditional, simple in simplified_characters().items():
        simplified[ord(traditional)] = ord(simple)
    written = table < len(table)
    table[written] = simplified[table[written]]
    for first, last in (*_ALONE_RANGES, (0x20000, 0x323FF)):
        letters = (table >= first) & (table <= last)
        table[letters] |= _ALONE
    return table, expansions


@dataclass(frozen=True)
class Tokens:
    """Tokens of several texts in a row: hashes, numbers of their texts, and where in the joined text each stands."""

    hashes: Array
    texts: Array
    starts: Array
    ends: Array
    joined: str


@functools.lru_cache(maxsize=4)
def _powers(num: int) -> tuple[Array, Array]:
    """Powers of an odd base and of its inverse, modulo 2**64."""
    base = int(_MULTIPLIERS[-1])
    both = (np.full(num, factor, np.uint64) for factor in (base, pow(base, -1, 2**64)))
    first, second = (np.cumprod(np.concatenate([np.ones(1, np.uint64), factors[1:]])) for factors in both)
    return first, second


def _mixed(values: Array) -> Array:
    values = (values ^ (values >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
    return values ^ (values >> np.uint64(29))


def tokenize(texts: Sequence[str]) -> Tokens:
    """The words of several texts, without case, width, accents, punctuation and invisible characters."""
    table, expansions = _characters()
    joined = "\n".join(texts)
    codes = np.frombuffer(joined.encode("utf-32-le", "replace"), np.uint32)
    values = table[codes]
    if (spread := values == _EXPANDED).any():
        letters = [(chr(code), expansions[code]) for code in np.unique(codes[spread]).tolist()]
        for letter, expansion in letters:  # much faster than str.translate
            texts = [text.replace(letter, expansion) for text in texts]
        joined = "\n".join(texts)
        values = table[np.frombuffer(joined.encode("utf-32-le", "replace"), np.uint32)]
    offsets = np.cumsum([0, *(len(text) + 1 for text in texts[:-1])])
    where = None
    if (values == _DROPPED).any():
        where = np.flatnonzero(values != _DROPPED)
        values = values[where]
    is_letter = values != _SEPARATOR
    goes_on = np.zeros(len(values), bool)  # the character belongs to the token of the one before
    goes_on[1:] = is_letter[1:] & is_letter[:-1] & (((values[1:] | values[:-1]) & _ALONE) == 0)
    starts = np.flatnonzero(is_letter & ~goes_on)
    if not len(starts):
        empty = np.zeros(0, np.int64)
        return Tokens(empty.astype(np.uint64), empty, empty, empty, joined)
    # Hash of a token: the sum of its letters times powers of a base, as a difference of sums over all letters before.
    powers, inverses = _powers(1 << len(values).bit_length())
    sums = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values * powers[: len(values)], out=sums[1:])
    hashes = _mixed(np.diff(sums[np.append(starts, len(values))]) * inverses[starts])
    ends = np.flatnonzero(is_letter & ~np.append(goes_on[1:], False)) + 1
    if where is not None:
        starts, ends = where[starts], where[ends - 1] + 1
    bounds = np.searchsorted(starts, offsets)
    numbers = np.repeat(np.arange(len(texts)), np.diff(np.append(bounds, len(starts))))
    return Tokens(hashes, numbers, starts, ends, joined)


def hash_ngrams(hashes: Array, n: int) -> Array:
    """Hash of each n tokens in a row."""
    num = max(0, len(hashes) - n + 1)
    total = np.zeros(num, np.uint64)
    for place in range(n):
        total += hashes[place : place + num] * _MULTIPLIERS[place]
    return _mixed(total)
