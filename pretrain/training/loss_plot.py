"""The curves of a run as a picture: training loss, and held-out loss by language."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from configs.files import atomic_path

_HELD_OUT = "eval_loss_"


def plot_losses(rows: list[dict[str, Any]], path: Path) -> None:
    """Write an SVG of the losses in metrics rows over the steps; the same rows give the same bytes.

    Args:
        rows: of metrics.jsonl.
        path: the file to write.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "losses", "font.family": "DejaVu Sans", "font.size": 9}):
        figure = Figure(figsize=(7, 4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        trained = [(row["step"], row["loss"]) for row in rows if "loss" in row]
        axes.plot(*zip(*trained, strict=True), color="0.5", linewidth=1, label="training")
        names = dict.fromkeys(name for row in rows for name in row if name.startswith(_HELD_OUT))
        for name in names:
            points = [(row["step"], row[name]) for row in rows if name in row]
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=f"held out, {name[len(_HELD_OUT) :]}")
        axes.set_xlabel("step")
        axes.set_ylabel("loss of a token, nats")
        axes.legend(fontsize=8)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})
