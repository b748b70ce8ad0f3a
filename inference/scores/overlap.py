"""BLEU and ROUGE of one candidate against one reference, both given as words.

A pair is counted once (`overlap`), and every score is a formula over the counts. Unsmoothed sentence BLEU as nltk's
`sentence_bleu` and F measures as rouge-score's, with one exception to both: an order above the number of words of the
reference is lowered to it, so that a text of two words is 1 to itself in BLEU-4 too (nltk and rouge-score say 0).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

MAX_ORDER = 4


@dataclass(frozen=True, slots=True)
class Overlap:
    """What a candidate and its reference have in common.

    Attributes:
        num_reference, num_candidate: words.
        matches: of each order from 1 to MAX_ORDER the n-grams of the candidate that the reference has, each counted at
            most as often as there ("clipped", Papineni et al. 2002, section 2.1).
        common_subsequence: words of the longest common subsequence (Lin 2004, section 3).
    """

    num_reference: int
    num_candidate: int
    matches: tuple[int, ...]
    common_subsequence: int

    def totals(self) -> tuple[int, ...]:
        """The candidate's n-grams of each order."""
        return tuple(max(0, self.num_candidate - order) for order in range(MAX_ORDER))

    def bleu(self, order: int) -> float:
        """Sentence BLEU of orders 1 to `order` with equal weights and brevity penalty, unsmoothed; 0 to 1."""
        order = min(order, self.num_reference)
        matches = self.matches[:order]
        if not matches or not all(matches):
            return 0.0
        logs = [math.log(match / (self.num_candidate - n)) for n, match in enumerate(matches)]
        shortage = min(0.0, 1 - self.num_reference / self.num_candidate)
        return math.exp(math.fsum(logs) / order + shortage)

    def rouge(self, order: int) -> float:
        """F measure of ROUGE-`order`, 0 to 1."""
        order = min(order, self.num_reference)
        return self._f(self.matches[order - 1], order - 1) if order else 0.0

    def rouge_l(self) -> float:
        """F measure of ROUGE-L over the whole text as one sequence, 0 to 1."""
        return self._f(self.common_subsequence, 0)

    def _f(self, common: int, shorter_by: int) -> float:
        # 2 P R / (P + R) with P = common / candidate's n-grams and R = common / reference's.
        return 2 * common / (self.num_candidate + self.num_reference - 2 * shorter_by) if common else 0.0


def overlap(reference: Sequence[str], candidate: Sequence[str]) -> Overlap:
    """Count what two texts, given as words, have in common."""
    matches = tuple(_clipped_matches(reference, candidate, order) for order in range(1, MAX_ORDER + 1))
    common = _common_subsequence(reference, candidate) if matches[0] else 0
    return Overlap(len(reference), len(candidate), matches, common)


def _clipped_matches(reference: Sequence[str], candidate: Sequence[str], order: int) -> int:
    wanted, given = (
        Counter(words if order == 1 else zip(*(words[start:] for start in range(order)), strict=False))
        for words in (reference, candidate)
    )
    return sum(min(wanted[gram], given[gram]) for gram in wanted.keys() & given.keys())


def _common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence, a row of the usual table at a time as the bits of one integer.

    Bit i of `row` is 0 where the table grows from column i to i + 1 (Crochemore et al. 2001, as in Hyyrö 2004). An
    addition carries upwards only, so bits above the last column need no clearing before the end.
    """
    places: dict[str, int] = {}
    for place, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << place
    row = columns = (1 << len(first)) - 1
    for word in second:
        if found := places.get(word):
            grown = row & found
            row = (row + grown) | (row - grown)
    return len(first) - (row & columns).bit_count()
