"""The leaderboard as one HTML file that needs no network and no other file, and the same rows as CSV.

Names and notes are others' text. They reach the page twice, cleaned both times: as JSON that the page's own script puts
into text nodes, never into markup, and escaped in the table for readers without scripts. The page's policy allows that
one script, by its hash, and no address at all.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from configs.files import REPOSITORY, atomic_open
from configs.languages import LANGUAGES
from inference.board.leaderboard_rows import ACCURACY, AVERAGE, ENGLISH, MMEDBENCH, OTHER, PASSED, Row
from inference.scores.score_tables import NOTICE
from inference.scoring import RATIONALE_SCORES
from inference.visible_text import clean, clean_line

PAGE_FILE, CSV_FILE = "index.html", "leaderboard.csv"
_SCRIPT, _TEMPLATE = "leaderboard_page.js", "leaderboard_page.html"
_RATIONALE_NAMES = {
    **{f"bleu_{order}_sentence": f"BLEU-{order}" for order in (1, 2, 3, 4)},
    **{"rouge_1_f": "ROUGE-1", "rouge_2_f": "ROUGE-2", "rouge_l_f": "ROUGE-L", "bert_score_f": "BERTScore"},
}
_CSV_SCORE = ("board", "metric", "column", "percent", "low", "high")
_GROUPS = ("zero-shot", "few-shot", "PEFT", "full fine-tuning", "fine-tuned", "not stated")


def write_page(rows: Sequence[Row], output_dir: Path, title: str) -> list[Path]:
    """Write index.html and leaderboard.csv to a folder; returns their paths."""
    rows = [_shown(row) for row in rows]
    paths = [output_dir / PAGE_FILE, output_dir / CSV_FILE]
    with atomic_open(paths[0]) as file:
        file.write(render(rows, title))
    with atomic_open(paths[1]) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["model", "size", "released", "group", "setting", "data", "ours", "notes", *_CSV_SCORE])
        for row in rows:
            about = [row.model, row.size, row.released, row.group, row.setting, row.data, row.ours]
            about.append("; ".join(row.notes))
            for board, metrics in row.scores.items():
                for metric, columns in metrics.items():
                    for column, score in columns.items():
                        writer.writerow([*map(_cell, about), board, metric, _cell(column), *map(_cell, score)])
    return paths


def _cell(value: Any) -> Any:
    """A value of the CSV file; a spreadsheet takes a text that begins with one of these signs for a formula."""
    if value is None:
        return ""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t") else value


def _shown(row: Row) -> Row:
    """The row with its texts fit to be shown."""
    limits = {"model": 120, "size": 16, "released": 16, "group": 40, "setting": 300, "data": 300}
    texts = {name: clean_line(getattr(row, name), limit) for name, limit in limits.items()}
    return replace(row, **texts, notes=[clean_line(note, 600) for note in row.notes])


def boards(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """The views of the page that have rows: their metrics and the columns of each, in order."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        for board, metrics in row.scores.items():
            for metric, columns in metrics.items():
                found.setdefault((board, metric), {}).update(dict.fromkeys(columns))
    languages = [AVERAGE, *(language.name for language in LANGUAGES.values())]
    views = [
        ("accuracy", "Accuracy", MMEDBENCH, {ACCURACY: "Accuracy"}, "MMedBench, exact set of letters, %"),
        ("rationales", "Rationales", MMEDBENCH, _rationale_metrics(), "BLEU and ROUGE against the references, %"),
        ("english", "English benchmarks", ENGLISH, {ACCURACY: "Accuracy"}, "Accuracy, %"),
        ("other", "More question sets", OTHER, {ACCURACY: "Accuracy"}, "Accuracy, %"),
    ]
    answer = []
    for name, title, board, metrics, about in views:
        having = [
            {
                "metric": metric,
                "name": label,
                "columns": sorted(columns, key=lambda c: languages.index(c) if c in languages else len(languages)),
            }
            for metric, label in metrics.items()
            if (columns := found.get((board, metric)))
        ]
        if having:
            answer.append({"id": name, "title": title, "board": board, "about": about, "metrics": having})
    return answer


def _rationale_metrics() -> dict[str, str]:
    names = [(name, _RATIONALE_NAMES[name]) for name in RATIONALE_SCORES]
    passed = {f"{PASSED}{name}": f"{label}, human-checked references" for name, label in names}
    return passed | {name: f"{label}, all references" for name, label in names}


def render(rows: Sequence[Row], title: str) -> str:
    """The page of rows whose texts are fit to be shown."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader([Path(__file__).parent, REPOSITORY / "configs"]),
        autoescape=True,
        finalize=lambda value: value if hasattr(value, "__html__") else clean(value),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (Path(__file__).parent / _SCRIPT).read_text(encoding="utf-8")
    views = boards(rows)
    groups = [group for group in _GROUPS if any(row.group == group for row in rows)]
    data = {"rows": [_for_script(row) for row in rows], "boards": views, "average": AVERAGE}
    # A "<" could end the element that holds the data; as JSON's escape it is the same text.
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    accuracy = [row for row in rows if ACCURACY in row.scores.get(MMEDBENCH, {})]
    return environment.get_template(_TEMPLATE).render(
        title=title,
        notice=NOTICE,
        boards=views,
        groups=groups,
        num_ours=sum(row.ours for row in rows),
        num_rows=len(rows),
        plain_rows=sorted(accuracy, key=lambda row: -(_average(row) or 0)),
        average_of=_average,
        data=Markup(text),  # noqa: S704 - JSON without "<"
        script=Markup(script),  # noqa: S704 - our own file
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _average(row: Row) -> float | None:
    return row.scores[MMEDBENCH][ACCURACY].get(AVERAGE, [None])[0]


def _for_script(row: Row) -> dict[str, Any]:
    values = asdict(row)
    values["scores"] = {
        board: {
            metric: {column: [None if x is None else round(x, 3) for x in score] for column, score in columns.items()}
            for metric, columns in metrics.items()
        }
        for board, metrics in row.scores.items()
    }
    return values
