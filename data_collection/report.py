"""Say what a corpus holds: size by language and source, what was dropped and why, lengths, keywords, documents.

    python data_collection/report.py --input CORPUS_DIR --output_dir DIR [--tokenizer MODEL_DIR]

The steps that made the corpus are found by the run.json of each folder. Writes report.html (one page that needs no
network), report.md, and corpus.json, from which a dataset card is written.
"""

import sys

try:
    from configs.errors import run
except ModuleNotFoundError:
    print(
        "error: the environment is not active\n  what to do: source .venv/bin/activate "
        "(bash scripts/setup.sh makes it), then the same command",
        file=sys.stderr,
    )
    sys.exit(4)

import functools
from dataclasses import dataclass
from pathlib import Path

from configs.files import fingerprint
from configs.progress import log
from configs.settings import parse, setting


@dataclass
class CorpusReportSettings:
    """Settings of the report."""

    input: list[str] = setting(help="folders of the corpus; the steps before them are found by run.json")
    output_dir: Path = setting(help="folder of the output")
    tokenizer: Path | None = setting(None, help="folder of a model or tokenizer, to count tokens")
    num_samples: int = setting(5, help="documents to show of each language and reason")
    num_processes: int | None = setting(None, help="files read at once; none: the CPUs allocated")

    def problems(self) -> list[str]:
        found = []
        if self.num_samples < 0:
            found.append(f"num_samples wants 0 or more, found {self.num_samples}")
        if self.num_processes is not None and self.num_processes < 1:
            found.append(f"num_processes wants 1 or more, found {self.num_processes}")
        return found


def main() -> int:
    settings = parse(__doc__, CorpusReportSettings)[0]

    from data_collection.corpus.corpus_counts import describe_part, no_files, tokenizer_identity
    from data_collection.corpus.corpus_report import write_report
    from data_collection.corpus.corpus_steps import find_parts, find_steps, sampled_share
    from data_collection.corpus.jobs import ShardJob, run_shard_job

    steps = find_steps(settings.input)
    for step in steps:
        log.info(f"{'corpus' if step.is_corpus else 'step'}: {step.label} in {step.folder}")
    parts = find_parts(steps)
    options = {
        "tokenizer": str(settings.tokenizer) if settings.tokenizer else None,
        "share": sampled_share(parts),
        "num_samples": settings.num_samples,
    }
    job = ShardJob(
        stage="corpus_report",
        output_dir=settings.output_dir,
        rules={
            **options,
            "tokenizer": tokenizer_identity(settings.tokenizer) if settings.tokenizer else None,
            "steps": fingerprint([[step.label, step.record, step.statistics] for step in steps]),
        },
        work=functools.partial(describe_part, **options),
        outputs=no_files,
    )
    summarise = functools.partial(write_report, steps=steps, output_dir=settings.output_dir, **options)
    return run_shard_job(job, parts, settings, summarise, settings.num_processes)


if __name__ == "__main__":
    run(main)
