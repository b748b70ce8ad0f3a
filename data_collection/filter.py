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

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from configs.errors import SettingsError
from configs.languages import language
from configs.progress import log
from configs.settings import parse, setting


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
    keywords: Path | None = setting(None, help="keyword list, one a line; none: configs/keywords/LANG.txt")
    language_check: bool = setting(True, help="reject texts stated or detected to be in another language")
    language_detector: Literal["fasttext", "langdetect"] = setting("fasttext", help="what detects it")
    quality_check: bool = setting(
        True, help="mend broken encodings, boilerplate and repeated lines; reject texts of no use"
    )
    mask_personal_data: bool = setting(False, help="put marks over e-mail addresses, telephone and identity numbers")
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
    from data_collection.selection.filtering import FilterRules
    from data_collection.selection.thresholds import Thresholds

    row = language(settings.lang)
    thresholds = Thresholds.of(row.code, settings.thresholds)
    given = {name: getattr(settings, name) for name in ("min_keywords", "min_density")}
    return FilterRules(
        lang=row.code,
        thresholds=replace(thresholds, **{name: value for name, value in given.items() if value is not None}),
        keywords=settings.keywords or row.keywords_file,
        language_check=settings.language_check,
        language_detector=settings.language_detector,
        quality_check=settings.quality_check,
        mask_personal_data=settings.mask_personal_data,
    )


def main() -> int:
    settings = parse(__doc__, FilterSettings)[0]

    from data_collection.corpus.documents import find_shards
    from data_collection.corpus.jobs import ShardJob, run_shard_job, shard_files
    from data_collection.selection.filtering import filter_shard, summarise

    rules = rules_of(settings)
    rules.matcher().match("")  # compiles what is not compiled yet, which each worker process would do again
    least = rules.thresholds
    log.info(
        f"filter: {rules.lang}, at least {least.min_keywords} keywords covering {least.min_density:.1%} of the text"
        f"{' (less where it is long)' if least.falls_with_length else ''}, "
        f"language check {'on' if rules.language_check else 'off'}, keywords {rules.keywords}"
    )
    output_dir = settings.output_dir
    job = ShardJob(
        stage="filter",
        output_dir=output_dir,
        rules=rules.identity(),
        work=functools.partial(filter_shard, output_dir=output_dir, rules=rules),
        outputs=functools.partial(shard_files, output_dir),
    )
    return run_shard_job(
        job,
        find_shards(settings.input, output_dir),
        settings,
        summarise,
        settings.num_processes,
    )


if __name__ == "__main__":
    run(main)
