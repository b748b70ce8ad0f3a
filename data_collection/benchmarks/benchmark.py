"""The work of build_benchmark.py: source sets to training and test questions without repetition between them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs import records
from configs.errors import FailedItems, MissingInputError
from configs.files import atomic_open, file_identity
from configs.languages import language
from configs.progress import log
from data_collection.overlaps.contamination import TestQuestions, question_text
from data_collection.questions.mmedbench import Split
from data_collection.questions.question import Question
from data_collection.questions.question_files import write_questions
from data_collection.questions.source_sets import SOURCE_SETS, find_set_files, read_source_set, source_set

# What MMedBench was built from (its supplementary table of sources), in the order of the language table.
MMEDBENCH_SETS = ("medqa", "medqa_mcmle", "igakuqa", "frenchmedmcqa", "rumeddanet", "headqa")
REMOVED_FILE = "removed.jsonl"


def build_benchmark(settings: Any) -> int:
    """Read the sets, split, remove what occurs twice, write; returns the exit code (5: some rows cannot be used)."""
    folders = find_sets(settings.input, settings.sets)
    files = sorted(path for folder in folders.values() for path in folder.rglob("*") if path.is_file())
    identity = {
        "sets": list(folders),
        "files": [[str(path.relative_to(settings.input)), file_identity(path)] for path in files],
        "test_share": settings.test_share,
        "without_images": settings.without_images,
    }
    done = records.already_done(settings.output_dir, identity)
    if done:
        log.info(f"already done: {settings.output_dir}")
        return records.exit_code(done)
    with records.run_record(settings.output_dir, "benchmark", records.plain(settings), identity) as record:
        failed, removed = FailedItems(), []
        splits: dict[Split, list[Question]] = {"Train": [], "Test": []}
        for name, folder in folders.items():
            for split, questions in read_splits(name, folder, settings.test_share, failed).items():
                log.info(f"{name}: {len(questions):,} questions for {split}")
                splits[split] += questions
        if settings.without_images:
            splits = {split: list(_without_images(rows, removed)) for split, rows in splits.items()}
        num_before = {split: Counter(question.lang for question in rows) for split, rows in splits.items()}
        splits = remove_repeated(splits["Train"], splits["Test"], removed)
        write_questions(((split, question) for split, rows in splits.items() for question in rows), settings.output_dir)
        with atomic_open(settings.output_dir / REMOVED_FILE) as file:
            file.writelines(json.dumps(item, ensure_ascii=False) + "\n" for item in removed)
        counts = _counts(num_before, splits)
        with atomic_open(settings.output_dir / "benchmark.md") as file:
            file.write(_describe(counts, folders, removed))
        failed.write(settings.output_dir / "failures.jsonl")
        record.finish("finished", len(failed), counts=counts, num_removed=len(removed))
    print((settings.output_dir / "benchmark.md").read_text(encoding="utf-8"))
    return failed.exit_code


def find_sets(folder: Path, names: list[str]) -> dict[str, Path]:
    """Set to its folder below `folder`: the one with the set's name, in any spelling (HEAD-QA is headqa).

    Raises:
        SettingsError: a name is no set's.
        MissingInputError: a set that was asked for is not there, or none of MMedBench's is.
    """
    for name in names:
        source_set(name)
    below = {path for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else set()
    by_name = {_plain_name(path.name): path for path in sorted(below)}
    wanted = names or MMEDBENCH_SETS
    found = {name: by_name[_plain_name(name)] for name in wanted if _plain_name(name) in by_name}
    if not found or (names and len(found) < len(names)):
        raise MissingInputError(
            "a question set is not there" if names else "none of MMedBench's source sets is there",
            where=folder,
            found=", ".join(path.name for path in by_name.values()) or "no folder",
            wanted="folders named " + ", ".join(name for name in wanted if name not in found),
            todo="give the folder that holds the sets' own folders to --input",
        )
    return found


def _plain_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def read_splits(name: str, folder: Path, test_share: float, failed: FailedItems) -> dict[Split, list[Question]]:
    """The questions of a set in its published splits, the development files left out as in MMedBench.

    A set without training and test files is split by hash, the same way whatever else is read: `test_share` of its
    different questions are Test.
    """
    splits: dict[Split, list[Question]] = {}
    unusable = FailedItems()
    for split, word in (("Train", "train"), ("Test", "test")):
        if find_set_files(name, folder, word):
            splits[split] = list(read_source_set(name, folder, unusable, split=word))
    if any(splits.values()):
        failed.items += unusable.items
    else:  # a file may be called test and hold something else
        questions = list(read_source_set(name, folder, failed))
        hashes = sorted({question.content_hash for question in questions})
        held_out = set(hashes[: round(len(hashes) * test_share)])
        splits = {
            "Train": [question for question in questions if question.content_hash not in held_out],
            "Test": [question for question in questions if question.content_hash in held_out],
        }
    origin = {"source": name, "licence": SOURCE_SETS[name].licence}
    return {
        split: [replace(q, meta={**origin, "source_id": q.id, **q.meta}) for q in questions]
        for split, questions in splits.items()
    }


def _without_images(questions: Iterable[Question], removed: list[dict[str, Any]]) -> Iterable[Question]:
    for question in questions:
        if question.meta.get("needs_image"):
            removed.append({"id": question.id, "reason": "refers to a picture"})
        else:
            yield question


def remove_repeated(
    train: list[Question], test: list[Question], removed: list[dict[str, Any]]
) -> dict[Split, list[Question]]:
    """Both splits with each question once, and no training question that holds a test question.

    Of equal questions the first stays, those of Test before those of Train. What is removed is added to `removed` with
    what it repeats.
    """
    kept: dict[Split, list[Question]] = {"Train": [], "Test": []}
    first: dict[str, Question] = {}
    for split, questions in (("Test", test), ("Train", train)):
        for question in questions:
            twin = first.setdefault(question.content_hash, question)
            if twin is question:
                kept[split].append(question)
            else:
                removed.append({"id": question.id, "reason": "occurs twice", "repeats": twin.id})
    if not kept["Test"]:
        return kept
    found = TestQuestions(kept["Test"]).find([question_text(question) for question in kept["Train"]])
    clean = []
    for question, hits in zip(kept["Train"], found, strict=True):
        if hits:
            about = {"repeats": hits[0].question, "share": round(hits[0].share, 3), "passage": hits[0].matched}
            removed.append({"id": question.id, "reason": "holds a test question", **about})
        else:
            clean.append(question)
    return {**kept, "Train": clean}


def _counts(num_before: dict[Split, Counter[str]], splits: dict[Split, list[Question]]) -> dict[str, Any]:
    counts: dict[str, Any] = {}
    for split, questions in splits.items():
        for lang in dict.fromkeys(num_before[split]):
            rows = [question for question in questions if question.lang == lang]
            counts.setdefault(lang, {})[split] = {
                "read": num_before[split][lang],
                "kept": len(rows),
                "several_answers": sum(len(question.answers) > 1 for question in rows),
                "mean_options": round(sum(len(q.options) for q in rows) / max(1, len(rows)), 2),
            }
    return counts


def _describe(counts: dict[str, Any], folders: dict[str, Path], removed: list[dict[str, Any]]) -> str:
    lines = [
        "| language | split | questions read | kept | with several answers | options, mean |",
        "|---|---|---|---|---|---|",
    ]
    for lang, by_split in counts.items():
        for split, row in by_split.items():
            lines.append(
                f"| {language(lang).name} | {split} | {row['read']:,} | {row['kept']:,} | {row['several_answers']:,} | "
                f"{row['mean_options']} |"
            )
    reasons = Counter(item["reason"] for item in removed)
    lines += ["", *(f"- removed: {number:,}, {reason}" for reason, number in reasons.items())]
    lines += [f"- {name}: licence {SOURCE_SETS[name].licence}" for name in folders]
    return "\n".join(lines) + "\n"
