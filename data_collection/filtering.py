"""The medical filter: what is kept and why not, one shard at a time, and the statistics of all shards.

Keyword counts follow MMedC (Qiu et al., 2024, "Towards building multilingual language model for medicine"): a text is
medical when it has at least MKC different keywords and they cover at least DENS of its characters.
"""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from configs.errors import FailedItems, SettingsError
from configs.files import fingerprint, read_json, write_json
from configs.languages import language
from configs.records import check_identity
from data_collection.documents import Document, DocumentWriter, Shard, read_shard
from data_collection.keywords import KeywordMatcher, Match, read_keywords

MIN_LETTERS = 20
# Below this probability of its own language a text is in another one. Measured on real documents (README): a higher
# bound rejects short Chinese ones, which langdetect half takes for Korean, and catches no more of the others.
MIN_OWN_PROBABILITY = 0.1
MAX_DETECTION_CHARACTERS = 5000
NUM_SOURCES_SHOWN = 200
REJECTED_COLUMNS = (
    pa.field("reason", pa.string()),
    pa.field("num_keywords", pa.int32()),
    pa.field("density", pa.float32()),
)


@dataclass(frozen=True)
class FilterRules:
    """Everything that decides about a document.

    Attributes:
        lang: the language to keep, as a code.
        min_keywords: MKC.
        min_density: DENS.
        language_check: reject texts stated or detected to be in another language.
        keywords: file of the keyword list.
    """

    lang: str
    min_keywords: int
    min_density: float
    language_check: bool
    keywords: Path

    def identity(self) -> dict[str, Any]:
        """The rules with the keywords' content in place of their file name."""
        shown = {name: getattr(self, name) for name in ("lang", "min_keywords", "min_density", "language_check")}
        return {**shown, "keywords": fingerprint(read_keywords(self.keywords))}


@functools.lru_cache(maxsize=4)
def _matcher(path: Path, spaced: bool) -> KeywordMatcher:
    return KeywordMatcher(read_keywords(path), spaced)


def own_probability(text: str, lang: str) -> float:
    """How probable langdetect finds it that the text is in `lang`, 0 to 1; 1 when it cannot tell.

    The text is lower-cased, since langdetect takes capitals for other languages' abbreviations.
    """
    from langdetect import DetectorFactory, LangDetectException, detect_langs

    DetectorFactory.seed = 0  # langdetect draws at random
    try:
        guesses = detect_langs(text[:MAX_DETECTION_CHARACTERS].lower())
    except LangDetectException:
        return 1.0
    return max((guess.prob for guess in guesses if guess.lang.partition("-")[0] == lang), default=0.0)


def judge(document: Document, rules: FilterRules) -> tuple[str, Match | None]:
    """The reason to reject a document, "" to keep it, and its keyword numbers where they were counted.

    The tests come in the order of their cost: langdetect takes milliseconds, the keywords microseconds.
    """
    if sum(1 for _ in islice(filter(str.isalpha, document.text), MIN_LETTERS)) < MIN_LETTERS:
        return "too_short", None
    if rules.language_check and document.lang != rules.lang:
        return "other_language", None
    match = _matcher(rules.keywords, language(rules.lang).spaced).match(document.text)
    if match.num_keywords < rules.min_keywords:
        return "few_keywords", match
    if match.density < rules.min_density:
        return "low_density", match
    if rules.language_check and own_probability(document.text, rules.lang) < MIN_OWN_PROBABILITY:
        return "other_language", match
    return "", match


def marker_path(output_dir: Path, shard: Shard) -> Path:
    """The file whose presence says that the shard is done."""
    return output_dir / "shards" / f"{shard.name}.json"


def shard_files(output_dir: Path, shard: Shard) -> tuple[Path, Path]:
    """Where the shard's kept and rejected documents are."""
    return output_dir / "kept" / f"{shard.name}.parquet", output_dir / "rejected" / f"{shard.name}.parquet"


def shard_is_done(shard: Shard, output_dir: Path, rules: dict[str, Any]) -> bool:
    """Whether the shard's output is there, made by the same rules from the same input.

    Raises:
        SettingsError: it is there but made by other rules or from other input; both are shown.
    """
    path = marker_path(output_dir, shard)
    if not path.exists():
        return False
    check_identity(path, read_json(path), {**rules, **shard.identity()})
    return all(path.exists() for path in shard_files(output_dir, shard))


def filter_shard(shard: Shard, output_dir: Path, rules: FilterRules) -> dict[str, Any]:
    """Write kept/NAME.parquet, rejected/NAME.parquet and, last, the marker shards/NAME.json; return the marker."""
    identity = {**rules.identity(), **shard.identity()}
    made_by = {"stage": "filter", "fingerprint": fingerprint(identity)}
    failed = FailedItems()
    num_read = 0
    counts: Counter[tuple[str, str, str]] = Counter()  # (reason, source, label): documents
    characters: Counter[str] = Counter()
    kept_path, rejected_path = shard_files(output_dir, shard)
    with (
        DocumentWriter(kept_path, made_by) as kept,
        DocumentWriter(rejected_path, made_by, REJECTED_COLUMNS) as rejected,
    ):
        for document in read_shard(shard, failed, rules.lang):
            num_read += 1
            reason, match = judge(document, rules)
            counts[reason, document.source, str(document.meta.get("label") or "")] += 1
            characters[reason] += len(document.text)
            if reason:
                numbers = match._asdict() if match else {}
                rejected.write(document, reason=reason, **numbers)
            else:
                kept.write(document)
    marker = {
        "fingerprint": fingerprint(identity),
        "identity": identity,
        "read": num_read,
        "kept": kept.num_documents,
        "rejected": rejected.num_documents,
        "characters": dict(characters),
        "counts": [[*key, number] for key, number in sorted(counts.items())],
        "failed": failed.items,
    }
    write_json(marker_path(output_dir, shard), marker)
    return marker


def merge(shards: list[Shard], output_dir: Path) -> tuple[dict[str, Any], FailedItems]:
    """The statistics of all shards, checked against the rows that their Parquet files really hold.

    Returns:
        (statistics, failed items of all shards)
    """
    total: Counter[str] = Counter()
    characters: Counter[str] = Counter()
    groups: dict[str, dict[str, Counter[str]]] = {"reason": {}, "source": {}, "label": {}}
    failed = FailedItems()
    for shard in shards:
        marker = read_json(marker_path(output_dir, shard))
        for part, path in zip(("kept", "rejected"), shard_files(output_dir, shard), strict=True):
            num_rows = pq.read_metadata(path).num_rows
            if num_rows != marker[part]:
                raise SettingsError(
                    "an output file does not hold what its marker says",
                    where=path,
                    found=f"{num_rows} rows",
                    wanted=f"{marker[part]} rows",
                    todo=f"remove {marker_path(output_dir, shard)}, then the same command",
                )
            total[part] += num_rows
        total["read"] += marker["read"]
        characters.update(marker["characters"])
        failed.items.extend(marker["failed"])
        for reason, source, label, number in marker["counts"]:
            for group, value in (("source", source), ("label", label)):
                groups[group].setdefault(value, Counter())[reason or "kept"] += number
            groups["reason"].setdefault(reason or "kept", Counter())["documents"] += number
    assert total["read"] == total["kept"] + total["rejected"], total
    return _statistics(total, characters, groups, len(failed)), failed


def _statistics(
    total: Counter[str], characters: Counter[str], groups: dict[str, dict[str, Counter[str]]], num_failed: int
) -> dict[str, Any]:
    reasons = {name: count["documents"] for name, count in groups["reason"].items() if name != "kept"}
    shown: dict[str, Any] = {}
    for group in ("source", "label"):
        if set(groups[group]) <= {""}:
            continue
        largest = sorted(groups[group].items(), key=lambda pair: (-pair[1].total(), pair[0]))
        shown[f"by_{group}"] = {
            name or "(not stated)": {"read": count.total(), **dict(sorted(count.items()))}
            for name, count in largest[:NUM_SOURCES_SHOWN]
        }
        if len(largest) > NUM_SOURCES_SHOWN:
            rest = sum((count for _, count in largest[NUM_SOURCES_SHOWN:]), Counter())
            shown[f"by_{group}"]["(others)"] = {"read": rest.total(), **dict(sorted(rest.items()))}
    return {
        "read": total["read"],
        "kept": total["kept"],
        "rejected": total["rejected"],
        "failed": num_failed,
        "rejected_by_reason": dict(sorted(reasons.items())),
        "characters": {"read": characters.total(), "kept": characters[""]},
        **shown,
    }
