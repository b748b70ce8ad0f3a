"""Continue the pretraining of a language model on token blocks, with DeepSpeed.

  sbatch pretrain/run.sh                                             newest blocks under runs/, demo model
  sbatch pretrain/run.sh --config configs/pretrain/mmedlm2_7b.yaml   the published settings
  python pretrain/train.py --data BLOCKS --model_name_or_path MODEL  without Slurm; one process a GPU

The same command starts, resumes from the newest complete checkpoint, or says "already done".
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

from configs.errors import MissingInputError
from configs.records import RUNS, newest_finished
from configs.settings import parse, setting
from pretrain.training.launching import launch_all_processes


@dataclass
class PretrainSettings:
    """Settings of pretrain/train.py beside TrainingArguments."""

    data: Path | None = setting(None, "folder of token blocks; the newest finished one under runs/ by default")
    model_name_or_path: str | None = setting(None, "folder or hub id; the demo model by default")
    block_size: int | None = setting(None, "tokens a block that the data must have; whatever it has by default")
    architecture: dict | None = setting(
        None, "the model's transformers configuration, for a --dry_run where the model is not here"
    )
    planned_tokens: float | None = setting(None, "tokens of data that --dry_run plans for where there are none")


def settings_classes() -> tuple[type, type]:
    """What the command line is read into; an import of seconds."""
    from pretrain.pretraining import PretrainArguments

    return PretrainSettings, PretrainArguments


def main() -> int:
    launch_all_processes(settings_classes)
    from pretrain.pretraining import pretrain

    settings, args = parse(__doc__, *settings_classes())
    data = settings.data or newest_finished("prepare")
    if data is None and not args.dry_run:
        raise MissingInputError(
            "there are no token blocks to train on",
            where=RUNS,
            found="no finished run of pretrain/prepare.py",
            wanted="a folder of token blocks",
            todo="python pretrain/prepare.py --input DIR... --output_dir runs/blocks, or bash scripts/demo.sh for all",
        )
    return pretrain(settings, args, data)


if __name__ == "__main__":
    run(main)
