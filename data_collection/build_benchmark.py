"""Build a benchmark in MMedBench's layout from the original files of its source sets.

    python data_collection/build_benchmark.py --input FOLDER --output_dir DIR

FOLDER has a folder for each set, named like it (FrenchMedMCQA, HEAD-QA, ...). Writes Train/ and Test/LANGUAGE.jsonl,
removed.jsonl (duplicates, and training questions that hold a test question, each with what it repeats),
benchmark.md (counts), failures.jsonl (rows that cannot be used) and run.json.
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
class BuildSettings:
    """Settings of data_collection/build_benchmark.py."""

    input: Path = setting(help="folder with a folder for each source set")
    output_dir: Path = setting(help="folder of the benchmark")
    sets: list[str] = setting([], "sets to take; by default those of MMedBench that are there")
    test_share: float = setting(0.11, "share of Test, by hash, of a set without published training and test files")
    without_images: bool = setting(False, "leave out questions that refer to a picture")

    def problems(self) -> list[str]:
        """What is wrong with the values."""
        return [] if 0 < self.test_share < 1 else [f"test_share {self.test_share}: wanted above 0 and below 1"]


def main() -> int:
    (settings,) = parse(__doc__, BuildSettings)
    from data_collection.benchmarks.benchmark import build_benchmark

    return build_benchmark(settings)


if __name__ == "__main__":
    run(main)
