"""The work of report.py: a run folder to one HTML page and one table of scores.

Questions, answers, labels and reasons are others' text. The page marks none of it as safe: every expression of the
template passes `report_reading.clean` and is then escaped, pictures are in <img>, and the page's own policy forbids
scripts and the network.
"""

from __future__ import annotations

import sys
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from configs.errors import ExitCode
from configs.files import REPOSITORY, atomic_open
from inference.scores.score_tables import NOTICE, write_tables
from inference.visible_text import clean, clean_line
from scripts import report_models, report_plots, report_sections
from scripts.report_plots import Picture
from scripts.report_reading import Evaluation, Stage, find_stages, json_rows, read_evaluations

_TEMPLATE = "report_page.html"
_MAX_LINES, _MAX_LINE_CHARACTERS = 20, 300


def report(run_dir: Path, output: Path) -> ExitCode:
    """Write the page to `output` and table.md and table.csv to `run_dir`; prints failed items and the page's path.

    Returns:
        5 when a stage had failed items, else 0.

    Raises:
        MissingInputError: there is no run.json under `run_dir`.
    """
    stages = find_stages(run_dir)
    evaluations = read_evaluations(stages)
    labelled = [(e.label, e.scores) for e in evaluations if e.scores]
    captions = captions_of(evaluations, report_models.conditions(stages))
    if labelled:
        write_tables(labelled, run_dir, " ".join(f"{caption}." for caption in captions))
    page = render(page_values(run_dir, stages, evaluations, captions))
    with atomic_open(output) as file:
        file.write(page)
    code = print_failures(stages)
    print(output)
    return code


def captions_of(evaluations: list[Evaluation], conditions: str) -> list[str]:
    """What is said below the scores: the conditions of each evaluation, once where they agree, then of the training."""
    models: dict[str, list[str]] = {}
    for evaluation in evaluations:
        if evaluation.scores and evaluation.caption:
            models.setdefault(evaluation.caption, []).append(evaluation.label)
    captions = list(models) if len(models) < 2 else [f"{', '.join(of)}: {caption}" for caption, of in models.items()]
    return [clean(caption).rstrip(".") for caption in (*captions, conditions) if caption]


def page_values(
    run_dir: Path, stages: list[Stage], evaluations: list[Evaluation], captions: list[str]
) -> dict[str, Any]:
    """All that the template draws."""
    labelled = [(e.label, e.scores) for e in evaluations if e.scores]
    trainings = report_models.trainings(stages)
    for training in trainings:
        loss, perplexity = training["loss"], training["perplexity"]
        training["loss_picture"] = report_plots.loss_picture(loss, training["dev_loss"]) if loss else ""
        training["perplexity_picture"] = report_plots.perplexity_picture(perplexity) if perplexity else ""
    there = {stage.name for stage in stages}
    return {
        "title": run_dir.resolve().name,
        "notice": NOTICE,
        "captions": captions,
        "chain": report_sections.chain(stages),
        "missing": [f"{name} ({what})" for name, what in report_sections.STAGES.items() if name not in there],
        "evaluations": evaluations,
        "scores": report_models.scores_table(evaluations) if labelled else None,
        "score_pictures": report_plots.score_pictures(labelled) if labelled else [],
        "books": report_sections.books(stages),
        "documents": report_sections.documents(stages),
        "tokens": report_sections.tokens(stages),
        "trainings": trainings,
        "samples": report_models.samples(evaluations),
        "failures": report_sections.failures(stages),
        "environments": report_sections.environments(stages),
    }


def render(values: dict[str, Any]) -> str:
    """The page as text."""
    return _template().render(values)


@cache
def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([Path(__file__).parent, REPOSITORY / "configs"]),
        autoescape=True,
        # What has __html__ is what a macro of the template made, its values cleaned and escaped.
        finalize=lambda value: value if hasattr(value, "__html__") or isinstance(value, Picture) else clean(value),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(_TEMPLATE)


def print_failures(stages: list[Stage]) -> ExitCode:
    """List failed items on stderr (stage, item, reason), not more than a terminal shows; returns the exit code."""
    lines = []
    num_failed = sum(stage.num_failed for stage in stages)
    for stage in stages:
        if stage.num_failed and len(lines) < _MAX_LINES:
            rows = json_rows(stage.folder / "failures.jsonl")
            found = [f"{row.get('where')}: {row.get('reason')}" for row in islice(rows, _MAX_LINES)]
            lines += [f"{stage.place}: {text}" for text in found or [f"{stage.num_failed:,} items, listed nowhere"]]
    if num_failed > len(lines) or len(lines) > _MAX_LINES:
        lines = [*lines[: _MAX_LINES - 1], f"{num_failed:,} items in all; failures.jsonl of each stage lists them"]
    for line in lines:
        print(clean_line(f"failed: {line}", _MAX_LINE_CHARACTERS), file=sys.stderr)
    return ExitCode.FAILED_ITEMS if num_failed else ExitCode.DONE
