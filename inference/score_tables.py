"""Tables of scores, Markdown and CSV, drawn from what `scoring.score` returns."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from configs.files import atomic_open
from configs.languages import LANGUAGES

Labelled = Sequence[tuple[str, dict[str, Any]]]
NOTICE = "For research, not for clinical use."
AVERAGE = "Average"
# Column of the CSV file, heading in the table, name in the scores; the values are shares, shown in %.
_SHARES = (
    ("accuracy_percent", "Accuracy", "accuracy"),
    ("accuracy_standard_error_percent", "", "accuracy_standard_error"),
    ("chance_percent", "Chance", "chance_level"),
    ("unparsed_percent", "Unparsed", "unparsed_share"),
    ("bleu_1_sentence_percent", "BLEU-1", "bleu_1_sentence"),
    ("rouge_1_f_percent", "ROUGE-1", "rouge_1_f"),
)


def setting_name(label: str, kind: str) -> str:
    """How a run and a kind of prompt are named together: "base, answer only"."""
    return f"{label}, {kind.replace('_', ' ')}"


def settings_and_scores(labelled: Labelled) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(language name, setting, scores): setting by setting its languages, then their average."""
    for label, scores in labelled:
        for kind, languages in scores["languages"].items():
            setting = setting_name(label, kind)
            yield from ((LANGUAGES[code].name, setting, of_language) for code, of_language in languages.items())
            yield AVERAGE, setting, scores["average"][kind]


def write_tables(labelled: Labelled, output_dir: Path | str, caption: str = "") -> list[Path]:
    """Write table.md (rounded, with caption and notice) and table.csv (full precision).

    Args:
        labelled: name of each run and its scores, in the order of the rows.
        output_dir: where to.
        caption: one line on the conditions: steps, lengths, limits.

    Returns:
        The paths of the two files.
    """
    markdown, table = Path(output_dir) / "table.md", Path(output_dir) / "table.csv"
    with atomic_open(markdown) as file:
        file.write(render_markdown(labelled, caption))
    with atomic_open(table) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["language", "setting", "num_questions", "num_unparsed", *(column for column, _, _ in _SHARES)])
        for language, setting, scores in settings_and_scores(labelled):
            shares = [scores.get(name) for _, _, name in _SHARES]
            counts = [scores["num_questions"], scores["num_unparsed"]]
            writer.writerow([language, setting, *counts, *("" if s is None else 100 * s for s in shares)])
    return [markdown, table]


def render_markdown(labelled: Labelled, caption: str = "") -> str:
    """The table as Markdown, with its caption and the notice, ending with a line end."""
    headings = ["Language", "Setting", "Questions", "Accuracy, %", "Chance, %", "Unparsed", "BLEU-1, %", "ROUGE-1, %"]
    lines = [_line(headings), _line([":--", ":--", *["--:"] * 6])]
    for language, setting, scores in settings_and_scores(labelled):
        accuracy = f"{_percent(scores['accuracy'])} ± {_percent(scores['accuracy_standard_error'])}"
        unparsed = f"{scores['num_unparsed']} ({_percent(scores['unparsed_share'])} %)"
        rationale = [_percent(scores.get(name)) for name in ("bleu_1_sentence", "rouge_1_f")]
        row = [language, setting, f"{scores['num_questions']:,}", accuracy, _percent(scores["chance_level"]), unparsed]
        row += rationale
        lines.append(_line([f"**{cell}**" if language == AVERAGE else cell for cell in row]))
    notes = "Accuracy: exact set of letters, ± standard error. Unparsed answers count as wrong."
    return "\n".join([*lines, "", *([" ".join(caption.split()), ""] if caption else []), f"{notes} {NOTICE}", ""])


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"
