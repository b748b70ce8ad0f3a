"""Shingles and MinHash signatures of texts, compiled with numba: integers only, so every machine gets the same.

A shingle is five words in a row, or five characters in languages that write without spaces. Case and width are folded
a character at a time by a table, which is many times faster than `str.lower` and NFKC of the whole text.
"""

from __future__ import annotations

import functools
import math
import re
import unicodedata
from typing import NamedTuple

import numba
import numpy as np

SHINGLE_SIZE = 5
NUM_BANDS = 16
MAX_ROWS = 32
MIN_BAND_CHANCE = 0.989  # that two documents exactly as similar as the threshold share a band
TABLE_SIZE = 0x20000  # planes 0 and 1; what lies above are ideographs
SPACE, WORD, FOLDED = np.uint32(1 << 31), np.uint32(1 << 30), np.uint32(0x1FFFFF)
FNV_PRIME, FNV_START = np.uint64(0x100000001B3), np.uint64(0xCBF29CE484222325)
SECOND_PRIME, SECOND_START = np.uint64(0x9E3779B97F4A7C15), np.uint64(0x6C62272E07BB0142)
MIX_A, MIX_B = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


class Shingles(NamedTuple):
    """What one reading of a text gives.

    Attributes:
        hashes: the different shingles as 32-bit hashes, sorted; empty when the text is shorter than one shingle.
        length: characters of the normalised text.
        digest: two 64-bit hashes of the normalised text; equal for exact duplicates.
    """

    hashes: np.ndarray
    length: int
    digest: tuple[int, int]


def rows_per_band(min_similarity: float) -> int:
    """MinHash values a band: as many as leave a pair of just `min_similarity` `MIN_BAND_CHANCE` to share a band.

    More rows mean fewer pairs to verify; above `MAX_ROWS` (similarities from .96 on) they cost more than they save. A
    pair of Jaccard similarity s shares a band with probability 1 - (1 - s^rows)^bands (Leskovec, Rajaraman, Ullman,
    "Mining of Massive Datasets", section 3.4).
    """
    needed = 1 - (1 - MIN_BAND_CHANCE) ** (1 / NUM_BANDS)
    wanted = math.log(needed) / math.log(min_similarity) if min_similarity < 1 else math.inf
    return int(max(1, min(wanted, MAX_ROWS)))


@functools.cache
def character_table() -> np.ndarray:
    """For each character its folded form and whether it is white space or part of a word; 0 is passed over.

    Folded are width (NFKC, where that is one character) and case. Letters, digits and the marks that scripts such as
    Devanagari write vowels with are parts of words; invisible format characters are passed over.
    """
    table = np.zeros(TABLE_SIZE, np.uint32)
    for code in range(TABLE_SIZE):
        character = chr(code)
        category = unicodedata.category(character)
        if character.isspace() or category == "Cc":
            table[code] = SPACE
        elif category not in ("Cf", "Cs", "Cn"):
            wide = unicodedata.normalize("NFKC", character)
            folded = wide if len(wide) == 1 else character
            folded = folded.lower() if len(folded.lower()) == 1 else folded
            table[code] = ord(folded) | (WORD if category[0] in "LMN" else 0)
    return table


@numba.njit(cache=True)
def _mix(value):
    """The finaliser of SplitMix64 (Steele, Lea, Flood, 2014): every bit of the input moves every bit of the output."""
    value = (value ^ (value >> np.uint64(30))) * MIX_A
    value = (value ^ (value >> np.uint64(27))) * MIX_B
    return value ^ (value >> np.uint64(31))


@numba.njit(cache=True)
def _read(data, table, spaced, out):
    """Hashes of all shingles of UTF-8 `data` into `out`; (number of them, characters, two hashes of the whole)."""
    recent = np.zeros(SHINGLE_SIZE, np.uint64)  # the last units (words or characters), a ring
    num_units, num_out, length, at = 0, 0, 0, 0
    first, second, word = FNV_START, SECOND_START, FNV_START
    in_word, after_space = False, False
    size = len(data)
    while at <= size:
        code = np.uint32(32)
        if at < size:
            byte = np.uint32(data[at])
            if byte < 0x80:
                code, width = byte, 1
            elif byte < 0xE0:
                code, width = ((byte & np.uint32(0x1F)) << np.uint32(6)), 2
            elif byte < 0xF0:
                code, width = ((byte & np.uint32(0x0F)) << np.uint32(12)), 3
            else:
                code, width = ((byte & np.uint32(0x07)) << np.uint32(18)), 4
            for step in range(1, width):
                part = np.uint32(data[at + step]) & np.uint32(0x3F)
                code |= part << np.uint32(6 * (width - 1 - step))
            at += width
        else:
            at += 1  # a space after the end closes the last word
        entry = table[code] if code < TABLE_SIZE else code | WORD
        if entry == 0:
            continue
        is_word = (entry & WORD) != 0
        unit = np.uint64(0)
        unit_done = False
        if in_word and not is_word:
            unit, unit_done, in_word = word, True, False
        if (entry & SPACE) != 0:
            after_space = True
        else:
            character = np.uint64(entry & FOLDED)
            if after_space and length:
                first = (first ^ np.uint64(32)) * FNV_PRIME
                second = (second + np.uint64(32)) * SECOND_PRIME
                length += 1
            after_space = False
            first = (first ^ character) * FNV_PRIME
            second = (second + character) * SECOND_PRIME
            length += 1
            if is_word and spaced:
                word = ((word if in_word else FNV_START) ^ character) * FNV_PRIME
                in_word = True
            elif is_word:
                unit, unit_done = character + np.uint64(1), True
        if unit_done:
            recent[num_units % SHINGLE_SIZE] = _mix(unit)
            num_units += 1
            if num_units >= SHINGLE_SIZE:
                shingle = np.uint64(0)
                for step in range(SHINGLE_SIZE):
                    shingle = shingle * SECOND_PRIME + recent[(num_units + step) % SHINGLE_SIZE]
                out[num_out] = np.uint32(_mix(shingle) >> np.uint64(32))
                num_out += 1
    return num_out, length, _mix(first), _mix(second)


@numba.njit(cache=True)
def _unique(values):
    """Move the different values of a sorted array to its front; how many there are."""
    count = 0
    for at in range(len(values)):
        if count == 0 or values[at] != values[count - 1]:
            values[count] = values[at]
            count += 1
    return count


_HALF_WIDTH_KANA = re.compile("[\uff61-\uff9f]+")  # with their voicing marks two characters are one


def read_shingles(text: str, spaced: bool) -> Shingles:
    """The shingles of a text: words where `spaced`, else characters (letters and digits only, spaces left out)."""
    if not text.isascii():
        text = _HALF_WIDTH_KANA.sub(lambda found: unicodedata.normalize("NFKC", found[0]), text)
    if not text.isascii() and not unicodedata.is_normalized("NFC", text):
        text = unicodedata.normalize("NFC", text)  # é written as e and an accent
    data = np.frombuffer(text.encode("utf-8", errors="replace"), np.uint8)
    out = np.empty(len(data) // 2 + 1 if spaced else len(data), np.uint32)
    count, length, first, second = _read(data, character_table(), spaced, out)
    hashes = np.sort(out[:count])
    return Shingles(hashes[: _unique(hashes)], length, (int(first), int(second)))


@functools.cache
def permutations(num_values: int) -> tuple[np.ndarray, np.ndarray]:
    """Factors (odd) and terms of the permutations of 32-bit hashes, the same on every machine."""
    drawn = [_splitmix(number) for number in range(2 * num_values)]
    return np.array([d | 1 for d in drawn[:num_values]], np.uint32), np.array(drawn[num_values:], np.uint32)


def _splitmix(number: int) -> int:
    return int(_mix(np.uint64((number + 1) * 0x9E3779B97F4A7C15 & (2**64 - 1)))) >> 32


@numba.njit(cache=True)
def _minima(hashes, factors, terms):
    """MinHash (Broder, 1997): of each permutation of the hashes, the least value."""
    least = np.full(len(factors), np.uint32(0xFFFFFFFF), np.uint32)
    for value in hashes:
        for index in range(len(factors)):
            permuted = np.uint32(value * factors[index] + terms[index])
            least[index] = min(least[index], permuted)
    return least


@numba.njit(cache=True)
def _bands(least, num_bands):
    """One 64-bit hash a band; the band's number is in it, so that different bands never meet."""
    rows = len(least) // num_bands
    hashes = np.empty(num_bands, np.uint64)
    for band in range(num_bands):
        value = np.uint64(band)
        for row in range(rows):
            value = _mix(value * SECOND_PRIME + np.uint64(least[band * rows + row]) + np.uint64(1))
        hashes[band] = value
    return hashes


def signature(hashes: np.ndarray, num_values: int) -> np.ndarray:
    """The MinHash values (uint32) of shingles: the share of places in which two agree estimates their Jaccard."""
    return _minima(hashes, *permutations(num_values))


def band_hashes(hashes: np.ndarray, rows: int) -> np.ndarray:
    """`NUM_BANDS` hashes (uint64) of the signature of `NUM_BANDS * rows` values; equal ones make a candidate pair."""
    return _bands(signature(hashes, NUM_BANDS * rows), NUM_BANDS)


@numba.njit(cache=True)
def jaccard(left, right):
    """The Jaccard similarity of two sorted arrays of different values: shared values over all values."""
    shared, at, other = 0, 0, 0
    while at < len(left) and other < len(right):
        if left[at] == right[other]:
            shared += 1
            at += 1
            other += 1
        elif left[at] < right[other]:
            at += 1
        else:
            other += 1
    total = len(left) + len(right) - shared
    return shared / total if total else 0.0
