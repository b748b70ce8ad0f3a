"""Plots of scores, SVG and PNG, drawn from what `scoring.score` returns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.files import atomic_path
from inference.scores.score_tables import AVERAGE, NOTICE, Labelled, settings_and_scores

# Okabe and Ito's palette: distinguishable with any colour vision, and in grey.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
_CHANCE = "chance"
_INCHES_PER_BAR, _PNG_DOTS_PER_INCH = 0.24, 160


def write_plots(labelled: Labelled, output_dir: Path | str) -> list[Path]:
    """Write accuracy.svg/.png and, where rationales were asked for, rationale.svg/.png (BLEU-1 and ROUGE-1).

    Args:
        labelled: name of each run and its scores, as for the tables.
        output_dir: where to.

    Returns:
        The paths written.
    """
    rows = list(settings_and_scores(labelled))
    with_rationale = [row for row in rows if row[2].get("bleu_1_sentence") is not None]
    # One colour a setting, the same in both figures.
    settings = list(dict.fromkeys(setting for _, setting, _ in rows))
    colours = {setting: _COLOURS[index % len(_COLOURS)] for index, setting in enumerate(settings)}
    paths = _draw(rows, [("accuracy", "Accuracy (exact set), %")], colours, Path(output_dir) / "accuracy")
    if with_rationale:
        panels = [("bleu_1_sentence", "BLEU-1, %"), ("rouge_1_f", "ROUGE-1 (F), %")]
        paths += _draw(with_rationale, panels, colours, Path(output_dir) / "rationale")
    return paths


def _draw(
    rows: Sequence[tuple[str, str, dict[str, Any]]], panels: list[tuple[str, str]], colours: dict[str, str], stem: Path
) -> list[Path]:
    """One figure: a panel a score, a group of bars a language, a bar a setting."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    languages = [*dict.fromkeys(name for name, _, _ in rows if name != AVERAGE), AVERAGE]
    settings = dict.fromkeys(setting for _, setting, _ in rows)
    width = max(6.4, _INCHES_PER_BAR * len(languages) * (len(settings) + 1.2) + 1.2)
    # A fixed salt and no date: the same scores give the same bytes. A dollar in a label begins no formula.
    style = {"svg.hashsalt": "scores", "font.family": "DejaVu Sans", "font.size": 9, "text.parse_math": False}
    with rc_context(style):
        height = 2.6 * len(panels) + 0.6 + 0.2 * len(settings)
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
        for ax, (score, title) in zip(axes, panels, strict=True):
            _bars(ax, rows, languages, {setting: colours[setting] for setting in settings}, score)
            ax.set_ylabel(title)
        legend = dict(sorted(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True), key=_chance_last))
        figure.legend(
            legend.values(), legend.keys(), loc="outside lower center", ncols=max(1, int(width / 2.6)), frameon=False
        )
        figure.suptitle(NOTICE, fontsize=7, color="0.35", x=0.99, ha="right")
        paths = []
        for suffix, options in ((".svg", {"metadata": {"Date": None}}), (".png", {"dpi": _PNG_DOTS_PER_INCH})):
            path = stem.with_suffix(suffix)
            with atomic_path(path) as temporary:
                figure.savefig(temporary, format=suffix[1:], **options)
            paths.append(path)
    return paths


def _chance_last(entry: tuple[str, Any]) -> bool:
    return entry[0] == _CHANCE


def _bars(ax: Any, rows: Sequence[Any], languages: list[str], colours: dict[str, str], score: str) -> None:
    """Bars of one score with their values and intervals, and for accuracy the level of chance."""
    bar = 0.84 / len(colours)
    of = {(language, setting): scores for language, setting, scores in rows}
    for index, (setting, colour) in enumerate(colours.items()):
        at = [place for place, name in enumerate(languages) if of.get((name, setting), {}).get(score) is not None]
        found = [of[languages[place], setting] for place in at]
        places = [place + (index - (len(colours) - 1) / 2) * bar for place in at]
        heights = [100 * scores[score] for scores in found]
        # From the value to the ends of its interval, as matplotlib wants them: (2, bars).
        ends = [
            [100 * abs(s[f"{score}_{end}"] - s[score]) for s in found if s.get(f"{score}_{end}") is not None]
            for end in ("low", "high")
        ]
        errors = ends if found and len(ends[0]) == len(found) else None
        hatch = "//" if index >= len(_COLOURS) else ""
        drawn = ax.bar(places, heights, 0.92 * bar, yerr=errors, label=setting, color=colour, hatch=hatch, capsize=2)
        small = {"fontsize": 6.5, "rotation": 90 if len(colours) > 3 else 0}
        ax.bar_label(drawn, [f"{height:.0f}" for height in heights], padding=2, **small)
        if score == "accuracy":
            chances = [100 * scores["chance_level"] for scores in found]
            ends = [place + bar / 2 for place in places]
            label = None if index else _CHANCE
            ax.hlines(chances, [end - bar for end in ends], ends, colors="black", linestyles=(0, (2, 1)), label=label)
    ax.set_xticks(range(len(languages)), languages)
    ax.axvline(len(languages) - 1.5, color="0.8", linewidth=0.8)
    ax.set_xlim(-0.6, len(languages) - 0.4)
    ax.set_ylim(0, min(108, max(20.0, 1.12 * ax.dataLim.y1 + 4)))
    ax.spines[["top", "right"]].set_visible(False)
