"""Several runs of eval.py read together: their names, and the questions that all of them answered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from configs.errors import FailedItems, SettingsError
from configs.files import fingerprint, sha256_file
from data_collection.questions import answer_words, answers
from inference import kinds, orders, scoring
from inference.scores import comparison, overlap, significance, words
from inference.scoring import PREDICTIONS_FILE, Row, read_predictions

# Another parser, splitter or formula gives other scores.
_SCORERS = (answer_words, answers, comparison, kinds, orders, overlap, scoring, significance, words)
Shared = dict[str, Row]  # one question asked in one way: label of each run to its row


def problems_of(inputs: Sequence[Path], labels: Sequence[str]) -> list[str]:
    """What is wrong with inputs and labels as settings."""
    found = []
    for name, values in (("input", [path.resolve() for path in inputs]), ("labels", list(labels))):
        found += [f"{name}: {value} is given twice" for value in sorted({v for v in values if values.count(v) > 1})]
    if labels and len(labels) != len(inputs):
        found.append(f"labels: {len(labels)} for {len(inputs)} inputs")
    return found


def labels_of(paths: Sequence[Path]) -> list[str]:
    """The name of each file's folder, with as many folders above it as tell the files apart."""
    parts = [path.resolve().parent.parts for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        labels = ["/".join(part[-depth:]) for part in parts]
        if len(set(labels)) == len(labels):
            return labels
    return [str(path) for path in paths]


def read_runs(
    inputs: Sequence[Path], labels: Sequence[str], failed: FailedItems
) -> tuple[dict[str, list[Row]], dict[str, str]]:
    """The rows of each run by its label, and each file's SHA-256 by the same.

    Args:
        inputs: predictions.jsonl files, or folders that hold one.
        labels: names of the runs; those of their folders where none are given.
        failed: gets the rows that cannot be used.
    """
    paths = [path / PREDICTIONS_FILE if path.is_dir() else path for path in inputs]
    names = list(labels) or labels_of(paths)
    rows = {name: read_predictions(path, failed) for name, path in zip(names, paths, strict=True)}
    return rows, {name: sha256_file(path) for name, path in zip(names, paths, strict=True)}


def scoring_identity(*more: ModuleType) -> str:
    """A hash of the programs that make scores out of predictions, and of `more`: other ones give other results."""
    return fingerprint([sha256_file(module.__file__) for module in (*_SCORERS, *more)])


def shared_questions(runs: dict[str, list[Row]], failed: FailedItems) -> tuple[list[Shared], dict[str, int]]:
    """What every run was asked in the same kind, and in the same order of the options where these were shuffled.

    In the first run's order. A question whose text, options, key or language differ between runs compares nothing and
    goes to `failed`.

    Returns:
        The questions; by label how many answers of that run have no like in each of the others.
    """
    first, *others = runs
    by_key = {label: {(row["kind"], row["id"], row.get("order")): row for row in rows} for label, rows in runs.items()}
    keys = set.intersection(*(set(of) for of in by_key.values()))
    found = []
    for key, row in by_key[first].items():
        if key not in keys:
            continue
        of_all = {label: by_key[label][key] for label in runs}
        for label in others:
            different = [n for n in ("question", "options", "gold", "lang") if row.get(n) != of_all[label].get(n)]
            if different:
                failed.add(f"{row['id']} ({row['kind']})", f"{different[0]} differs between {first} and {label}")
                break
        else:
            found.append(of_all)
    return found, {label: len(of) - len(keys) for label, of in by_key.items()}


def require_shared(found: list[Shared], runs: dict[str, list[Row]]) -> None:
    """Refuse runs that have nothing in common.

    Raises:
        SettingsError: naming them.
    """
    if not found:
        raise SettingsError(
            "the runs have no question in common",
            where=", ".join(runs),
            wanted="answers of every run to the same questions, asked in the same way",
            todo="evaluate all models on the same questions, or choose other languages and kinds",
        )
