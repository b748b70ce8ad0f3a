"""The figure of a benchmark, SVG and PNG, drawn from the record of question_figures.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.files import atomic_path
from data_collection.questions.question_figures import NOTICE, several, topics_by_language

# Okabe and Ito's palette: distinguishable with any colour vision, and in grey.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999", "#000000")
_PNG_DOTS_PER_INCH = 160


def draw_figure(record: Mapping[str, Any], output_dir: Path) -> list[Path]:
    """Write statistics.svg and statistics.png; returns their paths.

    Panels: questions by language and split, with the share that has several answers; lengths of question, option and
    rationale by language (median, bars from the tenth to the ninetieth percentile); where there are topics, questions
    by topic and language.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    topics = topics_by_language(record)
    # A fixed salt and no date: the same record gives the same bytes.
    plain = {"text.parse_math": False}  # topics are texts of rows, and a dollar sign no formula
    with rc_context({"svg.hashsalt": "questions", "font.family": "DejaVu Sans", "font.size": 9, **plain}):
        height = 0.36 * len(record["groups"]) + 1.6
        figure = Figure(figsize=(9.0, height + (0.26 * len(topics) + 1.2 if topics else 0)), layout="constrained")
        FigureCanvasAgg(figure)
        rows = figure.subfigures(2, 1, height_ratios=[height, 0.26 * len(topics) + 1.2]) if topics else [figure]
        counts, lengths = rows[0].subplots(1, 2, sharey=True)
        _draw_counts(counts, record["groups"])
        _draw_lengths(lengths, record["groups"])
        if topics:
            _draw_topics(rows[1].subplots(), topics, record["groups"])
        figure.suptitle(NOTICE, fontsize=7, color="0.35", x=0.99, ha="right")
        paths = []
        for suffix, options in ((".svg", {"metadata": {"Date": None}}), (".png", {"dpi": _PNG_DOTS_PER_INCH})):
            path = output_dir / f"statistics{suffix}"
            with atomic_path(path) as temporary:
                figure.savefig(temporary, format=suffix[1:], **options)
            paths.append(path)
    return paths


def _draw_counts(ax: Any, groups: list[dict[str, Any]]) -> None:
    """A bar a language and split; scaled by the logarithm, since languages differ by a hundred times."""
    places = range(len(groups))
    colours = [_COLOURS[group["split"] == "Test"] for group in groups]
    drawn = ax.barh(places, [group["questions"] for group in groups], 0.8, color=colours)
    ax.bar_label(
        drawn,
        [
            f"{g['questions']:,}" + (f", {several(g) / g['questions']:.0%} several" if several(g) else "")
            for g in groups
        ],
        padding=2,
        fontsize=7,
    )
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.set_xlim(1, 30 * max((group["questions"] for group in groups), default=1))
    ax.set_yticks(places, [f"{group['language']}, {group['split']}" for group in groups])
    ax.set_ylim(len(groups) - 0.5, -0.5)  # of both panels; the first group is on top
    ax.set_title("Questions (several: more than one right answer)", fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)


def _draw_lengths(ax: Any, groups: list[dict[str, Any]]) -> None:
    """Median and the tenth to the ninetieth percentile of each text, by language and split."""
    for index, name in enumerate(("question", "option", "rationale")):
        found = [(at, group["lengths"][name]) for at, group in enumerate(groups) if group["lengths"][name]]
        if not found:
            continue
        places = [at + (index - 1) * 0.24 for at, _ in found]
        medians = [lengths["median"] for _, lengths in found]
        ends = [
            [lengths["median"] - lengths["p10"] for _, lengths in found],
            [lengths["p90"] - lengths["median"] for _, lengths in found],
        ]
        ax.errorbar(medians, places, xerr=ends, fmt="osD"[index], color=_COLOURS[index + 2], markersize=4, label=name)
    ax.tick_params(axis="y", left=False, labelleft=False)
    ax.set_xscale("symlog", linthresh=10)
    ax.set_xlim(left=0)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    in_characters = list(dict.fromkeys(g["language"] for g in groups if g["length_unit"] == "characters"))
    ax.set_title("Words" + (f" ({', '.join(in_characters)}: characters)" if in_characters else ""), fontsize=9)
    ax.set_xlabel("median, 10th to 90th percentile")
    ax.legend(fontsize=7, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.06), ncols=3)
    ax.spines[["top", "right"]].set_visible(False)


def _draw_topics(ax: Any, topics: Mapping[str, Mapping[str, int]], groups: list[dict[str, Any]]) -> None:
    """A stacked bar a topic, a colour a language."""
    languages = list(dict.fromkeys(group["language"] for group in groups if group["topics"]))
    without = sum(group["without_topic"] for group in groups)
    left = [0.0] * len(topics)
    for index, name in enumerate(languages):
        numbers = [found.get(name, 0) for found in topics.values()]
        ax.barh(range(len(topics)), numbers, 0.8, left=left, color=_COLOURS[index % len(_COLOURS)], label=name)
        left = [start + number for start, number in zip(left, numbers, strict=True)]
    ax.bar_label(ax.containers[-1], [f"{total:,.0f}" for total in left], padding=2, fontsize=7)
    ax.set_yticks(range(len(topics)), list(topics))
    ax.invert_yaxis()
    title = "Questions by topic (MedMCQA's subjects, given by a program)"
    ax.set_title(title + (f"; {without:,} have none" if without else ""), fontsize=9)
    ax.legend(fontsize=7, frameon=False, ncols=2)
    ax.spines[["top", "right"]].set_visible(False)
