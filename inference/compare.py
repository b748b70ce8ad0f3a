"""Compare two runs question by question: where one is right and the other is not, and what each wrote.

  python inference/compare.py runs/eval/A runs/eval/B --output_dir DIR
  python inference/compare.py A B --output_dir DIR --languages fr --kind with_rationale --outcomes second_only
  python inference/compare.py A B --output_dir DIR --question ID      one question in full, as in a case study

Writes comparison.md and comparison.json (counts by language, McNemar's test), differences.jsonl (every question that
was chosen, both answers), comparison.html (the same to look through) and, with --question, case_study.md.
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
from typing import Literal

from configs.settings import parse, setting
from inference.scores.runs import problems_of


@dataclass
class CompareSettings:
    """Settings of inference/compare.py."""

    runs: list[Path] = setting(help="two folders of eval.py, or predictions.jsonl files", positional=True)
    output_dir: Path = setting(help="where to write")
    labels: list[str] = setting([], "name of each run; the names of their folders by default")
    question: list[str] | None = setting(None, "ids of questions to show in full, and nothing else")
    languages: list[str] | None = setting(None, "codes of the languages; all by default")
    kind: str | None = setting(None, "only answers of this kind, such as answer_only; all by default")
    outcomes: list[Literal["both_right", "first_only", "second_only", "none_right"]] | None = setting(
        None, "list only questions with these outcomes; all by default. The counts are of all"
    )
    page_cases: int = setting(10, "questions on the page of each language, kind and outcome; differences.jsonl has all")

    def problems(self) -> list[str]:
        """What is wrong with the values."""
        found = [] if len(self.runs) == 2 else [f"runs: {len(self.runs)} given, wanted two"]
        found += problems_of(self.runs, self.labels)
        if self.page_cases < 1:
            found.append(f"page_cases {self.page_cases}: wanted 1 or more")
        return found


def main() -> int:
    (settings,) = parse(__doc__, CompareSettings)
    from inference.judges.comparing import compare_runs

    return compare_runs(settings)


if __name__ == "__main__":
    run(main)
