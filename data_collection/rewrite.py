"""Have a language-model server rewrite documents into questions and answers, and check what it writes.

    python data_collection/rewrite.py --input FILES_OR_FOLDERS --output_dir DIR --server_url http://127.0.0.1:8000/v1

Any OpenAI-compatible server; the key comes from the environment. Writes conversations/ (which finetune/train.py
takes) or kept/ (documents), rejected/ (passages without a good pair, with the reason), attempts/ (every answer of the
server; the same command goes on from there), stats.json and run.json. In a Slurm array each task takes its share of the
input files, of the rate limits and of the budget.
"""

import sys

try:
    from configs.errors import run
except ModuleNotFoundError:
    print(
        "error: the environment is not active\n"
        "  what to do: source .venv/bin/activate (bash scripts/setup.sh makes it), then the same command",
        file=sys.stderr,
    )
    sys.exit(4)

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from configs.languages import language
from configs.settings import parse, setting
from data_collection.llm.server_settings import ServerSettings


@dataclass
class RewriteSettings:
    """Settings of data_collection/rewrite.py, beside those of the server."""

    input: list[str] = setting(help="files or folders of documents")
    output_dir: Path = setting(help="folder of the output")
    layout: Literal["conversations", "documents"] = setting(
        "conversations", help="what a question with its answer becomes: a user's and an assistant's message, or a text"
    )
    lang: str | None = setting(None, help="language of documents that state none; detected by default")
    max_passage_tokens: int = setting(700, "limit of a passage, by its length: 3 bytes of UTF-8 are counted as a token")
    max_pairs: int = setting(3, "questions asked for about a passage")
    max_new_tokens: int = setting(1024, "limit of what is written about a passage")
    max_attempts: int = setting(3, "attempts before a passage is given up")

    def problems(self) -> list[str]:
        """What is wrong with the values."""
        least = {"max_passage_tokens": 20, "max_pairs": 1, "max_new_tokens": 1, "max_attempts": 1}
        return [
            f"{name} {getattr(self, name)}: wanted {value} or more"
            for name, value in least.items()
            if getattr(self, name) < value
        ]


def main() -> int:
    settings, server_settings = parse(__doc__, RewriteSettings, ServerSettings)
    from configs.progress import log
    from data_collection.corpus.documents import find_shards
    from data_collection.corpus.jobs import ShardJob, markers, run_shard_job
    from data_collection.corpus.work import array_task
    from data_collection.llm.asking import model_of_finished
    from data_collection.llm.rewriting import RewriteRules, estimate, rewrite_shard, summarise
    from data_collection.llm.servers import Server

    lang = language(settings.lang).code if settings.lang else ""
    shards = find_shards(settings.input, settings.output_dir)
    index, count = array_task()
    share = server_settings.share(count)
    model = model_of_finished(settings.output_dir, share.server_model)
    server = None if model else Server(share)
    rules = RewriteRules(
        model=model or server.model,
        lang=lang,
        layout=settings.layout,
        extra_body=share.extra_body,
        **{
            name: getattr(settings, name)
            for name in ("max_passage_tokens", "max_pairs", "max_new_tokens", "max_attempts")
        },
    )
    output_dir = settings.output_dir
    work = functools.partial(rewrite_shard, output_dir=output_dir, rules=rules, server_settings=share)
    job = ShardJob(
        stage="rewrite",
        output_dir=output_dir,
        rules=rules.identity(),
        work=work,
        outputs=functools.partial(rules.outputs, output_dir),
        spreads=False,  # more jobs would ask the same server, each at the full rate
    )
    if server:
        done, left = [], []
        for shard in shards[index::count]:
            (done if job.is_done(shard) else left).append(shard)
        spent = sum(marker["cost"] for _, marker in markers(job, done))
        job = replace(job, work=functools.partial(work, spent=spent))
        if most := estimate(server, left, rules):
            log.info(f"about {most:.2f} at most when each passage is good at the first attempt")
    # One process: what waits for a server needs no second one, and two would each keep the rate limits alone.
    return run_shard_job(job, shards, settings, summarise, num_processes=1)


if __name__ == "__main__":
    run(main)
