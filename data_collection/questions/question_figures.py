"""What a benchmark holds: questions by language, split and topic, answers, options, lengths; as a record and as tables.

The record, statistics.json, is what the dataset card and the figure (question_plots.py) are made from. Its groups are
the questions of one language in one split.
"""

from __future__ import annotations

import csv
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from configs.files import atomic_open, write_json
from configs.languages import LANGUAGES, language
from data_collection.overlaps.decontamination import markdown_cell
from data_collection.questions.question import Question

NOTICE = "For research, not for clinical use."
TOPIC, TOPIC_BY = "medical_topic", "medical_topic_by"  # fields of a row; "topic" is a field of MedMCQA's own
TOPIC_NOTE = (
    "Topics are the subjects of MedMCQA, given to each question by a program; they are not the 21 topics of the paper "
    "of MMedBench, whose names are not known to us."
)
_TEXTS = ("question", "option", "rationale")
_COUNTERS = ("answers", "options", "topics", "topics_by", "sources", "licences", "rationale_models")


def text_length(text: str, lang: str) -> int:
    """Words, parted by white space; in a language written without spaces characters that are no white space."""
    words = text.split()
    return len(words) if language(lang).spaced else sum(map(len, words))


class Figures:
    """Counts questions as they come; `record` says what was counted."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str], _Group] = {}

    def add(self, split: str, question: Question) -> None:
        """Count a question of a split (Train, Test)."""
        self._groups.setdefault((question.lang, split), _Group(question.lang)).add(question)

    def record(self) -> dict[str, Any]:
        """The record.

        Returns:
            notice; questions; splits (name to number); topic_names (None where no question has a topic); groups: one a
            language and split, in the order of the language table, Train before Test. Counters are value to number of
            questions, most first; "" stands for what a row does not state.
        """
        groups, splits = [], Counter[str]()
        for lang, split in sorted(self._groups, key=lambda key: (list(LANGUAGES).index(key[0]), key[1] != "Train")):
            found = self._groups[lang, split].record()
            splits[split] += found["questions"]
            groups.append({"lang": lang, "language": language(lang).name, "split": split, **found})
        topics = sorted({topic for group in groups for topic in group["topics"]})
        return {
            "notice": NOTICE,
            "questions": splits.total(),
            "splits": dict(splits),
            "topic_names": {"names": topics, "note": TOPIC_NOTE} if topics else None,
            "groups": groups,
        }


class _Group:
    """The questions of one language in one split."""

    def __init__(self, lang: str) -> None:
        self.lang = lang
        self.numbers = Counter[str]()
        self.counters: dict[str, Counter[Any]] = {name: Counter() for name in _COUNTERS}
        self.lengths = {name: array("L") for name in _TEXTS}

    def add(self, question: Question) -> None:
        meta, topic = question.meta, question.meta.get(TOPIC)
        found = {
            "answers": len(question.answers),
            "options": len(question.options),
            "sources": meta.get("source"),
            "licences": meta.get("licence"),
            **({"topics": topic, "topics_by": meta.get(TOPIC_BY)} if topic else {}),
            **({"rationale_models": meta.get("rationale_model")} if question.rationale else {}),
        }
        for name, value in found.items():  # of rows, which may state anything
            self.counters[name][value if isinstance(value, int) else str(value or "")] += 1
        self.numbers["questions"] += 1
        self.numbers["with_rationale"] += bool(question.rationale)
        self.numbers["human_checked"] += question.human_checked
        self.numbers["human_check_passed"] += question.human_checked and question.human_check_passed
        self.numbers["without_topic"] += not topic
        self.lengths["question"].append(text_length(question.question, self.lang))
        self.lengths["option"].extend(text_length(option, self.lang) for option in question.options.values())
        if question.rationale:
            self.lengths["rationale"].append(text_length(question.rationale, self.lang))

    def record(self) -> dict[str, Any]:
        return {
            **self.numbers,
            **{name: _counted(self.counters[name], by_value=name in ("answers", "options")) for name in _COUNTERS},
            "length_unit": "words" if language(self.lang).spaced else "characters",
            "lengths": {name: _lengths(self.lengths[name]) for name in _TEXTS},
        }


def _counted(counted: Counter[Any], *, by_value: bool) -> dict[str, int]:
    order = sorted(counted) if by_value else sorted(counted, key=lambda value: (-counted[value], str(value)))
    return {str(value): counted[value] for value in order}


def _lengths(lengths: Sequence[int]) -> dict[str, float] | None:
    if not lengths:
        return None
    p10, p25, median, p75, p90 = np.percentile(lengths, [10, 25, 50, 75, 90]).tolist()
    spread = {"p10": p10, "p25": p25, "median": median, "p75": p75, "p90": p90, "max": max(lengths)}
    return {"mean": round(sum(lengths) / len(lengths), 2), **spread}


def write_figures(record: dict[str, Any], output_dir: Path) -> None:
    """Write statistics.json, statistics.md and statistics.csv of what `Figures.record` returned."""
    write_json(output_dir / "statistics.json", record)
    with atomic_open(output_dir / "statistics.md") as file:
        file.write(markdown_tables(record))
    rows = [_flat(group) for group in record["groups"]]
    with atomic_open(output_dir / "statistics.csv") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["lang"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def several(group: Mapping[str, Any]) -> int:
    """Questions of a group with more than one right answer."""
    return sum(number for answers, number in group["answers"].items() if int(answers) > 1)


def _flat(group: dict[str, Any]) -> dict[str, Any]:
    """A group as a row of a table."""
    plain = ("lang", "split", "questions", "with_rationale", "human_checked", "human_check_passed", "length_unit")
    row = {name: group[name] for name in plain}
    row["several_answers"] = several(group)
    for name in _TEXTS:
        lengths = group["lengths"][name]
        row |= {f"{name}_{value}": lengths[value] if lengths else None for value in ("mean", "median", "p90", "max")}
    return row


def markdown_tables(record: dict[str, Any]) -> str:
    """The tables of a record: questions and answers, lengths, topics where there are any."""
    groups = record["groups"]
    lines = _table(
        ("language", "split", "questions", "with several answers", "options", "with rationale", "checked", "passed"),
        [
            (
                group["language"],
                group["split"],
                f"{group['questions']:,}",
                f"{several(group):,} ({several(group) / group['questions']:.0%})",
                ", ".join(group["options"]),
                *(f"{group[name]:,}" for name in ("with_rationale", "human_checked", "human_check_passed")),
            )
            for group in groups
        ],
    )
    lines += ["", "Lengths, median and mean:", ""]
    lines += _table(
        ("language", "split", "unit", "question", "option", "rationale"),
        [
            (group["language"], group["split"], group["length_unit"], *(_shown(group["lengths"][n]) for n in _TEXTS))
            for group in groups
        ],
    )
    if record["topic_names"]:
        languages = list(dict.fromkeys(group["language"] for group in groups if group["topics"]))
        by_topic = topics_by_language(record)
        lines += ["", record["topic_names"]["note"], ""]
        lines += _table(
            ("topic", *languages, "all"),
            [
                (topic, *(f"{found.get(name, 0):,}" for name in languages), f"{sum(found.values()):,}")
                for topic, found in by_topic.items()
            ],
        )
    return "\n".join([*lines, "", NOTICE, ""])


def topics_by_language(record: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Topic to language to questions, over all splits, the most frequent topic first."""
    found: dict[str, Counter[str]] = {}
    for group in record["groups"]:
        for topic, number in group["topics"].items():
            found.setdefault(topic, Counter())[group["language"]] += number
    return {topic: dict(found[topic]) for topic in sorted(found, key=lambda topic: (-found[topic].total(), topic))}


def _shown(lengths: Mapping[str, float] | None) -> str:
    return f"{lengths['median']:g}, {lengths['mean']:.1f}" if lengths else "–"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(map(markdown_cell, headings)) + " |", "|---" * len(headings) + "|"]
    return lines + ["| " + " | ".join(map(markdown_cell, row)) + " |" for row in rows]
