"""Rating sheets for people: the rationales of several runs, blind and shuffled, and what came back filled in.

  python inference/rating_sheet.py --input runs/eval/A runs/eval/B --output_dir DIR --num_raters 5
  python inference/rating_sheet.py --sheets rater_1.xlsx rater_2.csv --key DIR/key.json --output_dir OTHER

The first writes rater_N.xlsx and rater_N.csv (the same twice; each rater has an order of their own) and key.json, which
says whose rationale each row is and which no rater should see. Raters write a rank into each row, 1 for the best of a
question; equal ranks are ties. The second writes ratings.jsonl, ratings.json and ratings.md, as judge.py does.
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
class SheetSettings:
    """Settings of inference/rating_sheet.py."""

    output_dir: Path = setting(help="where to write sheets, or what filled-in sheets say")
    input: list[Path] = setting([], "to make sheets: two or more folders of eval.py, or predictions.jsonl files")
    labels: list[str] = setting([], "name of each run; the names of their folders by default")
    languages: list[str] | None = setting(None, "codes of the languages; all by default")
    questions_per_language: int = setting(50, "questions to rate, drawn by hash")
    seed: int = setting(0, "of the drawing and of the orders")
    num_raters: int = setting(1, "sheets to make, each in another order")
    show_reference: bool = setting(True, "show raters the reference rationale too")
    sheets: list[Path] = setting([], "to read: filled-in .xlsx or .csv files, one a rater")
    key: Path | None = setting(None, "key.json of the sheets to read")

    def problems(self) -> list[str]:
        """What is wrong with the values."""
        names = ("questions_per_language", "num_raters")
        found = [f"{name} {getattr(self, name)}: wanted 1 or more" for name in names if getattr(self, name) < 1]
        if bool(self.input) == bool(self.sheets):
            found.append("wanted either input (runs, to make sheets) or sheets (filled in, to read)")
        if self.input and len(self.input) < 2:
            found.append("input: one run, wanted two or more")
        if bool(self.sheets) != bool(self.key):
            found.append("sheets and key go together")
        if len({path.stem for path in self.sheets}) < len(self.sheets):
            found.append("sheets: two of the same name; a rater's sheet is given once, as .xlsx or as .csv")
        return found + problems_of(self.input, self.labels)


def main() -> int:
    (settings,) = parse(__doc__, SheetSettings)
    from inference.judges.rating_sheets import make_sheets, read_sheets

    return make_sheets(settings) if settings.input else read_sheets(settings)


if __name__ == "__main__":
    run(main)
