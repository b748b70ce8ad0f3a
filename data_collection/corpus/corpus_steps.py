"""The folders of a corpus and of the steps that made it, found by what each run.json says it was made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import MissingInputError
from configs.files import read_json
from data_collection.corpus.corpus_counts import Part
from data_collection.corpus.documents import find_shards

SAMPLED_BYTES = 64 * 2**20  # of the corpus's files: what is tokenized and searched for keywords where all is too much


@dataclass(frozen=True)
class Step:
    """A folder that a command of this stage wrote, or a folder or file of documents.

    Attributes:
        folder: where it is.
        label: name for the reader, unique in the report.
        record: its run.json, {} where there is none.
        statistics: its stats.json, {} where there is none.
        is_corpus: its kept documents are the corpus; of the others only what they dropped is shown.
    """

    folder: Path
    label: str
    record: dict[str, Any]
    statistics: dict[str, Any]
    is_corpus: bool


def find_steps(inputs: Sequence[str | Path]) -> list[Step]:
    """The corpus and the steps that made it, the last step first.

    A folder from which another one was made is a step; those from which none was made are the corpus.

    Raises:
        MissingInputError: an input does not exist.
    """
    records: dict[Path, dict[str, Any]] = {}  # in the order they were found
    made_from: set[Path] = set()
    todo: list[tuple[Path, Path | None]] = [(Path(given), None) for given in inputs]  # a path, what was made from it
    for given, _ in todo:
        if not given.exists():
            raise MissingInputError("no such input", where=given, todo="give folders that exist to --input")
    while todo:
        path, made = todo.pop(0)
        folder = _folder_of_step(path)
        if folder is None and made is not None:  # what the first step read
            continue
        folder = (folder or path).resolve()
        if made is not None and made != folder:
            made_from.add(folder)
        if folder in records:
            continue
        records[folder] = record = _object(folder / "run.json")
        settings = record.get("settings")
        sources = settings.get("input") if isinstance(settings, dict) else None
        base = Path(str(record.get("folder") or "."))
        for source in sources if isinstance(sources, list) else []:
            if isinstance(source, str) and (base / source).exists():
                todo.append((base / source, folder))
    labels: Counter[str] = Counter()
    steps = []
    for folder, record in records.items():
        label = f"{record['stage']} ({folder.name})" if isinstance(record.get("stage"), str) else folder.name
        labels[label] += 1
        label += f" #{labels[label]}" if labels[label] > 1 else ""
        steps.append(Step(folder, label, record, _object(folder / "stats.json"), folder not in made_from))
    return steps


def _folder_of_step(path: Path) -> Path | None:
    """The folder with a run.json that `path` is, or of whose kept/ it is a part."""
    for folder in (path, *path.parents):
        if (folder / "run.json").is_file():
            return folder
        if folder.name != "kept" and folder.parent.name != "kept":
            return None
    return None


def _object(path: Path) -> dict[str, Any]:
    try:
        value = read_json(path) if path.is_file() else {}
    except MissingInputError:
        return {}
    return value if isinstance(value, dict) else {}


def find_parts(steps: Sequence[Step]) -> list[Part]:
    """The files to read: kept documents of the corpus, dropped ones of every step.

    Raises:
        MissingInputError: the corpus holds no documents.
    """
    parts = []
    for number, step in enumerate(steps):
        if step.is_corpus:
            parts += [Part(step.label, False, number, shard) for shard in find_shards([step.folder])]
        rejected = step.folder / "rejected"
        if rejected.is_dir() and any(rejected.glob("*.parquet")):
            parts += [Part(step.label, True, number, shard) for shard in find_shards([rejected])]
    return parts


def sampled_share(parts: Sequence[Part]) -> float:
    """The share of kept documents to tokenize and to search for keywords: all of a small corpus."""
    num_bytes = sum(part.identity()["num_bytes"] for part in parts if not part.dropped)
    return min(1.0, SAMPLED_BYTES / max(1, num_bytes))
