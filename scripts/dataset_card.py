"""The card of a data set: a corpus of documents, conversations, or questions in MMedBench's layout; from records and
the data."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from configs.errors import FailedItems
from configs.files import read_json
from configs.languages import LANGUAGES
from data_collection.questions.question_figures import Figures
from data_collection.questions.question_files import QuestionFiles
from scripts.cards import Ready, made_with, render, table
from scripts.model_card import documents_table
from scripts.report_reading import Stage, items, language_name

STATISTICS = "statistics.json"
DATA_FILES = (
    *("kept/*.parquet", "conversations/*.jsonl", "Train/*.jsonl", "Test/*.jsonl", "agreement.json", "agreement.md"),
    *(f"statistics.{suffix}" for suffix in ("json", "md", "csv", "svg", "png")),
)
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_SPLITS = ("Train", "Test")
_ORIGIN = ("lang", "source", "licence")
# Folder of texts: what they are, and what one of its rows is called.
_TEXTS = {
    "kept": ("A corpus of medical documents, each with its source and licence.", "Documents"),
    "conversations": (
        "Conversations on medical documents in the messages format, each with the source and licence of its document.",
        "Conversations",
    ),
}
_QUESTIONS = "Multiple-choice questions of medicine, in the layout of MMedBench."
# What is to be known of data that a stage made, by its name, and of any corpus or questions.
_OF_STAGES = {
    "filter": "Chosen by keywords and by rules of quality; documents that are not medical are among them.",
    "decontaminate": "Documents that hold questions of the test set named in its record were removed, as far as they "
    "were found.",
    "rewrite": "Questions with answers that a language model made of documents; a program alone has checked them.",
    "translation": "Translated by a language model; a program alone has compared the translations.",
}
_OF_CORPORA = ["Names of persons were not looked for."]
_OF_QUESTIONS = [
    "Questions of examinations, some of them years old: an answer may no longer be right.",
    "Each language comes from other examinations, so that difficulty differs from language to language.",
    "Rationales written by models may be wrong; the table says how many were checked by people.",
]


def data_licence(folder: Path) -> tuple[str | None, str]:
    """The one licence of all data, as the hub writes it, or None and why there is none."""
    licences = _licences(folder)
    named = {name.lower().replace(" ", "-") for name in licences}
    if len(named) == 1 and not named & {"", "none-stated"}:
        return named.pop(), ""
    listed = ", ".join(name or "none stated" for name in sorted(licences)) or "none stated"
    return None, f"the data's are: {listed}"


def dataset_card(repo: str, stages: Sequence[Stage], licence: str) -> str:
    """The card of the data in the folder of the last stage.

    Args:
        repo: ORGANISATION/NAME on the hub.
        stages: what `lineage` gives.
        licence: as the hub writes it.
    """
    from huggingface_hub import DatasetCardData

    folder = stages[-1].folder
    texts = _folder_of_texts(folder)
    what, unit = _TEXTS[texts] if texts else (_QUESTIONS, "")
    counts = _texts(folder / texts) if texts else Counter()
    statistics = {} if texts else _statistics(folder)
    codes = {lang for lang, *_ in counts} | {str(group.get("lang")) for group in _groups(statistics)}
    languages = [code for code in LANGUAGES if code in codes]
    num_rows = counts.total() if texts else sum(group["questions"] for group in _groups(statistics))
    data = DatasetCardData(
        language=languages,
        license=licence,
        pretty_name=repo.split("/")[-1],
        multilinguality="multilingual" if len(languages) > 1 else "monolingual",
        size_categories=next((name for limit, name in _SIZES if num_rows < limit), "10M<n<100M"),
        task_categories=["text-generation"] if texts else ["question-answering", "multiple-choice"],
        tags=["medical"],
        configs=list(_configs(folder, texts)),
    )
    licences = sorted(_licences(folder).items(), key=lambda pair: (-pair[1], pair[0]))
    values = {
        "name": repo.split("/")[-1],
        "what": what,
        "languages": ", ".join(LANGUAGES[code].name for code in languages),
        "licence": licence,
        "limits": _limits(stages, bool(texts)),
        "tables": list(_text_tables(counts, unit) if texts else _question_tables(statistics)),
        "removed": documents_table(stages) if texts else _removed(stages[-1]),
        "licences": table(["Licence", "Rows"], [[name or "none stated", count] for name, count in licences]),
        **made_with(stages[-1]),
    }
    return render("dataset_card.md", data, **values)


def _folder_of_texts(folder: Path) -> str:
    """Name of the folder that holds a data set's texts, "" for one of questions."""
    return next((name for name in _TEXTS if (folder / name).is_dir()), "")


def _limits(stages: Sequence[Stage], is_corpus: bool) -> list[str]:
    names = {stage.name for stage in stages}
    limits = [limit for name, limit in _OF_STAGES.items() if name in names]
    if is_corpus and "decontaminate" not in names:
        limits.append("Nobody has looked for questions of test sets in it.")
    return limits + (_OF_CORPORA if is_corpus else _OF_QUESTIONS)


def _configs(folder: Path, texts: str) -> Iterator[dict[str, Any]]:
    """What the hub's viewer and `load_dataset` read."""
    if texts:
        yield {"config_name": "default", "data_files": next(name for name in DATA_FILES if name.startswith(texts))}
        return
    names = sorted({path.stem for split in _SPLITS for path in (folder / split).glob("*.jsonl")})
    for name in names:
        files = {split: f"{split}/{name}.jsonl" for split in _SPLITS if (folder / split / f"{name}.jsonl").is_file()}
        yield {
            "config_name": name,
            "data_files": [{"split": split.lower(), "path": path} for split, path in files.items()],
        }


def _texts(folder: Path) -> Counter[tuple[str, str, str]]:
    """Documents or conversations by (language, source, licence)."""
    import pyarrow.parquet as parquet

    counts: Counter[tuple[str, str, str]] = Counter()
    for path in sorted(folder.glob("*.jsonl")):
        with open(path, encoding="utf-8") as file:
            counts.update(tuple(row.get(name) or "" for name in _ORIGIN) for row in map(json.loads, file))
    for path in sorted(folder.glob("*.parquet")):
        for batch in parquet.ParquetFile(path).iter_batches(columns=list(_ORIGIN)):
            columns = (batch.column(name).to_pylist() for name in _ORIGIN)
            counts.update(tuple(value or "" for value in row) for row in zip(*columns, strict=True))
    return counts


def _licences(folder: Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    if texts := _folder_of_texts(folder):
        for (_, _, licence), count in _texts(folder / texts).items():
            counts[licence] += count
    else:
        for group in _groups(_statistics(folder)):
            counts.update({str(name): count for name, count in items(group.get("licences")).items()})
    return counts


def _text_tables(counts: Counter[tuple[str, str, str]], unit: str) -> Iterator[tuple[str, Ready]]:
    grouped: Counter[tuple[str, str]] = Counter()
    for (lang, source, _), count in counts.items():
        grouped[lang, source] += count
    rows = [
        [language_name(lang), source or "not stated", count]
        for (lang, source), count in sorted(grouped.items(), key=lambda pair: (pair[0][0], -pair[1], pair[0][1]))
    ]
    yield "", table(["Language", "Source", unit], rows, 2)


def _statistics(folder: Path) -> dict[str, Any]:
    path = folder / STATISTICS
    if path.is_file():
        return items(read_json(path))
    figures = Figures()
    for split, question in QuestionFiles(folder, None, FailedItems()).read():
        figures.add(split, question)
    return figures.record()


def _groups(statistics: dict[str, Any]) -> list[dict[str, Any]]:
    return [items(group) for group in statistics.get("groups") or []]


def _question_tables(statistics: dict[str, Any]) -> Iterator[tuple[str, Ready]]:
    rows, models, topics = [], Counter(), Counter()
    for group in _groups(statistics):
        several = sum(count for number, count in items(group.get("answers")).items() if number != "1")
        counts = (group.get(name) for name in ("with_rationale", "human_checked", "human_check_passed"))
        rows.append([group.get("language"), group.get("split"), group.get("questions"), several, *counts])
        models.update(items(group.get("rationale_models")))
        topics.update(items(group.get("topics")))
    headings = ["Language", "Split", "Questions", "Several answers", "With rationale", "Checked by people", "Passed"]
    yield "", table(headings, rows, 2)
    if lengths := [_lengths(group) for group in _groups(statistics) if group.get("lengths")]:
        parts = ("question", "option", "rationale")
        headings = ["Language", "Split", "Unit", *(f"{part}, {what}" for part in parts for what in ("median", "90 %"))]
        yield "Lengths:", table(headings, lengths, 3)
    if named := [[name or "not stated", count] for name, count in models.most_common()]:
        yield "Rationales by:", table(["Model", "Rationales"], named)
    if topics:
        note = items(statistics.get("topic_names")).get("note") or ""
        yield f"Topics. {note}", table(["Topic", "Questions"], topics.most_common())


def _lengths(group: dict[str, Any]) -> list[Any]:
    parts = [items(items(group["lengths"]).get(name)) for name in ("question", "option", "rationale")]
    shown = [part.get(name) for part in parts for name in ("median", "p90")]
    return [group.get("language"), group.get("split"), group.get("length_unit"), *shown]


def _removed(stage: Stage) -> Ready | str:
    """What the building of a benchmark left out, by the reason that each row of its removed.jsonl states."""
    number = stage.get("result", "num_removed")
    if not isinstance(number, int):
        return ""
    return f"{number:,} questions: repeated ones, training ones that are in Test, ones that cannot be asked as text."
