"""Test questions inside other texts, found by shared n-grams of words, and of characters in Chinese and Japanese.

GPT-3 (Brown et al., 2020, appendix C) calls a text contaminated when it shares one 13-gram of words with a test set.
Half of MMedBench's questions have fewer than 13 words, and an edited word breaks thirteen 13-grams, so here the
n-grams are short and a share of a question's n-grams must stand close together. n-grams that stand in many test
questions ("which of the following is the most likely") are left out; and where a question's own words are few, its
options must follow it.
"""

from __future__ import annotations

import functools
import html
import json
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.errors import FailedItems, MissingInputError
from configs.files import atomic_open, fingerprint
from configs.languages import language
from data_collection.documents import DocumentWriter, Shard, read_batches
from data_collection.jobs import ShardJob, shard_files
from data_collection.questions.mmedbench import find_files, read_questions
from data_collection.questions.question import Question

MAX_PIECE_CHARACTERS = 2**17  # texts are read in batches and pieces of about this size, so memory is bounded
PIECE_OVERLAP = 2**14  # characters; more than any question with its options
MAX_SHOWN_CHARACTERS = 2000
MAX_WINDOWS = 20
MAX_REPORTED_CHARACTERS = 300
REASON = "contaminated"
REJECTED_COLUMNS = (
    pa.field("reason", pa.string()),
    pa.field("question", pa.string()),
    pa.field("share", pa.float32()),
    pa.field("matched", pa.string()),
    pa.field("other_hits", pa.string()),  # JSON list of the other questions found, in the same form
)
MAX_YES_NO_TOKENS = 4  # options of so few words in all are no text of a question's own

_SEPARATOR, _DROPPED, _EXPANDED = 0, 2**29, 2**29 + 1
_ALONE = 2**30  # flag of characters that are a token each: Chinese characters and kana
_ALONE_RANGES = ((0x3005, 0x3007), (0x3040, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF))
_NUM_MULTIPLIERS = 64
_MULTIPLIERS = np.random.default_rng(0).integers(2**63, size=_NUM_MULTIPLIERS, dtype=np.uint64) * 2 + 1
Array = np.ndarray


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


@functools.cache
def _characters() -> tuple[Array, dict[int, str]]:
    """(code point to what it counts as, the code points that count as several with their expansions).

    Case, width, compatibility forms, accents and other marks make no difference; whatever is no letter or digit parts
    words.
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
    for first, last in (*_ALONE_RANGES, (0x20000, 0x323FF)):
        letters = (table >= first) & (table <= last)
        table[letters] |= _ALONE
    return table, expansions


@dataclass(frozen=True)
class _Tokens:
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


def _tokenize(texts: Sequence[str]) -> _Tokens:
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
        return _Tokens(empty.astype(np.uint64), empty, empty, empty, joined)
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
    return _Tokens(hashes, numbers, starts, ends, joined)


def _ngrams(hashes: Array, n: int) -> Array:
    """Hash of each n tokens in a row."""
    num = max(0, len(hashes) - n + 1)
    total = np.zeros(num, np.uint64)
    for place in range(n):
        total += hashes[place : place + num] * _MULTIPLIERS[place]
    return _mixed(total)


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

    def find(self, tokens: _Tokens) -> tuple[Array, Array, Array]:
        """(place of the first token, n-gram, question) of every n-gram found inside one text."""
        ngrams = _ngrams(tokens.hashes, self.n)
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
            ngrams.append((n, list(dict.fromkeys(_ngrams(stem, n).tolist())) if n else []))
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
        tokens = _tokenize(texts)
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
        pairs = tuple(np.unique(_ngrams(option, min(2, len(option)))) for option in options)
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
        tokens = _tokenize([text for _, text in batch])
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

    def _options_follow(self, tokens: _Tokens, start: int, end: int, needle: _Needle) -> bool:
        last = min(end + needle.reach, int(np.searchsorted(tokens.texts, tokens.texts[start], "right")))
        window = tokens.hashes[start:last]
        single, pairs = set(_ngrams(window, 1).tolist()), set(_ngrams(window, 2).tolist())
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

    Raises:
        MissingInputError: a file or folder does not exist or holds no usable test question.
    """
    questions = [question for path in find_test_files(test) for question in read_questions(path, "Test", failed)]
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


def decontaminate_shard(
    shard: Shard, failed: FailedItems, *, output_dir: Path, test: tuple[str, ...], rules: dict[str, Any], first: str
) -> dict[str, Any]:
    """Write kept/NAME.parquet and rejected/NAME.parquet; return the numbers for the marker.

    Args:
        shard: documents.
        failed: takes what could not be read.
        output_dir: folder of the output.
        test: files of the test set.
        rules: what decides, for the metadata of the output.
        first: name of the shard whose marker lists the unusable rows of the test set.
    """
    questions, unusable = load_test_questions(test)
    if shard.name == first:
        failed.items += unusable.items
    made_by = {"stage": "decontaminate", "fingerprint": fingerprint({**rules, **shard.identity()})}
    kept_path, rejected_path = shard_files(output_dir, shard)
    characters: Counter[str] = Counter()
    num_read = 0
    with (
        DocumentWriter(kept_path, made_by) as kept,
        DocumentWriter(rejected_path, made_by, REJECTED_COLUMNS) as rejected,
    ):
        for batch in read_batches(shard, failed):
            num_read += batch.num_rows
            characters["read"] += pc.sum(pc.utf8_length(batch["text"])).as_py() or 0
            found = questions.find(batch["text"].to_pylist())
            clean = pa.array([not hits for hits in found])
            kept.write_batch(batch.filter(clean))
            if any(found):
                rejected.write_batch(_with_hits(batch.filter(pc.invert(clean)), [hits for hits in found if hits]))
    characters["kept"] = kept.num_characters
    return {
        "read": num_read,
        "kept": kept.num_documents,
        "rejected": rejected.num_documents,
        "characters": dict(characters),
    }


def _with_hits(batch: pa.RecordBatch, found: list[list[Hit]]) -> pa.RecordBatch:
    """The documents with the columns that say why they are rejected: their best hit, and the others as JSON."""
    others = [json.dumps([asdict(hit) for hit in hits[1:]], ensure_ascii=False) for hits in found]
    rows = [{"reason": REASON, **asdict(hits[0]), "other_hits": rest} for hits, rest in zip(found, others, strict=True)]
    for field in REJECTED_COLUMNS:
        batch = batch.append_column(field, pa.array([row[field.name] for row in rows], field.type))
    return batch


def summarise(
    marked: Iterable[tuple[Shard, dict[str, Any]]], job: ShardJob, test: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The statistics of all shards; writes contamination.md.

    Returns:
        (statistics, the totals for the run record)
    """
    questions, _ = load_test_questions(test)
    total: Counter[str] = Counter()
    characters: Counter[str] = Counter()
    num_failed = 0
    paths = []
    for shard, marker in marked:
        total.update(kept=marker["kept"], rejected=marker["rejected"])
        total["read"] += marker["read"]
        characters.update(marker["characters"])
        num_failed += len(marker["failed"])
        paths.append(shard_files(job.output_dir, shard)[1])
    by_language = _write_report(job.output_dir / "contamination.md", paths, total, questions)
    statistics = {
        **{name: total[name] for name in ("read", "kept", "rejected")},
        "failed": num_failed,
        "rejected_by_reason": {REASON: total["rejected"]} if total["rejected"] else {},
        "characters": {name: characters[name] for name in ("read", "kept")},
        "test": {
            "files": list(test),
            "questions": len(questions.languages),
            "too_short_to_look_for": questions.too_short,
            "by_language": by_language,
        },
    }
    return statistics, {name: statistics[name] for name in ("read", "kept", "rejected", "failed")}


def _hits(paths: Sequence[Path]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(file, document id, hit) of every hit in the rejected documents."""
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(1000, columns=["id", "question", "share", "matched", "other_hits"]):
                for row in batch.to_pylist():
                    document, others = row.pop("id"), json.loads(row.pop("other_hits"))
                    for hit in (row, *others):
                        yield path.name, document, hit


def _write_report(
    path: Path, paths: Sequence[Path], total: Counter[str], questions: TestQuestions
) -> dict[str, dict[str, int]]:
    """Write contamination.md; return questions, those found, and hits by language of the question."""
    num_hits: Counter[str] = Counter()
    for _, _, hit in _hits(paths):
        num_hits[hit["question"]] += 1
    by_language: dict[str, dict[str, int]] = {}
    for identifier, lang in questions.languages.items():
        row = by_language.setdefault(lang, {"questions": 0, "too_short": 0, "found": 0, "hits": 0})
        row["questions"] += 1
        row["found"] += identifier in num_hits
        row["hits"] += num_hits[identifier]
    for identifier in questions.too_short:
        by_language[questions.languages[identifier]]["too_short"] += 1
    with atomic_open(path) as file:
        file.write("# Contamination\n\n")
        file.write(
            f"{total['rejected']:,} of {total['read']:,} documents hold questions of the test set and were removed.\n\n"
            "| language of the question | test questions | too short to look for | found | hits |\n"
            "|---|---|---|---|---|\n"
        )
        for lang, row in by_language.items():
            file.write(f"| {lang} | {row['questions']} | {row['too_short']} | {row['found']} | {row['hits']} |\n")
        file.write("\n## Every hit\n\nShare: part of the question's n-grams found in the passage.\n\n")
        if num_hits:
            file.write("| question | document | file | share | passage |\n|---|---|---|---|---|\n")
        for name, document, hit in _hits(paths):
            cells = (hit["question"], document, name, f"{hit['share']:.0%}", _shown(hit["matched"]))
            file.write("| " + " | ".join(map(markdown_cell, cells)) + " |\n")
        if not num_hits:
            file.write("None.\n")
    return by_language


def _shown(text: str) -> str:
    return text if len(text) <= MAX_REPORTED_CHARACTERS else text[:MAX_REPORTED_CHARACTERS] + " ..."


def markdown_cell(text: str) -> str:
    """Text for a cell of a Markdown table; what would be HTML or Markdown is shown as it is."""
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", html.escape(" ".join(text.split()), quote=False))
