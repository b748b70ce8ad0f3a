"""The work of correlate.py: metrics of the rated rationales beside what raters thought of them."""

from __future__ import annotations

import csv
from dataclasses import asdict
from pathlib import Path
from typing import Any

from configs import records
from configs.errors import FailedItems, MissingInputError, SettingsError
from configs.files import atomic_open, sha256_file, write_json
from configs.languages import LANGUAGES
from inference import scoring
from inference.judges import rank_correlation
from inference.judges.rank_correlation import correlation
from inference.judges.ratings import RATINGS_FILE, Rating, mean_points, read_ratings
from inference.scores.runs import labels_of, read_runs, scoring_identity
from inference.scores.score_tables import NOTICE
from inference.scores.table_formats import bold, markdown
from inference.scoring import RATIONALE_SCORES, Row
from pretrain.models import model_identity

Values = dict[str, dict[str, float]]  # question id to label of each model to a value of its rationale
ALL = "all"


def correlate(settings: Any) -> int:
    """Read, correlate, write; returns the exit code (5: some rows or ratings could not be used)."""
    failed = FailedItems()
    runs, hashes = read_runs(settings.input, settings.labels, failed)
    paths = [path / RATINGS_FILE if path.is_dir() else path for path in settings.ratings]
    ratings = dict(zip(labels_of(paths), (read_ratings(path, failed) for path in paths), strict=True))
    for name, of in ratings.items():
        _check_labels(name, of, list(runs))
    identity = {
        "runs": hashes,
        "ratings": {name: sha256_file(path) for name, path in zip(ratings, paths, strict=True)},
        "scoring": scoring_identity(rank_correlation),
        **({"bert": [model_identity(str(settings.bert_model)), settings.bert_layer]} if settings.bert_model else {}),
    }
    if done := records.already_done(settings.output_dir, identity):
        print((settings.output_dir / "correlation.md").read_text(encoding="utf-8"))
        return records.exit_code(done)
    with records.run_record(settings.output_dir, "correlate", asdict(settings), identity) as record:
        rated = {rating["id"] for of in ratings.values() for rating in of}
        metrics, about = metrics_of(runs, rated, settings)
        langs = {rating["id"]: rating["lang"] for of in ratings.values() for rating in of}
        found = correlations(metrics, {name: mean_points(of) for name, of in ratings.items()}, langs)
        definitions = rank_correlation.DEFINITIONS
        values = {"definitions": definitions, "models": list(runs), "correlations": found, **about}
        write_json(settings.output_dir / "correlation.json", values)
        _write_csv(found, settings.output_dir / "correlation.csv")
        with atomic_open(settings.output_dir / "correlation.md") as file:
            file.write(render_markdown(found, list(runs)))
        failed.write(settings.output_dir / "failures.jsonl")
        record.finish("finished", len(failed), num_rated=len(rated))
    print((settings.output_dir / "correlation.md").read_text(encoding="utf-8"))
    return failed.exit_code


def _check_labels(name: str, ratings: list[Rating], labels: list[str]) -> None:
    other = next((rating for rating in ratings if rating["points"].keys() != set(labels)), None)
    if other:
        raise SettingsError(
            "other models were rated than are given",
            where=f"{name}: {other['id']}",
            found=", ".join(sorted(other["points"])),
            wanted=", ".join(sorted(labels)),
            todo="give the runs that were rated, with the --labels that they were rated under",
        )


def metrics_of(runs: dict[str, list[Row]], rated: set[str], settings: Any) -> tuple[dict[str, Values], dict[str, Any]]:
    """Every metric of the rated rationales, with the answer's correctness as one, and what BERTScore was made with.

    Raises:
        MissingInputError: there is no such rationale.
    """
    found: dict[str, Values] = {name: {} for name in (*RATIONALE_SCORES, "accuracy")}
    about: dict[str, Any] = {}
    for label, rows in runs.items():
        of_rated = [  # of shuffled options the first order, which is the one that was rated
            row for row in rows if row["kind"] == "with_rationale" and row["id"] in rated and not row.get("order")
        ]
        bert: dict[str, Any] = {}
        if settings.bert_model:
            from inference.scores.bert_scoring import bert_score  # torch, which nothing else here needs

            bert = bert_score(of_rated, settings.bert_model, settings.bert_layer)
            about["bert_score"] = bert["about"]
        for mark in scoring.mark(of_rated, bert.get("f")):
            for name, values in found.items():
                if mark.get(name) is not None:
                    values.setdefault(mark["id"], {})[label] = float(mark[name])
    complete = {n: {i: of for i, of in values.items() if len(of) == len(runs)} for n, values in found.items()}
    if not any(complete.values()):
        raise MissingInputError(
            "no run has a rationale of a rated question",
            where=", ".join(runs),
            found=f"{len(rated):,} rated questions",
            wanted="the runs that were rated, whole",
            todo="give these to --input",
        )
    return {name: values for name, values in complete.items() if values}, about


def correlations(metrics: dict[str, Values], points: dict[str, Values], langs: dict[str, str]) -> list[dict[str, Any]]:
    """One entry a source of ratings, metric and language ("all" for all together), the best metric first.

    Args:
        metrics: name to the metric's values; the other sources of ratings count as metrics too.
        points: source of ratings to the mean points of each question.
        langs: language code of each rated question.
    """
    found = []
    for source, of_source in points.items():
        others = {f"ratings {name}": values for name, values in points.items() if name != source}
        of_all = []
        for name, values in (metrics | others).items():
            for code in (ALL, *LANGUAGES):
                chosen = {i: of for i, of in of_source.items() if code in (ALL, langs[i])}
                if chosen:
                    of_all.append({"ratings": source, "metric": name, "language": code, **correlation(values, chosen)})
        best = {
            row["metric"]: -2 if row.get("tau_question") is None else row["tau_question"]
            for row in of_all
            if row["language"] == ALL
        }
        found += sorted(of_all, key=lambda row: -best[row["metric"]])
    return found


_COLUMNS = ["tau_question", "tau_question_low", "tau_question_high", "tau_pooled", "tau_model"]
_COUNTS = ["num_questions", "num_undefined"]


def _write_csv(found: list[dict[str, Any]], path: Path) -> None:
    with atomic_open(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["ratings", "metric", "language", *_COLUMNS, *_COUNTS])
        for row in found:
            cells = [row["ratings"], row["metric"], row["language"], *(row.get(name) for name in _COLUMNS + _COUNTS)]
            writer.writerow(["" if cell is None else cell for cell in cells])


def render_markdown(found: list[dict[str, Any]], labels: list[str]) -> str:
    """The correlations as a Markdown table."""
    rows = []
    for row in found:
        taus = ["–" if row.get(name) is None else f"{row[name]:.3f}" for name in _COLUMNS]
        language = LANGUAGES[row["language"]].name if row["language"] in LANGUAGES else "All"
        cells = [row["ratings"], row["metric"], language, taus[0], f"{taus[1]} to {taus[2]}", *taus[3:]]
        cells.append(f"{row['num_questions'] - row['num_undefined']:,} of {row['num_questions']:,}")
        rows.append(bold(cells) if language == "All" else cells)
    headings = [
        "Ratings",
        "Metric",
        "Language",
        "tau, by question",
        "Interval",
        "tau, pooled",
        "tau, models",
        "Questions",
    ]
    return (
        f"{markdown(headings, rows, 3)}\nKendall's tau-b with the raters' mean points for the rationales of "
        f"{len(labels)} models ({', '.join(labels)}). By question: mean over the questions that have one; interval: "
        f"95 %, bootstrap over these. Pooled: all pairs of question and rationale. Models: their means. {NOTICE}\n"
    )
