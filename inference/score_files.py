"""All files of a set of scores: scores.json, and what is drawn from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inference.score_plots import write_plots
from inference.score_tables import write_tables
from inference.scoring import write_scores


def write_all(labelled: list[tuple[str, dict[str, Any]]], output_dir: Path, caption: str) -> None:
    """Write scores.json, tables and plots of (label, scores) pairs to a folder."""
    write_scores(labelled, output_dir, caption)
    write_tables(labelled, output_dir, caption)
    write_plots(labelled, output_dir)
