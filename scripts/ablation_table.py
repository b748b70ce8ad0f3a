"""The table and the plot of an ablation, from the predictions of its finished rows."""

from __future__ import annotations

import csv
from dataclasses import asdict
from pathlib import Path
from typing import Any

from configs import records
from configs.errors import FailedItems, MissingInputError
from configs.files import atomic_open, atomic_path, read_json, sha256_file
from configs.languages import LANGUAGES
from configs.progress import log
from inference import scoring
from inference.scores import comparison
from inference.scores.published import read_published
from inference.scores.score_tables import NOTICE, percent
from inference.scores.table_formats import latex, markdown
from scripts.ablating import Row, rows_of

_SHOWN = {"answer_only": ["accuracy"], "with_rationale": ["accuracy", "bleu_1_sentence", "rouge_1_f"]}
_COLUMNS = {
    ("answer_only", "accuracy"): "Accuracy, answer only, %",
    ("with_rationale", "accuracy"): "Accuracy, with rationale, %",
    ("with_rationale", "bleu_1_sentence"): "BLEU-1, %",
    ("with_rationale", "rouge_1_f"): "ROUGE-1, %",
}
Entry = dict[str, Any]


def draw(settings: Any) -> int:
    """Score the finished rows, compare each with the one above it, write table and plot.

    Returns:
        The exit code: 5 when a stage of theirs had failed items, or predictions could not be used.

    Raises:
        MissingInputError: no row is finished.
    """
    rows = rows_of(settings)
    done = [row for row in rows if _record(row.evaluation).get("status") == "finished"]
    waiting = [row.name for row in rows if row not in done]
    if not done:
        raise MissingInputError(
            "no row of the ablation is finished",
            where=settings.output_dir,
            wanted=f"{rows[0].evaluation}/{scoring.PREDICTIONS_FILE} of a finished evaluation, or another row's",
            todo="bash scripts/ablation.sh --config FILE --output_dir RUN runs what is missing",
        )
    failed = FailedItems()
    for stage in dict.fromkeys(stage for row in done for stage in row.stages):
        if num_failed := _record(stage.folder).get("failed_items"):
            failed.add(stage.folder, f"{num_failed:,} failed items; its failures.jsonl lists them")
    paths = {row.name: row.evaluation / scoring.PREDICTIONS_FILE for row in done}
    identity = {"predictions": {name: sha256_file(path) for name, path in paths.items()}}
    with records.run_record(settings.output_dir, "ablation", asdict(settings), identity) as record:
        entries, labelled, comparisons = score_rows(done, paths, failed)
        scoring.write_scores(labelled, settings.output_dir, "", comparisons)
        published = [row for row in read_published("mmedbench_ablation") if row["model"] == settings.published]
        write_table(entries, published, waiting, settings.output_dir)
        write_plot(entries, settings.output_dir / "ablation")
        failed.write(settings.output_dir / "failures.jsonl")
        record.finish("finished", len(failed), rows=list(paths), missing=waiting)
    if waiting:
        log.info(f"not finished, so not in the table: {', '.join(waiting)}")
    print((settings.output_dir / "ablation.md").read_text(encoding="utf-8"))
    print(settings.output_dir / "ablation.md")
    return failed.exit_code


def _record(folder: Path) -> dict[str, Any]:
    path = folder / "run.json"
    return read_json(path) if path.is_file() else {}


def score_rows(rows: list[Row], paths: dict[str, Path], failed: FailedItems) -> tuple[list[Entry], list, list]:
    """What the table shows of each row, the rows' scores, and each row's comparison with the row above it.

    Answers with rationale of a model that was taught answers only are in the scores, and not in the table.
    """
    entries: list[Entry] = []
    labelled, comparisons = [], []
    above: tuple[str, list] | None = None
    for row in rows:
        predictions = scoring.read_predictions(paths[row.name], failed)
        marks = scoring.mark(predictions)
        scores = scoring.summarise(predictions, marks)
        labelled.append((row.name, scores))
        entry: Entry = {"row": row.name, "corpus": row.parts, "num_tokens": _tokens(row), "scores": {}, "step": None}
        for kind, names in _SHOWN.items():
            if kind in scores["average"] and (kind != "with_rationale" or _taught_rationale(row)):
                kept = {"average": scores["average"][kind], **scores["languages"][kind]}
                entry["scores"][kind] = {code: _picked(of, names) for code, of in kept.items()}
        if above:
            kinds = comparison.compare(above[1], marks)
            comparisons.append(
                {"first": above[0], "second": row.name, "definitions": comparison.DEFINITIONS, "kinds": kinds}
            )
            entry["step"] = kinds.get("answer_only", {}).get("average")
        entries.append(entry)
        above = row.name, marks
    return entries, labelled, comparisons


def _picked(scores: dict[str, Any], names: list[str]) -> dict[str, Any]:
    picked = {f"{name}{end}": scores.get(f"{name}{end}") for name in names for end in ("", "_low", "_high")}
    return picked | {"accuracy_standard_error": scores.get("accuracy_standard_error")}


def _tokens(row: Row) -> int | None:
    """Tokens of the blocks that a row was pretrained on."""
    for stage in row.stages:
        if stage.name.startswith("prepare-"):
            return _record(stage.folder).get("result", {}).get("splits", {}).get("train", {}).get("num_tokens")
    return None


def _value(entry: Entry, kind: str, name: str, code: str = "average") -> float | None:
    return entry["scores"].get(kind, {}).get(code, {}).get(name)


def _cells(entry: Entry) -> list[str]:
    cells = [entry["row"], ", ".join(entry["corpus"]) or "–"]
    cells.append("–" if entry["num_tokens"] is None else f"{entry['num_tokens']:,}")
    for kind, name in _COLUMNS:
        value = _value(entry, kind, name)
        error = _value(entry, kind, "accuracy_standard_error") if name == "accuracy" else None
        cells.append(percent(value) if error is None else f"{percent(value)} ± {percent(error)}")
    step = entry["step"]
    if step is None:
        return [*cells, "–", "–", "–"]
    ends = f"{percent(step['accuracy_difference_low'])} to {percent(step['accuracy_difference_high'])}"
    return [*cells, f"{100 * step['accuracy_difference']:+.1f}", ends, f"{step['mcnemar_p']:.3g}"]


def write_table(entries: list[Entry], published: list[dict[str, str]], waiting: list[str], output_dir: Path) -> None:
    """Write ablation.md (with the published rows below), ablation.tex, and ablation.csv with every language."""
    headings = ["Row", "Pretrained on", "Tokens", *_COLUMNS.values(), "To the row above, points", "Interval", "p"]
    cells = [_cells(entry) for entry in entries]
    accuracy = {
        code: [_value(entry, "answer_only", "accuracy", code) for entry in entries]
        for code in LANGUAGES
        if any(code in entry["scores"].get("answer_only", {}) for entry in entries)
    }
    languages = [LANGUAGES[code].name for code in accuracy]
    by_language = [
        [entry["row"], *(percent(of[place]) for of in accuracy.values())] for place, entry in enumerate(entries)
    ]
    parts = [markdown(headings, cells, 2)]
    if languages:
        parts += ["Accuracy, answer only, %:\n", markdown(["Row", *languages], by_language, 1)]
    if published:
        names = ["setting", "accuracy", "BLEU-1", "ROUGE-1"]
        rows = [[row[name] or "–" for name in names] for row in published]
        parts += [f"As published for {published[0]['model']} ({published[0]['caveats']}), %:\n"]
        parts.append(markdown(["Row", *names[1:]], rows, 1))
    if waiting:
        parts.append(f"Not finished: {', '.join(waiting)}.\n")
    parts.append(
        "Every language counts the same. Accuracy: exact set of letters, ± standard error; the difference to the row "
        "above, its interval (95 %, paired bootstrap over questions) and p (exact McNemar test) are of the answers "
        f"without rationale. {NOTICE}\n"
    )
    with atomic_open(output_dir / "ablation.md") as file:
        file.write("\n".join(parts))
    with atomic_open(output_dir / "ablation.tex") as file:
        file.write(latex(headings, cells, 2))
    with atomic_open(output_dir / "ablation.csv") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["row", "corpus", "num_tokens", "language", "kind", "score", "percent", "low", "high"])
        for entry in entries:
            for kind, by_code in entry["scores"].items():
                for code, scores in by_code.items():
                    for name in _SHOWN[kind]:
                        found = [scores[f"{name}{end}"] for end in ("", "_low", "_high")]
                        cells_of = ["" if value is None else 100 * value for value in found]
                        head = [entry["row"], " ".join(entry["corpus"]), entry["num_tokens"] or ""]
                        writer.writerow([*head, code, kind, name, *cells_of])


def _taught_rationale(row: Row) -> bool:
    """Whether the row's model was taught to write rationales, by the record of its fine-tuning."""
    settings = _record(row.stages[-2].folder).get("settings", {})
    return settings.get("kinds") not in ("answer_only", ["answer_only"])


def write_plot(entries: list[Entry], stem: Path) -> None:
    """Write STEM.svg and STEM.png: each score against the rows, with intervals, averages thick and languages thin."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [key for key in _COLUMNS if any(_value(entry, *key) is not None for entry in entries)]
    if not shown:  # none of the rows was asked in the kinds of the published table
        return
    with rc_context({"svg.hashsalt": "ablation", "font.family": "DejaVu Sans", "font.size": 9}):
        width = max(5.0, 0.9 * len(entries) + 2.5)
        figure = Figure(figsize=(width, 2.3 * len(shown) + 1.2), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(shown), 1, squeeze=False, sharex=True)[:, 0]
        for ax, (kind, name) in zip(axes, shown, strict=True):
            for code in LANGUAGES:
                values = [_value(entry, kind, name, code) for entry in entries]
                places = [place for place, value in enumerate(values) if value is not None]
                if places:
                    heights = [100 * values[place] for place in places]
                    ax.plot(places, heights, color="0.6", linewidth=0.8, marker=".")
                    ax.annotate(code, (places[-1], heights[-1]), (4, 0), textcoords="offset points", fontsize=6.5)
            _plot_average(ax, entries, kind, name)
            ax.set_ylabel(_COLUMNS[kind, name].replace(", ", ",\n", 1))
            ax.spines[["top", "right"]].set_visible(False)
        axes[-1].set_xticks(range(len(entries)), [entry["row"] for entry in entries], rotation=25, ha="right")
        figure.suptitle(NOTICE, fontsize=7, color="0.35", x=0.99, ha="right")
        for suffix, options in ((".svg", {"metadata": {"Date": None}}), (".png", {"dpi": 160})):
            with atomic_path(stem.with_suffix(suffix)) as temporary:
                figure.savefig(temporary, format=suffix[1:], **options)


def _plot_average(ax: Any, entries: list[Entry], kind: str, name: str) -> None:
    found = [[_value(entry, kind, f"{name}{end}") for end in ("", "_low", "_high")] for entry in entries]
    places = [place for place, (value, *_) in enumerate(found) if value is not None]
    heights = [100 * found[place][0] for place in places]
    # From the value to the ends of its interval, as matplotlib wants them: (2, points).
    errors = [[0 if found[p][e] is None else 100 * abs(found[p][e] - found[p][0]) for p in places] for e in (1, 2)]
    ax.errorbar(places, heights, yerr=errors, color="#0072B2", linewidth=2, marker="o", capsize=3)
    for place, height in zip(places, heights, strict=True):
        ax.annotate(f"{height:.1f}", (place, height), (5, 5), textcoords="offset points", color="#0072B2", fontsize=8)
