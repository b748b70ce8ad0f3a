"""Remove documents that hold questions of a test set.

    python data_collection/decontaminate.py --input FILES_OR_FOLDERS --test data/mmedbench --output_dir DIR

Writes kept/, rejected/ (with the question, the share of it found and the passage), contamination.md (every hit),
stats.json and run.json. In a Slurm array each task takes its share of the input files, and the task that ends last
writes the totals.
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

from configs.progress import log
from configs.settings import parse, setting


@dataclass
class DecontaminateSettings:
    """Settings of the search for test questions."""

    input: list[str] = setting(help="files or folders of documents")
    output_dir: Path = setting(help="folder of the output")
    test: list[str] = setting(help="the test set: folders with Test/LANGUAGE.jsonl (or mmedbench/Test/), or such files")
    num_processes: int | None = setting(None, help="files worked on at once; none: the CPUs allocated")

    def problems(self) -> list[str]:
        if self.num_processes is not None and self.num_processes < 1:
            return [f"num_processes wants 1 or more, found {self.num_processes}"]
        return []


def main() -> int:
    settings = parse(__doc__, DecontaminateSettings)[0]

    from data_collection.corpus.documents import find_shards
    from data_collection.corpus.jobs import ShardJob, run_shard_job, shard_files
    from data_collection.overlaps.contamination import find_test_files, load_test_questions
    from data_collection.overlaps.decontamination import decontaminate_shard, summarise

    test = tuple(str(path) for path in find_test_files(settings.test))
    questions, _ = load_test_questions(test)
    shards = find_shards(settings.input, settings.output_dir)
    log.info(
        f"decontaminate: {len(questions.languages):,} test questions from {len(test)} files, "
        f"{len(questions.too_short):,} of them too short to look for"
    )
    rules = questions.identity()
    job = ShardJob(
        stage="decontaminate",
        output_dir=settings.output_dir,
        rules=rules,
        work=functools.partial(
            decontaminate_shard, output_dir=settings.output_dir, test=test, rules=rules, first=shards[0].name
        ),
        outputs=functools.partial(shard_files, settings.output_dir),
    )
    return run_shard_job(
        job, shards, settings, functools.partial(summarise, job=job, test=test), settings.num_processes
    )


if __name__ == "__main__":
    run(main)
