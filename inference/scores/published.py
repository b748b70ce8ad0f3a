"""Published figures of MMedBench beside our own scores, as the paper has them: a model a row, a language a column."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from configs.files import REPOSITORY, atomic_open
from configs.languages import LANGUAGES
from inference.kinds import describe
from inference.scores.score_tables import NOTICE, Labelled
from inference.scores.table_formats import bold, latex, markdown

FOLDER = REPOSITORY / "assets" / "published"
_LANGUAGES = ("English", "Chinese", "Japanese", "French", "Russian", "Spanish")
_VALUES = (*_LANGUAGES, "average")
# Metric of the published table: our scores that stand beside it, and what is said of them.
_OURS = {
    "accuracy": [("accuracy", "num_questions", "{:,} questions, exact set")],
    **{
        heading: [
            (f"human_check_passed_{name}", "human_check_passed_num_references", "{:,} human-checked references"),
            (name, "num_references", "all {:,} references"),
        ]
        for heading, name in (("BLEU-1", "bleu_1_sentence"), ("ROUGE-1", "rouge_1_f"))
    },
}


def read_published(name: str) -> list[dict[str, str]]:
    """The rows of assets/published/NAME.csv: model, setting, values in per cent as printed, caveats."""
    with open(FOLDER / f"{name}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def beside_ours(labelled: Labelled) -> list[dict[str, Any]]:
    """Rows of mmedbench.csv and rows of ours, metric by metric, with `ours` telling them apart.

    Ours have the average over their own languages, which the row says where these are not the published six.
    """
    rows: list[dict[str, Any]] = []
    for metric, scores_of in _OURS.items():
        rows += [{**row, "ours": False} for row in read_published("mmedbench") if row["metric"] == metric]
        for label, scores in labelled:
            for kind, languages in scores["languages"].items():
                for name, count, said in scores_of:
                    if row := _our_row(languages, scores["average"][kind], name):
                        num = scores["average"][kind][count]
                        row["caveats"] = "; ".join([said.format(num), *row["caveats"]])
                        setting = describe(kind, scores.get("settings", {}).get(kind), label)
                        rows.append({"metric": metric, "model": label, "setting": setting, **row})
    return rows


def _our_row(languages: dict[str, Any], average: dict[str, Any], name: str) -> dict[str, Any]:
    """One row; {} where the score was not measured."""
    if average.get(name) is None:
        return {}
    values = {LANGUAGES[code].name: of[name] for code, of in languages.items() if of.get(name) is not None}
    shown = {column: f"{100 * values[column]:.2f}" if column in values else "" for column in _LANGUAGES}
    other = "" if set(values) == set(_LANGUAGES) else f"average over {', '.join(values)}"
    row = {"size": "", "released": "", "ours": True, **shown}
    return row | {"average": f"{100 * average[name]:.2f}", "caveats": [other] if other else []}


def write_beside(labelled: Labelled, output_dir: Path | str) -> list[Path]:
    """Write published.md, published.csv and published.tex; ours stand last and bold."""
    rows = beside_ours(labelled)
    notes = {
        text: str(number) for number, text in enumerate(dict.fromkeys(r["caveats"] for r in rows if r["caveats"]), 1)
    }
    headings = ["Model", "Setting", *_VALUES, "Note"]
    texts = {"md": "", "tex": ""}
    for metric in _OURS:
        table = [_cells(row, notes) for row in rows if row["metric"] == metric]
        texts["md"] += f"# {metric}, %\n\n{markdown(headings, table, 2)}\n"
        texts["tex"] += f"% {metric}, %\n{latex(headings, table, 2)}"
    texts["md"] += "\n".join(f"{number}. {text}" for text, number in notes.items()) + f"\n\n{NOTICE}\n"
    texts["tex"] += "".join(f"% {number}. {text}\n" for text, number in notes.items())
    paths = [Path(output_dir) / f"published.{suffix}" for suffix in ("md", "tex", "csv")]
    for path in paths[:2]:
        with atomic_open(path) as file:
            file.write(texts[path.suffix[1:]])
    with atomic_open(paths[2]) as file:
        columns = ["metric", "model", "size", "released", "ours", "setting", *_VALUES, "caveats"]
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return paths


def _cells(row: dict[str, Any], notes: dict[str, str]) -> list[str]:
    model = " ".join(text for text in (row["model"], row["size"]) if text)
    cells = [model, row["setting"], *(row[name] or "–" for name in _VALUES), notes.get(row["caveats"], "")]
    return bold(cells) if row["ours"] else cells
