"""Describe a folder of questions: by language, split and topic, answers, options, lengths; tables and a figure.

    python data_collection/describe.py --input data/mmedbench --output_dir DIR

Writes statistics.json (what the dataset card is made from), statistics.md, statistics.csv, statistics.svg and .png,
failures.jsonl (rows that cannot be used) and run.json.
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

from dataclasses import dataclass
from pathlib import Path

from configs.settings import parse, setting


@dataclass
class DescribeSettings:
    """Settings of data_collection/describe.py."""

    input: Path = setting(help="folder of questions in MMedBench's layout")
    output_dir: Path = setting(help="folder of the tables and the figure")
    languages: list[str] | None = setting(None, "codes of the languages; all that are there by default")


def main() -> int:
    (settings,) = parse(__doc__, DescribeSettings)
    from data_collection.benchmarks.describing import describe_questions

    return describe_questions(settings)


if __name__ == "__main__":
    run(main)
