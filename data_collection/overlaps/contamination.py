"""Test questions inside other texts, found by shared n-grams of words, and of characters in Chinese and Japanese.

GPT-3 (Brown et al., 2020, appendix C) calls a text contaminated when it shares one 13-gram of words with a test set.
Half of MMedBench's questions have fewer than 13 words, and an edited word breaks thirteen 13-grams, so here the
n-grams are short and a share of a question's n-grams must stand close together. n-grams that stand in many test
questions ("which of the following is the most likely") are left out; and where a question's own words are few, its
options must follow it.
"""

from __future__ import annotations

import functools
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import FailedItems, MissingInputError
from configs.files import fingerprint
from configs.languages import language
from data_collection.overlaps.ngrams import Array, Tokens, hash_ngrams, tokenize
from data_collection.questions.mmedbench import find_files, read_questions
from data_collection.questions.question import Question

MAX_PIECE_CHARACTERS = 2**17  # texts are read in batches and pieces of about this size, so memory is bounded
PIECE_OVERLAP = 2**14  # characters; more than any question with its options
MAX_SHOWN_CHARACTERS = 2000
MAX_WINDOWS = 20
MAX_YES_NO_TOKENS = 4  # options of so few words in all are no text of a question's own


@dataclass(frozen=True)
class ContaminationRules:
    """When a text holds a test question. Lengths are in words, in Chinese and Japanese in characters.

    Attributes:
        ngram_words, ngram_characters: n; a shorter question is one n-gram as a whole.
        max_questions: n-grams in more different test questions than this belong to none of them.
        min_share: least share of a question's n-grams found within twice its length.
        long_words, long_characters: own text of this length needs no options beside `min_share`.
        medium_words, medium_characters: own text of this length needs none where `min_whole_share` is found.
        min_whole_share: see there.
        min_option_share: least share of an option's pairs of words that makes it found; half the options must be.
        whole_words, whole_characters: least length of a yes-or-no question, which must be found whole.
    """

    ngram_words: int = 3
    ngram_characters: int = 5
    max_questions: int = 3
    min_share: float = 0.5
    long_words: int = 25
    long_characters: int = 50
    medium_words: int = 13
    medium_characters: int = 25
    min_whole_share: float = 0.9
    min_option_share: float = 0.7
    whole_words: int = 4
    whole_characters: int = 8


@dataclass(frozen=True)
class Hit:
    """A test question found in a text.

    Attributes:
        question: its id.
        share: share of its n-grams that were found.
        matched: the text there, cut at `MAX_SHOWN_CHARACTERS`; its options may follow.
    """

    question: str
    share: float
    matched: str


@dataclass(frozen=True)
class _Needle:
    """A test question to look for."""

    id: str
    length: int  # tokens of the question without its options
    n: int
    num_ngrams: int
    min_found: int
    min_alone: int  # n-grams that are enough without the options
    options: tuple[Array, ...]  # pairs of tokens, or the one token, of each
    reach: int  # tokens after the question in which the options must be


class _Lookup:
    """n-grams of one n to the test questions that hold them: a bitmap to pass by most, a sorted array for the rest."""

    def __init__(self, n: int, pairs: list[tuple[int, int]]):
        self.n = n
        pairs = sorted(set(pairs))
        hashes = np.array([ngram for ngram, _ in pairs], np.uint64)
        self.questions = np.array([question for _, question in pairs], np.int64)
        self.hashes, self.firsts, self.counts = np.unique(hashes, return_index=True, return_counts=True)
        self.shift = np.uint64(64 - max(16, int(len(self.hashes) * 32).bit_length()))
        self.bitmap = np.zeros(1 << (64 - int(self.shift)), bool)
        self.bitmap[self.hashes >> self.shift] = True

    def find(self, tokens: Tokens) -> tuple[Array, Array, Array]:
        """(place of the first token, n-gram, question) of every n-gram found inside one text."""
        ngrams = hash_ngrams(tokens.hashes, self.n)
        places = np.flatnonzero(self.bitmap[ngrams >> self.shift])
        places = places[tokens.texts[places] == tokens.texts[places + self.n - 1]]
        indices = np.minimum(np.searchsorted(self.hashes, ngrams[places]), len(self.hashes) - 1)
        found = self.hashes[indices] == ngrams[places]
        places, indices = places[found], indices[found]
        counts = self.counts[indices]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return (
            np.repeat(places, counts),
            np.repeat(indices, counts),
            self.questions[np.repeat(self.firsts[indices], counts) + within],
        )


class TestQuestions:
    """A test set to look for in texts.

    Attributes:
        languages: question id to language code, of all questions of the set.
        too_short: ids of those whose text is too short to be told from chance.

    Args:
        questions: the test set.
        rules: when a text holds a question.
    """

    __test__ = False  # for pytest: no class of tests

    def __init__(self, questions: Sequence[Question], rules: ContaminationRules | None = None):
        self.rules = rules = rules or ContaminationRules()
        self.languages = {question.id: question.lang for question in questions}
        self._fingerprint = fingerprint([[q.id, q.lang, q.question, list(q.options.values())] for q in questions])
        self.too_short: list[str] = []
        stems = self._sequences([question.question for question in questions])
        by_question = [self._sequences(list(question.options.values())) for question in questions]
        ngrams, holders = [], defaultdict(set)
        for question, stem, options in zip(questions, stems, by_question, strict=True):
            spaced = language(question.lang).spaced
            n = min(rules.ngram_words if spaced else rules.ngram_characters, len(stem))
            ngrams.append((n, list(dict.fromkeys(hash_ngrams(stem, n).tolist())) if n else []))
            content = (stem.tobytes(), *sorted(option.tobytes() for option in options))
            for ngram in ngrams[-1][1]:
                holders[n, ngram].add(content)
        self._needles: list[_Needle] = []
        pairs: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for question, stem, options, (n, all_ngrams) in zip(questions, stems, by_question, ngrams, strict=True):
            own = [ngram for ngram in all_ngrams if len(holders[n, ngram]) <= rules.max_questions]
            needle = self._needle(question, len(stem), options, n, len(own), len(all_ngrams))
            if needle is None:
                self.too_short.append(question.id)
                continue
            pairs[n] += [(ngram, len(self._needles)) for ngram in own or all_ngrams]
            self._needles.append(needle)
        self._min_found = np.array([needle.min_found for needle in self._needles], np.int64)
        self._lookups = [_Lookup(n, of_length) for n, of_length in sorted(pairs.items())]

    @staticmethod
    def _sequences(texts: list[str]) -> list[Array]:
        tokens = tokenize(texts)
        bounds = np.searchsorted(tokens.texts, np.arange(len(texts) + 1))
        return [tokens.hashes[bounds[i] : bounds[i + 1]] for i in range(len(texts))]

    def _needle(
        self, question: Question, length: int, options: list[Array], n: int, num_own: int, num_all: int
    ) -> _Needle | None:
        """What to look for, given the n-grams that are the question's own; None where chance would find it."""
        rules, spaced = self.rules, language(question.lang).spaced
        num_ngrams = num_own or num_all
        own_length = num_own + n - 1 if num_own else 0
        min_found = math.ceil(rules.min_share * num_ngrams)
        if own_length >= (rules.long_words if spaced else rules.long_characters):
            return _Needle(question.id, length, n, num_ngrams, min_found, min_found, (), 0)
        options = [option for option in options if len(option)]
        num_option_tokens = sum(map(len, options))
        min_alone = num_ngrams + 1
        if own_length >= (rules.medium_words if spaced else rules.medium_characters):
            min_alone = math.ceil(rules.min_whole_share * num_ngrams)
        if num_option_tokens <= MAX_YES_NO_TOKENS:
            if num_own and length >= (rules.whole_words if spaced else rules.whole_characters):
                min_alone = min(min_alone, num_ngrams)
                return _Needle(question.id, length, n, num_ngrams, min_alone, min_alone, (), 0)
            return None
        if not num_own:  # everybody's words: nothing but all of them will do, with the options
            min_found = num_ngrams
        pairs = tuple(np.unique(hash_ngrams(option, min(2, len(option)))) for option in options)
        reach = 2 * num_option_tokens + 30
        return _Needle(question.id, length, n, num_ngrams, min_found, min_alone, pairs, reach) if length else None

    def identity(self) -> dict[str, Any]:
        """What decides about a text, JSON-able."""
        return {"rules": asdict(self.rules), "test": self._fingerprint}

    def find(self, texts: Sequence[str]) -> list[list[Hit]]:
        """The test questions in each text, those with the largest share first."""
        found: list[dict[str, Hit]] = [{} for _ in texts]
        batch: list[tuple[int, str]] = []
        size = 0
        for index, text in enumerate(texts):
            for start in range(0, max(1, len(text) - PIECE_OVERLAP), MAX_PIECE_CHARACTERS - PIECE_OVERLAP):
                batch.append((index, text[start : start + MAX_PIECE_CHARACTERS]))
                size += len(batch[-1][1])
                if size >= MAX_PIECE_CHARACTERS:
                    self._find(batch, found)
                    batch, size = [], 0
        if batch:
            self._find(batch, found)
        return [sorted(hits.values(), key=lambda hit: (-hit.share, hit.question)) for hits in found]

    def _find(self, batch: list[tuple[int, str]], found: list[dict[str, Hit]]) -> None:
        tokens = tokenize([text for _, text in batch])
        for lookup in self._lookups:
            if len(tokens.hashes) < lookup.n:
                continue
            places, ngrams, questions = lookup.find(tokens)
            texts = tokens.texts[places]
            order = np.lexsort((places, questions, texts))
            places, ngrams, questions, texts = places[order], ngrams[order], questions[order], texts[order]
            changed = (np.diff(texts, prepend=-1) != 0) | (np.diff(questions, prepend=-1) != 0)
            bounds = np.append(np.flatnonzero(changed), len(places))
            enough = np.diff(bounds) >= self._min_found[questions[bounds[:-1]]]
            for group in np.flatnonzero(enough):
                part = slice(bounds[group], bounds[group + 1])
                needle, results = self._needles[questions[part.start]], found[batch[texts[part.start]][0]]
                for num_found, start, end in _windows(places[part].tolist(), ngrams[part].tolist(), needle):
                    if num_found < needle.min_alone and not self._options_follow(tokens, start, end, needle):
                        continue
                    share = num_found / needle.num_ngrams
                    if needle.id not in results or results[needle.id].share < share:
                        first, last = int(tokens.starts[start]), int(tokens.ends[end - 1])
                        shown = tokens.joined[first : min(last, first + MAX_SHOWN_CHARACTERS)]
                        results[needle.id] = Hit(needle.id, share, shown)
                    break

    def _options_follow(self, tokens: Tokens, start: int, end: int, needle: _Needle) -> bool:
        last = min(end + needle.reach, int(np.searchsorted(tokens.texts, tokens.texts[start], "right")))
        window = tokens.hashes[start:last]
        single, pairs = set(hash_ngrams(window, 1).tolist()), set(hash_ngrams(window, 2).tolist())
        num_found = 0
        for option in needle.options:
            parts = option.tolist()
            hold = single if len(parts) == 1 and parts[0] in single else pairs
            num_found += sum(part in hold for part in parts) >= self.rules.min_option_share * len(parts)
        return 2 * num_found >= len(needle.options)


def _windows(places: list[int], ngrams: list[int], needle: _Needle) -> list[tuple[int, int, int]]:
    """Where enough of a question's n-grams stand within twice its length, as (n-grams, first, end token), best first.

    Windows overlap only where no better one does, and a text full of one question gives at most `MAX_WINDOWS`.
    """
    reach = 2 * needle.length + needle.n
    counts: Counter[int] = Counter()
    windows = []
    left = 0
    for right, ngram in enumerate(ngrams):
        counts[ngram] += 1
        while places[right] - places[left] + needle.n > reach:
            counts[ngrams[left]] -= 1
            if not counts[ngrams[left]]:
                del counts[ngrams[left]]
            left += 1
        if len(counts) >= needle.min_found:
            windows.append((len(counts), places[left], places[right] + needle.n))
    chosen: list[tuple[int, int, int]] = []
    for window in sorted(windows, key=lambda window: (-window[0], window[1])):
        if all(window[2] <= other[1] or window[1] >= other[2] for other in chosen):
            chosen.append(window)
            if len(chosen) == MAX_WINDOWS:
                break
    return chosen


def find_test_files(test: Sequence[str | Path]) -> list[Path]:
    """The files of a test set: those given, and those of folders in MMedBench's layout.

    Raises:
        MissingInputError: a file or folder does not exist or holds no test questions.
    """
    files: dict[Path, None] = {}
    for given in map(Path, test):
        if given.is_file():
            files[given] = None
        else:
            files.update(dict.fromkeys(find_files(given, "Test").values()))
    return list(files)


def read_test_questions(test: Sequence[str | Path], failed: FailedItems) -> list[Question]:
    """The usable questions of a test set; rows that cannot be used go to `failed`.

    Ids say split, language and line; where several files are of one language, file and line.

    Raises:
        MissingInputError: a file or folder does not exist or holds no usable test question.
    """
    files = find_test_files(test)
    num_files = Counter(path.stem for path in files)
    questions = [
        question if num_files[path.stem] == 1 else replace(question, id=f"{path}:{question.id.rpartition('/')[2]}")
        for path in files
        for question in read_questions(path, "Test", failed)
    ]
    if not questions:
        raise MissingInputError(
            "the test set holds no usable question",
            where=", ".join(map(str, test)),
            todo="give test questions in MMedBench's layout (data_collection/README.md)",
        )
    return questions


def question_text(question: Question) -> str:
    """A question with its options, as texts show them."""
    return "\n".join([question.question, *(f"{letter}. {text}" for letter, text in question.options.items())])


@functools.lru_cache(maxsize=1)
def load_test_questions(test: tuple[str, ...]) -> tuple[TestQuestions, FailedItems]:
    """The test set of some files, ready to look for, and its rows that cannot be used."""
    failed = FailedItems()
    return TestQuestions(read_test_questions(test, failed)), failed
