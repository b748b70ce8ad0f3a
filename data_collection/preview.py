"""Show documents with the keywords that match in them, their numbers, and what the filter would do with them.

    python data_collection/preview.py --input FILES_OR_FOLDERS --lang fr [--number 5]

Keywords are coloured on a terminal and in brackets elsewhere.
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

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from configs.errors import FailedItems, SettingsError
from configs.languages import language
from configs.progress import log, printable
from configs.settings import parse, setting

Verdict = Literal[
    "",
    "kept",
    "too_short",
    "other_language",
    "few_keywords",
    "low_density",
    "few_letters",
    "repeated_lines",
    "repeated_ngrams",
]


@dataclass
class PreviewSettings:
    """Settings of the preview."""

    input: list[str] = setting(help="files or folders of documents")
    lang: str = setting(help="language to keep: a code or name of configs/languages.py")
    number: int = setting(5, help="documents shown")
    verdict: Verdict = setting("", help="only documents of this verdict: kept, or a reason such as low_density")
    keywords: Path | None = setting(None, help="keyword list, one a line; none: configs/keywords/LANG.txt")

    def problems(self) -> list[str]:
        found = [f"number wants 1 or more, found {self.number}"] if self.number < 1 else []
        try:
            language(self.lang)
        except SettingsError as error:
            found.append(f"lang: {error.what}; there are {error.wanted}")
        return found


def marked(text: str, spans: list[Any], before: str, after: str) -> str:
    """The text with marks around every stretch that keywords cover; overlapping ones are one stretch."""
    stretches: list[list[int]] = []
    for start, end in sorted((span.start, span.end) for span in spans):
        if stretches and start < stretches[-1][1]:
            stretches[-1][1] = max(stretches[-1][1], end)
        else:
            stretches.append([start, end])
    pieces, reached = [], 0
    for start, end in stretches:
        pieces += [text[reached:start], before, text[start:end], after]
        reached = end
    return "".join([*pieces, text[reached:]])


def main() -> int:
    settings = parse(__doc__, PreviewSettings)[0]

    from data_collection.corpus.documents import find_shards, read_batches
    from data_collection.selection.filtering import FilterRules, judge
    from data_collection.selection.thresholds import Thresholds

    row = language(settings.lang)
    rules = FilterRules(row.code, Thresholds.of(row.code), settings.keywords or row.keywords_file)
    before, after = ("\x1b[1;32m", "\x1b[0m") if sys.stdout.isatty() else ("[", "]")
    failed = FailedItems()
    num_shown = num_read = 0
    batches = (batch for shard in find_shards(settings.input) for batch in read_batches(shard, failed, row.code))
    for documents in (batch.slice(first, 50) for batch in batches for first in range(0, batch.num_rows, 50)):
        verdicts = judge(documents, rules)
        counted = rules.matcher().match_array(documents["text"])
        for index, document in enumerate(documents.to_pylist()):
            reason = verdicts.reason[index] or "kept"
            num_read += 1
            if settings.verdict not in ("", reason):
                continue
            num_keywords, density, length = (numbers[index] for numbers in counted)
            text, spans = rules.matcher().spans(document["text"])
            print(
                f"--- {printable(document['id'])}: {reason}; {num_keywords} keywords (at least "
                f"{rules.thresholds.min_keywords}) covering {density:.1%} (at least "
                f"{rules.thresholds.least_density(length):.1%})"
            )
            print(marked(printable(text), spans, before, after).strip())
            print(f"keywords: {', '.join(dict.fromkeys(span.keyword for span in spans)) or 'none'}\n")
            num_shown += 1
            if num_shown == settings.number:
                return failed.exit_code
    if not num_shown:
        log.info(f"nothing to show: of {num_read:,} documents none is {settings.verdict or 'readable'}")
    return failed.exit_code


if __name__ == "__main__":
    run(main)
