"""What files of documents hold: sums, histograms and a few documents of each file, and these added up.

Every file is read once, in a process of its own. What it gives does not grow with it: sums by source (of which there
are at most `MAX_SOURCES`), and the documents with the smallest hashes of their ids.
"""

from __future__ import annotations

import functools
import hashlib
import heapq
import json
import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.errors import FailedItems, MissingInputError
from configs.files import fingerprint, sha256_file
from configs.languages import LANGUAGES, language
from data_collection.corpus.documents import Shard, read_batches
from data_collection.corpus.totals import OTHERS, capped
from data_collection.selection.keywords import KeywordMatcher, read_keywords

MAX_SOURCES = 2000
NOT_STATED = "(not stated)"
SHOWN_CHARACTERS = 1500
STEPS_PER_OCTAVE = 2  # bins of a histogram for each doubling


@dataclass(frozen=True)
class Part:
    """One file of kept or dropped documents of a step: the unit of work."""

    step: str
    dropped: bool
    number: int
    shard: Shard

    @property
    def name(self) -> str:
        return f"{self.number}-{'dropped' if self.dropped else 'kept'}-{self.shard.name}"

    def identity(self) -> dict[str, Any]:
        return {**self.shard.identity(), "name": self.name, "step": self.step}


def tokenizer_identity(folder: Path) -> str:
    """A hash of the files of a tokenizer.

    Raises:
        MissingInputError: the folder holds none.
    """
    names = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
    found = {name: sha256_file(folder / name) for name in names if (folder / name).is_file()}
    if not found:
        raise MissingInputError(
            "there is no tokenizer", where=folder, wanted=" or ".join(names), todo="give the folder of a model"
        )
    return fingerprint(found)


@functools.lru_cache(maxsize=1)
def _tokenizer(folder: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


@functools.cache
def _matcher(lang: str) -> KeywordMatcher | None:
    """The keywords of a language, None where the table has no list."""
    if lang not in LANGUAGES or not language(lang).keywords_file.is_file():
        return None
    return KeywordMatcher(read_keywords(language(lang).keywords_file), lang)


def _hash(identifier: str) -> int:
    return int.from_bytes(hashlib.blake2b(identifier.encode("utf-8", "replace"), digest_size=7).digest())


def bin_of(value: int) -> int:
    """The bin of a length or count in a histogram: two bins for each doubling, 0 alone in the first."""
    return int(STEPS_PER_OCTAVE * math.log2(value + 1))


class _Sample:
    """The `size` documents with the smallest hashes of each (reason, language)."""

    def __init__(self, size: int):
        self.size = size
        self.heaps: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)

    def add(self, reason: str, lang: str, number: int, shown: str) -> None:
        heap = self.heaps[reason, lang]
        if len(heap) < self.size:
            heapq.heappush(heap, (-number, shown))
        else:
            heapq.heappushpop(heap, (-number, shown))

    def wants(self, reason: str, lang: str, number: int) -> bool:
        heap = self.heaps[reason, lang]
        return len(heap) < self.size or (bool(heap) and number <= -heap[0][0])

    def rows(self) -> list[list[Any]]:
        return [
            [reason, lang, -number, json.loads(shown)]
            for (reason, lang), heap in sorted(self.heaps.items())
            for number, shown in sorted(heap, key=lambda item: (-item[0], item[1]))
        ]


def describe_part(
    part: Part, failed: FailedItems, *, tokenizer: str | None, share: float, num_samples: int
) -> dict[str, Any]:
    """The numbers of one file for the marker.

    Args:
        part: kept or dropped documents.
        failed: takes what could not be read.
        tokenizer: folder of a tokenizer, to count the tokens of kept documents.
        share: share of the kept documents that are tokenized and searched for keywords, chosen by a hash of the id.
        num_samples: documents to show of each language and reason.
    """
    groups: dict[tuple[str, str, str, str], np.ndarray] = defaultdict(lambda: np.zeros(4, np.int64))
    lengths: dict[str, Counter[int]] = defaultdict(Counter)
    keywords: dict[str, Counter[int]] = defaultdict(Counter)
    tokens: dict[tuple[str, str], np.ndarray] = defaultdict(lambda: np.zeros(6))
    sample = _Sample(num_samples)
    num_documents = 0
    for batch in read_batches(part.shard, failed):
        num_documents += batch.num_rows
        columns = {name: batch[name].to_pylist() for name in ("id", "lang", "source", "licence")}
        metas = [_meta(meta) for meta in batch["meta"].to_pylist()] if part.dropped else [{}] * batch.num_rows
        counts = _counts(batch["text"])
        rows = zip(*columns.values(), metas, counts.tolist(), strict=True)
        chosen: list[int] = []
        for row, (identifier, lang, source, licence, meta, numbers) in enumerate(rows):
            reason = str(meta.get("reason") or NOT_STATED) if part.dropped else ""
            spaced = lang not in LANGUAGES or language(lang).spaced
            groups[_capped(groups, (reason, lang, source, licence))] += [1, *numbers[:2], numbers[2] if spaced else 0]
            lengths[lang][bin_of(numbers[0])] += 1
            number = _hash(identifier)
            if number < share * 2**56 and not part.dropped:
                chosen.append(row)
            if isinstance(meta.get("num_keywords"), int) and meta["num_keywords"] >= 0:
                keywords[lang][bin_of(meta["num_keywords"])] += 1
            if sample.wants(reason, lang, number):
                shown = {"id": identifier, "source": source, "characters": numbers[0], "why": _why(meta)}
                shown["text"] = batch["text"][row].as_py()[:SHOWN_CHARACTERS]
                sample.add(reason, lang, number, json.dumps(shown, ensure_ascii=False))
        if chosen:
            _look_closely(batch.take(pa.array(chosen)), counts[chosen, 0], tokenizer, keywords, tokens)
    return {
        "documents": num_documents,
        "groups": [[*key, *numbers.tolist()] for key, numbers in sorted(groups.items())],
        "lengths": {lang: sorted(counter.items()) for lang, counter in sorted(lengths.items())},
        "keywords": {lang: sorted(counter.items()) for lang, counter in sorted(keywords.items())},
        "tokens": [[*key, *numbers.tolist()] for key, numbers in sorted(tokens.items())],
        "samples": sample.rows(),
    }


def no_files(part: Part) -> tuple[Path, ...]:
    """The files that `describe_part` writes: none but the marker."""
    return ()


def _counts(texts: pa.Array) -> np.ndarray:
    """Characters, bytes of UTF-8 and words parted by white space of each text, int64 [documents, 3]."""
    counted = (pc.utf8_length(texts), pc.binary_length(texts), pc.count_substring_regex(texts, r"\S+"))
    return np.stack([np.asarray(numbers, np.int64) for numbers in counted], axis=1)


def _look_closely(
    batch: pa.RecordBatch,
    characters: np.ndarray,
    tokenizer: str | None,
    keywords: dict[str, Counter[int]],
    tokens: dict[tuple[str, str], np.ndarray],
) -> None:
    """Count keywords, and tokens where there is a tokenizer, of the documents of a batch."""
    texts, langs, sources = (batch[name].to_pylist() for name in ("text", "lang", "source"))
    for lang in set(langs):
        if matcher := _matcher(lang):
            for text, of in zip(texts, langs, strict=True):
                if of == lang:
                    keywords[lang][bin_of(matcher.match(text).num_keywords)] += 1
    if tokenizer:
        encoded = _tokenizer(tokenizer)(texts, add_special_tokens=False, verbose=False)["input_ids"]
        for ids, length, lang, source in zip(encoded, characters.tolist(), langs, sources, strict=True):
            num = len(ids)
            tokens[_capped(tokens, (lang, source))] += [1, length, num, length**2, length * num, num**2]


def _capped(known: dict[Any, Any], key: tuple[str, ...]) -> tuple[str, ...]:
    """The key without source and licence where there are too many."""
    return capped(known, key, (*key[:2], OTHERS, OTHERS) if len(key) == 4 else (key[0], OTHERS), MAX_SOURCES)


def _meta(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _why(meta: dict[str, Any]) -> str:
    """The numbers and names beside a reason, as a line."""
    shown = {name: value for name, value in meta.items() if name != "reason" and isinstance(value, (int, float, str))}
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in shown.items()
    )[:300]


class Totals:
    """The sums of all parts, added up one marker at a time."""

    def __init__(self, num_samples: int):
        self.groups: dict[str, dict[tuple[str, str, str, str], np.ndarray]] = defaultdict(
            lambda: defaultdict(lambda: np.zeros(4, np.int64))
        )
        self.lengths: dict[bool, dict[str, Counter[int]]] = {False: defaultdict(Counter), True: defaultdict(Counter)}
        self.keywords: dict[bool, dict[str, Counter[int]]] = {False: defaultdict(Counter), True: defaultdict(Counter)}
        self.tokens: dict[tuple[str, str], np.ndarray] = defaultdict(lambda: np.zeros(6))
        self.samples: dict[str, _Sample] = defaultdict(lambda: _Sample(num_samples))
        self.num_failed = self.num_unread = 0

    def add(self, part: Part, marker: dict[str, Any]) -> None:
        groups = self.groups[part.step if part.dropped else ""]
        for reason, lang, source, licence, *numbers in marker["groups"]:
            groups[_capped(groups, (reason, lang, source, licence))] += numbers
        assert sum(row[4] for row in marker["groups"]) == marker["documents"], part.name
        for name, counters in (("lengths", self.lengths), ("keywords", self.keywords)):
            for lang, pairs in marker[name].items():
                counters[part.dropped][lang].update(dict(map(tuple, pairs)))
        for lang, source, *numbers in marker["tokens"]:
            self.tokens[_capped(self.tokens, (lang, source))] += numbers
        sample = self.samples[part.step if part.dropped else ""]
        for reason, lang, number, shown in marker["samples"]:
            if sample.wants(reason, lang, number):
                sample.add(reason, lang, number, json.dumps(shown, ensure_ascii=False))
        self.num_failed += len(marker["failed"])
        self.num_unread += 0 if part.dropped else len(marker["failed"])


def tokens_of(totals: Totals, share: float) -> tuple[dict[tuple[str, str], float], dict[str, float | None]]:
    """Tokens by (language, source), and the standard error of each language's sum (0 where all were counted).

    With a sample: characters times the sample's tokens per character of the language; the error is that of a ratio
    estimate (Cochran, Sampling Techniques, 1977, section 6.4), None from fewer than two documents.
    """
    if share >= 1:
        counted = {key: float(numbers[2]) for key, numbers in totals.tokens.items()}
        return counted, {lang: 0.0 for lang, _ in counted}
    sums: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(6))
    for (lang, _), numbers in totals.tokens.items():
        sums[lang] += numbers
    size: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(2))
    cells: dict[tuple[str, str], float] = defaultdict(float)
    for (_, lang, source, _), numbers in totals.groups[""].items():
        size[lang] += numbers[:2]
        if sums[lang][1]:
            cells[lang, source] += numbers[1] * sums[lang][2] / sums[lang][1]
    errors: dict[str, float | None] = {}
    for lang, (num, characters, num_tokens, squares, products, token_squares) in sums.items():
        if num < 2 or not characters:
            errors[lang] = None
            continue
        ratio = num_tokens / characters
        variance = max(0.0, token_squares - 2 * ratio * products + ratio**2 * squares) / (num - 1)
        num_documents = size[lang][0]
        errors[lang] = float(num_documents * math.sqrt(max(0.0, 1 - num / num_documents) * variance / num))
    return dict(cells), errors
