"""Fine-tune a language model on MMedBench: two rows a question, with rationale and answer only, packed without waste.

  python finetune/train.py --lora                                  newest pretrained model, data/mmedbench or the sample
  python finetune/train.py --model_name_or_path M --data DIR       all weights
  sbatch finetune/run.sh --lora                                    on a cluster

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

from configs.settings import parse
from pretrain.training.launching import launch_all_processes


def settings_classes() -> tuple[type, type]:
    """What the command line is read into; an import of seconds."""
    from finetune.tuning import FinetuneArguments, FinetuneSettings

    return FinetuneSettings, FinetuneArguments


def main() -> int:
    launch_all_processes(settings_classes)
    from finetune.tuning import finetune

    settings, args = parse(__doc__, *settings_classes())
    return finetune(settings, args)


if __name__ == "__main__":
    run(main)
