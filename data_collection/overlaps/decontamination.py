"""Documents that hold test questions are taken out of a corpus, and every hit is listed for a reader."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.errors import FailedItems
from configs.files import atomic_open, fingerprint
from data_collection.corpus.documents import DocumentWriter, Shard, read_batches
from data_collection.corpus.jobs import ShardJob, shard_files
from data_collection.overlaps.contamination import Hit, TestQuestions, load_test_questions

MAX_REPORTED_CHARACTERS = 300
REASON = "contaminated"
REJECTED_COLUMNS = (
    pa.field("reason", pa.string()),
    pa.field("question", pa.string()),
    pa.field("share", pa.float32()),
    pa.field("matched", pa.string()),
    pa.field("other_hits", pa.string()),  # JSON list of the other questions found, in the same form
)


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
