"""The rows of the leaderboard, and those of them that come from the published tables.

A row says how the model was set up and on which version of the data it was asked, without which its scores compare with
nothing.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from configs.languages import LANGUAGES
from inference.scores.published import read_published

MMEDBENCH, ENGLISH, OTHER = "mmedbench", "english", "other"
AVERAGE = "Average"
ACCURACY = "accuracy"
PASSED = "human_check_passed_"
# Test questions of MMedBench by language (the article's table of the benchmark).
NUM_TEST = {"en": 1273, "zh": 3426, "ja": 199, "fr": 622, "ru": 256, "es": 2742}
# Sets of data_collection/questions under the names of the published tables; others are shown under their own.
ENGLISH_SETS = {"medqa": "MedQA", "medmcqa": "MedMCQA", "pubmedqa": "PubMedQA", "mmlu": "MMLU"}
OTHER_SETS = {"medqa_mcmle": "MedQA-MCMLE", "cmb": "CMB-single", "cmmlu": "CMMLU-Medical", "cmexam": "CExam"}
_ABOUT = ("model", "size", "released", "setting", "caveats", "metric")
_SIZE = re.compile(r"(?<![\w.])(\d{1,5}(?:\.\d{1,6})?) ?([bm])(?![a-z0-9])", re.IGNORECASE)
Score = list[float | None]  # value, low, high, in per cent


@dataclass
class Row:
    """One model in one setting.

    Attributes:
        model: its name.
        size: number of parameters as it is written, "7B"; "" where nothing says it.
        billions: the same as a number.
        released: year and month, "2024.2".
        group: zero-shot, few-shot, PEFT, full fine-tuning, fine-tuned (where it is not said which), or not stated.
        setting: how it was set up and asked, in words.
        data: which questions, and which version of them.
        ours: its scores are from a scores.json, not from a published table.
        notes: why the row may not compare with others.
        scores: board, metric and column (a language, a set, or the average) to per cent and the ends of a 95 %
            interval.
    """

    model: str
    size: str = ""
    billions: float | None = None
    released: str = ""
    group: str = "not stated"
    setting: str = ""
    data: str = ""
    ours: bool = False
    notes: list[str] = field(default_factory=list)
    scores: dict[str, dict[str, dict[str, Score]]] = field(default_factory=dict)

    def add(self, board: str, metric: str, column: str, score: Score) -> None:
        self.scores.setdefault(board, {}).setdefault(metric, {})[column] = score


def billions(name: str) -> float | None:
    """Billions of parameters that a name or path tells: 7 of "7B" and "llama-7b", 0.135 of "smollm2-135m"."""
    for part in reversed(name.split("/")):  # a folder above may be named after another model
        if found := _SIZE.search(re.sub(r"(?<=\d)_(?=\d)", ".", part).replace("_", "-")):
            return float(found[1]) / (1000 if found[2].lower() == "m" else 1)
    return None


def published_rows() -> list[Row]:
    """The rows of the published tables; accuracy and rationale scores of one model in one setting are one row."""
    rows: dict[tuple[str, ...], Row] = {}
    metrics = {ACCURACY: ACCURACY, "BLEU-1": f"{PASSED}bleu_1_sentence", "ROUGE-1": f"{PASSED}rouge_1_f"}
    for line in read_published("mmedbench"):
        row = _published_row(rows, line, MMEDBENCH, "MMedBench Test, as published")
        metric = metrics[line["metric"]]
        for name in (*(language.name for language in LANGUAGES.values()), "average"):
            if line.get(name):
                row.add(MMEDBENCH, metric, name.capitalize(), [float(line[name]), None, None])
        if line["caveats"]:
            row.notes.append(f"{line['metric']}: {line['caveats']}")
        if metric == ACCURACY and row.group == "fine-tuned":
            _estimate_intervals(row.scores[MMEDBENCH][ACCURACY])
    for table, board in (("english_benchmarks", ENGLISH), ("medbase", OTHER), ("apollo_average_of_nine", OTHER)):
        for line in read_published(table):
            row = _published_row(rows, line, board, "as published")
            for name, value in line.items():
                if value and name not in _ABOUT:
                    average = "Apollo's nine sets, average" if table.startswith("apollo") else AVERAGE
                    column = average if name == "average" else name.replace("_", " ")
                    row.add(board, ACCURACY, column, [float(value), None, None])
            row.notes += [line["caveats"]] if line["caveats"] and line["caveats"] not in row.notes else []
    return list(rows.values())


def _published_row(rows: dict[tuple[str, ...], Row], line: dict[str, str], board: str, data: str) -> Row:
    size = line.get("size") or ""
    key = (board, line["model"], size, line["setting"])
    if key not in rows:
        setting = line["setting"]
        beginnings = {"zero": "zero-shot", "3-shot": "few-shot", "fine": "fine-tuned", "after": "fine-tuned"}
        group = next((group for start, group in beginnings.items() if setting.startswith(start)), "not stated")
        parameters = billions(size or line["model"])
        rows[key] = Row(line["model"], size, parameters, line.get("released") or "", group, setting, data)
    return rows[key]


def _estimate_intervals(columns: dict[str, Score]) -> None:
    """Intervals of published accuracies by the number of test questions: 1.96 standard errors to each side.

    Not for closed models, which were asked other numbers of questions (assets/published/README.md).
    """
    variances = []
    for code, num in NUM_TEST.items():
        if score := columns.get(LANGUAGES[code].name):
            share = score[0] / 100
            variances.append(share * (1 - share) / num)
            _set_interval(score, variances[-1])
    if AVERAGE in columns and len(variances) == len(NUM_TEST):
        _set_interval(columns[AVERAGE], math.fsum(variances) / len(variances) ** 2)


def _set_interval(score: Score, variance: float) -> None:
    half = 196 * math.sqrt(variance)
    score[1:] = [max(0.0, score[0] - half), min(100.0, score[0] + half)]
