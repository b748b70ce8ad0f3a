"""All files of a set of scores: scores.json, and what is drawn from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inference.scores.published import write_beside
from inference.scores.score_plots import write_plots
from inference.scores.score_tables import write_details, write_tables
from inference.scoring import write_scores


def write_all(
    labelled: list[tuple[str, dict[str, Any]]],
    output_dir: Path,
    caption: str,
    comparisons: Sequence[dict[str, Any]] = (),
    *,
    is_mmedbench: bool = True,
) -> None:
    """Write scores.json, tables and plots to a folder.

    Args:
        labelled: name of each run and its scores.
        output_dir: where to.
        caption: a line on the conditions.
        comparisons: of pairs of runs, `first` and `second` (labels) and `kinds` as `comparison.compare` gives them.
        is_mmedbench: the questions are MMedBench's, so that its published rows stand beside ours.
    """
    write_scores(labelled, output_dir, caption, comparisons)
    write_tables(labelled, output_dir, caption)
    write_details(labelled, comparisons, output_dir)
    if is_mmedbench:
        write_beside(labelled, output_dir)
    write_plots(labelled, output_dir)
