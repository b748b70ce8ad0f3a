"""One native pass for many patterns over the UTF-8 bytes of an Arrow column.

Three steps a text, each over memory that the one before left in the cache:

1. Folding: each character becomes its class. Characters that a search takes for one another share a class, so a table
   of classes does what normalising the text would do.
2. Places where a pattern can begin: not inside a word, and by a hash of the next few classes. Few places of a text
   pass, and no step of this waits for the one before or for a branch that was guessed wrong.
3. From each of these a walk down a trie, whose transitions lie in one table, each in the gaps that others leave (Tarjan
   and Yao, CACM 22(11), 1979).

An Aho-Corasick automaton reads every character once, but must wait for a table larger than the nearest cache at each:
on the shipped lists it is about half as fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit

NUM_CODE_POINTS = 0x110000
# Classes that every trie has; those of the patterns' own characters follow.
SKIPPED = 0  # as if the character were not there
RARE = 1  # skipped too, and the text is flagged: only real normalisation does it justice
SPACE = 2  # several in a row are one
OTHER = 3  # in no pattern; parts words
FIRST_OWN = 4
# The hash of the classes at a place: the more of them, the fewer places pass that no pattern begins at.
_HASH_BITS = 20
_WINDOW_ALPHABET, _WINDOW_CHARACTERS = 4, 2  # for lists written in an alphabet, and in thousands of characters
_BLOCK = 1 << 14  # classes looked at together, which with their places stay in the nearer caches


class Trie(NamedTuple):
    """Tables of a compiled set of patterns.

    A state is the place in `table` from which its transitions are counted.

    Attributes:
        classes: class of each code point, uint16.
        first_joining: classes from here on are of characters that join into words.
        window: how many classes are hashed.
        begins: bits, by hash, of the windows at which a pattern may begin.
        table: transitions, each `owner << 32 | next << 1 | final`, int64; final where a pattern ends.
        root: the state of the empty prefix.
        pattern_at: for each state, the number of the pattern that ends there.
        num_patterns: how many numbers there are.
        margin: how many classes from a place on decide what is found there.
    """

    classes: np.ndarray
    first_joining: int
    window: int
    begins: np.ndarray
    table: np.ndarray
    root: int
    pattern_at: np.ndarray
    num_patterns: int
    margin: int


def compile_patterns(
    patterns: Sequence[tuple[Sequence[int], int]], classes: np.ndarray, first_joining: int, num_classes: int
) -> Trie:
    """Build the trie.

    Args:
        patterns: (classes of the characters, number) of each; several patterns may share a number, and of two that
            read the same the first one counts.
        classes: class of each of the 1,114,112 code points, uint16.
        first_joining: classes from here on are of characters that join into words. A pattern that begins (ends) with
            such a character is not found after (before) another one.
        num_classes: how many classes there are.
    """
    children: list[dict[int, int]] = [{}]
    number_at = [-1]
    for pattern, number in patterns:
        node = 0
        for symbol in pattern:
            if symbol not in children[node]:
                children[node][symbol] = len(children)
                children.append({})
                number_at.append(-1)
            node = children[node][symbol]
        if number_at[node] < 0:
            number_at[node] = number
    order = sorted(range(len(children)), key=lambda node: -len(children[node]))
    sizes = [len(children[node]) for node in order]
    symbols = np.array([symbol for node in order for symbol in children[node]], np.int64)
    states = np.zeros(len(children), np.int64)
    states[order], table_size = _place(np.cumsum([0, *sizes]), symbols, num_classes)
    owners = states[np.repeat(order, sizes)]
    following = np.array([child for node in order for child in children[node].values()], np.int64)
    final = np.array(number_at) >= 0
    table = np.full(table_size, -1, np.int64)
    table[owners + symbols] = owners << 32 | states[following] << 1 | final[following]
    pattern_at = np.full(table_size, -1, np.int32)
    pattern_at[states] = number_at
    window = _WINDOW_ALPHABET if num_classes < 256 else _WINDOW_CHARACTERS
    beginnings = {tuple(pattern[:window]) for pattern, _ in patterns}
    return Trie(
        classes=classes,
        first_joining=first_joining,
        window=window,
        begins=_hashed(beginnings, window, first_joining, num_classes),
        table=table,
        root=int(states[0]),
        pattern_at=pattern_at,
        num_patterns=1 + max(number_at),
        margin=window + max(len(pattern) for pattern, _ in patterns),
    )


def _hashed(beginnings: set[tuple[int, ...]], window: int, first_joining: int, num_classes: int) -> np.ndarray:
    """A bit for each hash of `_places`, set where the window may hold one of the beginnings."""
    shift = _HASH_BITS // window
    passes = np.zeros(1 << _HASH_BITS, np.bool_)
    for begin in beginnings:
        parted = range(first_joining) if len(begin) < window and begin[-1] >= first_joining else None
        for symbols in [begin] if parted is None else [(*begin, symbol) for symbol in parted]:
            value = 0
            for symbol in symbols:
                value = value << shift ^ symbol
            num_free = window - len(symbols)  # classes behind that may be any
            value = value << shift * num_free & (1 << shift * window) - 1
            width = 1 << (shift * (num_free - 1) + max(shift, num_classes.bit_length()) if num_free else 0)
            passes[value // width * width : (value // width + 1) * width] = True
    return np.packbits(passes, bitorder="little")


_LOOK_BACK = 256


@njit(cache=True)
def _place(starts, symbols, num_classes):
    """A base for each row, no two alike, such that no two rows want the same place of the table; and its size.

    Row i holds `symbols[starts[i] : starts[i + 1]]`; the fullest rows come first.
    """
    num_rows = len(starts) - 1
    taken = np.zeros(2 * (len(symbols) + num_rows + num_classes), np.bool_)
    owned = np.zeros(len(taken), np.bool_)
    bases = np.empty(num_rows, np.int64)
    previous_size, highest, floor = np.int64(-1), np.int64(0), np.int64(0)
    for row in range(num_rows):
        start, end = starts[row], starts[row + 1]
        if end - start != previous_size:  # smaller rows may fit into gaps from the beginning on
            previous_size, floor = end - start, np.int64(0)
        # Looking again through all that earlier rows of this size left would take the square of their number.
        base = max(np.int64(0), floor - _LOOK_BACK) if end > start else floor
        while True:
            if base + num_classes >= len(taken):
                taken = np.concatenate((taken, np.zeros(len(taken), np.bool_)))
                owned = np.concatenate((owned, np.zeros(len(owned), np.bool_)))
            free = not owned[base]
            for place in range(start, end):
                free = free and not taken[base + symbols[place]]
            if free:
                break
            base += 1
        owned[base] = True
        for place in range(start, end):
            taken[base + symbols[place]] = True
        bases[row] = floor = base
        highest = max(highest, base)
    return bases, highest + num_classes


# Indices are cast to unsigned where numba cannot see that they are not negative: it would look for that at each access.
_index = np.uintp


@njit(inline="always")
def _decode(data, position, end):
    """The code point at `position` and where the next one starts; never reads at or after `end`, whatever the bytes."""
    byte = np.int64(data[_index(position)])
    if byte < 0x80:
        return byte, position + 1
    if byte < 0xE0:
        if position + 2 > end:
            return np.int64(0xFFFD), end
        return (byte & 0x1F) << 6 | np.int64(data[_index(position + 1)]) & 0x3F, position + 2
    if byte < 0xF0:
        if position + 3 > end:
            return np.int64(0xFFFD), end
        middle = (np.int64(data[_index(position + 1)]) & 0x3F) << 6
        return (byte & 0x0F) << 12 | middle | np.int64(data[_index(position + 2)]) & 0x3F, position + 3
    if position + 4 > end:
        return np.int64(0xFFFD), end
    middle = (np.int64(data[_index(position + 1)]) & 0x3F) << 12 | (np.int64(data[_index(position + 2)]) & 0x3F) << 6
    point = (byte & 0x07) << 18 | middle | np.int64(data[_index(position + 3)]) & 0x3F
    return min(point, np.int64(NUM_CODE_POINTS - 1)), position + 4


@njit(cache=True, nogil=True)
def _fold(data, position, end, classes, symbols, count, limit):
    """Append the classes of characters to the `count` ones in `symbols` until there are `limit`, or the text ends.

    Returns:
        where in `data` the next character is, how many classes there are, and whether one was RARE
    """
    previous, rare = np.int64(symbols[count - 1]), False
    while position < end and count < limit:
        byte = np.int64(data[_index(position)])
        if byte < 0x80:  # none of these is skipped
            symbol = np.int64(classes[_index(byte)])
            position += 1
            symbols[_index(count)] = symbol
            count += np.int64((symbol != SPACE) | (previous != SPACE))
            previous = symbol
        else:
            point, position = _decode(data, position, end)
            symbol = np.int64(classes[_index(point)])
            symbols[_index(count)] = symbol
            rare |= symbol == RARE
            shown = symbol > RARE
            count += np.int64(shown & ((symbol != SPACE) | (previous != SPACE)))
            previous = symbol if shown else previous
    return position, count, rare


@njit(cache=True, nogil=True)
def _places(symbols, end, trie, places):
    """Write where from 1 to `end` (exclusive) a pattern may begin to `places`; return how many such places there are.

    Branches would be guessed wrong at every other word, so each place is written, and counted if it was one.
    """
    first_joining, window, begins = trie.first_joining, trie.window, trie.begins
    shift = np.int64(_HASH_BITS // window)
    mask = (np.int64(1) << shift * window) - 1
    num_outside, joined = np.int64(0), np.int64(symbols[0] >= first_joining)
    for place in range(1, end):
        joins = np.int64(symbols[place] >= first_joining)
        places[_index(num_outside)] = place
        num_outside += 1 - (joins & joined)
        joined = joins
    num_places = np.int64(0)
    for index in range(num_outside):
        place = np.int64(places[index])
        value = np.int64(0)
        for ahead in range(window):
            value = value << shift ^ np.int64(symbols[_index(place + ahead)])
        value &= mask
        places[_index(num_places)] = place
        num_places += np.int64(begins[_index(value >> 3)] >> (value & 7) & 1)
    return num_places


@njit(cache=True, nogil=True)
def scan(trie, data, offsets, wanted, num_found, num_covered, num_characters, rare, spans):
    """Find all patterns in each text.

    Args:
        trie: of `compile_patterns`.
        data: the texts' UTF-8 bytes, one after the other.
        offsets: int64, where each text begins in `data`, and the end of the last one.
        wanted: which texts to look at; the others' results are left as they are.
        num_found: takes the number of distinct patterns of each text.
        num_covered: takes how many of its characters lie in patterns, each counted once.
        num_characters: takes its number of characters, as the classes count them.
        rare: takes whether it has characters of class RARE.
        spans: int64 (n, 3), takes (pattern, first character, end) of the first n matches; for none give n = 0.

    Returns:
        how many spans were written.
    """
    table, pattern_at, first_joining = trie.table, trie.pattern_at, trie.first_joining
    symbols = np.empty(_BLOCK + 2 * trie.margin, np.uint16)
    places = np.empty(len(symbols), np.int32)
    seen_in = np.full(trie.num_patterns, -1, np.int32)
    num_spans = 0
    for row in range(len(offsets) - 1):
        if not wanted[row]:
            continue
        position, text_end, flagged = offsets[row], offsets[row + 1], False
        found, covered, reached = np.int64(0), np.int64(0), np.int64(0)
        symbols[0] = OTHER  # the class before the first one of a block
        before, count = np.int64(-1), np.int64(1)  # its place in the text, and how many classes there are with it
        while True:
            position, count, some = _fold(data, position, text_end, trie.classes, symbols, count, _BLOCK + trie.margin)
            flagged |= some
            symbols[count : count + trie.margin] = SKIPPED
            block_end = count if position >= text_end else count - trie.margin
            for index in range(_places(symbols, block_end, trie, places)):
                first = np.int64(places[index])
                place, end, state = first, np.int64(0), np.int64(trie.root)
                while True:
                    symbol = np.int64(symbols[_index(place)])
                    entry = table[_index(state + symbol)]
                    if entry >> 32 != state:
                        break
                    state = (entry & 0xFFFFFFFF) >> 1
                    place += 1
                    if entry & 1 and (symbol < first_joining or symbols[_index(place)] < first_joining):
                        end = before + place
                        pattern = np.int64(pattern_at[_index(state)])
                        found += np.int64(seen_in[_index(pattern)] != row)
                        seen_in[_index(pattern)] = row
                        if num_spans < len(spans):
                            spans[num_spans, 0], spans[num_spans, 1] = pattern, before + first
                            spans[num_spans, 2] = end
                            num_spans += 1
                if end > reached:
                    covered += end - max(before + first, reached)
                    reached = end
            if position >= text_end:
                break
            count -= block_end - 1
            symbols[:count] = symbols[block_end - 1 : block_end - 1 + count]
            before += block_end - 1
        num_found[row], num_covered[row], rare[row] = found, covered, flagged
        num_characters[row] = before + count
    return num_spans


@njit(cache=True, nogil=True)
def count_letters(data, offsets, letters, limit, counts):
    """Count each text's code points for which the table `letters` is true, up to `limit`, into `counts`."""
    for row in range(len(offsets) - 1):
        position, end = offsets[row], offsets[row + 1]
        count = 0
        while position < end and count < limit:
            point, position = _decode(data, position, end)
            count += letters[point]
        counts[row] = count
