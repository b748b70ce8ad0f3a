"""Plots of the report: SVG pictures as data addresses, in colours that follow the reader's light or dark mode.

A picture in an <img> runs no script and fetches nothing, whatever text is in it.
"""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inference.scores.score_plots import write_plots
from inference.scores.score_tables import Labelled

_INK = "#123456"  # stands for the reader's colour of text until `_picture` puts that in
_INKS = (_INK, "#000000", "#595959")
_STYLE = '<style type="text/css">'
_MODES = "svg{color:#1d2329}@media(prefers-color-scheme:dark){svg{color:#d5dbe1}}"
_THEME: dict[str, Any] = {
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
    "text.parse_math": False,  # a "$" in a label is a "$"
    "svg.hashsalt": "report",
    "font.family": "DejaVu Sans",
    "font.size": 9,
}
_BEFORE, _AFTER = "#999999", "#0072B2"
_MAX_POINTS = 2000
Points = Sequence[tuple[float, float]]


class Picture(str):
    """A data address of our own making, which the page need not cut to a length."""


def _picture(svg: str) -> Picture:
    for ink in _INKS:
        svg = svg.replace(ink, "currentColor")
    assert _STYLE in svg, "matplotlib writes its style otherwise"
    svg = svg.replace(_STYLE, _STYLE + _MODES, 1)
    return Picture("data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode())


def score_pictures(labelled: Labelled) -> list[Picture]:
    """Accuracy and, where there are rationales, BLEU-1 and ROUGE-1: bars by language, a colour a model and kind."""
    from matplotlib import rc_context

    with rc_context(_THEME), tempfile.TemporaryDirectory() as folder:
        paths = [path for path in write_plots(labelled, Path(folder)) if path.suffix == ".svg"]
        return [_picture(path.read_text(encoding="utf-8")) for path in paths]


def _figure() -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3), layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    ax.spines[["top", "right"]].set_visible(False)
    return figure, ax


def _finished(figure: Any) -> Picture:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _picture(buffer.getvalue())


def loss_picture(loss: Points, dev_loss: Points) -> Picture:
    """Training loss against step as a line, the loss on held-out data as dots."""
    from matplotlib import rc_context

    with rc_context(_THEME):
        figure, ax = _figure()
        thinned = loss[:: max(1, -(-len(loss) // _MAX_POINTS))]
        ax.plot(
            *zip(*thinned, strict=True), color=_AFTER, linewidth=1.4, label="training", marker="." * (len(loss) < 40)
        )
        if dev_loss:
            ax.plot(*zip(*dev_loss, strict=True), "o", color="#D55E00", markersize=5, label="held out, all languages")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set_xlabel("step")
        ax.set_ylabel("loss of a token, nats")
        ax.legend(frameon=False)
        return _finished(figure)


def perplexity_picture(rows: Sequence[dict[str, Any]]) -> Picture:
    """Perplexity by language, before and after, as pairs of bars."""
    from matplotlib import rc_context

    with rc_context(_THEME):
        figure, ax = _figure()
        for shift, name, colour in ((-0.2, "before", _BEFORE), (0.2, "after", _AFTER)):
            values = [row[name] or 0 for row in rows]
            bars = ax.bar([place + shift for place in range(len(rows))], values, 0.38, color=colour, label=name)
            ax.bar_label(bars, [f"{value:.3g}" if value else "" for value in values], padding=2, fontsize=6.5)
        ax.margins(y=0.2)  # room for the legend
        ax.set_xticks(range(len(rows)), [row["language"] for row in rows])
        ax.set_ylabel("perplexity on held-out data")
        ax.legend(frameon=False)
        return _finished(figure)
