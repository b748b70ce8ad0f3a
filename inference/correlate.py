"""Which metric ranks rationales as people or a judge do: Kendall's tau-b of every metric with ratings.

  python inference/correlate.py --input runs/eval/A runs/eval/B --ratings PEOPLE JUDGE --output_dir DIR
  python inference/correlate.py --input A B C --ratings PEOPLE --output_dir DIR --bert_model models/ENCODER

RATINGS are folders of rating_sheet.py and judge.py, or their ratings.jsonl; runs and labels are those that were rated.
Of several, each is correlated with the others too. Writes correlation.json, correlation.csv and correlation.md.
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
from inference.scores.runs import problems_of


@dataclass
class CorrelateSettings:
    """Settings of inference/correlate.py."""

    input: list[Path] = setting(help="the runs that were rated")
    ratings: list[Path] = setting(help="folders of rating_sheet.py or judge.py, or their ratings.jsonl")
    output_dir: Path = setting(help="where to write")
    labels: list[str] = setting([], "name of each run, as when it was rated; the names of their folders by default")
    bert_model: Path | None = setting(None, "folder of an encoder, to add BERTScore")
    bert_layer: int | None = setting(None, "its layer to take; three quarters up by default")

    def problems(self) -> list[str]:
        """What is wrong with the values."""
        found = [] if len(self.input) > 1 else ["input: one run, wanted two or more"]
        if len({path.resolve() for path in self.ratings}) < len(self.ratings):
            found.append("ratings: the same twice")
        if self.bert_layer is not None and self.bert_model is None:
            found.append("bert_layer: no bert_model is given")
        return found + problems_of(self.input, self.labels)


def main() -> int:
    (settings,) = parse(__doc__, CorrelateSettings)
    from inference.judges.correlating import correlate

    return correlate(settings)


if __name__ == "__main__":
    run(main)
