"""The table of an ablation: which parts of a corpus go into pretraining, with and without rationale in fine-tuning.

  bash scripts/ablation.sh --config configs/ablation/mmedlm2_7b.yaml --output_dir RUN     runs it and draws the table
  python scripts/ablation.py --config FILE --output_dir RUN                               draws what is finished

Writes ablation.md, .csv and .tex (a row each, with its difference to the row above), ablation.svg and .png, and
scores.json with every score of every row.
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


@dataclass
class AblationSettings:
    """Settings of scripts/ablation.py."""

    output_dir: Path = setting(help="folder of the ablation; one sub-folder a stage and row")
    model_name_or_path: str = setting(help="the model that every row begins with")
    rows: dict = setting(
        help="NAME: {corpus: [PART...], prepare|pretrain|finetune|eval: {setting: value}}, in the table's order; a row "
        "without corpus is fine-tuned as it is (YAML only)"
    )
    corpus: dict = setting({}, "PART: [folders or files of documents], what rows are pretrained on (YAML only)")
    data: Path | None = setting(None, "folder of questions to fine-tune and evaluate on; as those commands by default")
    prepare: Path | None = setting(None, "settings file of pretrain/prepare.py for all rows")
    pretrain: Path | None = setting(None, "settings file of pretrain/train.py for all rows")
    finetune: Path | None = setting(None, "settings file of finetune/train.py for all rows")
    eval: Path | None = setting(None, "settings file of inference/eval.py for all rows")
    published: str | None = setting(None, "base model of assets/published/mmedbench_ablation.csv to show below")
    nodes: int = setting(1, "nodes of a pretraining job")
    step: Literal["table", "plan", "plan_unchecked"] = setting(
        "table", "draw the table; or print the stages for ablation.sh, and refuse where input is missing"
    )

    def problems(self) -> list[str]:
        """What is wrong with the values."""
        from scripts.ablating import problems_of

        return problems_of(self)


def main() -> int:
    (settings,) = parse(__doc__, AblationSettings)
    if settings.step == "table":
        from scripts.ablation_table import draw

        return draw(settings)
    from scripts.ablating import plan, require_input

    if settings.step == "plan":
        require_input(settings)
    for stage in plan(settings):
        print(stage.line())
    return 0


if __name__ == "__main__":
    run(main)
