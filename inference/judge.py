"""Let a model behind an OpenAI-compatible server rank or rate the rationales of several runs.

  python inference/judge.py --input runs/eval/A runs/eval/B --output_dir DIR --server_url URL --server_model gpt-4
  python inference/judge.py --input A B C --method rating --output_dir DIR --budget 5 --input_price 30 --output_price 60

Each question is judged twice, with the rationales in one order and in the reverse; names of models are not shown. The
key is read from an environment variable. Writes judgements.jsonl (journal: the same command goes on), ratings.jsonl,
ratings.json and ratings.md.
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
from data_collection.llm.server_settings import ServerSettings
from inference.scores.runs import problems_of


@dataclass
class JudgeSettings:
    """Settings of inference/judge.py, beside those of the server."""

    input: list[Path] = setting(help="two or more folders of eval.py, or predictions.jsonl files")
    output_dir: Path = setting(help="where to write judgements and what they say of the models")
    labels: list[str] = setting([], "name of each run; the names of their folders by default")
    method: Literal["ranking", "rating"] = setting("ranking", "best to worst with ties, or 1 to 5 for each rationale")
    languages: list[str] | None = setting(None, "codes of the languages; all by default")
    questions_per_language: int = setting(50, "questions to judge, drawn by hash")
    seed: int = setting(0, "of the drawing and of the orders")
    show_reference: bool = setting(True, "show the judge the reference rationale too")
    max_new_tokens: int = setting(512, "limit of a judgement; one that was cut is unreadable")

    def problems(self) -> list[str]:
        """What is wrong with the values."""
        names = ("questions_per_language", "max_new_tokens")
        found = [f"{name} {getattr(self, name)}: wanted 1 or more" for name in names if getattr(self, name) < 1]
        found += [] if len(self.input) > 1 else ["input: one run, wanted two or more"]
        return found + problems_of(self.input, self.labels)


def main() -> int:
    settings, server = parse(__doc__, JudgeSettings, ServerSettings)
    from inference.judges.judging import judge

    return judge(settings, server)


if __name__ == "__main__":
    run(main)
