"""Tables of scores, Markdown, CSV and LaTeX, drawn from what `scoring.score` returns."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from configs.files import atomic_open
from configs.languages import LANGUAGES
from inference.kinds import CHOOSES_ONE, setting_name
from inference.scores.table_formats import bold, latex, markdown

Labelled = Sequence[tuple[str, dict[str, Any]]]
NOTICE = "For research, not for clinical use."
AVERAGE = "Average"
# Column of the CSV file and its name in the scores; the values are shares, written in %.
_RATIONALE = [
    *(f"bleu_{order}_sentence" for order in (1, 2, 3, 4)),
    "rouge_1_f",
    "rouge_2_f",
    "rouge_l_f",
    "bert_score_f",
]
_WITH_INTERVAL = [*_RATIONALE, *(f"human_check_passed_{name}" for name in _RATIONALE)]
_SHARES = {
    "accuracy_percent": "accuracy",
    "accuracy_standard_error_percent": "accuracy_standard_error",
    "chance_percent": "chance_level",
    "unparsed_percent": "unparsed_share",
    **{
        f"{name}_percent": name
        for name in (
            *("accuracy_low", "accuracy_high", "accuracy_single_answer", "accuracy_several_answers"),
            *("hit_limit_share", "own_language_share", "bleu_4_corpus", "human_check_passed_bleu_4_corpus"),
            *("accuracy_order_sd", "accuracy_order_min", "accuracy_order_max", "order_consistency"),
            *(f"{name}{end}" for name in _WITH_INTERVAL for end in ("", "_low", "_high")),
        )
    },
}
_COUNTS = ["num_questions", "num_unparsed", "num_single_answer", "num_several_answers"]
_COUNTS += ["num_orders", "num_references", "human_check_passed_num_references"]
_HEADINGS = ["Language", "Setting", "Questions", "Accuracy, %", "Chance, %", "Unparsed", "BLEU-1, %", "ROUGE-1, %"]
_NOTES = "Accuracy: exact set of letters, ± standard error. Unparsed answers count as wrong."


def settings_and_scores(labelled: Labelled) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(language name, setting, scores): setting by setting its languages, then their average."""
    for label, scores in labelled:
        for kind, languages in scores["languages"].items():
            setting = setting_name(label, kind, scores.get("settings", {}).get(kind))
            yield from ((LANGUAGES[code].name, setting, of_language) for code, of_language in languages.items())
            yield AVERAGE, setting, scores["average"][kind]


def write_tables(labelled: Labelled, output_dir: Path | str, caption: str = "") -> list[Path]:
    """Write table.md (rounded, with caption and notice), table.csv (full precision, every score) and table.tex.

    Args:
        labelled: name of each run and its scores, in the order of the rows.
        output_dir: where to.
        caption: one line on the conditions: steps, lengths, limits.

    Returns:
        The paths of the three files.
    """
    paths = [Path(output_dir) / f"table.{suffix}" for suffix in ("md", "csv", "tex")]
    with atomic_open(paths[0]) as file:
        file.write(render_markdown(labelled, caption))
    with atomic_open(paths[1]) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["language", "setting", *_COUNTS, *_SHARES, "words"])
        splitters = {LANGUAGES[code].name: name for _, scores in labelled for code, name in _words(scores).items()}
        for language, setting, scores in settings_and_scores(labelled):
            shares = [scores.get(name) for name in _SHARES.values()]
            counts = [scores.get(name) for name in _COUNTS]
            row = [language, setting, *counts, *(None if s is None else 100 * s for s in shares)]
            writer.writerow(["" if cell is None else cell for cell in [*row, splitters.get(language)]])
    with atomic_open(paths[2]) as file:
        file.write(latex(_HEADINGS, _main_rows(labelled), 2))
    return paths


def render_markdown(labelled: Labelled, caption: str = "") -> str:
    """The table as Markdown, with its caption and the notice, ending with a line end."""
    table = markdown(_HEADINGS, _main_rows(labelled), 2)
    notes = f"{_NOTES}{_likelihood_note(labelled)}{_rationale_note(labelled)}"
    return "\n".join([table, *([" ".join(caption.split()), ""] if caption else []), f"{notes} {NOTICE}", ""])


def _likelihood_note(labelled: Labelled) -> str:
    """How log-likelihoods choose, where a setting has them."""
    if not any(CHOOSES_ONE.intersection(scores["languages"]) for _, scores in labelled):
        return ""
    return (
        " Likelihood: the one option whose letter or text is the most likely (normalised: by characters); a question "
        "with several right answers is never right so."
    )


def _words(scores: dict[str, Any]) -> dict[str, str]:
    return scores.get("words") or {}


def _rationale_note(labelled: Labelled) -> str:
    """Level, order and words of the rationales' scores, where the scores say them."""
    languages: dict[str, list[str]] = {}
    for code, name in {code: name for _, scores in labelled for code, name in _words(scores).items()}.items():
        languages.setdefault(name.partition(",")[0], []).append(code)
    if not languages or not any(s.get("bleu_1_sentence") is not None for _, _, s in settings_and_scores(labelled)):
        return ""
    splitters = "; ".join(f"{name} ({', '.join(codes)})" for name, codes in languages.items())
    return f" BLEU-1: order 1, by sentence, unsmoothed; ROUGE-1: F measure; means. Words: {splitters}."


def _main_rows(labelled: Labelled) -> list[list[str]]:
    rows = []
    for language, setting, scores in settings_and_scores(labelled):
        accuracy = f"{percent(scores['accuracy'])} ± {percent(scores['accuracy_standard_error'])}"
        unparsed = f"{scores['num_unparsed']:g} ({percent(scores['unparsed_share'])} %)"
        row = [language, setting, f"{scores['num_questions']:,}", accuracy, percent(scores["chance_level"]), unparsed]
        row += [percent(scores.get(name)) for name in ("bleu_1_sentence", "rouge_1_f")]
        rows.append(bold(row) if language == AVERAGE else row)
    return rows


def write_details(labelled: Labelled, comparisons: Sequence[dict[str, Any]], output_dir: Path | str) -> Path:
    """Write details.md: intervals, single and several answers apart, every score of rationales on all and on
    human-checked references, and the paired differences of `comparison.compare` (entries with first, second, kinds)."""
    parts = ["# Accuracy, %", _accuracy_details(labelled)]
    if table := _order_details(labelled):
        parts += ["# Options in other orders, accuracy in %", table]
    for prefix, title in (("", "all references"), ("human_check_passed_", "references that passed a human check")):
        if table := _rationale_details(labelled, prefix):
            parts += [f"# Rationales, %: {title}", table]
    for entry in comparisons:
        parts += [f"# {entry['second']} minus {entry['first']}, points", _differences(entry["kinds"])]
    parts.append(
        f"Intervals: 95 %, bootstrap over questions. p: exact McNemar test.{_rationale_note(labelled)} {NOTICE}"
    )
    path = Path(output_dir) / "details.md"
    with atomic_open(path) as file:
        file.write("\n\n".join(part.rstrip("\n") for part in parts) + "\n")
    return path


def _accuracy_details(labelled: Labelled) -> str:
    headings = ["Language", "Setting", "Questions", "Accuracy", "Interval", "One right answer", "Several right answers"]
    headings += ["Cut at the limit"]
    rows = []
    for language, setting, s in settings_and_scores(labelled):
        parts = [
            f"{percent(s[f'accuracy_{name}'])} of {s[f'num_{name}']:,}" for name in ("single_answer", "several_answers")
        ]
        row = [language, setting, f"{s['num_questions']:,}", percent(s["accuracy"]), _interval(s, "accuracy"), *parts]
        row.append(percent(s["hit_limit_share"]))
        rows.append(bold(row) if language == AVERAGE else row)
    return markdown(headings, rows, 2)


def _order_details(labelled: Labelled) -> str:
    """The table, or "" where no options were shuffled."""
    rows = []
    for language, setting, s in settings_and_scores(labelled):
        if "num_orders" in s:
            values = [percent(s[name]) for name in ("accuracy", "accuracy_order_sd", "accuracy_order_min")]
            values += [percent(s[name]) for name in ("accuracy_order_max", "order_consistency")]
            row = [language, setting, str(s["num_orders"]), *values]
            rows.append(bold(row) if language == AVERAGE else row)
    headings = [
        "Language",
        "Setting",
        "Orders",
        "Mean",
        "Standard deviation",
        "Lowest",
        "Highest",
        "Same answer in all",
    ]
    return markdown(headings, rows, 2) if rows else ""


def _rationale_details(labelled: Labelled, prefix: str) -> str:
    """The table, or "" where nothing has such references."""
    columns = {"BLEU-1": "bleu_1_sentence", "BLEU-2": "bleu_2_sentence", "BLEU-3": "bleu_3_sentence"}
    columns |= {"BLEU-4": "bleu_4_sentence", "corpus BLEU-4": "bleu_4_corpus", "ROUGE-1": "rouge_1_f"}
    columns |= {"ROUGE-2": "rouge_2_f", "ROUGE-L": "rouge_l_f", "BERTScore": "bert_score_f"}
    rows = []
    for language, setting, scores in settings_and_scores(labelled):
        if not scores.get(f"{prefix}num_references"):
            continue
        row = [language, setting, f"{scores[f'{prefix}num_references']:,}"]
        row += [percent(scores[f"{prefix}{name}"]) for name in columns.values()]
        if not prefix:
            row.append(percent(scores["own_language_share"]))
        row[3] += f" ({_interval(scores, f'{prefix}bleu_1_sentence')})"
        rows.append(bold(row) if language == AVERAGE else row)
    headings = ["Language", "Setting", "References", *columns, *([] if prefix else ["In its language"])]
    return markdown(headings, rows, 2) if rows else ""


def _differences(kinds: dict[str, dict[str, dict[str, Any]]]) -> str:
    headings = ["Language", "Asked", "Questions", "Accuracy", "Interval", "Only first right", "Only second right", "p"]
    headings += ["BLEU-1", "Interval", "ROUGE-1", "Interval"]
    rows = []
    for kind, by_language in kinds.items():
        for code, values in by_language.items():
            row = [LANGUAGES[code].name if code in LANGUAGES else AVERAGE, kind.replace("_", " ")]
            row.append(f"{values['num_common']:,}")
            row += [_signed(values, "accuracy"), _interval(values, "accuracy_difference")]
            row += [str(values["num_first_only_right"]), str(values["num_second_only_right"])]
            row.append(f"{values['mcnemar_p']:.3g}")
            for name in ("bleu_1_sentence", "rouge_1_f"):
                row += [_signed(values, name), _interval(values, f"{name}_difference")]
            rows.append(row if code in LANGUAGES else bold(row))
    return markdown(headings, rows, 2)


def _signed(values: dict[str, Any], name: str) -> str:
    difference = values.get(f"{name}_difference")
    return "–" if difference is None else f"{100 * difference:+.1f}"


def _interval(scores: dict[str, Any], name: str) -> str:
    low, high = scores.get(f"{name}_low"), scores.get(f"{name}_high")
    return "–" if low is None or high is None else f"{percent(low)} to {percent(high)}"


def percent(share: float | None) -> str:
    """A share as per cent with one digit, a dash where there is none."""
    return "–" if share is None else f"{100 * share:.1f}"
