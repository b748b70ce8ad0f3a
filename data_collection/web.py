"""Saved web pages to documents: folders of HTML files, and WARC archives (.warc, .warc.gz).

    python data_collection/web.py --input FILES_OR_FOLDERS --output_dir DIR [--lang fr]

The main text of each page by trafilatura, with its address, title, date and the licence that it states; nothing is
fetched. Writes kept/ and rejected/ (pages without text), failures.jsonl (pages that are no HTML, too large, or on
which the parser crashed or hung), stats.json and run.json. In a Slurm array each task takes its share of the archives.
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
class WebSettings:
    """Settings of the reading of web pages."""

    input: list[str] = setting(help="HTML files, WARC files, or folders of them")
    output_dir: Path = setting(help="folder of the output")
    lang: str = setting("", help="code of the documents' language; empty: detected page by page")
    source: str = setting("", help="the documents' source; empty: the host of each page's address")
    licence: str = setting("", help="licence of the pages that state none")
    max_mib_per_page: float = setting(5.0, help="larger pages are failed items, MiB")
    max_seconds_per_page: float = setting(20.0, help="limit of a page, CPU time")
    max_gib_per_process: float = setting(2.0, help="memory limit of a process that parses pages, GiB of address space")
    num_processes: int | None = setting(None, help="archives worked on at once; none: the CPUs allocated")

    def problems(self) -> list[str]:
        limits = ("max_mib_per_page", "max_seconds_per_page", "max_gib_per_process")
        found = [f"{name} wants more than 0" for name in limits if getattr(self, name) <= 0]
        if self.num_processes is not None and self.num_processes < 1:
            found.append(f"num_processes wants 1 or more, found {self.num_processes}")
        return found


def main() -> int:
    settings = parse(__doc__, WebSettings)[0]

    from data_collection.corpus.jobs import ShardJob, run_shard_job, shard_files
    from data_collection.corpus.totals import summarise
    from data_collection.sources.web_pages import WebRules, find_web_shards, read_web_shard

    rules = WebRules(
        settings.lang.lower(),
        settings.source,
        settings.licence,
        settings.max_mib_per_page,
        settings.max_seconds_per_page,
        settings.max_gib_per_process,
    )
    job = ShardJob(
        stage="web",
        output_dir=settings.output_dir,
        rules=rules.identity(),
        work=functools.partial(read_web_shard, output_dir=settings.output_dir, rules=rules),
        outputs=functools.partial(shard_files, settings.output_dir),
    )
    shards = find_web_shards(settings.input)
    return run_shard_job(job, shards, settings, summarise, settings.num_processes)


if __name__ == "__main__":
    run(main)
