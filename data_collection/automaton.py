"""One native pass for many patterns over the UTF-8 bytes of an Arrow column (Aho and Corasick, CACM 18(6), 1975).

The automaton's alphabet is not characters but classes of them, so that a table of classes does what normalising the
text would do: characters that a search takes for one another share a class. The transitions of all states lie in one
table, each in the gaps that others leave, with a note of their owner (Tarjan and Yao, CACM 22(11), 1979): a table of
states times classes takes 40 MB for the Chinese list, and waits for memory make it slower.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numba import njit

NUM_CODE_POINTS = 0x110000
# Classes that every automaton has; those of the patterns' own characters follow.
SKIPPED = 0  # as if the character were not there
RARE = 1  # skipped too, and the text is flagged: only real normalisation does it justice
SPACE = 2  # several in a row are one
OTHER_JOINING = 3  # in no pattern; makes a word with a letter beside it
OTHER = 4  # in no pattern; parts words
FIRST_OWN = 5


class Automaton(NamedTuple):
    """Tables of a compiled set of patterns.

    A state is `base << 2 | joined << 1 | final`: its transitions lie in `table` from `base` on, `joined` tells whether
    the last character joins the next one into a word, `final` that patterns end here.

    Attributes:
        classes: class of each code point, int16.
        joining: for each class, whether its characters join into words.
        roots: for each class the next state without a prefix, first after a character that parts words, then after one
            that joins them; it holds for every state that has no transition of its own.
        table: transitions, each `owner << 32 | next`, int64.
        start: the state at the start of a text.
        first_output: for each base, where its list of outputs begins.
        output_pattern: numbers of patterns; -1 ends a list.
        output_length: their lengths in characters.
        output_bound: whether the pattern must not be followed by a joining character.
        num_patterns: how many numbers there are.
        max_length: of the longest pattern.
    """

    classes: np.ndarray
    joining: np.ndarray
    roots: np.ndarray
    table: np.ndarray
    start: int
    first_output: np.ndarray
    output_pattern: np.ndarray
    output_length: np.ndarray
    output_bound: np.ndarray
    num_patterns: int
    max_length: int


def compile_patterns(
    patterns: Iterable[tuple[Sequence[int], int]], classes: np.ndarray, joining: np.ndarray
) -> Automaton:
    """Build the automaton.

    Args:
        patterns: (classes of the characters, number) of each; several patterns may share a number, and of two that
            read the same the first one counts.
        classes: class of each of the 1,114,112 code points.
        joining: for each class, whether its characters join into words. A pattern that begins (ends) with such a
            character is not found after (before) another one.
    """
    joins = [bool(value) for value in joining]
    num_classes = len(joins)
    # Nodes 0 and 1 are the empty prefix, after a character that parts words and after one that joins them.
    children: list[dict[int, int]] = [{}, {}]
    last = [OTHER, OTHER_JOINING]
    ends: list[list[tuple[int, int, bool]]] = [[], []]  # (number, length, bound)
    for pattern, number in patterns:
        node = 0
        for symbol in pattern:
            if symbol not in children[node]:
                children[node][symbol] = len(children)
                children.append({})
                last.append(symbol)
                ends.append([])
            node = children[node][symbol]
        ends[node] = ends[node] or [(number, len(pattern), joins[pattern[-1]])]

    def from_root(after_word: bool, symbol: int) -> int:
        """The node that a character leads to without a prefix: inside a word only a sign can begin a pattern."""
        if symbol in children[0] and not (after_word and joins[symbol]):
            return children[0][symbol]
        return int(joins[symbol])

    rows: list[dict[int, int]] = [{} for _ in children]  # transitions that differ from those without a prefix
    queue = [(child, int(joins[symbol])) for symbol, child in children[0].items()]
    for node, shorter in queue:  # breadth first; `shorter` is the longest suffix that can begin a pattern where it is
        ends[node] = ends[node] + ends[shorter]
        for symbol, child in children[node].items():
            queue.append((child, rows[shorter].get(symbol, from_root(joins[last[shorter]], symbol))))
        rows[node] = {**rows[shorter], **children[node]}
        if last[node] == SPACE:
            rows[node][SPACE] = node

    order = sorted(range(len(rows)), key=lambda node: -len(rows[node]))
    symbols = np.array([symbol for node in order for symbol in rows[node]], np.int64)
    bases = np.zeros(len(rows), np.int64)
    bases[order], table_size = _place(np.cumsum([0, *(len(rows[node]) for node in order)]), symbols, num_classes)
    final = np.array([bool(found) for found in ends], np.int64)
    states = bases << 2 | np.array([joins[symbol] for symbol in last], np.int64) << 1 | final
    owners = np.repeat(np.array(order), [len(rows[node]) for node in order])
    following = np.array([node for owner in order for node in rows[owner].values()], np.int64)
    table = np.full(table_size, -1, np.int64)
    table[bases[owners] + symbols] = states[owners] << 32 | states[following]
    roots = [from_root(after_word, symbol) for after_word in (False, True) for symbol in range(num_classes)]
    finals = np.flatnonzero(final)
    first_output = np.zeros(table_size, np.int64)
    first_output[bases[finals]] = np.cumsum([0, *(len(ends[node]) + 1 for node in finals)])[:-1]
    outputs = [output for node in finals for output in (*ends[node], (-1, 0, False))] or [(-1, 0, False)]
    number, length, bound = (np.array(column) for column in zip(*outputs, strict=True))
    return Automaton(
        classes=classes,
        joining=joining,
        roots=states[roots],
        table=table,
        start=int(states[0]),
        first_output=first_output,
        output_pattern=number,
        output_length=length,
        output_bound=bound,
        num_patterns=1 + int(number.max()),
        max_length=int(length.max()),
    )


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


@njit(inline="always")
def _decode(data, position, end):
    """The code point at `position` and where the next one starts; never reads at or after `end`, whatever the bytes."""
    byte = np.int64(data[position])
    if byte < 0x80:
        return byte, position + 1
    if byte < 0xE0:
        if position + 2 > end:
            return np.int64(0xFFFD), end
        return (byte & 0x1F) << 6 | np.int64(data[position + 1]) & 0x3F, position + 2
    if byte < 0xF0:
        if position + 3 > end:
            return np.int64(0xFFFD), end
        middle = (np.int64(data[position + 1]) & 0x3F) << 6
        return (byte & 0x0F) << 12 | middle | np.int64(data[position + 2]) & 0x3F, position + 3
    if position + 4 > end:
        return np.int64(0xFFFD), end
    middle = (np.int64(data[position + 1]) & 0x3F) << 12 | (np.int64(data[position + 2]) & 0x3F) << 6
    point = (byte & 0x07) << 18 | middle | np.int64(data[position + 3]) & 0x3F
    return min(point, np.int64(NUM_CODE_POINTS - 1)), position + 4


@njit(cache=True, nogil=True)
def scan(automaton, data, offsets, wanted, num_found, num_covered, num_characters, rare, spans):
    """Find all patterns in each text.

    Args:
        automaton: of `compile_patterns`.
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
    classes, joining, table = automaton.classes, automaton.joining, automaton.table
    roots_parted, roots_joined = automaton.roots[: len(joining)], automaton.roots[len(joining) :]
    seen_in = np.full(automaton.num_patterns, -1, np.int64)
    # Covered stretches within reach of another match, in a ring: stretches are apart, so these are enough.
    size = np.int64(automaton.max_length + 2)
    stretch_start, stretch_end = np.zeros(size, np.int64), np.zeros(size, np.int64)
    num_spans = 0
    for row in range(len(offsets) - 1):
        if not wanted[row]:
            continue
        position, end = offsets[row], offsets[row + 1]
        state, previous = np.int64(automaton.start), np.int64(OTHER)
        count, covered, found, flagged = np.int64(0), np.int64(0), 0, False
        newest, num_stretches = np.int64(0), np.int64(0)
        while position < end:
            point, position = _decode(data, position, end)
            symbol = np.int64(classes[point])
            if symbol <= RARE:
                flagged |= symbol == RARE
                continue
            count += 1 - ((symbol == SPACE) & (previous == SPACE))
            previous = symbol
            own = table[(state >> 2) + symbol]
            parted, joined = roots_parted[symbol], roots_joined[symbol]
            state = own & 0xFFFFFFFF if own >> 32 == state else joined if state & 2 else parted
            if not state & 1:
                continue
            ahead, joins = position, False
            while ahead < end:
                point, ahead = _decode(data, ahead, end)
                symbol = np.int64(classes[point])
                if symbol > RARE:
                    joins = joining[symbol]
                    break
            output = automaton.first_output[state >> 2]
            longest = np.int64(0)
            while automaton.output_pattern[output] >= 0:
                if not (joins and automaton.output_bound[output]):
                    pattern, length = automaton.output_pattern[output], np.int64(automaton.output_length[output])
                    longest = max(longest, length)
                    if seen_in[pattern] != row:
                        seen_in[pattern] = row
                        found += 1
                    if num_spans < len(spans):
                        spans[num_spans, 0], spans[num_spans, 1] = pattern, count - length
                        spans[num_spans, 2] = count
                        num_spans += 1
                output += 1
            if longest:
                first = count - longest
                while num_stretches > 0 and stretch_end[newest] >= first:
                    first = min(first, stretch_start[newest])
                    covered -= stretch_end[newest] - stretch_start[newest]
                    newest = newest - 1 if newest else size - 1
                    num_stretches -= 1
                newest = newest + 1 if newest + 1 < size else np.int64(0)
                num_stretches = min(num_stretches + 1, size)
                stretch_start[newest], stretch_end[newest] = first, count
                covered += count - first
        num_found[row], num_covered[row], num_characters[row], rare[row] = found, covered, count, flagged
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
