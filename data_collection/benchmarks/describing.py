"""The work of describe.py: the tables and the figure of a folder of questions."""

from __future__ import annotations

from typing import Any

from configs import records
from configs.errors import FailedItems
from configs.files import fingerprint
from configs.progress import log
from data_collection.questions.question_figures import Figures, markdown_tables, write_figures
from data_collection.questions.question_files import QuestionFiles
from data_collection.questions.question_plots import draw_figure


def describe_questions(settings: Any) -> int:
    """Count, draw, write; returns the exit code (5: some rows cannot be used)."""
    failed, figures = FailedItems(), Figures()
    for split, question in QuestionFiles(settings.input, settings.languages, failed).read():
        figures.add(split, question)
    described = figures.record()
    identity = {"statistics": fingerprint(described)}
    done = records.already_done(settings.output_dir, identity)
    if done:
        log.info(f"already done: {settings.output_dir}")
        return records.exit_code(done)
    with records.run_record(settings.output_dir, "description", records.plain(settings), identity) as record:
        write_figures(described, settings.output_dir)
        draw_figure(described, settings.output_dir)
        failed.write(settings.output_dir / "failures.jsonl")
        record.finish("finished", len(failed), splits=described["splits"])
    print(markdown_tables(described))
    return failed.exit_code
