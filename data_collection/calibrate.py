"""Choose the medical filter's thresholds for a wanted rate of false positives, from labelled documents.

    python data_collection/calibrate.py --input LABELLED_FILES --lang fr --output_dir DIR

A row's field `label` says medical or general. Writes calibration.json (thresholds, recall and false positives with
95 % intervals, on these documents and cross-validated with whole sources held out) and calibration.png (the curves).
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
from typing import Any

from configs.errors import FailedItems, SettingsError
from configs.files import fingerprint, write_json
from configs.languages import language
from configs.progress import log
from configs.records import already_done, exit_code, run_record
from configs.settings import parse, setting


@dataclass
class CalibrateSettings:
    """Settings of the calibration."""

    input: list[str] = setting(help="files or folders of documents with a field label: medical or general")
    output_dir: Path = setting(help="folder of the output")
    lang: str = setting(help="language: a code or name of configs/languages.py")
    max_false_positive_rate: float = setting(0.02, help="share of general documents (or two documents) that may stay")
    wanted_recall: float = setting(0.9, help="share of medical documents to keep, if the rate above allows it")
    min_keywords: int = setting(3, help="MKC; DENS is chosen for it")
    folds: int = setting(5, help="parts of the cross-validation; a label's sources are held out whole")
    keywords: Path | None = setting(None, help="keyword list, one a line; none: configs/keywords/LANG.txt")

    def problems(self) -> list[str]:
        found = []
        for name in ("max_false_positive_rate", "wanted_recall"):
            if not 0 <= getattr(self, name) <= 1:
                found.append(f"{name} wants a share from 0 to 1, found {getattr(self, name)}")
        if self.min_keywords < 1:
            found.append(f"min_keywords wants 1 or more, found {self.min_keywords}")
        if self.folds < 2:
            found.append(f"folds wants 2 or more, found {self.folds}")
        try:
            language(self.lang)
        except SettingsError as error:
            found.append(f"lang: {error.what}; there are {error.wanted}")
        return found


def line_of(name: str, thresholds: Any, found: dict[str, Any]) -> str:
    """One line of the report: the thresholds and both shares with their intervals."""
    shares = [
        f"{label} {row['kept']}/{row['of']} = {row['share']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        if row["of"]
        else f"{label} unknown: too few documents"
        for label, row in (("recall", found["recall"]), ("false positives", found["false_positives"]))
    ]
    pair = f"MKC {thresholds.min_keywords}, DENS {thresholds.min_density:.4g}" if thresholds else "each fold its own"
    return f"  {name:<24} {pair:<22} {'   '.join(shares)}"


def main() -> int:
    settings = parse(__doc__, CalibrateSettings)[0]

    from data_collection.corpus.documents import find_shards
    from data_collection.selection.calibration import (
        choose,
        cross_validate,
        draw,
        rates,
        rates_by_source,
        read_labelled,
    )
    from data_collection.selection.keywords import KeywordMatcher, read_keywords
    from data_collection.selection.thresholds import Thresholds

    row = language(settings.lang)
    keywords = read_keywords(settings.keywords or row.keywords_file)
    shards = find_shards(settings.input)
    wanted = (settings.max_false_positive_rate, settings.wanted_recall, settings.min_keywords)
    identity = {
        "lang": row.code,
        "max_false_positive_rate": wanted[0],
        "wanted_recall": wanted[1],
        "min_keywords": wanted[2],
        "folds": settings.folds,
        "keywords": fingerprint(keywords),
        "inputs": fingerprint([shard.identity() for shard in shards]),
    }
    if done := already_done(settings.output_dir, identity):
        log.info(f"already done: {settings.output_dir}")
        print(json.dumps(done["result"], ensure_ascii=False))
        return exit_code(done)
    with run_record(settings.output_dir, "calibrate", vars(settings), identity) as record:
        failed = FailedItems()
        numbers = read_labelled(shards, KeywordMatcher(keywords, row.code), failed)
        failed.write(settings.output_dir / "failures.jsonl")
        decided = {"chosen": choose(numbers, *wanted), "in the language table": Thresholds.of(row.code)}
        if row.paper_min_keywords is not None:
            decided["published with MMedC"] = Thresholds.of(row.code, "paper")
        tested, kept, folds = cross_validate(numbers, *wanted, settings.folds)
        found = {name: rates(numbers, numbers.kept(thresholds)) for name, thresholds in decided.items()}
        crossed = rates(tested, kept)
        write_json(
            settings.output_dir / "calibration.json",
            {
                "lang": row.code,
                "num_keywords": len(keywords),
                "thresholds": {name: {**vars(thresholds), **found[name]} for name, thresholds in decided.items()},
                "cross_validated": {**crossed, "by_source": rates_by_source(tested, kept), "folds": folds},
            },
        )
        draw(settings.output_dir / "calibration.png", numbers, decided, wanted[0])
        log.info(f"calibrate: {row.code}, {len(keywords):,} keywords, {len(numbers):,} labelled documents")
        for name, thresholds in decided.items():
            log.info(line_of(name, thresholds, found[name]))
        log.info(line_of("chosen, cross-validated", None, crossed))
        record.finish(
            "finished",
            failed_items=len(failed),
            **{name: getattr(decided["chosen"], name) for name in ("min_keywords", "min_density")},
            recall=crossed["recall"],
            false_positives=crossed["false_positives"],
        )
    print(json.dumps(record.data["result"], ensure_ascii=False))
    return failed.exit_code


if __name__ == "__main__":
    run(main)
