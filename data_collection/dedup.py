"""Remove exact and near duplicates, inside and across sources and files.

    python data_collection/dedup.py --input FILES_OR_FOLDERS --output_dir DIR

Reads Parquet, JSON lines, text files and saved datasets; writes kept/, rejected/ (with what each is a duplicate of),
stats.json and run.json. In arrays of your own the steps are jobs that wait for each other: --step signatures (an
array), --step clusters (one task), --step remove (an array).
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
import json
import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from configs.errors import ExitCode, MissingInputError, SettingsError
from configs.files import fingerprint, read_json
from configs.languages import language
from configs.progress import log
from configs.records import already_done, run_record
from configs.settings import parse, setting
from data_collection.corpus.jobs import SHARES, do_shards, run_shard_job
from data_collection.corpus.work import array_task


@dataclass
class DedupSettings:
    """Settings of the removal of duplicates."""

    input: list[str] = setting(help="files or folders of documents, of all sources; their order makes no difference")
    output_dir: Path = setting(help="folder of the output")
    min_similarity: float = setting(
        0.8, help="least Jaccard similarity of near duplicates, of word 5-grams (character 5-grams in zh and ja)"
    )
    lang: str | None = setting(None, help="language of the documents that state none; none: one with spaces")
    step: Literal["all", "signatures", "clusters", "remove"] = setting("all", help="what to do, in this order")
    num_processes: int | None = setting(None, help="files worked on at once; none: the CPUs allocated")

    def problems(self) -> list[str]:
        found = []
        if not 0.3 <= self.min_similarity <= 1:
            found.append(f"min_similarity wants a share from 0.3 to 1, found {self.min_similarity}")
        if self.num_processes is not None and self.num_processes < 1:
            found.append(f"num_processes wants 1 or more, found {self.num_processes}")
        if self.lang is not None:
            try:
                self.lang = language(self.lang).code
            except SettingsError as error:
                found.append(f"lang: {error.what}; there are {error.wanted}")
        return found


def search(settings: DedupSettings, shards: list, signatures: Any, may_do: bool) -> dict[str, Any]:
    """The step between the two that go shard by shard: which documents are duplicates of which. Returns the counts.

    Raises:
        MissingInputError: signatures are missing; or the step has not been done, and this command may not do it.
    """
    from data_collection.overlaps import duplicates
    from data_collection.overlaps.signatures import Folders, partitions, read_layout, save_layout

    folders = Folders(settings.output_dir)
    layout = read_layout(signatures, shards)
    rules = {**signatures.rules, "inputs": fingerprint([signatures.identity(shard) for shard in shards])}
    if done := already_done(folders.clusters, rules):
        return done["result"]
    if not may_do:
        raise MissingInputError(
            "the duplicates have not been searched yet",
            where=folders.clusters,
            todo="run the same command with --step clusters",
        )
    with run_record(folders.clusters, "dedup-clusters", vars(settings), rules) as record:
        save_layout(folders, layout)
        items = {kind: partitions(layout, kind) for kind in ("exact", "bands")}
        jobs = {kind: duplicates.partition_job(folders, kind, rules) for kind in items}
        do_shards(jobs["exact"], items["exact"], settings.num_processes)
        num_copies = duplicates.write_copy_bits(folders, layout, items["exact"])
        do_shards(jobs["bands"], items["bands"], settings.num_processes)
        counts = duplicates.write_decisions(folders, layout, jobs["bands"], items["bands"], rules)
        record.finish("finished", exact_duplicates=num_copies, **counts)
    log.info(f"dedup: {num_copies:,} exact and {counts['near_duplicates']:,} near duplicates")
    return record.data["result"]


def main() -> int:
    settings = parse(__doc__, DedupSettings)[0]
    index, count = array_task()
    if count > 1 and settings.step == "all" and SHARES not in os.environ:
        raise SettingsError(
            "the tasks of a Slurm array cannot do all steps: each waits for all tasks of the one before",
            found="--step all",
            wanted="--step signatures, clusters or remove",
            todo="submit three jobs, the later ones with --dependency=afterok:ID (data_collection/README.md)",
        )

    from data_collection.corpus.documents import find_shards
    from data_collection.overlaps import duplicates
    from data_collection.overlaps.minhash import NUM_BANDS, SHINGLE_SIZE, rows_per_band
    from data_collection.overlaps.signatures import signature_job, summarise_signatures

    # Sorted, since the names of the shards follow the order of the inputs.
    shards = find_shards(sorted(settings.input), settings.output_dir)
    rows = rows_per_band(settings.min_similarity)
    rules = {
        "min_similarity": settings.min_similarity,
        "lang": settings.lang,
        "shingle": SHINGLE_SIZE,
        "bands": f"{NUM_BANDS} x {rows}",
        "unicode": unicodedata.unidata_version,  # what folds case and width
    }
    signatures = signature_job(settings.output_dir, rules, settings.lang, rows)
    removal = duplicates.removal_job(settings.output_dir, rules, settings.lang)
    sign = functools.partial(run_shard_job, signatures, shards, settings, summarise_signatures, settings.num_processes)
    remove = functools.partial(run_shard_job, removal, shards, settings, duplicates.summarise, settings.num_processes)
    if SHARES in os.environ:  # a task of the array that one of the two submitted for help, and of that one only
        return sign() if Path(os.environ[SHARES]).parent == signatures.output_dir.resolve() else remove()
    record = settings.output_dir / "run.json"
    # A finished output needs nothing of work/, which the user may have removed.
    finished = record.exists() and read_json(record)["status"] == "finished"
    if settings.step == "signatures":
        return sign()
    if settings.step == "all" and not finished:
        sign()
    if settings.step == "clusters" and index > 0:
        log.info("the first task of the array does this step")
        return ExitCode.DONE
    if settings.step == "clusters" or not finished:
        counts = search(settings, shards, signatures, may_do=settings.step != "remove")
        if settings.step == "clusters":
            print(json.dumps(counts))
            return ExitCode.DONE
    return remove()


if __name__ == "__main__":
    run(main)
