"""Keep the medical documents of a language.

    python data_collection/filter.py --input FILES_OR_FOLDERS --output_dir DIR --lang fr

Reads Parquet, JSON lines, text files and saved datasets; writes kept/, rejected/ (with the reason), stats.json and
run.json. In a Slurm array each task takes its share of the input files, and the task that ends last writes stats.json.
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

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from configs.errors import EnvironmentFailure, ExitCode, SettingsError
from configs.files import fingerprint, read_json, write_json
from configs.languages import language
from configs.progress import Progress, log
from configs.records import already_done, exit_code, run_record
from configs.settings import parse, setting
from data_collection.work import array_task, num_allocated_cpus, remove_half_written


@dataclass
class FilterSettings:
    """Settings of the filter."""

    input: list[str] = setting(help="files or folders of documents")
    output_dir: Path = setting(help="folder of the output")
    lang: str = setting(help="language to keep: a code or name of configs/languages.py")
    thresholds: Literal["default", "paper"] = setting(
        "default", help="the language's own thresholds, chosen by measurement, or those published with MMedC"
    )
    min_keywords: int | None = setting(None, help="least number of different keywords, over the thresholds")
    min_density: float | None = setting(None, help="least share of characters in keywords, over the thresholds")
    language_check: bool = setting(True, help="reject texts stated or detected to be in another language")
    keywords: Path | None = setting(None, help="keyword list, one a line; none: configs/keywords/LANG.txt")
    num_processes: int | None = setting(None, help="files worked on at once; none: the CPUs allocated")

    def problems(self) -> list[str]:
        found = []
        if self.min_keywords is not None and self.min_keywords < 0:
            found.append(f"min_keywords wants 0 or more, found {self.min_keywords}")
        if self.min_density is not None and not 0 <= self.min_density <= 1:
            found.append(f"min_density wants a share from 0 to 1, found {self.min_density}")
        if self.num_processes is not None and self.num_processes < 1:
            found.append(f"num_processes wants 1 or more, found {self.num_processes}")
        try:
            language(self.lang)
        except SettingsError as error:
            found.append(f"lang: {error.what}; there are {error.wanted}")
        return found


def rules_of(settings: FilterSettings) -> Any:
    """The thresholds in force, the user's over the language's."""
    from data_collection.filtering import FilterRules

    row = language(settings.lang)
    pair = (row.min_keywords, row.min_density)
    if settings.thresholds == "paper":
        pair = (row.paper_min_keywords, row.paper_min_density)
    return FilterRules(
        lang=row.code,
        min_keywords=pair[0] if settings.min_keywords is None else settings.min_keywords,
        min_density=pair[1] if settings.min_density is None else settings.min_density,
        language_check=settings.language_check,
        keywords=settings.keywords or row.keywords_file,
    )


def filter_shards(shards: list, output_dir: Path, rules: Any, num_processes: int) -> int:
    """Filter those of `shards` that are not done yet; return how many of all could not be read in whole."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool

    from data_collection.filtering import filter_shard, marker_path, shard_is_done

    identity = rules.identity()
    todo = [shard for shard in shards if not shard_is_done(shard, output_dir, identity)]
    progress = Progress("filter", len(shards), "files", done=len(shards) - len(todo))
    if todo:
        workers = min(num_processes, len(todo))
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            jobs = [pool.submit(filter_shard, shard, output_dir, rules) for shard in todo]
            try:
                for job in as_completed(jobs):
                    job.result()
                    progress.advance()
            except BrokenProcessPool:
                raise EnvironmentFailure(
                    "a worker process was killed",
                    where=output_dir,
                    found=f"{progress.done} of {len(shards)} files done",
                    todo="most often memory ran out: the same command with a smaller --num_processes goes on from here",
                ) from None
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        progress.close()
    return sum(len(read_json(marker_path(output_dir, shard))["failed"]) for shard in shards)


def main() -> int:
    settings = parse(__doc__, FilterSettings)[0]
    index, count = array_task()

    from data_collection.documents import find_shards
    from data_collection.filtering import marker_path, merge, shard_files, shard_is_done

    rules = rules_of(settings)
    log.info(
        f"filter: {rules.lang}, at least {rules.min_keywords} keywords covering {rules.min_density:.1%} of the "
        f"characters, language check {'on' if rules.language_check else 'off'}, keywords {rules.keywords}"
    )
    shards = find_shards(settings.input)
    inputs = [shard.identity() for shard in shards]
    num_bytes = sum(shard["num_bytes"] for shard in inputs)
    identity = {**rules.identity(), "inputs": f"{len(inputs)} shards, {num_bytes:,} bytes, {fingerprint(inputs)}"}
    output_dir = settings.output_dir
    if done := already_done(output_dir, identity):
        log.info(f"already done: {output_dir}")
        print(json.dumps(done["result"], ensure_ascii=False))
        return exit_code(done)
    num_processes = settings.num_processes or num_allocated_cpus()
    if count > 1:
        num_failed = filter_shards(shards[index::count], output_dir, rules, num_processes)
        if not all(shard_is_done(shard, output_dir, rules.identity()) for shard in shards):
            log.info("this task's share is done; the task that ends last writes stats.json")
            return ExitCode.FAILED_ITEMS if num_failed else ExitCode.DONE
    with run_record(output_dir, "filter", vars(settings), identity) as record:
        filter_shards(shards, output_dir, rules, num_processes)
        statistics, failed = merge(shards, output_dir)
        failed.write(output_dir / "failures.jsonl")
        for shard in shards:
            for path in (*shard_files(output_dir, shard), marker_path(output_dir, shard)):
                remove_half_written(path)
        write_json(output_dir / "stats.json", statistics)
        totals = {name: statistics[name] for name in ("read", "kept", "rejected", "failed", "rejected_by_reason")}
        record.finish("finished", failed_items=len(failed), **totals, characters=statistics["characters"])
    log.info(f"filter: kept {statistics['kept']:,} of {statistics['read']:,} documents; see {output_dir}/stats.json")
    print(json.dumps(record.data["result"], ensure_ascii=False))
    return failed.exit_code


if __name__ == "__main__":
    run(main)
