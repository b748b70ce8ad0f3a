"""The medical filter: what is kept and why not, one shard at a time, and the statistics of all shards.

Keyword counts follow MMedC (Qiu et al., 2024, "Towards building multilingual language model for medicine"): a text is
medical when it has at least MKC different keywords and they cover at least DENS of its characters; our own DENS falls
with the length (`thresholds`).
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.errors import FailedItems
from configs.files import fingerprint
from configs.languages import language
from data_collection.corpus.document_rows import SCHEMA
from data_collection.corpus.documents import DocumentWriter, Shard, read_batches
from data_collection.corpus.jobs import shard_files
from data_collection.corpus.totals import MAX_GROUPS, OTHERS, capped, summarise_groups
from data_collection.selection.detection import MAX_CHARACTERS, MIN_OWN_PROBABILITY, Detector, own_probability
from data_collection.selection.keywords import KeywordMatcher, read_keywords, utf8_buffers
from data_collection.selection.personal_data import mask
from data_collection.selection.quality import MIN_LETTERS_SPACED, MIN_LETTERS_UNSPACED, problem, repair
from data_collection.selection.thresholds import Thresholds
from data_collection.selection.trie import NUM_CODE_POINTS, count_letters

REJECTED_COLUMNS = (
    pa.field("reason", pa.string()),
    pa.field("num_keywords", pa.int32()),
    pa.field("density", pa.float32()),
    pa.field("number", pa.float32()),
)


@dataclass(frozen=True)
class FilterRules:
    """Everything that decides about a document.

    Attributes:
        lang: the language to keep, as a code.
        thresholds: how many keywords, and what share of the text in them.
        keywords: file of the keyword list.
        language_check: reject texts stated or detected to be in another language.
        language_detector: which detector.
        quality_check: mend texts, and reject those of no use.
        mask_personal_data: put marks in place of e-mail addresses, telephone and identity numbers.
    """

    lang: str
    thresholds: Thresholds
    keywords: Path
    language_check: bool = True
    language_detector: Detector = "fasttext"
    quality_check: bool = True
    mask_personal_data: bool = False

    def identity(self) -> dict[str, Any]:
        """The rules with the keywords' content in place of their file name."""
        shown = asdict(self)
        return {**shown.pop("thresholds"), **shown, "keywords": _fingerprint(self.keywords)}

    def matcher(self) -> KeywordMatcher:
        """What finds the keywords; built once a process."""
        return _matcher(self.keywords, self.lang)


@functools.lru_cache(maxsize=2)
def _fingerprint(keywords: Path) -> str:
    return fingerprint(read_keywords(keywords))


@functools.lru_cache(maxsize=2)
def _matcher(path: Path, lang: str) -> KeywordMatcher:
    return KeywordMatcher(read_keywords(path), lang)


class Verdicts(NamedTuple):
    """What becomes of each document of a batch.

    Attributes:
        reason: why it is rejected, "" for those that are kept (object array).
        num_keywords: MKC, -1 where it was not counted.
        density: DENS, NaN where it was not counted.
        number: of the other reasons (letters, probability of the language, shares of repeated text); NaN without one.
        text: the documents' texts, mended and masked in those that are kept.
    """

    reason: np.ndarray
    num_keywords: np.ndarray
    density: np.ndarray
    number: np.ndarray
    text: pa.Array


def judge(documents: pa.RecordBatch, rules: FilterRules) -> Verdicts:
    """Why to reject each document of a batch of `documents.SCHEMA`, the dear tests only on those that passed the cheap.

    Letters and keywords are counted at hundreds of MB/s; detecting the language takes tenths of a millisecond a
    document with fastText and milliseconds with langdetect, and quality is judged at some MB/s.
    """
    texts = documents["text"]
    size = documents.num_rows
    least = MIN_LETTERS_SPACED if language(rules.lang).spaced else MIN_LETTERS_UNSPACED
    num_letters = np.zeros(size, np.int64)
    count_letters(*utf8_buffers(texts), _letters(), least, num_letters)
    long_enough = num_letters >= least
    reason = np.where(long_enough, "", "too_short").astype(object)
    number = np.where(long_enough, np.nan, num_letters)
    if rules.language_check:
        stated = pc.equal(documents["lang"], rules.lang).to_numpy(zero_copy_only=False)
        reason[long_enough & ~stated] = "other_language"
    passed = reason == ""
    num_keywords, density, num_characters = rules.matcher().match_array(texts, passed)
    num_keywords[~passed], density[~passed] = -1, np.nan
    reason[passed & ~rules.thresholds.dense_enough(density, num_characters)] = "low_density"
    reason[passed & ~rules.thresholds.enough_keywords(num_keywords)] = "few_keywords"
    changed: dict[int, str] = {}
    rows = np.flatnonzero(reason == "")
    if rules.language_check:
        starts = pc.utf8_slice_codeunits(texts.take(rows), 0, MAX_CHARACTERS[rules.language_detector])
        for row, start in zip(rows, starts.to_pylist(), strict=True):
            probability = own_probability(start, rules.lang, rules.language_detector)
            if probability < MIN_OWN_PROBABILITY[rules.language_detector]:
                reason[row], number[row] = "other_language", probability
    if rules.quality_check or rules.mask_personal_data:
        for row in np.flatnonzero(reason == ""):
            original = text = texts[row].as_py()
            if rules.quality_check:
                text = repair(text)
                reason[row], share = problem(text, rules.lang)
                if reason[row]:
                    number[row] = share
                    continue
            if rules.mask_personal_data:
                text, _ = mask(text)
            if text is not original and text != original:
                changed[row] = text
    if changed:
        where = np.zeros(size, np.bool_)
        where[list(changed)] = True
        texts = pc.replace_with_mask(texts, pa.array(where), pa.array(changed.values(), pa.string()))
    return Verdicts(reason, num_keywords, density, number, texts)


@functools.lru_cache(maxsize=1)
def _letters() -> np.ndarray:
    return np.strings.isalpha(np.arange(NUM_CODE_POINTS, dtype=np.uint32).view("<U1"))


def filter_shard(shard: Shard, failed: FailedItems, output_dir: Path, rules: FilterRules) -> dict[str, Any]:
    """Write kept/NAME.parquet and rejected/NAME.parquet; return the numbers for the marker."""
    made_by = {"stage": "filter", "fingerprint": fingerprint({**rules.identity(), **shard.identity()})}
    num_read = num_characters = 0
    counts: Counter[tuple[str, str, str]] = Counter()  # (reason, source, label): documents
    kept_path, rejected_path = shard_files(output_dir, shard)
    with (
        DocumentWriter(kept_path, made_by) as kept,
        DocumentWriter(rejected_path, made_by, REJECTED_COLUMNS) as rejected,
    ):
        for batch in read_batches(shard, failed, rules.lang):
            num_read += batch.num_rows
            num_characters += pc.sum(pc.utf8_length(batch["text"])).as_py()
            verdicts = judge(batch, rules)
            _count(batch, verdicts.reason, counts)
            keep = verdicts.reason == ""
            if keep.any():
                mended = batch.set_column(SCHEMA.get_field_index("text"), SCHEMA.field("text"), verdicts.text)
                kept.write_batch(mended.filter(pa.array(keep)))
            if not keep.all():
                rejected.write_batch(_with_reasons(batch, verdicts).filter(pa.array(~keep)))
    return {
        "read": num_read,
        "kept": kept.num_documents,
        "rejected": rejected.num_documents,
        "characters": {"read": num_characters, "kept": kept.num_characters},
        "counts": [[*key, number] for key, number in sorted(counts.items())],
    }


def _with_reasons(batch: pa.RecordBatch, verdicts: Verdicts) -> pa.RecordBatch:
    counted = verdicts.num_keywords >= 0
    columns = (
        verdicts.reason,
        np.where(counted, verdicts.num_keywords, 0),
        np.where(counted, verdicts.density, 0),
        verdicts.number,
    )
    absent = (None, ~counted, ~counted, np.isnan(verdicts.number))
    for field, values, missing in zip(REJECTED_COLUMNS, columns, absent, strict=True):
        batch = batch.append_column(field, pa.array(values, mask=missing).cast(field.type))
    return batch


def _count(batch: pa.RecordBatch, reason: np.ndarray, counts: Counter[tuple[str, str, str]]) -> None:
    columns = [pa.array(reason, pa.string()), batch["source"], _labels(batch["meta"])]
    encoded = [column.dictionary_encode() for column in columns]
    names = [column.dictionary.to_pylist() for column in encoded]
    sizes = tuple(map(len, names))
    groups = np.ravel_multi_index([column.indices.to_numpy() for column in encoded], sizes)
    places, numbers = np.unique(groups, return_counts=True)
    for *key, number in zip(*np.unravel_index(places, sizes), numbers.tolist(), strict=True):
        reason, source, label = (group[place] for group, place in zip(names, key, strict=True))
        counts[capped(counts, (reason, source, label), (reason, OTHERS, OTHERS), MAX_GROUPS)] += number


def _labels(metas: pa.Array) -> pa.Array:
    """`meta.label` of each document, "" where there is none."""
    if not pc.any(pc.match_substring(metas, '"label"')).as_py():
        return pa.repeat(pa.scalar(""), len(metas))
    encoded = metas.dictionary_encode()
    labels = [json.loads(meta).get("label") for meta in encoded.dictionary.to_pylist()]
    names = ["" if label is None else str(label) for label in labels]  # a class may be 0
    return pa.array(names, pa.string()).take(encoded.indices)


def summarise(markers: Iterable[tuple[Shard, dict[str, Any]]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The statistics of all shards, by source and by label where there are such: (stats.json, the run record's)."""
    return summarise_groups(markers, ("source", "label"), hide_unstated=True)
