"""Unite sources in one corpus: existing sets in their own layouts, each by a mapping, and folders of documents.

    python data_collection/merge.py --mapping medquad=data/MedQuAD tico19=data/TM --input runs/web runs/books \\
        --output_dir DIR

A mapping (configs/mappings/NAME.yaml, or a file of your own) says which fields are the text, the language, the source
and the licence; sets of the Hugging Face hub are read as streams (--mapping culturax). Writes kept/ and rejected/
(documents without text), stats.json and run.json. In a Slurm array each task takes its share of the shards.
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

from configs.settings import parse, setting


@dataclass
class MergeSettings:
    """Settings of the union."""

    output_dir: Path = setting(help="folder of the output")
    mapping: list[str] = setting([], help="NAME=PATH: a mapping of configs/mappings or a YAML file, and its files")
    input: list[str] = setting([], help="files or folders of documents, as the other steps write them")
    num_processes: int | None = setting(None, help="shards worked on at once; none: the CPUs allocated")

    def problems(self) -> list[str]:
        found = [] if self.mapping or self.input else ["mapping or input is missing: there is nothing to unite"]
        if self.num_processes is not None and self.num_processes < 1:
            found.append(f"num_processes wants 1 or more, found {self.num_processes}")
        return found


def main() -> int:
    settings = parse(__doc__, MergeSettings)[0]

    from data_collection.corpus.jobs import ShardJob, run_shard_job, shard_files
    from data_collection.corpus.totals import summarise
    from data_collection.sources.merging import find_merge_shards, merge_shard

    shards = find_merge_shards(settings.mapping, settings.input, settings.output_dir)
    job = ShardJob(
        stage="merge",
        output_dir=settings.output_dir,
        rules={},
        work=functools.partial(merge_shard, output_dir=settings.output_dir),
        outputs=functools.partial(shard_files, settings.output_dir),
        unit="shards",
    )
    return run_shard_job(job, shards, settings, summarise, settings.num_processes)


if __name__ == "__main__":
    run(main)
