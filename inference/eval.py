"""Ask a model the benchmark's questions, answer only and with rationale, and score what it says.

  python inference/eval.py                               newest fine-tuned model and the test questions of its run
  python inference/eval.py --model_name_or_path M --data DIR --output_dir DIR
  sbatch inference/run.sh --model_name_or_path M

Writes predictions.jsonl (journal: the same command goes on), scores.json, table.md, table.csv and plots.
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
class EvalSettings:
    """Settings of inference/eval.py."""

    model_name_or_path: str | None = setting(None, "model or adapter; the newest fine-tuned one under runs/ by default")
    data: Path | None = setting(
        None, "folder of questions; that of the model's run, data/mmedbench or the sample by default"
    )
    output_dir: Path | None = setting(None, "folder of the run; runs/eval/NAME by default")
    label: str | None = setting(None, "name of the model in the table; its method by default")
    languages: list[str] | None = setting(None, "codes of the languages to ask in; all that are there by default")
    max_questions_per_language: int | None = setting(None, "the first so many by hash; all by default")
    batch_size: int = setting(32, "questions answered together")
    max_new_tokens: int = setting(512, "limit of an answer with rationale")
    max_new_tokens_answer_only: int = setting(16, "limit of an answer without rationale")
    repetition_penalty: float = setting(1.0, "on tokens that a rationale has already; 1 for plain greedy")

    def problems(self) -> list[str]:
        """What is wrong with the values."""
        names = ("batch_size", "max_new_tokens", "max_new_tokens_answer_only")
        found = [f"{name} {getattr(self, name)}: wanted 1 or more" for name in names if getattr(self, name) < 1]
        wrong_penalty = f"repetition_penalty {self.repetition_penalty}: wanted above 0"
        return found + ([] if self.repetition_penalty > 0 else [wrong_penalty])


def main() -> int:
    (settings,) = parse(__doc__, EvalSettings)
    from inference.evaluation import evaluate

    return evaluate(settings)


if __name__ == "__main__":
    run(main)
